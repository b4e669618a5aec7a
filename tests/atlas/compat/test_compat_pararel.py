"""PARAREL in the shapes that scripts for the original expect; the sentences here are made up."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from atlas.compat import PARAREL_RELATION_NAMES, pararel, pararel_expanded
from atlas.compat.pararel import SOURCE_VARIABLE
from atlas.datasets import pararel as published
from atlas.datasets.pararel import FACTS, RELATION_LABELS, TEMPLATES
from atlas.errors import DatasetError
from tests import ROOT

SHARED = ROOT.parent / "shared" / "pararel" / "data"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as PARAREL's, with two made-up templates and facts a relation."""
    folder, hashes = tmp_path / "source", {}
    for name in PARAREL_RELATION_NAMES:
        templates = [
            {"pattern": "Ask anyone: [X] goes with [Y] .", "lemma": "go", "tense": "present"},
            {"pattern": "[Y] is what [X] goes with.", "lemma": "go", "tense": "present"},
        ]
        facts = [
            {"sub_label": f"Freedonia {name}", "obj_label": "Sylvania", "uuid": f"{name}-1"},
            {"sub_label": f"Ruritania {name}", "obj_label": "Strelsau", "uuid": f"{name}-2"},
        ]
        for where, rows in ((TEMPLATES, templates), (FACTS, facts)):
            path = folder / where / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            hashes[f"{where}/{name}.jsonl"] = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(published, "published_hashes", lambda: hashes)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_relations_are_those_with_templates():
    assert len(PARAREL_RELATION_NAMES) == 39
    assert set(PARAREL_RELATION_NAMES) == set(RELATION_LABELS)
    assert PARAREL_RELATION_NAMES[0] == "P39"  # their order is the original's, from which scripts draw


def test_relations_hold_their_rows_as_published(source: Path):
    found = pararel(source=source)
    assert list(found) == PARAREL_RELATION_NAMES
    assert found["P36"]["graphs"][1] == {
        "pattern": "[Y] is what [X] goes with.",
        "lemma": "go",
        "tense": "present",
    }
    assert found["P36"]["vocab"][0]["sub_label"] == "Freedonia P36"


def test_facts_hold_their_sentences(source: Path):
    found = pararel_expanded(source=source)
    assert list(found)[:3] == ["P39-1", "P39-2", "P264-1"]
    assert found["P36-2"] == {
        "sentences": [
            "Ask anyone: Ruritania P36 goes with [MASK] .",
            "[MASK] is what Ruritania P36 goes with.",
        ],
        "relation_name": "P36",
        "obj_label": "Strelsau",
    }


def test_the_answers_replacement_can_be_chosen(source: Path):
    """The original ignores this argument."""
    usual = pararel_expanded(source=source)
    for blank in ("<mask>", ""):
        found = pararel_expanded(obj_label_replacement=blank, source=source)
        assert found["P36-2"]["sentences"][1] == f"{blank} is what Ruritania P36 goes with."
    assert pararel_expanded(source=source) == usual


def test_both_files_are_written_where_the_original_writes_them(source: Path, tmp_path: Path):
    expanded = pararel_expanded(source=source)
    kept = tmp_path / "datasets"
    assert {path.name for path in kept.iterdir()} == {"pararel.json", "pararel_expanded.json"}
    for path in source.rglob("*.jsonl"):
        path.unlink()
    assert pararel_expanded() == expanded
    assert list(pararel()) == PARAREL_RELATION_NAMES
    (kept / "pararel.json").write_text('{"P36": 1}')
    assert pararel() == {"P36": 1}  # what a script put there
    elsewhere = tmp_path / "mine.json"
    elsewhere.write_text(json.dumps({"a": {"sentences": []}}))
    assert pararel_expanded(str(elsewhere)) == {"a": {"sentences": []}}
    elsewhere.write_text('{"a": ')
    with pytest.raises(DatasetError, match=r"mine\.json is not JSON .*Delete it"):
        pararel_expanded(elsewhere)


def test_a_data_path_that_cannot_be_written_is_refused(source: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="Give a data_path in a writable folder"):
        pararel(tmp_path / "file" / "x.json", source=source)


def test_the_environment_can_name_the_source(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SOURCE_VARIABLE, str(source))
    assert pararel()["P36"]["vocab"][0]["uuid"] == "P36-1"
    monkeypatch.setenv(SOURCE_VARIABLE, str(source / "nowhere"))
    with pytest.raises(DatasetError, match=r"does not have the folders .*Point source at"):
        pararel("again.json")


def test_an_edited_folder_is_read_as_it_is(source: Path):
    with (source / FACTS / "P36.jsonl").open("a") as file:
        file.write(json.dumps({"sub_label": "a", "obj_label": "b", "uuid": "c"}) + "\n")
    assert pararel(source=source)["P36"]["vocab"][-1]["uuid"] == "c"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs PARAREL's data folder at ../shared/pararel/data")
def test_the_published_files_give_every_fact_and_prompt(tmp_path: Path):
    found = pararel_expanded(tmp_path / "expanded.json", source=SHARED)
    assert len(found) == 27_610
    assert sum(len(fact["sentences"]) for fact in found.values()) == 224_674
    assert all(sentence.count("[MASK]") == 1 for fact in found.values() for sentence in fact["sentences"])
    assert len(Counter(fact["relation_name"] for fact in found.values())) == 39
