"""What an atlas's folder says of itself follows its manifest: the data card, and Croissant metadata."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest

from atlas.store.atlas import DATA
from atlas.store.manifest import read_manifest, verify
from build.output.card import CARD, CROISSANT, cards
from build.output.check import check_atlas
from build.output.writer import Output

ATLASES = sorted(path.name for path in DATA.iterdir())


@pytest.fixture(params=ATLASES)
def folder(request):
    return DATA / request.param


def test_the_committed_cards_are_those_of_the_manifest(folder):
    for name, text in cards(read_manifest(folder)).items():
        assert (folder / name).read_text(encoding="utf-8") == text


def test_the_card_names_a_configuration_for_every_table(folder):
    _, head, body = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
    files = dict(re.findall(r"- config_name: (\S+)\n  data_files: (\S+)", head))
    assert files == {path.stem: path.name for path in folder.glob("*.parquet")}
    manifest = read_manifest(folder)
    assert f"license_name: {json.dumps(manifest.dataset.licence, ensure_ascii=False)}\n" in head
    for stated in (manifest.model.weights_sha256, manifest.dataset.revision, manifest.code_version):
        assert str(stated) in body


def test_croissant_describes_every_file_and_every_column_it_can(folder):
    described = json.loads((folder / CROISSANT).read_text(encoding="utf-8"))
    manifest = read_manifest(folder)
    assert {each["contentUrl"]: each["sha256"] for each in described["distribution"]} == {
        name: record.sha256 for name, record in manifest.files.items()
    }
    for records in described["recordSet"]:
        schema = pq.read_schema(folder / f"{records['name']}.parquet")
        named = [field["source"]["extract"]["column"] for field in records["field"]]
        structs = {column.name for column in schema if "struct" in str(column.type)}
        # A file of an older schema lacks columns that readers fill with null.
        assert set(schema.names) - structs <= set(named)
        assert not structs & set(named)


def test_a_table_that_is_added_is_in_the_cards(tmp_path):
    folder = shutil.copytree(DATA / "starter-pocket-bert", tmp_path / "atlas")
    rows = pq.read_table(folder / "stability.parquet").slice(0, 7)
    output = Output(folder)
    output.reopen()
    output.add_tables({"stability": rows}, read_manifest(folder))
    output.leave()
    assert "| `stability` | 7 |" in (folder / CARD).read_text(encoding="utf-8")
    verify(folder)
    assert check_atlas(folder).problems == []
