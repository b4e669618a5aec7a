"""Dai et al.'s `data_all.json` becomes templates and facts that give its sentences again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atlas.datasets import load_dataset
from atlas.datasets.dai import load_dai
from atlas.errors import DatasetError
from tests import ROOT

SHARED = ROOT.parent / "shared" / "original_results" / "dai"

PATTERNS = (
    "[X] is ruled from [MASK].",
    "The court of [MASK] governs [X]",
    "[MASK], seat of [X]'s king",
)
FACTS = (("Ruritania", "Strelsau"), ("Oz", "Emerald"), ("Freedonia", "Sylvania"))


def bag(subject: str, answer: str, *, label: str = "P36(capital)") -> list[list[str]]:
    return [[pattern.replace("[X]", subject), answer, label] for pattern in PATTERNS]


def write(folder: Path, bags: object) -> Path:
    path = folder / "data_all.json"
    path.write_text(json.dumps(bags))
    return path


def test_templates_and_subjects_are_found_again(tmp_path: Path):
    bags = [bag(*fact) for fact in FACTS] + [bag(*fact, label="P1376(P1376)") for fact in FACTS[:2]]
    dataset = load_dataset("dai", source=write(tmp_path, bags).parent)
    assert [template.pattern for template in dataset.templates_of("P36")] == [
        pattern.replace("[MASK]", "[Y]") for pattern in PATTERNS
    ]
    assert [(fact.subject, fact.object) for fact in dataset.facts_of("P36")] == list(FACTS)
    assert [(each.relation_id, each.label) for each in dataset.relations] == [
        ("P36", "capital"),
        ("P1376", "capital of"),
    ]
    assert dataset.revision == "not the published files of Hunter-DDM/knowledge-neurons"


def test_subjects_that_begin_and_end_alike_are_whole_words(tmp_path: Path):
    write(tmp_path, [bag("Albania", "Tirana"), bag("Armenia", "Yerevan")])
    assert [fact.subject for fact in load_dai(tmp_path).facts] == ["Albania", "Armenia"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/original_results/dai")
def test_the_starter_facts_in_this_form_are_starter_facts():
    dataset, starter = load_dai(SHARED), load_dataset("starter")
    known = {(fact.relation_id, fact.subject, fact.object.lower()) for fact in starter.facts}
    assert len(dataset.facts) == 52
    assert {(fact.relation_id, fact.subject, fact.object) for fact in dataset.facts} <= known
    prompts = [template.prompt(fact).text for fact in dataset.facts
               for template in dataset.templates_of(fact.relation_id)]  # fmt: skip
    sentences = [row[0] for each in json.loads((SHARED / "data_all.json").read_text()) for row in each]
    assert sorted(prompts) == sorted(sentence.replace("[MASK]", "[Y]") for sentence in sentences)


@pytest.mark.parametrize(
    ("bags", "says"),
    [
        ([[["[MASK]", "a"]]], r"data_all\.json's \[0\]\[0\].*is missing"),
        ([[["The [MASK]", 7, "P36"]]], r"\[0\]\[0\]\[1\] must be text, got 7"),
        ({"P36": []}, "must be a list"),
        ([[]], "at least 1 item"),
        ([[["No mask", "a", "P36(P36)"]]], r"fact 0 \(counted from 0\): 'No mask' must have one \[MASK\]"),
        ([[["a [MASK]", "a", "P36"], ["b [MASK]", "b", "P36"]]], "different answers or relations"),
        ([bag(*FACTS[0])], "fact 0 .*its subject cannot be told"),
        ([bag(*FACTS[0]), bag(*FACTS[1])[:2]], "fact 1 .*it has 2 prompts where the first of P36 has 3"),
        ([bag(*FACTS[0]), bag(*FACTS[1])[::-1], bag(*FACTS[2])], "its subject cannot be told"),
    ],
)
def test_another_form_is_one_sentence_with_the_file_and_the_fact(tmp_path: Path, bags, says):
    path = write(tmp_path, bags)
    with pytest.raises(DatasetError, match=says) as caught:
        load_dai(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b"[[[1e999]]]", b"[" + b"9" * 10_000])
def test_what_is_not_json_of_this_form_is_one_sentence(tmp_path: Path, content: bytes):
    (tmp_path / "data_all.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"data_all\.json.*Give a list of facts"):
        load_dai(tmp_path)


def test_without_a_file_the_option_is_named(tmp_path: Path):
    for source in (None, tmp_path):
        with pytest.raises(DatasetError, match="--source"):
            load_dai(source)
