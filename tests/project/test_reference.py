"""The API reference is what the docstrings say now, and they say what a caller needs."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest

from atlas.store.atlas import open_atlas
from atlas.store.schema import DERIVED_VIEWS, TABLES
from build.__main__ import main
from build.reference import INTERNAL, is_code, raises
from build.reference import pages as made
from tests.project.test_project import ROOT, sources

API = ROOT / "docs" / "api"
ARRAY = re.compile(r"\b(Tensor|ndarray)\b")
# A shape is a tuple of names or numbers, such as (n_prompts, n_layers, n_neurons), (3,) or (…, d_model).
SHAPE = re.compile(r"\([\w…+−* -]+,( ?[\w…+−* -]+,?)*\)|\(\)|\ba number\b|\bsame shape\b")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return made()


def public() -> Iterator[griffe.Object]:
    """Every public function, class, method and property of the public modules."""
    library = griffe.load("atlas", search_paths=[ROOT], allow_inspection=False)

    def inside(thing: griffe.Object) -> Iterator[griffe.Object]:
        for each in thing.members.values():
            if each.is_alias or each.name.startswith("_") or each.path in INTERNAL:
                continue
            if each.is_module:
                yield from inside(each)
            elif each.is_class or each.is_function or "property" in each.labels:
                yield each
                if each.is_class:
                    yield from inside(each)

    return inside(library)


def test_the_committed_reference_is_what_the_docstrings_say_now(pages: dict[str, str]):
    committed = {path.name: path.read_text(encoding="utf-8") for path in API.glob("*.md")}
    assert committed.keys() == pages.keys()
    stale = [name for name in pages if committed[name] != pages[name]]
    assert not stale, f"`python -m build reference` makes these anew: {', '.join(stale)}"


def test_every_module_has_a_page_and_stands_in_the_index(pages: dict[str, str]):
    names = set()
    for path in sources("atlas"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert set(INTERNAL) <= names
    assert set(pages) == {"README.md", "tables.md", *(f"{name}.md" for name in names - set(INTERNAL))}
    for name in names - set(INTERNAL):
        assert pages["README.md"].count(f"\n| [`{name}`]({name}.md)") == 1, name


def test_every_column_of_an_atlas_stands_on_the_page_of_tables(pages: dict[str, str]):
    """By another way: against what DuckDB says of a real atlas."""
    shown: dict[str, list[str]] = {}
    for line in pages["tables.md"].splitlines():
        if heading := re.match(r"## `(\w+)`", line):
            columns = shown.setdefault(heading[1], [])
        elif cell := re.match(r"\| `(\w+)` \|", line):
            columns.append(cell[1])
    with open_atlas("starter-pocket-bert") as a:
        assert shown == {n: list(a.query(f"DESCRIBE {n}").column_name) for n in (*TABLES, *DERIVED_VIEWS)}


def test_the_command_writes_the_pages_and_removes_those_of_modules_that_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pages: dict[str, str]
):
    (tmp_path / "atlas.gone.md").write_text("# `atlas.gone`\n", encoding="utf-8")
    assert main(["reference", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{len(pages)} pages: {tmp_path}\n"
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == pages


@pytest.mark.parametrize(
    "name", ["atlas.refinement", "atlas.interventions", "atlas.queries.facts", "atlas.queries.sharing"]
)
def test_signatures_are_those_that_python_sees(pages: dict[str, str], name: str):
    """By another way: the page against `inspect`, of the module imported."""
    module = importlib.import_module(name)
    shown = dict(
        re.findall(r"^## `(\w+)`\n\n```python\n(.*?)```", pages[f"{name}.md"], re.DOTALL | re.MULTILINE)
    )
    functions = {
        n: f
        for n, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == name and n[0] != "_"
    }
    assert functions
    for function in functions:
        parameters = inspect.signature(functions[function]).parameters.values()
        text = re.sub(r"\s+", " ", shown[function])
        for parameter in parameters:
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            assert f"{parameter.name}: {parameter.annotation}{default}" in text


@pytest.mark.parametrize(
    ("paragraph", "code"),
    [
        ("a = open_it()\na.query('SELECT …')      # a DataFrame", True),
        ("    with subject.applied(change) as changed:\n        changed.predict(prompts)", True),
        ("from atlas.surgery import load_subject", True),
        ("An opened atlas.", False),
        ("None where it is not known.", False),
        ("prompts", False),
        ("1. *Before.* Every prompt as the model is (once).", False),
        ("    score_i = w_i · ∫₀¹ ∂P/∂w_i (α·w) dα", False),
    ],
)
def test_examples_in_docstrings_are_told_from_sentences(paragraph: str, code: bool):
    assert is_code(paragraph) is code


def test_every_public_name_says_what_it_is():
    assert [each.path for each in public() if not each.docstring] == []


def test_what_takes_or_gives_an_array_says_its_shape():
    lacking = []
    for each in public():
        types = []
        if each.is_function:
            types = [str(p.annotation) for p in each.parameters if p.annotation] + [str(each.returns)]
        elif "property" in each.labels:
            types = [str(each.annotation)]
        elif each.is_class:
            types = [str(a.annotation) for a in each.members.values() if a.is_attribute and a.annotation]
        if any(ARRAY.search(text) for text in types) and not SHAPE.search(
            each.docstring.value if each.docstring else ""
        ):
            lacking.append(each.path)
    assert lacking == []


def test_errors_that_a_function_raises_stand_on_its_page(pages: dict[str, str]):
    text = pages["atlas.neuron.md"]
    parse = text[text.index("### `Neuron.parse`") : text.index("## `Relation`")]
    assert "AtlasError" in parse
    code = "def f(x):\n    if x:\n        raise ValueError('no')\n    raise KeyError(x) from None\n"
    with griffe.temporary_visited_module(code) as module:
        assert raises(module["f"]) == ["ValueError", "KeyError"]
