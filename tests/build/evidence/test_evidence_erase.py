"""Erasing relations: rows against value vectors set to zero by hand in pocket-bert's weights."""

import math
import shutil
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from atlas.store.atlas import Atlas, bundled
from atlas.surgery.subject import Prediction
from build.evidence.erase import (
    DOSES,
    OTHER_FACTS,
    choose_doses,
    draw_prompts,
    measure,
    score_predictions,
    summary,
    units,
)
from build.evidence.setting import Setting
from build.output.check import check_atlas
from tests.by_hand import down_projections
from tests.sample_atlas import replace_table

POCKET = bundled().get("starter-pocket-bert")
SAMPLE = 7


@pytest.fixture(scope="module")
def setting():
    return Setting(Atlas(POCKET), "pocket-bert", sample=SAMPLE)


@pytest.fixture(scope="module")
def rows(setting):
    """Every dose of P19, whose facts have answers of several tokens and wrong ones."""
    return [row for unit in units(setting) if unit[0] == "P19" for row in measure(setting, unit)]


def plain_order(atlas, relation_id):
    """The relation's neurons, most facts first, counted pair by pair."""
    scores = defaultdict(list)
    rows = atlas.query("SELECT * FROM knowledge_neurons WHERE relation_id = ?", [relation_id])
    for row in rows.itertuples():
        scores[row.layer, row.neuron].append(row.mean_score)
    return sorted(scores, key=lambda n: (-len(scores[n]), -sum(scores[n]) / len(scores[n]), n))


@contextmanager
def zeroed(subject, neurons):
    """The model with these columns of its down-projections' weights set to zero."""
    with down_projections(subject) as weights:
        for layer, neuron in neurons:
            weights[layer][:, neuron] = 0
        yield


def plain_scores(subject, prompts):
    """Accuracy, perplexity and mean probability, prompt by prompt from the logits."""
    first, logarithms, probabilities = 0, [], []
    for prompt in prompts:
        encoded = subject.encode(prompt)
        with torch.no_grad():
            logits = subject.model(torch.tensor([encoded.input_ids])).logits[0]
        tokens = []
        right = True
        for position, target in zip(encoded.positions, encoded.targets, strict=True):
            tokens.append(float(logits[position].softmax(-1)[target]))
            right &= int(logits[position].argmax()) == target
        first += right
        logarithms += [math.log(p) for p in tokens]
        probabilities.append(math.prod(tokens))
    n = len(prompts)
    return first / n, math.exp(-sum(logarithms) / len(logarithms)), sum(probabilities) / n


def test_own_rows_are_what_zeroed_columns_of_the_weights_give(setting, rows):
    order = plain_order(setting.atlas, "P19")
    own = [row for row in rows if row["group"] == "own" and row["asked_relation_id"] == "P19"]
    assert [row["n_neurons"] for row in own] == list(DOSES)
    prompts = draw_prompts(setting, "P19")
    before = plain_scores(setting.subject, prompts)
    for row in own:
        with zeroed(setting.subject, order[: row["n_neurons"]]):
            after = plain_scores(setting.subject, prompts)
        for when, expected in (("before", before), ("after", after)):
            found = [row[f"{name}_{when}"] for name in ("accuracy", "perplexity", "mean")]
            assert found == pytest.approx(expected, rel=1e-4)
    assert own[-1]["perplexity_after"] > 2 * own[-1]["perplexity_before"]


def test_other_relations_and_random_neurons_are_asked_alike(setting, rows):
    at_20 = [row for row in rows if row["n_neurons"] == 20]
    relations = sorted(setting.by_relation)
    for group in ("own", "random"):
        assert [row["asked_relation_id"] for row in at_20 if row["group"] == group] == relations
    assert {row["asked_relation_id"] for row in rows if row["n_neurons"] != 20} == {"P19"}
    own = plain_order(setting.atlas, "P19")[:20]
    from atlas.neuron import Neuron

    others = setting.random_neurons([Neuron(*n) for n in own], "erase", "P19/20")
    assert sorted(n.layer for n in others) == sorted(layer for layer, _ in own)
    assert not set(own) & {(n.layer, n.neuron) for n in others}
    for group, neurons in (("own", own), ("random", [(n.layer, n.neuron) for n in others])):
        row = next(r for r in at_20 if r["group"] == group and r["asked_relation_id"] == "P36")
        prompts = draw_prompts(setting, "P36")[:OTHER_FACTS]
        with zeroed(setting.subject, neurons):
            after = plain_scores(setting.subject, prompts)
        assert row["n_prompts"] == OTHER_FACTS
        assert (row["accuracy_after"], row["perplexity_after"], row["mean_after"]) == pytest.approx(
            after, rel=1e-4
        )


def test_known_facts_are_asked_first_one_held_out_prompt_each(setting):
    for relation_id in ("P19", "P131"):
        facts = setting.by_relation[relation_id]
        n_known = sum(fact.known for fact in facts)
        assert n_known > 0
        everything = draw_prompts(replace(setting, sample=None), relation_id)
        assert sorted(prompt.fact_id for prompt in everything) == [fact.fact_id for fact in facts]
        known = [setting.by_id[prompt.fact_id].known for prompt in everything]
        assert known == [True] * n_known + [False] * (len(facts) - n_known)
        assert all(
            prompt in [each.prompt for each in setting.by_id[prompt.fact_id].held_out]
            for prompt in everything
        )
        assert len({prompt.template_id for prompt in everything}) == 4
        assert len(draw_prompts(setting, relation_id)) == SAMPLE
        assert draw_prompts(replace(setting, seed=1), relation_id) != draw_prompts(setting, relation_id)


def test_a_relation_gets_each_dose_once_up_to_what_it_has(setting):
    assert choose_doses(500) == list(DOSES)
    assert choose_doses(67) == [1, 2, 5, 10, 20, 50, 67]
    assert choose_doses(20) == [1, 2, 5, 10, 20]
    assert choose_doses(0) == []
    assert len(units(setting)) == len(setting.by_relation) * len(DOSES)


def test_a_unit_measured_again_alone_gives_the_same_rows(setting, rows):
    fresh = Setting(Atlas(POCKET), "pocket-bert", sample=SAMPLE)
    fresh.subject = setting.subject
    assert measure(fresh, ("P19", 20)) == [row for row in rows if row["n_neurons"] == 20]


def test_perplexity_counts_answer_tokens_and_never_becomes_infinite():
    def said(rank, *tokens):
        return Prediction(math.prod(tokens), rank, tokens, (("word", 0.5),))

    found = score_predictions([said(1, 0.5), said(3, 0.25, 0.1)], "after")
    assert found["accuracy_after"] == 0.5
    assert found["perplexity_after"] == pytest.approx((0.5 * 0.25 * 0.1) ** (-1 / 3))
    assert found["mean_after"] == pytest.approx((0.5 + 0.025) / 2)
    assert math.isfinite(score_predictions([said(9, 0.0)], "after")["perplexity_after"])


def test_the_summary_says_what_the_rows_do(setting, rows, tmp_path):
    folder = replace_table(shutil.copytree(POCKET, tmp_path / "atlas"), "erasures", rows)
    with Atlas(folder) as atlas:
        lines = summary(atlas)
    own = {(row["group"], row["n_neurons"]): row for row in rows if row["asked_relation_id"] == "P19"}
    for label, dose in (("1 neuron, 1 relation", 1), ("P19 at 20", 20)):
        line = next(line for line in lines if label in line)
        for group in ("own", "random"):
            row = own[group, dose]
            assert f"{row['accuracy_before']:.1%} → {row['accuracy_after']:6.1%}" in line
            assert f"× {row['perplexity_after'] / row['perplexity_before']:.4g}" in line


def test_the_check_finds_the_one_row_that_cannot_be(setting, rows, tmp_path):
    folder = replace_table(
        shutil.copytree(POCKET, tmp_path / "atlas"),
        "erasures",
        [rows[0] | {"accuracy_after": 1.5}, *rows[1:]],
    )
    assert check_atlas(folder).problems == [
        "1 erasures have an accuracy or a probability outside 0 to 1, or a perplexity below 1"
    ]
