"""Public docstrings say what a caller needs, and the site shows them with the columns of every table."""

from __future__ import annotations

import re
from collections.abc import Iterator

import griffe
import pytest

from atlas.store.atlas import open_atlas
from atlas.store.schema import DERIVED_VIEWS, TABLES
from docs.hooks import INTERNAL, is_code, modules, raises, tables
from tests import ROOT

ARRAY = re.compile(r"\b(Tensor|ndarray)\b")
# A shape is a tuple of names or numbers, such as (n_prompts, n_layers, n_neurons), (3,) or (…, d_model).
SHAPE = re.compile(r"\([\w…+−* -]+,( ?[\w…+−* -]+,?)*\)|\(\)|\ba number\b|\bsame shape\b")


def public() -> Iterator[griffe.Object]:
    """Every public function, class, method and property of the public modules."""

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

    return inside(griffe.load("atlas", search_paths=[ROOT], allow_inspection=False))


def test_every_public_name_has_a_docstring():
    assert [each.path for each in public() if not each.docstring] == []
    assert [name for name, sentence in modules().items() if not sentence] == []


def test_a_docstring_states_the_shapes_of_arrays():
    lacking = []
    for each in public():
        types = []
        if each.is_function:
            types = [str(p.annotation) for p in each.parameters if p.annotation] + [str(each.returns)]
        elif "property" in each.labels:
            types = [str(each.annotation)]
        elif each.is_class:
            types = [str(a.annotation) for a in each.members.values() if a.is_attribute and a.annotation]
        text = each.docstring.value if each.docstring else ""
        if any(map(ARRAY.search, types)) and not SHAPE.search(text):
            lacking.append(each.path)
    assert lacking == []


def test_the_page_of_tables_has_every_column():
    shown: dict[str, list[str]] = {}
    for line in tables().splitlines():
        if heading := re.match(r"## `(\w+)`", line):
            columns = shown.setdefault(heading[1], [])
        elif cell := re.match(r"\| `(\w+)` \|", line):
            columns.append(cell[1])
    with open_atlas("starter-pocket-bert") as a:
        assert shown == {n: list(a.query(f"DESCRIBE {n}").column_name) for n in (*TABLES, *DERIVED_VIEWS)}


@pytest.mark.parametrize(
    ("paragraph", "code"),
    [
        ("a = open_it()\na.query('SELECT …')      # a DataFrame", True),
        ("    with subject.applied(change) as changed:\n        changed.predict(prompts)", True),
        ("from atlas.surgery import load_subject", True),
        ("An opened atlas.", False),
        ("None where it is not known.", False),
        ("1. *Before.* Every prompt as the model is (once).", False),
        ("    score_i = w_i · ∫₀¹ ∂P/∂w_i (α·w) dα", False),
    ],
)
def test_the_site_shows_examples_as_code_and_sentences_as_text(paragraph: str, code: bool):
    assert is_code(paragraph) is code


def test_the_site_lists_the_errors_that_a_function_raises():
    code = "def f(x):\n    if x:\n        raise ValueError('no')\n    raise KeyError(x) from None\n"
    with griffe.temporary_visited_module(code) as module:
        assert raises(module["f"]) == ["ValueError", "KeyError"]
