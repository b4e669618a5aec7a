"""The help of both command lines: every command explains itself, and its examples are commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from atlas.store.manifest import read_manifest
from tests.project.test_project import ATLASES, ROOT

MODULES = {program: import_module(f"{program}.__main__") for program in ("atlas", "build")}
# Program → its group of commands.
PROGRAMS = {p: typer.main.get_command(m.app) for p, m in MODULES.items() if hasattr(m, "app")}
EXAMPLE = re.compile(r"^ +((?:\w+=\S+ )?(?:python -m|streamlit) .*)$", re.MULTILINE)

# `python -m build bench` has a command line, and help, of its own.
EVERY: dict[str, Any] = {
    **PROGRAMS,
    **{
        f"{program} {name}": command
        for program, group in PROGRAMS.items()
        for name, command in group.commands.items()
        if name != "bench"
    },
}


def help_of(name: str) -> str:
    command = EVERY[name]
    return command.get_help(command.make_context(f"python -m {name}", [], resilient_parsing=True))


def examples(name: str) -> list[str]:
    return EXAMPLE.findall(EVERY[name].help.partition("examples:")[2])


@pytest.mark.parametrize("name", EVERY)
def test_a_command_says_what_it_does_and_gives_examples_of_itself(name: str):
    assert "." in EVERY[name].help.partition("examples:")[0]
    found = examples(name)
    assert found
    assert any(example.startswith(f"python -m {name}") for example in found)
    assert all(example in help_of(name) for example in found)


@pytest.mark.parametrize("name", EVERY)
def test_help_fits_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, help_of(name).splitlines())) < 80


@pytest.mark.parametrize("name", EVERY)
def test_every_option_is_explained(name: str):
    for parameter in EVERY[name].params:
        assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("name", EVERY)
def test_the_examples_are_commands_that_are_understood(name: str):
    for example in examples(name):
        words = shlex.split(example.partition(" > ")[0])
        if "streamlit" in words:
            assert (ROOT / words[-1]).is_file()
            continue
        assert words[:2] == ["python", "-m"]
        PROGRAMS[words[2]].commands[words[3]].make_context(words[3], words[4:])


def test_the_examples_of_the_library_run(tmp_path: Path):
    """All at once, in a folder where out/ holds two atlases."""
    (tmp_path / "out").mkdir()
    for folder, name in (("starter-pocket-bert", "mine"), ("starter-smollm2-135m", "other")):
        (tmp_path / "out" / name).symlink_to(ATLASES / folder, target_is_directory=True)
    typed = {example for name in EVERY if name.startswith("atlas") for example in examples(name)}
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
    n_relations = read_manifest(tmp_path / "out" / "mine").rows("relations")
    assert (tmp_path / "relations.csv").read_text(encoding="utf-8").count("\n") == n_relations + 1


@pytest.mark.parametrize("program", MODULES)
def test_a_reader_that_has_enough_is_no_error(program: str):
    what = "list" if program == "atlas" else "plan --model pocket-bert --dataset starter --limit 5"
    script = f'"{sys.executable}" -m {program} {what} | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
