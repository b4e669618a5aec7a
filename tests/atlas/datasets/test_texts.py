"""Files of data sets that came through Windows are the published ones; half a character is no text."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from atlas.compat import KnowledgeNeurons
from atlas.datasets.counterfact import load_counterfact
from atlas.datasets.dataset import NOT_PUBLISHED
from atlas.datasets.pararel import FACTS, REVISION, TEMPLATES, load_pararel
from atlas.datasets.starter import STARTER_FACTS, load_starter
from atlas.errors import DatasetError, PromptError
from atlas.interventions import Edit
from atlas.neuron import Fact, Neuron, Prompt, Relation, Template
from tests import ROOT
from tests.sample_counterfact import records, write_counterfact

SHARED = ROOT.parent / "shared" / "pararel" / "data"
HALF = "\ud83d"
WHOLE = "must be text of whole characters"
SENTENCE = r"has half a character, \\ud83d\. Write it whole, or remove it\."


def write_pararel(
    folder: Path, *, subject: str = "Ruritania", pattern: str = "[X] has [Y] .", end: str = "\n"
):
    """PARAREL's files of one relation and two facts; returns their published sha256."""
    lines = {
        f"{TEMPLATES}/P36.jsonl": [{"pattern": pattern}, {"pattern": "[Y] is in [X] ."}],
        f"{FACTS}/P36.jsonl": [
            {"sub_label": "Graustark", "obj_label": "Edelweiss", "uuid": "1"},
            {"sub_label": subject, "obj_label": "Strelsau", "uuid": "2"},
        ],
    }
    hashes = {}
    for path, entries in lines.items():
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        hashes[path] = hashlib.sha256(text.encode()).hexdigest()
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.replace("\n", end).encode())
    return hashes


# Line ends -------------------------------------------------------------------------------------------


def test_pararel_with_the_line_ends_of_windows_is_the_published_one(tmp_path):
    for name, end in (("linux", "\n"), ("windows", "\r\n")):
        hashes = write_pararel(tmp_path / name, end=end)
    linux, windows = (load_pararel(tmp_path / name, hashes=hashes) for name in ("linux", "windows"))
    assert windows == linux
    assert windows.dataset_hash == linux.dataset_hash


def test_pararel_with_another_change_is_not_the_published_one(tmp_path):
    hashes = write_pararel(tmp_path, end="\r\n")
    assert load_pararel(tmp_path, hashes=hashes).revision == REVISION
    path = tmp_path / FACTS / "P36.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Strelsau", b"Zenda"))
    assert load_pararel(tmp_path, hashes=hashes).revision.startswith(NOT_PUBLISHED)


def test_counterfact_has_one_revision_whatever_its_line_ends(tmp_path):
    text = json.dumps(records(), indent=1)
    for name, end in (("linux", "\n"), ("windows", "\r\n")):
        (tmp_path / name).write_bytes(text.replace("\n", end).encode())
    assert load_counterfact(tmp_path / "linux") == load_counterfact(tmp_path / "windows")


def test_the_starter_facts_are_the_same_whatever_their_line_ends(tmp_path):
    folder = Path(shutil.copytree(STARTER_FACTS, tmp_path / "starter"))
    for path in (folder / "relations.json", *folder.glob("facts/*.csv")):
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert load_starter(folder).dataset_hash == load_starter().dataset_hash


# Half a character ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Relation("P36", HALF),
        lambda: Fact("1", "P36", f"Fra{HALF}nce", "Paris"),
        lambda: Fact("1", "P36", "France", HALF),
        lambda: Template("P36.0", "P36", f"{HALF} [X] [Y]"),
        lambda: Prompt("", "", f"The capital of {HALF} is [Y]", "Paris"),
        lambda: Prompt("", "", "The capital of France is [Y]", "Par\udc00is".replace("\udc00", HALF)),
        lambda: Edit((Neuron(0, 1),), "Paris", HALF),
    ],
)
def test_no_noun_holds_half_a_character(make):
    with pytest.raises(PromptError, match=SENTENCE) as refusal:
        make()
    str(refusal.value).encode()


def test_a_model_is_never_asked_half_a_character(tiny_subject):
    with pytest.raises(PromptError, match=SENTENCE):
        tiny_subject.prompt(f"the capital of {HALF} is [MASK]", "paris")
    with pytest.raises(PromptError, match=SENTENCE):
        tiny_subject.answer_tokens(HALF)
    with pytest.raises(PromptError, match=SENTENCE):
        tiny_subject.answer_tokens("paris", before=HALF)


def test_a_whole_emoji_is_a_text(tiny_subject):
    assert tiny_subject.prompt("the capital of 😀 is [MASK]", "paris").text == "the capital of 😀 is [Y]"


def test_the_drop_in_refuses_half_a_character(tiny_subject):
    kn = KnowledgeNeurons(tiny_subject.model, tiny_subject.tokenizer, model_type="bert")
    for prompt, answer in ((f"{HALF} [MASK]", "paris"), ("france [MASK]", HALF)):
        with pytest.raises(PromptError, match=SENTENCE):
            kn.get_scores(prompt, answer)


@pytest.mark.parametrize(
    ("change", "entry"),
    [({"subject": f"Ruri{HALF}"}, "line 2: .*sub_label"), ({"pattern": f"[X] {HALF} [Y]"}, "line 1")],
)
def test_pararel_names_the_line_with_half_a_character(change, entry, tmp_path):
    hashes = write_pararel(tmp_path, **change)
    with pytest.raises(DatasetError, match=rf"P36\.jsonl, {entry}.*{SENTENCE}"):
        load_pararel(tmp_path, hashes=hashes)


@pytest.mark.parametrize("field", ["subject", "prompt", "relation_id"])
def test_counterfact_names_the_record_with_half_a_character(field, tmp_path):
    changed = records()
    changed[1]["requested_rewrite"][field] += HALF
    path = write_counterfact(tmp_path, changed)
    with pytest.raises(
        DatasetError, match=rf"record 2's requested_rewrite\.{field} must be text of whole"
    ) as refusal:
        load_counterfact(path)
    str(refusal.value).encode()


@pytest.mark.parametrize("field", ["paraphrase_prompts", "neighborhood_prompts", "generation_prompts"])
def test_counterfact_names_the_record_with_half_a_character_in_a_list(field, tmp_path):
    changed = records()
    changed[1][field] = [HALF]
    with pytest.raises(DatasetError, match=rf"record 2: .*{SENTENCE}"):
        load_counterfact(write_counterfact(tmp_path, changed))


def test_the_starter_facts_name_the_file_with_half_a_character(tmp_path):
    folder = Path(shutil.copytree(STARTER_FACTS, tmp_path / "starter"))
    path = folder / "relations.json"
    for key in ("label", "templates"):
        entries = json.loads((STARTER_FACTS / "relations.json").read_text(encoding="utf-8"))
        entries[0][key] = HALF if key == "label" else [f"[X] {HALF} [Y]"]
        path.write_text(json.dumps(entries))
        with pytest.raises(DatasetError, match=r"relations\.json.*has half a character"):
            load_starter(folder)


@pytest.fixture(scope="module")
def tiny_subject(tiny_bert):
    from atlas.surgery.subject import load_subject

    return load_subject(str(tiny_bert))
