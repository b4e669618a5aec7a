"""A path that the system refuses is one sentence, in every option that takes one."""

import os
from contextlib import contextmanager

import pytest

from atlas import __main__ as atlas_cli
from atlas.errors import AtlasError, ModelError, StoreError
from atlas.files import looked_up
from atlas.models import is_ready, locate
from atlas.store.atlas import open_atlas
from atlas.store.collection import Collection
from atlas.store.manifest import read_manifest
from build import __main__ as build_cli

STARTER = ["--model", "pocket-bert", "--dataset", "starter"]
ATLAS = "atlas/data/starter-pocket-bert"
BUILD = [
    ["plan", "--model", "PATH", "--dataset", "starter"],
    ["plan", "--model", "pocket-bert", "--dataset", "pararel", "--source", "PATH"],
    ["plan", "--model", "pocket-bert", "--dataset", "counterfact", "--source", "PATH"],
    ["run", *STARTER, "--limit", "1", "--out", "PATH"],
    ["run", "--model", "PATH", "--dataset", "starter", "--out", "out/never"],
    ["check", "PATH"],
    ["import-published", "--source", "PATH", "--out", "out/never"],
    ["import-published", "--pararel", "PATH", "--out", "out/never"],
    ["evaluate", "PATH"],
    ["evaluate", ATLAS, "--model", "PATH"],
    ["figures", "PATH", "--out", "out/never"],
    ["figures", ATLAS, "--out", "PATH"],
    ["experiment", "PATH"],
    ["train-pocket-bert", "--out", "PATH"],
    ["fetch-model", "PATH"],
    ["geonames", "--out", "PATH"],
]
ATLAS_COMMANDS = [
    ["info", "--atlas", "PATH"],
    ["info", "--collection", "PATH"],
    ["sql", "SELECT 1", "--atlas", "PATH"],
    ["sql", "SELECT 1", "--collection", "PATH"],
]


@contextmanager
def as_another_user():
    """Without the rights of root, whom no folder keeps out."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shut(tmp_path):
    """A folder that is there and may not be entered."""
    folder = tmp_path / "shut"
    folder.mkdir()
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        *((build_cli.main, arguments) for arguments in BUILD),
        *((atlas_cli.main, arguments) for arguments in ATLAS_COMMANDS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("path", ["x" * 300, "tests/" + "x" * 300], ids=["name", "name in a folder"])
def test_a_name_that_is_too_long_is_one_sentence_in_every_command(main, arguments, path, capsys):
    assert main([path if each == "PATH" else each for each in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    if arguments[0] == "check":
        assert lines.pop(0).endswith(": not ok")
    (sentence,) = lines
    assert "cannot be" in sentence
    assert "File name too long" in sentence


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(build_cli.main, BUILD[0]), (atlas_cli.main, ["sql", "SELECT 1", "--atlas", "PATH"])],
)
def test_a_name_that_is_no_text_is_one_sentence_before_any_work(main, arguments, tmp_path, capsys):
    path = os.fsdecode(os.fsencode(tmp_path / "o") + b"\xff")
    assert main([path if each == "PATH" else each for each in arguments]) == 2
    assert "o\\udcff' is not text. Write it in UTF-8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
@pytest.mark.parametrize("below", ["", "model"])
def test_a_folder_that_may_not_be_entered_is_one_sentence(shut, below, capsys):
    path = str(shut / below)
    with as_another_user():
        for look, error in (
            (locate, ModelError),
            (open_atlas, StoreError),
            (Collection, StoreError),
            (read_manifest, StoreError),
        ):
            with pytest.raises(error, match=r"cannot be used \(Permission denied\)\. Check the path"):
                look(path)
        assert not is_ready(path)
        for arguments in (["info", "--atlas", path], ["sql", "SELECT 1", "--collection", path]):
            assert atlas_cli.main(arguments) == 2
        for arguments in (["check", path], ["experiment", path], ["evaluate", path], ["fetch-model", path]):
            assert build_cli.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("path", ["~nobody-of-this-name/models", "a\0b"])
def test_a_home_and_a_name_that_cannot_be_are_one_sentence(path):
    for look, error in ((looked_up, AtlasError), (locate, ModelError), (open_atlas, StoreError)):
        with pytest.raises(error, match="cannot be used"):
            look(path)


def test_a_path_that_does_not_exist_yet_is_looked_up(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "new", tmp_path / "file", tmp_path / "file" / "below", tmp_path):
        assert looked_up(path) == path
    assert looked_up("~/models").is_absolute()
