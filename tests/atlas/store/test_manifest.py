"""A manifest with a field of a wrong type is refused in one sentence, or read as it is by everything."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from app.shared.thresholds import atlas_thresholds
from atlas import __main__ as command_line
from atlas.__main__ import main
from atlas.errors import AtlasError, StoreError
from atlas.store.atlas import Atlas, bundled
from atlas.store.manifest import manifest_text, read_manifest
from build.evidence.evaluate import RECORD
from build.output.check import check_atlas, rule_of
from build.report.provenance import MANIFEST_ROWS
from tests.sample_atlas import write_sample_atlas

WRONG = (None, -1, 3.5, 10**400, float("nan"), "text", "\ud83d", [], [1], {}, {"a": 1}, [[None]], True)
BUNDLED = bundled()


def fields(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every field, however deep; of the files, those of the first."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for number, (key, each) in enumerate(inner):
        if path != ("files",) or number == 0:
            yield from fields(each, (*path, key))


def replaced(plain: Any, path: tuple, value: Any) -> Any:
    plain = copy.deepcopy(plain)
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return plain


def use(atlas: Atlas) -> None:
    """What reads a manifest: the command line, the app, the builder."""
    manifest = atlas.manifest
    lines = [*command_line._origin(atlas), *command_line._tables(atlas), *command_line._counts([manifest])]
    lines += [row(manifest) for row in MANIFEST_ROWS.values()]
    "\n".join(map(str, [*lines, manifest_text(manifest)])).encode()
    for record in manifest.method.options.get(RECORD, {}).values():
        assert record.get("seconds", 0) is None or record.get("seconds", 0) * 2 is not None
    for function in (rule_of, lambda manifest: atlas_thresholds(manifest, "P36")):
        with suppress(AtlasError):
            function(manifest)


@pytest.mark.parametrize("atlas_id", BUNDLED)
def test_every_field_of_a_wrong_type_is_refused_in_one_sentence_or_read(atlas_id, tmp_path):
    plain = json.loads((BUNDLED[atlas_id] / "manifest.json").read_text(encoding="utf-8"))
    refused = set()
    with Atlas(BUNDLED[atlas_id]) as atlas:
        for path in fields(plain):
            for value in WRONG:
                (tmp_path / "manifest.json").write_text(json.dumps(replaced(plain, path, value)))
                sentence = ""
                try:
                    atlas.manifest = read_manifest(tmp_path)
                except StoreError as error:
                    sentence = str(error)
                    refused.add(path)
                else:
                    use(atlas)
                assert len(sentence.splitlines()) <= 1
                assert len(sentence) < 400
    needed = ("atlas_id", "model", "dataset", "method", "files", "schema_version")
    assert {(name,) for name in needed} <= refused
    assert ("method", "refinement", "tries") in refused
    measured = ("method", "options", RECORD, "effects", "sample")
    assert (measured in refused) == (RECORD in plain["method"]["options"])


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (
            ("method", "refinement", "tries"),
            "six",
            'method.refinement.tries must be a whole number, got "six"',
        ),
        (("method", "refinement", "target"), 3, "method.refinement.target must be a list, got 3"),
        (("method", "options"), [], "method.options must be"),
        (("model", "n_layers"), 10**9, "model.n_layers must be less than 32768, got 1000000000"),
        (("seconds",), float("inf"), "seconds must be a finite number"),
        (("files", "facts.parquet", "bytes"), 10**30, "files.facts.parquet.bytes must be less than"),
        (("model", "name"), "\ud83d", "manifest.json is not JSON ("),
        (("schema_version",), "x" * 1000, "has schema version xxx"),
    ],
    ids=str,
)
def test_the_sentence_names_the_field_on_every_command(path, value, problem, tmp_path, capsys):
    folder = write_sample_atlas(tmp_path / "atlas")
    plain = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(replaced(plain, path, value)))
    for command in (["info"], ["sql", "SELECT 1"]):
        assert main([*command, "--atlas", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert problem in line
    (problem_found,) = check_atlas(folder).problems
    assert problem in problem_found


def test_a_manifest_with_a_number_of_ten_thousand_digits_or_lists_without_end_is_one_sentence(tmp_path):
    for text in ('{"schema_version": ' + "9" * 10_000 + "}", "[" * 100_000):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(StoreError, match=r"manifest\.json.*(Build or copy|Build the atlas)") as refusal:
            read_manifest(tmp_path)
        assert len(str(refusal.value).splitlines()) == 1
