"""PARAREL is read as published; broken and unreachable copies are refused.

The sentences and facts are made up for these tests; none is PARAREL's.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from atlas.datasets import load_dataset, pararel
from atlas.datasets.pararel import (
    FACTS,
    RELATION_LABELS,
    TEMPLATES,
    load_pararel,
    own_templates,
    published_hashes,
    with_own_templates,
)
from atlas.errors import DatasetError
from atlas.neuron import Relation
from build.plan import BuildOptions, describe_plan, make_plan
from tests import ROOT

SHARED = ROOT.parent / "shared" / "pararel" / "data"

needs_pararel = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs PARAREL's data folder at ../shared/pararel/data"
)


@needs_pararel
def test_the_counts_equal_the_published_ones():
    dataset = load_dataset("pararel", source=SHARED)
    assert (dataset.dataset_id, dataset.revision) == ("pararel", "cb5554678457beb5ac163d888f1ce8cf174b3f0b")
    assert len(dataset.relations) == 39
    assert len(dataset.facts) == 27_610
    assert len({fact.fact_id for fact in dataset.facts}) == 27_610
    n_templates = {r.relation_id: len(dataset.templates_of(r.relation_id)) for r in dataset.relations}
    n_causal = {
        r.relation_id: len(dataset.templates_of(r.relation_id, causal=True)) for r in dataset.relations
    }
    assert sum(n_templates[fact.relation_id] for fact in dataset.facts) == 224_674
    assert sum(n_causal[fact.relation_id] for fact in dataset.facts) == 144_325
    assert not {"P31", "P527"} & set(n_templates)


@needs_pararel
def test_a_causal_model_is_asked_the_144_325_prompts_that_end_with_the_object():
    """Counted again from the files: patterns that end with [Y], spaces and a full stop aside."""
    plan = make_plan(BuildOptions(model="smollm2-135m", dataset="pararel", source=SHARED))
    assert (plan.n_prompts, plan.n_facts_left_out, len(plan.facts)) == (144_325, 0, 27_610)
    n_prompts = n_discovery = too_few = 0
    for relation_id in RELATION_LABELS:
        patterns, facts = (
            (SHARED / folder / f"{relation_id}.jsonl").read_text(encoding="utf-8").splitlines()
            for folder in (TEMPLATES, FACTS)
        )
        ending = [json.loads(line)["pattern"].rstrip(" .").endswith("[Y]") for line in patterns]
        n_prompts += sum(ending) * len(facts)
        # Every second one of them is held out, so that one alone finds neurons.
        first_half = -(-sum(ending) // 2)
        n_discovery += first_half * len(facts)
        too_few += len(facts) if first_half < 2 else 0
        split = [held_out for _, held_out in plan.templates[relation_id]]
        assert split == [place % 2 == 1 for place in range(sum(ending))]
    assert (n_prompts, n_discovery, too_few) == (plan.n_prompts, plan.n_discovery, plan.too_few[0])
    assert plan.too_few == (8_960, 12)
    printed = describe_plan(plan).splitlines()
    assert "prompts     144,325" in printed
    (line,) = [line for line in printed if line.startswith("too few")]
    assert "8,960 facts of 12 relations have under 2 discovery prompts: no neurons" in line
    # A mode that needs one prompt has none of them.
    one = make_plan(BuildOptions(model="smollm2-135m", dataset="pararel", source=SHARED, mode="replication"))
    assert one.too_few == (0, 0)
    assert not any(line.startswith("too few") for line in describe_plan(one).splitlines())


@needs_pararel
def test_the_repository_folder_is_a_valid_source():
    assert load_pararel(SHARED.parent).dataset_hash == load_pararel(SHARED).dataset_hash


def test_each_relation_has_eight_templates_of_this_project():
    own = own_templates()
    assert set(RELATION_LABELS) == set(own)
    for relation_id in RELATION_LABELS:
        templates = own[relation_id]
        assert len(templates) == len({each.pattern for each in templates}) == 8
        assert sum(each.ends_with_object for each in templates) >= 6


def test_with_own_templates_the_facts_stay_and_no_sentence_does(tiny: Path):
    theirs = load_pararel(tiny)
    ours = with_own_templates(theirs)
    assert (ours.facts, ours.relations) == (theirs.facts, theirs.relations)
    assert not {each.pattern for each in theirs.templates} & {each.pattern for each in ours.templates}
    assert ours.licence.startswith("non-commercial")
    assert ours.dataset_hash != theirs.dataset_hash


def test_a_relation_without_own_templates_is_refused(tiny: Path):
    dataset = load_pararel(tiny)
    foreign = replace(dataset, relations=(*dataset.relations, Relation("P9999", "colour")))
    with pytest.raises(DatasetError, match="This project has no templates for P9999"):
        with_own_templates(foreign)


@needs_pararel
def test_no_template_of_this_project_is_one_of_pararel_s():
    def plain(pattern: str) -> str:
        return re.sub(r"[\W_]+", " ", pattern.replace("[X]", "xxx").replace("[Y]", "yyy")).strip().lower()

    theirs = {plain(each.pattern) for each in load_pararel(SHARED).templates}
    ours = {each.pattern for templates in own_templates().values() for each in templates}
    assert not {pattern for pattern in ours if plain(pattern) in theirs}


def test_each_relation_has_a_label_and_two_hashes():
    assert len(RELATION_LABELS) == 39
    expected = {f"{folder}/{name}.jsonl" for folder in (TEMPLATES, FACTS) for name in RELATION_LABELS}
    assert set(published_hashes()) == expected
    assert all(len(digest) == 64 for digest in published_hashes().values())


PATTERNS = ["Ask anyone: the chief town of [X] is [Y] .", "They say [Y] governs [X]."]
TUPLES = [("Freedonia", "Sylvania", "id-1"), ("Ruritania", "Strelsau", "id-2")]


def lines(*entries: object) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder in PARAREL's form with one relation, two templates and two facts."""
    folder = tmp_path / "tiny"
    for name, content in (
        (TEMPLATES, lines(*({"pattern": pattern, "tense": "present"} for pattern in PATTERNS))),
        (FACTS, lines(*({"sub_label": s, "obj_label": o, "uuid": u} for s, o, u in TUPLES))),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "P36.jsonl").write_bytes(content)
    return folder


def hashes_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.jsonl"))
    }


def test_text_is_kept_unchanged(tiny: Path):
    dataset = load_pararel(tiny, hashes=hashes_of(tiny))
    assert [template.pattern for template in dataset.templates] == PATTERNS
    assert [template.template_id for template in dataset.templates] == ["P36.0", "P36.1"]
    assert [(f.subject, f.object, f.fact_id) for f in dataset.facts] == TUPLES
    assert dataset.relations[0].label == "capital"


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (FACTS, b'{"sub_label": "Oz"\n', r"P36\.jsonl, line 1, is not a JSON object"),
        (FACTS, lines({"sub_label": "Oz", "obj_label": "Emerald City"}), "line 1, has no text under 'uuid'"),
        (
            FACTS,
            lines(*[{"sub_label": "Oz", "obj_label": "Emerald City", "uuid": "id-1"}] * 2),
            "line 2: the uuid id-1 occurs twice",
        ),
        (FACTS, lines({"sub_label": 7, "obj_label": "a", "uuid": "b"}), "no text under 'sub_label'"),
        (FACTS, b"\xff\xfe\n", "line 1, is not a JSON object"),
        (FACTS, b"[1, 2]\n", "line 1, has no text"),
        (FACTS, b"[" * 100_000, "line 1, is not a JSON object"),
        (FACTS, b"", "line 1, is not a JSON object"),
        (TEMPLATES, lines({"pattern": "[X] and nothing else"}), r"line 1: .*0 \[Y\]"),
        (TEMPLATES, lines({"sentence": "[X] [Y]"}), "line 1, has no text under 'pattern'"),
    ],
)
def test_a_malformed_line_is_named_with_its_file(tiny: Path, file: str, content: bytes, says: str):
    hashes = hashes_of(tiny)
    (tiny / file / "P36.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=says) as caught:
        load_pararel(tiny, hashes=hashes)
    assert "P36.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_edited_folder_is_read_and_said_not_to_be_the_published_one(tiny: Path):
    hashes = hashes_of(tiny)
    assert load_pararel(tiny, hashes=hashes).revision == pararel.REVISION
    path = tiny / FACTS / "P36.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Strelsau", b"Zenda"))
    edited = load_pararel(tiny, hashes=hashes)
    assert edited.facts[1].object == "Zenda"
    assert edited.revision == "not the published files of commit cb5554678457"


def test_carriage_returns_leave_the_content_as_published(tiny: Path):
    hashes = hashes_of(tiny)
    plain = load_pararel(tiny, hashes=hashes)
    for path in tiny.rglob("*.jsonl"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_pararel(tiny, hashes=hashes) == plain


def test_a_folder_may_have_other_relations(tiny: Path):
    """People's own ids come after Wikidata's; facts without templates are left out, as P31's are."""
    hashes = hashes_of(tiny)
    for kind in (TEMPLATES, FACTS):
        for name in ("spells", "P9"):
            content = (tiny / kind / "P36.jsonl").read_bytes().replace(b"id-", name.encode())
            (tiny / kind / f"{name}.jsonl").write_bytes(content)
    (tiny / FACTS / "P31.jsonl").write_bytes(b"not read")
    found = load_pararel(tiny, hashes=hashes)
    assert [(each.relation_id, each.label) for each in found.relations] == [
        ("P9", "P9"),
        ("P36", "capital"),
        ("spells", "spells"),
    ]
    assert found.revision.startswith("not the published files")


def test_a_part_of_pararel_is_read(tiny: Path):
    hashes = hashes_of(tiny) | {f"{kind}/P17.jsonl": "0" * 64 for kind in (TEMPLATES, FACTS)}
    assert len(load_pararel(tiny, hashes=hashes).facts) == 2


def test_a_folder_without_templates_is_refused(tiny: Path):
    (tiny / TEMPLATES / "P36.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"graphs_json has no \*\.jsonl"):
        load_pararel(tiny, hashes={})


def test_a_missing_file_is_refused(tiny: Path):
    hashes = hashes_of(tiny)
    (tiny / FACTS / "P36.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"P36\.jsonl cannot be read .*--source"):
        load_pararel(tiny, hashes=hashes)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="Point --source at PARAREL's data folder"):
        load_dataset("pararel", source=tmp_path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_download_is_cached(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    hashes = hashes_of(tiny)
    monkeypatch.setattr(pararel, "BASE_URL", tiny.as_uri())
    fetched = load_pararel(hashes=hashes)
    assert fetched == load_pararel(tiny, hashes=hashes)
    monkeypatch.setattr(pararel, "BASE_URL", "http://127.0.0.1:9")
    assert load_pararel(hashes=hashes) == fetched


def test_a_damaged_cache_is_fetched_again(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    hashes = hashes_of(tiny)
    monkeypatch.setattr(pararel, "BASE_URL", tiny.as_uri())
    fetched = load_pararel(hashes=hashes)
    damaged = next(cache.rglob(f"{FACTS}/P36.jsonl"))
    damaged.write_bytes(b"half a li")
    assert load_pararel(hashes=hashes) == fetched


def test_a_download_with_another_hash_is_refused_and_not_kept(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pararel, "BASE_URL", tiny.as_uri())
    with pytest.raises(DatasetError, match="does not match the published sha256"):
        load_pararel(hashes=dict.fromkeys(hashes_of(tiny), "0" * 64))
    assert list(cache.rglob("*.jsonl")) == []


def test_without_a_network_the_error_names_the_option_within_five_seconds(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pararel, "BASE_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(DatasetError, match=r"cannot be fetched .*--source DIR"):
        load_pararel()
    assert time.monotonic() - start < 5


def test_a_cache_that_cannot_be_written_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "occupied").write_text("a file, not a folder")
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS_CACHE", str(tmp_path / "occupied"))
    monkeypatch.setattr(pararel, "BASE_URL", tiny.as_uri())
    with pytest.raises(DatasetError, match="KNOWLEDGE_NEURON_ATLAS_CACHE"):
        load_pararel(hashes=hashes_of(tiny))
