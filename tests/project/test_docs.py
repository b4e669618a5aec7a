"""The documents: every example prints what it shows, every command exists, every link has a target."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from tests import ROOT
from tests.transcripts import Block, blocks, is_as_shown, prose, run_page, whole_lines

SHARED = ROOT.parent / "shared"
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
OTHERS = [ROOT / f"{name}.md" for name in ("BENCHMARKS", "CHANGELOG", "CONTRIBUTING", "NOTICE")]
DOCUMENTS = [README, *OTHERS, *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "pycon", "text", "console", "bash", "toml", "yaml", "nginx", "caddy"}
LINK = re.compile(r"(?<!\\)\]\((?P<target>[^()\s]+)(?:\s+\"[^\"]*\")?\)")
OURS = re.compile(r"(python -m (atlas|build)|pip install|streamlit run|bash) ")
FORBIDDEN = re.compile(r"\b(TODO|FIXME|TBD|XXX)\b|(?<![\w.])/(work|opt|root|tmp|home|usr)/")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Examples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [README, *PAGES], ids=name)
def test_every_example_prints_what_it_shows(page: Path, tmp_path: Path):
    replace = {"path/of/pararel": str(SHARED / "pararel"), "path/of/published": str(SHARED / "published")}
    # A server does not end. What is not at hand here stays out: PARAREL's files, the DuckDB shell.
    without = ("streamlit run",)
    if not all((SHARED / folder).is_dir() for folder in ("pararel", "published_neurons")):
        without += ("path/of/", "out/published")
    if shutil.which("duckdb") is None:
        without += ("duckdb",)
    problems = run_page(page, tmp_path, replace=replace, without=without)
    assert not problems, "\n".join(problems)


def typed(path: Path) -> list[list[str]]:
    """Our commands of a document's `bash` blocks, which are shown without what they print, in words."""
    found = [b.text for b in blocks(path.read_text(encoding="utf-8")) if b.language == "bash"]
    parts = [part for text in found for line in whole_lines(text) for part in line.split(" && ")]
    return [shlex.split(part, comments=True) for part in parts if OURS.match(part)]


@cache
def help_of(program: str, *command: str) -> str:
    """What `python -m PROGRAM COMMAND --help` prints, where there is such a command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert import_module(f"{program}.__main__").main([*command, "--help"]) == 0, command
    return printed.getvalue()


def test_every_command_exists(monkeypatch: pytest.MonkeyPatch):
    """Those in `bash` blocks: too long to run, or in need of a GPU or of other machines."""
    monkeypatch.setenv("COLUMNS", "200")
    found = [words for path in DOCUMENTS for words in typed(path)]
    assert len(found) > 30
    for words in found:
        if words[0] == "python":
            options = {word for word in words if word.startswith("--")}
            command = words[3:5] if words[3] == "bench" and words[4][0] != "-" else words[3:4]
            assert options <= set(re.findall(r"--[\w-]+", help_of(words[2], *command))), words
        elif words[0] == "pip":
            named = [word for word in words[2:] if word.endswith(".txt")]
            assert all((ROOT / file).is_file() for file in named), words
        else:
            assert (ROOT / words[-1]).is_file(), words


@pytest.mark.parametrize("page", [README, *PAGES], ids=name)
def test_a_page_has_no_block_that_is_not_tested(page: Path):
    found = blocks(page.read_text(encoding="utf-8"))
    assert {block.language for block in found} <= LANGUAGES
    for before, block in zip([Block("", "", 0), *found], found, strict=False):
        if block.language == "text":
            assert before.language == "python", f"line {block.line}: no python block prints this"
        if block.language == "console":
            assert block.text.startswith("$ "), f"line {block.line}: a transcript begins with $"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_a_page_opens_no_fence_that_it_does_not_close(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks(text))


def write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n2\n```\n", None),
        ("```python\nprint(2)\n```\n\n```text\n3\n```\n", "page.md:2: shown:\n3"),
        ("```python\nprint(2)\n```\n\nWords.\n\n```text\n2\n```\n", "page.md:2: the block prints"),
        ("# Words\n\n```python\nx = 1\n1 / 0\n```\n", 'page.md", line 5'),
        ("```python\nimport sys\n\nsys.exit(3)\n```\n", "page.md:2: the block fails"),
        ("```pycon\n>>> 1 + 1\n2\n>>> x = 3\n```\n\n```python\nassert x == 3\n```\n", None),
        ("```pycon\n>>> 1 + 1\n3\n```\n", "Expected:"),
        ("```console\n$ echo 'a\n> b'\na\n> b\n```\n", None),
        ("```console\n$ echo a; echo b; echo c\na\n…\nc\n```\n", None),
        ("```console\n$ echo a\nb\n```\n", "page.md:2: $ echo a"),
        ("```console\n$ cd atlas/data\n$ ls -d starter-pocket-bert\nstarter-pocket-bert\n```\n", None),
        ("```console\n$ no-such-command\n```\n", "no-such-command"),
    ],
)
def test_a_page_that_shows_something_else_is_found_out(tmp_path: Path, text: str, problem: str | None):
    problems = run_page(write(tmp_path, text), tmp_path)
    assert bool(problems) == (problem is not None)
    if problem:
        assert problem in problems[0]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("took 3 s, 27.0 prompts a second", "took 14 s, 9.1 prompts a second", True),
        ("time        7 s, 56.61 prompts a second", "time        1 h 7 min, 1.02 prompts a second", True),
        ("3 facts", "4 facts", False),
        ("done", "attribute: 1 of 4 prompts, 6.7 a second, 45 s left\rdone", True),
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("a\n…\nc\n…", "a\nb\nc\nd", True),
        ("a\n…\nx\n…", "a\nb\nc\nd", False),
        ("a\n…\nc", "a\nb\nc\nd", False),
        ("a\n…\na", "a", False),
    ],
)
def test_a_transcript_may_differ_in_time_only(shown: str, printed: str, same: bool):
    assert is_as_shown(shown, printed) is same


# Links -----------------------------------------------------------------------------------------------


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors that GitHub gives a page's headings."""
    text = prose(path.read_text(encoding="utf-8"))
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found[re.sub(r"[^\w\- ]", "", words).replace(" ", "-")] += 1
    return frozenset(slug if k == 0 else f"{slug}-{k}" for slug, n in found.items() for k in range(n))


def dangling(path: Path) -> list[str]:
    """Links of a page that lead nowhere: no file, or no such heading in it."""
    return dangling_of(path.read_text(encoding="utf-8"), path)


def dangling_of(text: str, path: Path) -> list[str]:
    """The same of a text that stands in the file `path`."""
    lost = []
    for target in (m["target"] for m in LINK.finditer(prose(text))):
        if re.match(r"[a-z]+:", target):
            continue
        where, _, anchor = target.partition("#")
        file = (path.parent / where).resolve() if where else path
        missing = not file.exists()
        if missing or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            lost.append(target)
    return lost


def test_every_link_leads_somewhere():
    assert {name(page): lost for page in DOCUMENTS if (lost := dangling(page))} == {}


def test_a_link_that_leads_nowhere_is_found_out(tmp_path: Path):
    text = "# One *two*\n\n[a](#one-two) [b](#three) [c](no.md) [d](https://example.org)\n"
    assert dangling(write(tmp_path, text)) == ["#three", "no.md"]


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    targets = {m["target"] for m in LINK.finditer(index)}
    others = [*PAGES, *(ROOT / "docs").glob("*.ipynb")]
    assert {"api/README.md", "evidence/report.md", *(page.name for page in others)} - {"README.md"} <= targets


def test_the_readme_is_a_page_of_at_most_250_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


# Words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_a_page_is_finished_and_of_no_machine(path: Path):
    assert FORBIDDEN.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_of_prose_are_at_most_120_wide(page: Path):
    lines = prose(page.read_text(encoding="utf-8")).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "!["))] == []
