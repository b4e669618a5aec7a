"""CounterFact loads as a data set, records keep every field, and bad files are refused."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.datasets import counterfact, load_dataset
from atlas.datasets.counterfact import load_counterfact, read_counterfact
from atlas.errors import DatasetError
from atlas.store.atlas import open_atlas
from build.__main__ import main
from tests.sample_counterfact import CAPITAL, LANGUAGE, ROWS, records, write_counterfact


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_counterfact(tmp_path)


# As a data set ---------------------------------------------------------------------------------------


def test_rewrite_prompts_become_their_relations_templates(file: Path):
    dataset = load_counterfact(file)
    patterns = {
        r.relation_id: [t.pattern for t in dataset.templates_of(r.relation_id)] for r in dataset.relations
    }
    assert patterns == {
        "P36": [f"{prompt.format('[X]')} [Y]" for prompt in CAPITAL],
        "P37": [f"{prompt.format('[X]')} [Y]" for prompt in LANGUAGE],
    }
    assert all(template.ends_with_object for template in dataset.templates)
    assert [relation.label for relation in dataset.relations] == ["capital", "official language"]


def test_a_fact_occurs_once_with_the_id_of_its_first_record(file: Path):
    facts = load_counterfact(file).facts
    wanted = dict.fromkeys((relation, subject, true) for relation, subject, true, _, _ in ROWS)
    assert [(f.relation_id, f.subject, f.object) for f in facts] == list(wanted)
    assert [f.fact_id for f in facts] == [f"case-{n}" for n in (0, 1, 2, 3, 5, 6)]


def test_relations_are_sorted_by_number(tmp_path: Path):
    backwards = load_counterfact(write_counterfact(tmp_path, records()[::-1]))
    assert [relation.relation_id for relation in backwards.relations] == ["P36", "P37"]
    assert [t.relation_id for t in backwards.templates] == ["P36"] * 4 + ["P37"] * 2
    assert [f.relation_id for f in backwards.facts] == ["P36"] * 4 + ["P37"] * 2


def test_each_record_keeps_its_other_prompts(file: Path):
    read = read_counterfact(file)
    assert len(read.cases) == len(ROWS)
    for case, record in zip(read.cases, records(), strict=True):
        rewrite = record["requested_rewrite"]
        assert case.fact in read.dataset.facts
        assert case.new_object == rewrite["target_new"]["str"]
        asked = [case.prompt, *case.paraphrases, *case.neighbours, *case.attributes]
        texts = [
            rewrite["prompt"].format(rewrite["subject"]),
            *record["paraphrase_prompts"],
            *record["neighborhood_prompts"],
            *record["attribute_prompts"],
        ]
        assert [prompt.stem for prompt in asked] == texts
        assert all(prompt.ends_with_answer for prompt in asked)
        answers = [rewrite["target_true"]["str"]] * 4 + [case.new_object]
        assert [prompt.answer for prompt in asked] == answers
        assert list(case.generation) == record["generation_prompts"]
    assert [case.new_object for case in read.cases if case.fact.fact_id == "case-0"] == ["rome", "tokyo"]


def test_the_revision_is_the_files_sha256(file: Path, tmp_path: Path):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    dataset = load_dataset("counterfact", source=file)
    assert dataset.revision == f"sha256 {digest}"
    # The file's folder works as well; another file has another revision, other facts another hash.
    assert load_dataset("counterfact", source=tmp_path) == dataset
    (tmp_path / "less").mkdir()
    less = load_counterfact(write_counterfact(tmp_path / "less", records()[:3]))
    assert less.revision != dataset.revision
    assert less.dataset_hash != dataset.dataset_hash


def test_copies_without_prompt_lists_are_read(tmp_path: Path):
    bare = [{key: each[key] for key in ("case_id", "requested_rewrite")} for each in records()]
    read = read_counterfact(write_counterfact(tmp_path, bare))
    assert read.cases[0].paraphrases == read.cases[0].neighbours == read.cases[0].generation == ()
    assert len(read.dataset.facts) == 6


# Built -----------------------------------------------------------------------------------------------


def test_it_is_planned_and_built_like_other_data_sets(
    file: Path, tmp_path: Path, tiny: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
):
    what = ["--model", str(tiny("tiny_gpt2")), "--dataset", "counterfact", "--source", str(file)]
    assert main(["plan", *what]) == 0
    planned = re.sub(r" +", " ", capsys.readouterr().out).splitlines()
    # Four capitals by four templates, two languages by two; of two templates one finds neurons.
    assert {"relations 2", "facts 6", "prompts 20", "discovery 10 (find the neurons)"} <= set(planned)
    assert (
        "too few 2 facts of 1 relation have under 2 discovery prompts: no neurons in the mode default "
        "(replication takes 1)" in planned
    )
    out = tmp_path / "atlas"
    assert main(["run", *what, "--out", str(out), "--threads", "1"]) == 0
    assert main(["check", str(out)]) == 0
    with open_atlas(out) as atlas:
        assert atlas.manifest.dataset.id == "counterfact"
        assert atlas.manifest.dataset.revision == load_counterfact(file).revision
        facts = atlas.query(
            "SELECT fact_id, subject, object, relation_id, n_neurons FROM facts ORDER BY fact_id"
        )
        assert list(facts["subject"]) == ["france", "italy", "japan", "new zealand", "austria", "peru"]
        assert (facts[facts["relation_id"] == "P37"]["n_neurons"] == 0).all()
        assert facts["n_neurons"].sum() > 0
        text = atlas.query_one("SELECT text FROM prompts WHERE fact_id = 'case-1' AND template_id = 'P36.0'")
        assert text == {"text": "the capital of italy is [Y]"}


# Errors ----------------------------------------------------------------------------------------------


def changed(**rewrite: object) -> list[dict]:
    """The records, the second one's rewrite changed; None takes a key out."""
    made = records()
    for key, value in rewrite.items():
        if value is None:
            del made[1]["requested_rewrite"][key]
        else:
            made[1]["requested_rewrite"][key] = value
    return made


def whole(number: int, **changes: object) -> list[dict]:
    made = records()
    made[number] |= changes
    return made


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"data": []}, "is not a list of records"),
        ([], "is not a list of records"),
        ([1, 2], "record 1 must be an object"),
        ([{"case_id": 1}], "record 1's requested_rewrite is missing"),
        (changed(relation_id=None), "record 2's requested_rewrite.relation_id is missing"),
        (changed(subject="  "), "record 2's requested_rewrite.subject must have at least 1 character"),
        (changed(prompt=7), "record 2's requested_rewrite.prompt must be text, got 7"),
        (changed(target_true="rome"), "record 2's requested_rewrite.target_true must be an object"),
        (changed(target_new={"id": "Q1"}), "record 2's requested_rewrite.target_new.str is missing"),
        (changed(prompt="the capital is"), "record 2: the prompt 'the capital is' must have exactly one {}"),
        (changed(prompt="{} and {} are"), "must have exactly one {}"),
        (changed(prompt="[Y] of {} is"), "2 [Y]"),
        (whole(2, case_id=0), "record 3: the case_id 0 occurs twice"),
        (whole(2, case_id=None), "record 3's case_id"),
        (whole(0, paraphrase_prompts="one"), "record 1's paraphrase_prompts must be a list"),
        (whole(0, neighborhood_prompts=[1]), "record 1's neighborhood_prompts[0] must be text"),
    ],
)
def test_a_malformed_file_is_refused_with_the_record(tmp_path: Path, content, says: str):
    path = write_counterfact(tmp_path, content)
    with pytest.raises(DatasetError, match=re.escape(says)) as caught:
        load_counterfact(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b'[{"case_id": 1,', b"\xff\xfe", b"<html>gone</html>", b"[" * 200_000]
)
def test_invalid_json_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "counterfact.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"counterfact\.json is not JSON .* Copy the file"):
        load_counterfact(path)


def test_an_absent_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(DatasetError, match=r"cannot be read .*Point --source at a copy of counterfact\.json"):
        load_counterfact(tmp_path / "nothing.json")
    plan = ["plan", "--model", "pocket-bert", "--dataset", "counterfact", "--source"]
    assert main([*plan, str(tmp_path / "nothing.json")]) == 2
    assert "There is no folder or file" in capsys.readouterr().err
    assert main([*plan, str(tmp_path)]) == 2
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err


# From its public home --------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_download_is_cached(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    messages: list[str] = []
    monkeypatch.setattr(counterfact, "URL", file.as_uri())
    fetched = load_counterfact(say=messages.append)
    assert fetched == load_counterfact(file)
    assert "no sha256 of it is published" in messages[0]
    monkeypatch.setattr(counterfact, "URL", "http://127.0.0.1:9/counterfact.json")
    assert load_counterfact() == fetched


def test_a_wrong_download_is_not_cached(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "counterfact.json").write_text("<html>moved</html>")
    monkeypatch.setattr(counterfact, "URL", (tmp_path / "counterfact.json").as_uri())
    with pytest.raises(DatasetError, match="is not JSON"):
        load_counterfact()
    assert not list(cache.rglob("*.json"))
    write_counterfact(tmp_path)
    assert len(load_counterfact().facts) == 6


def test_without_a_network_the_error_names_the_option_within_five_seconds(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(counterfact, "URL", "http://127.0.0.1:9/counterfact.json")
    start = time.monotonic()
    with pytest.raises(
        DatasetError,
        match=r"cannot be fetched from its public home .*Pass a copy of counterfact\.json with --source FILE",
    ):
        load_counterfact()
    assert time.monotonic() - start < 5


def test_the_sample_is_json_as_the_publishers_write_it(file: Path):
    first = json.loads(file.read_text())[0]
    assert set(first) == {
        "case_id",
        "pararel_idx",
        "requested_rewrite",
        "paraphrase_prompts",
        "neighborhood_prompts",
        "attribute_prompts",
        "generation_prompts",
    }
    assert set(first["requested_rewrite"]) == {
        "prompt",
        "relation_id",
        "target_new",
        "target_true",
        "subject",
    }
