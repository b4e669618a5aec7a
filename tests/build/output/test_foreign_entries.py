"""An atlas's folder that a stranger made: no command follows a link in it, or opens a pipe."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from atlas.__main__ import main as atlas_main
from atlas.errors import BuildError
from atlas.files import whole_file
from build.__main__ import main as build_main
from build.output.writer import Output
from tests import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links and pipes as POSIX has them")


def link_to_file(path: Path, mine: Path) -> None:
    path.symlink_to(mine / "thesis.txt")


def link_to_folder(path: Path, mine: Path) -> None:
    path.symlink_to(mine / "shards")


def link_to_nothing_yet(path: Path, mine: Path) -> None:
    path.symlink_to(mine / ".bashrc")


def folder(path: Path, mine: Path) -> None:
    path.mkdir()


def pipe(path: Path, mine: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path, mine: Path) -> None:
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)  # relative: a socket's path is at most a hundred bytes


HOSTILE: list[tuple[str, Callable[[Path, Path], None]]] = [
    ("work", link_to_folder),
    ("work", link_to_nothing_yet),
    ("work", pipe),
    ("work/lock", link_to_file),
    ("work/lock", link_to_nothing_yet),
    ("work/lock", pipe),
    ("work/plan.json", link_to_file),
    ("work/plan.json", pipe),
    ("work/.plan.json.partial", link_to_file),
    ("work/.plan.json.partial", folder),
    ("work/attribute-00000.parquet", link_to_file),
    ("work/attribute-00000.parquet", folder),
    ("work/.attribute-00000.parquet.partial", link_to_file),
    ("work/refine.npz", pipe),
    ("work/sub", link_to_folder),
    (".manifest.json.partial", link_to_file),
    (".statistics.parquet.next.partial", link_to_nothing_yet),
    (".statistics.parquet.next.partial", folder),
    (".facts.parquet.partial", link_to_file),
    ("statistics.parquet.next", pipe),
    ("manifest.json.next", link_to_file),
    ("README.md", link_to_file),
    ("README.md", bound_socket),
]
TABLES: list[tuple[str, Callable[[Path, Path], None]]] = [
    ("manifest.json", link_to_file),
    ("manifest.json", pipe),
    ("manifest.json", folder),
    ("facts.parquet", link_to_file),
    ("facts.parquet", link_to_nothing_yet),
    ("facts.parquet", pipe),
    ("facts.parquet", bound_socket),
    ("facts.parquet", folder),
    ("statistics.parquet", link_to_folder),
]
WRITING = [
    ["check", "DIR"],
    ["evaluate", "DIR", "--experiments", "statistics", "--fresh"],
    ["run", "--model", "pocket-bert", "--dataset", "starter", "--limit", "1", "--out", "DIR"],
    ["run", "--model", "pocket-bert", "--dataset", "starter", "--limit", "1", "--out", "DIR", "--fresh"],
]
READING = [
    ["figures", "DIR", "--out", "never-made"],
    ["export-results", "DIR", "--out", "never-made"],
    ["info", "--atlas", "DIR"],
    ["info", "--collection", "PARENT"],
    ["sql", "FROM facts", "--atlas", "DIR"],
    ["sql", "FROM facts", "--collection", "PARENT"],
]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Files of the user's own, outside the atlas."""
    (tmp_path / "mine" / "shards").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "mine" / "shards" / "attribute-00000.parquet").write_text("a night of work")
    return tmp_path / "mine"


def everything(folder: Path) -> dict[str, object]:
    """Each entry below the folder: what a link leads to, a file's bytes, the kind of anything else."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else path.stat().st_mode
        for path in folder.rglob("*")
    }


def with_entry(folder: Path, name: str, make: Callable[[Path, Path], None], mine: Path) -> Path:
    """The folder with such an entry in the place of what it has there."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    make(path, mine)
    return folder


def refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture) -> str:
    main = atlas_main if arguments[0] in ("info", "sql") else build_main
    given = {"DIR": str(folder), "PARENT": str(folder.parent)}
    assert main([given.get(each, each) for each in arguments]) == 2, arguments
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors


@pytest.mark.parametrize(("name", "make"), HOSTILE)
def test_a_command_that_writes_refuses_an_entry_that_is_no_file(name, make, sample, mine, tmp_path, capsys):
    atlas = with_entry(shutil.copytree(sample, tmp_path / "theirs"), name, make, mine)
    begun = with_entry(tmp_path / "begun", name, make, mine)
    before = everything(tmp_path)
    for arguments in WRITING:
        assert Path(name).name in refused(arguments, atlas, capsys)
    assert Path(name).name in refused(WRITING[2], begun, capsys)
    with pytest.raises(BuildError, match="not a"):
        Output(atlas).claim({"model": "imported"}, fresh=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(("name", "make"), TABLES)
def test_every_command_refuses_a_table_that_is_no_file(name, make, sample, mine, tmp_path, capsys):
    atlas = with_entry(shutil.copytree(sample, tmp_path / "theirs" / "atlas"), name, make, mine)
    before = everything(tmp_path)
    for arguments in [*WRITING, *READING]:
        assert name in refused(arguments, atlas, capsys), arguments
    assert everything(tmp_path) == before


def test_no_command_waits_for_a_pipe(sample, mine, tmp_path):
    lines = []
    for place, name in enumerate(("manifest.json", "facts.parquet", "work/plan.json")):
        atlas = with_entry(shutil.copytree(sample, tmp_path / f"{place}" / "atlas"), name, pipe, mine)
        given = {"DIR": str(atlas), "PARENT": str(atlas.parent), "never-made": str(tmp_path / f"out-{place}")}
        lines += [[given.get(each, each) for each in line] for line in [*WRITING, *READING]]
    program = (
        "import json, sys\n"
        "from atlas.__main__ import main as atlas_main\n"
        "from build.__main__ import main as build_main\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    (atlas_main if line[0] in ('info', 'sql') else build_main)(line)\n"
    )
    command = [sys.executable, "-c", program, json.dumps(lines)]
    # The time limit only keeps the test from waiting for ever, too.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_file_with_another_name_elsewhere_keeps_its_content(sample, mine, tmp_path):
    atlas = shutil.copytree(sample, tmp_path / "theirs")
    (atlas / "work").mkdir()
    for name in (".manifest.json.next.partial", ".statistics.parquet.next.partial", "work/lock"):
        os.link(mine / "thesis.txt", atlas / name)
    assert build_main(["evaluate", str(atlas), "--experiments", "statistics", "--fresh"]) == 0
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_whole_file_replaces_a_link_and_leaves_what_it_leads_to(mine, tmp_path):
    for name in ("results.json", ".results.json.partial"):
        (tmp_path / name).symlink_to(mine / "thesis.txt")
    with whole_file(tmp_path / "results.json") as file:
        file.write(b"new")
    assert not (tmp_path / "results.json").is_symlink()
    assert (tmp_path / "results.json").read_bytes() == b"new"
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_folder_is_reached_through_the_users_own_link(sample, tmp_path):
    atlas = shutil.copytree(sample, tmp_path / "atlas")
    (atlas / "notes").mkdir()
    (tmp_path / "many").mkdir()
    for link in (tmp_path / "link", tmp_path / "many" / "sample"):
        link.symlink_to(atlas)
    assert build_main(["check", str(link)]) == 0
    assert build_main(["evaluate", str(link), "--experiments", "statistics", "--fresh"]) == 0
    assert atlas_main(["info", "--atlas", str(link)]) == 0
    assert atlas_main(["info", "--collection", str(tmp_path / "many")]) == 0
