"""The project's shape: what it requires, what a newcomer sees first, and how large it may grow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import ROOT
from tests.project.test_imports import imports

ATLASES = ROOT / "atlas" / "data"
WEIGHTS = ROOT / "atlas" / "models" / "pocket_bert" / "model.safetensors"
TWO_COMMANDS = (
    "pip install -r requirements.txt && streamlit run app/main.py",
    "pip install -r requirements-dev.txt && pytest",
)
FIRST_SCREEN = 30  # lines
MB = 1_000_000

# Installed for one command or by another package; never imported by name.
IMPORTED_AS = {"griffelib": "griffe", "pillow": "PIL", "vl_convert_python": "vl_convert"}
NOT_IMPORTED = {
    "axe_playwright_python",
    "duckdb_cli",
    "accelerate",
    "gguf",
    "safetensors",
    "hatchling",
    "ipykernel",
    "mypy",
    "ruff",
    "playwright",
}
# pytest and mkdocs find these by themselves
NOT_IMPORTED |= {
    "pytest_rerunfailures",
    "pytest_xdist",
    "mkdocs_material",
    "mkdocstrings",
    "mkdocstrings_python",
}


def sources(*places: str) -> list[Path]:
    """The Python files of these folders."""
    return [path for place in places for path in sorted((ROOT / place).rglob("*.py"))]


def test_the_app_caches_in_one_place_only():
    decorated = {
        str(path.relative_to(ROOT))
        for path in sources("app")
        if re.search(r"\bcache_(data|resource)\b", path.read_text(encoding="utf-8"))
    }
    assert decorated <= {"app/shared/resources.py"}


# Requirements ----------------------------------------------------------------------------------------


REQUIREMENTS = ("requirements.txt", "requirements-ray.txt", "requirements-dev.txt")


def requirements(name: str) -> dict[str, str]:
    """Package → version of a requirements file's pins."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(re.sub(r"\[\w+\]", "", line).split("==") for line in lines if "==" in line)


def test_every_imported_package_is_required():
    imported = {
        name.partition(".")[0]
        for path in sources("atlas", "build", "app", "tests", "docs")
        for name in imports(path)
    }
    foreign = imported - set(sys.stdlib_module_names) - {"atlas", "build", "app", "tests", "docs", ""}
    required = {package for name in REQUIREMENTS for package in requirements(name)}
    required = {IMPORTED_AS.get(name, name) for name in required}
    assert foreign <= required
    assert required - foreign <= NOT_IMPORTED


def test_every_requirement_is_pinned():
    for name in REQUIREMENTS:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            requirement = line.split("#")[0].strip()
            pinned = r"|[a-z0-9_]+(\[[a-z]+\])?==[\d.]+|-e \.|-r requirements(-ray)?\.txt"
            assert re.fullmatch(pinned, requirement), line


def test_the_library_is_installed_where_the_app_looks_for_it():
    assert "-e ." in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


# What a newcomer sees --------------------------------------------------------------------------------


def test_both_commands_stand_in_the_first_screen_of_the_readme():
    top = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN]
    for command in TWO_COMMANDS:
        assert any(line.strip() == command for line in top), command


def test_streamlit_does_not_ask_newcomers_for_an_email():
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert config["server"]["showEmailPrompt"] is False


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_links_and_buttons_stand_out_from_the_background(theme: str):
    whole = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))["theme"]
    colours = {**whole, **whole[theme]}
    for background in (colours["backgroundColor"], colours["secondaryBackgroundColor"]):
        assert contrast(colours["textColor"], background) >= 7
        assert contrast(colours["linkColor"], background) >= 4.5
        assert contrast(colours["blueTextColor"], background) >= 4.5
    assert contrast(colours["primaryColor"], colours["backgroundColor"]) >= 4.5
    # Marks are white on it; buttons write white on a ground of their own.
    assert contrast("#FFFFFF", colours["primaryColor"]) >= 3
    style = (ROOT / "app" / "static" / "page.css").read_text(encoding="utf-8")
    (grounds,) = re.findall(r"background: light-dark\((#\w+), (#\w+)\)", style)
    assert all(contrast("#FFFFFF", ground) >= 4.5 for ground in grounds)


def test_ci_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_ci_runs_the_tests_as_the_readme_does():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in TWO_COMMANDS[1].split(" && "):
        assert command.replace("pip install", "pip install --quiet") in script


# What is committed -----------------------------------------------------------------------------------


@cache
def tracked() -> tuple[Path, ...]:
    """The files that git tracks; the test is skipped in a copy without git."""
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    try:
        listed = subprocess.run([*git, "ls-files", "-z"], capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("This is no git checkout, so nothing says which files are committed.")
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def test_no_committed_file_is_larger_than_20_mb():
    assert {str(path): path.stat().st_size for path in tracked() if path.stat().st_size > 20 * MB} == {}


def test_git_does_not_ignore_the_builder():
    names = {str(path.relative_to(ROOT)) for path in tracked()}
    assert "build/__main__.py" in names
    ignored = [
        line.strip("/ ")
        for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert "build" not in ignored


def test_no_shard_of_a_build_and_no_fetched_data_is_committed():
    assert [path for path in tracked() if "work" in path.relative_to(ROOT).parts] == []
    assert [path for path in tracked() if re.search(r"\.(gguf|bin|whl|jsonl)$", path.name)] == []


def test_the_weights_of_pocket_bert_are_at_most_12_mb():
    assert WEIGHTS.stat().st_size <= 12 * MB


def test_the_atlases_that_come_along_are_at_most_40_mb_together():
    files = [path for path in tracked() if path.is_relative_to(ATLASES)]
    assert sum(path.stat().st_size for path in files) <= 40 * MB


def test_the_duckdb_shell_can_read_every_column():
    # Shells before DuckDB 2.0 read no integers whose bytes are stored by significance.
    for path in tracked():
        if path.suffix == ".parquet":
            metadata = pq.read_metadata(path)
            groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
            columns = [group.column(index) for group in groups for index in range(group.num_columns)]
            split = {c.physical_type for c in columns if "BYTE_STREAM_SPLIT" in c.encodings}
            assert split <= {"FLOAT", "DOUBLE"}, path.name


def test_every_committed_atlas_is_complete():
    for folder in {path.parent for path in tracked() if path.is_relative_to(ATLASES)}:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        present = {path.name for path in folder.glob("*.parquet")}
        assert present == set(manifest["files"]), folder.name
