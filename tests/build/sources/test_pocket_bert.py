"""`pocket-bert`: the committed weights know their facts, and the training that made them is repeatable."""

import json
import random
from dataclasses import asdict

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM

from atlas.datasets import load_dataset
from atlas.errors import BuildError
from atlas.models import locate
from build.sources import pocket_bert
from build.sources.pocket_bert import (
    TRAINING_RECORD,
    Recipe,
    answer_logits,
    learn_pieces,
    make_batch,
    make_model,
    make_pairs,
    make_tokenizer,
    score_pairs,
    train,
    untrained_templates,
)

TINY = Recipe(epochs=2, d_model=16, n_layers=1, n_neurons=32, n_heads=2, subject_pieces=50, threads=1)


@pytest.fixture(scope="module")
def starter():
    return load_dataset("starter")


@pytest.fixture(scope="module")
def bundled():
    folder = locate("pocket-bert").folder
    return BertForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def few(starter):
    return starter.restricted(["P36", "P30"], limit=12)


# --- the committed weights ------------------------------------------------------------------------


def test_the_committed_weights_take_at_most_12_megabytes():
    folder = locate("pocket-bert").folder
    assert (folder / "model.safetensors").stat().st_size <= 12_000_000
    assert "a model organism, not a pretrained model" in (folder / "README.md").read_text().lower()


def test_the_committed_weights_were_trained_on_the_facts_that_are_committed(starter):
    receipt = json.loads((locate("pocket-bert").folder / TRAINING_RECORD).read_text())
    assert receipt["dataset_hash"] == starter.dataset_hash, (
        "Facts or templates have changed since training: run `python -m build train-pocket-bert` again."
    )


def test_top_1_accuracy_on_held_out_pairs_is_at_least_90_percent(starter, bundled):
    model, tokenizer = bundled
    _, held_out = make_pairs(starter, tokenizer)
    accuracy, _ = score_pairs(model, random.Random(0).sample(held_out, 400))
    assert accuracy >= 0.90


def test_every_starter_prompt_is_in_the_vocabulary(starter, bundled):
    _, tokenizer = bundled
    for pairs in make_pairs(starter, tokenizer):
        for pair in pairs:
            assert tokenizer.unk_token_id not in pair.input_ids + pair.targets
            assert len(pair.positions) == len(pair.targets)


def test_the_committed_tokenizer_is_the_one_training_would_make(starter, bundled):
    receipt = json.loads((locate("pocket-bert").folder / TRAINING_RECORD).read_text())
    made = make_tokenizer(starter, pieces=receipt["recipe"]["subject_pieces"])
    assert made.get_vocab() == bundled[1].get_vocab()


# --- what is held out -----------------------------------------------------------------------------


def test_each_fact_has_two_untrained_templates_that_discovery_never_sees(starter):
    untrained = untrained_templates(starter)
    assert len(untrained) == 2 * len(starter.facts)
    for fact in starter.facts:
        even = starter.templates_of(fact.relation_id)[::2]
        assert not untrained & {(fact.fact_id, template.template_id) for template in even}


def test_every_odd_template_is_trained_on_with_some_facts_and_held_out_for_others(starter):
    untrained = untrained_templates(starter)
    for relation in starter.relations:
        facts = starter.facts_of(relation.relation_id)
        for template in starter.templates_of(relation.relation_id)[1::2]:
            n_held_out = sum((fact.fact_id, template.template_id) in untrained for fact in facts)
            assert 0 < n_held_out < len(facts)


def test_pairs_are_trained_or_held_out_and_never_both(starter, bundled):
    trained, held_out = make_pairs(starter, bundled[1])
    names = [{(pair.fact_id, pair.template_id) for pair in pairs} for pairs in (trained, held_out)]
    assert not names[0] & names[1]
    assert names[1] == untrained_templates(starter)
    assert len(names[0] | names[1]) == sum(len(starter.templates_of(f.relation_id)) for f in starter.facts)


# --- training -------------------------------------------------------------------------------------


def test_pieces_are_the_most_frequent_neighbours_merged_first():
    assert learn_pieces(["lowland", "lowly", "low"], 3) == ["##ow", "low", "lowl"]
    assert learn_pieces(["ab"], 10) == ["ab"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(few, tmp_path):
    weights, seen = {}, []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        report = train(
            tmp_path / name,
            dataset=few,
            recipe=TINY,
            seed=seed,
            progress=lambda fraction, message: seen.append(fraction),
        )
        weights[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert weights["a"] == weights["b"] != weights["c"]
    assert report.n_pairs_held_out == 24
    assert report.n_facts == 12
    assert report.weights_bytes == len(weights["c"])
    assert max(seen) == 1.0
    assert "held-out" in str(report)


def test_what_was_trained_is_located_loaded_and_scored_alike(few, tmp_path):
    report = train(tmp_path / "mine", dataset=few, recipe=TINY)
    located = locate(str(tmp_path / "mine"))
    model = BertForMaskedLM.from_pretrained(located.folder)
    _, held_out = make_pairs(few, AutoTokenizer.from_pretrained(located.folder))
    assert score_pairs(model, held_out) == (report.accuracy_held_out, report.probability_held_out)
    assert json.loads((located.folder / TRAINING_RECORD).read_text())["recipe"] == asdict(TINY)


def test_training_leaves_the_callers_random_numbers_and_threads_alone(few, tmp_path):
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train(tmp_path / "mine", dataset=few, recipe=TINY)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_accuracy_wants_every_token_of_an_answer(few, monkeypatch):
    tokenizer = make_tokenizer(few)
    trained, _ = make_pairs(few, tokenizer)
    pair = max(trained, key=lambda pair: len(pair.targets))
    assert len(pair.targets) > 1
    model = make_model(len(tokenizer), TINY)
    logits = torch.nn.functional.one_hot(torch.tensor(pair.targets), len(tokenizer)).float() * 50
    monkeypatch.setattr(pocket_bert, "answer_logits", lambda model, batch: logits)
    assert score_pairs(model, [pair])[0] == 1.0
    logits[-1] = logits[-1].roll(1)
    assert score_pairs(model, [pair])[0] == 0.0


def test_the_shortcut_to_the_masks_says_what_the_whole_model_says(starter, bundled):
    model, tokenizer = bundled
    _, held_out = make_pairs(starter, tokenizer)
    batch = make_batch(held_out[:1])
    with torch.no_grad():
        whole = model(input_ids=batch.input_ids).logits[batch.row, batch.position]
        assert torch.allclose(answer_logits(model, batch), whole, atol=1e-5)


def test_a_folder_with_other_things_in_it_is_refused(few, tmp_path):
    (tmp_path / "letter.txt").write_text("precious")
    with pytest.raises(BuildError, match="holds other files"):
        train(tmp_path, dataset=few, recipe=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_impossible_settings_are_refused():
    with pytest.raises(BuildError, match="epochs must be 1 or more, got 0"):
        Recipe(epochs=0)
