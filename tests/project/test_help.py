"""The help of both command lines: every command explains itself, and its examples are commands that exist."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import atlas.__main__
from build import arguments
from tests.project.test_project import ATLASES, ROOT

PARSERS = {"atlas": atlas.__main__._parser(), "build": arguments.make_parser()}
EXAMPLE = re.compile(r"^  ((?:\w+=\S+ )?(?:python -m|streamlit) .*)$", re.MULTILINE)


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for program, parser in PARSERS.items():
        yield program, parser
        # Its own parser, with help of its own.
        yield from ((f"{program} {name}", p) for name, p in commands(parser).items() if name != "bench")


EVERY = dict(parsers())


def examples(parser: argparse.ArgumentParser) -> list[str]:
    return EXAMPLE.findall(parser.epilog or "")


@pytest.mark.parametrize("name", EVERY)
def test_a_command_says_what_it_does_and_gives_examples_of_itself(name: str):
    assert EVERY[name].description.endswith(".")
    found = examples(EVERY[name])
    assert found
    assert any(example.startswith(f"python -m {name}") for example in found)


@pytest.mark.parametrize("name", EVERY)
def test_help_fits_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, EVERY[name].format_help().splitlines())) < 80


@pytest.mark.parametrize("name", EVERY)
def test_every_option_is_explained(name: str):
    for action in EVERY[name]._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, f"{name} {action.dest}"


@pytest.mark.parametrize("name", EVERY)
def test_the_examples_are_commands_that_are_understood(name: str):
    for example in examples(EVERY[name]):
        words = shlex.split(example.partition(" > ")[0])
        if "streamlit" in words:
            assert (ROOT / words[-1]).is_file()
            continue
        assert words[:2] == ["python", "-m"]
        PARSERS[words[2]].parse_args(words[3:])


def test_the_examples_of_the_library_run(tmp_path: Path):
    """All at once, in a folder where out/ holds two atlases."""
    (tmp_path / "out").mkdir()
    for folder, name in (("starter-pocket-bert", "mine"), ("starter-smollm2-135m", "other")):
        (tmp_path / "out" / name).symlink_to(ATLASES / folder, target_is_directory=True)
    typed = {
        example for name, parser in EVERY.items() if name.startswith("atlas") for example in examples(parser)
    }
    assert len(typed) >= 8
    script = "\n".join(["set -e", f'python() {{ "{sys.executable}" "$@"; }}', *sorted(typed)])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "relations.csv").read_text(encoding="utf-8").count("\n") == 32


@pytest.mark.parametrize("program", PARSERS)
def test_a_reader_that_has_enough_is_no_error(program: str):
    what = "list" if program == "atlas" else "plan --model pocket-bert --dataset starter --limit 5"
    script = f'"{sys.executable}" -m {program} {what} | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
