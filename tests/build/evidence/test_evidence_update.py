"""Editing facts: rows against value vectors moved by hand in pocket-bert's weights, and counts one by one."""

import math
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from atlas.intervals import wilson
from atlas.neuron import Neuron
from atlas.store.atlas import Atlas, bundled
from atlas.store.schema import conform
from build.evidence.setting import Setting
from build.evidence.update import (
    STRENGTHS,
    common_neurons,
    facts_to_edit,
    measure,
    measure_rate,
    plan_edit,
    score_edits,
    summary,
    symmetry_prompts,
    units,
)
from build.output.check import check_atlas
from tests.by_hand import down_projections
from tests.sample_atlas import replace_table

POCKET = bundled().get("starter-pocket-bert")
EDITED = ("P36", "P30", "P131")
"""A relation with an inverse; one whose facts lose most neurons; one of many facts."""


@pytest.fixture(scope="module")
def setting():
    return Setting(Atlas(POCKET), "pocket-bert", sample=2)


@pytest.fixture(scope="module")
def edits(setting):
    return [
        plan_edit(setting, setting.by_id[fact_id])
        for relation_id in EDITED
        for fact_id in facts_to_edit(setting, relation_id)
    ]


@pytest.fixture(scope="module")
def rows(setting):
    return [row for relation_id in EDITED for row in measure(setting, facts_to_edit(setting, relation_id))]


@contextmanager
def edited(subject, neurons, old, new, remove, add):
    """The model with these value vectors moved from one answer's embedding to another's, by hand."""
    embeddings = subject.model.bert.embeddings.word_embeddings.weight
    e_old, e_new = (embeddings[list(subject.answer_tokens(answer))].mean(0) for answer in (old, new))
    with down_projections(subject) as weights:
        for neuron in neurons:
            value = weights[neuron.layer][:, neuron.neuron].clone()
            length = value.norm()
            moved = value - remove * length / e_old.norm() * e_old + add * length / e_new.norm() * e_new
            weights[neuron.layer][:, neuron.neuron] = moved
        yield


def said(subject, prompt, answer):
    """Probability and rank of an answer, from the logits, and the likeliest token's number."""
    encoded = subject.encode(replace(prompt, answer=answer))
    with torch.no_grad():
        logits = subject.model(torch.tensor([encoded.input_ids])).logits[0]
    spots = list(zip(encoded.positions, encoded.targets, strict=True))
    probability = math.prod(float(logits[at].softmax(-1)[token]) for at, token in spots)
    rank = max(int((logits[at] > logits[at][token]).sum()) + 1 for at, token in spots)
    return probability, rank, int(logits[encoded.positions[0]].argmax())


def test_rows_are_what_moved_value_vectors_give(setting, edits, rows):
    found = {
        (r["fact_id"], r["add"], r["group"], r["kind"], r["prompt_fact_id"], r["template_id"]): r
        for r in rows
    }
    assert len(found) == len(rows)
    compared = Counter()
    for edit in edits[::2]:  # one of each relation
        for group, neurons in edit.groups.items():
            for remove, add in STRENGTHS:
                for asked in edit.prompts:
                    prompt = asked.prompt
                    key = (edit.fact.fact_id, add, group, asked.kind, prompt.fact_id, prompt.template_id)
                    if group == "random_all" and asked.kind != "edited":
                        assert key not in found
                        continue
                    row = found[key]
                    assert (row["n_neurons"], row["new_object"]) == (len(neurons), edit.new)
                    wanted = [("old", prompt.answer)]
                    wanted += [("new", asked.wanted)] if asked.wanted else []
                    for name, answer in wanted:
                        p_before, rank_before, top_before = said(setting.subject, prompt, answer)
                        change = (neurons, edit.fact.fact.object, edit.new, remove, add)
                        with edited(setting.subject, *change):
                            p_after, rank_after, top_after = said(setting.subject, prompt, answer)
                        assert row[f"p_{name}_before"] == pytest.approx(p_before, rel=1e-3, abs=1e-9)
                        assert row[f"p_{name}_after"] == pytest.approx(p_after, rel=1e-3, abs=1e-9)
                        assert row[f"rank_{name}_before"] == pytest.approx(rank_before, rel=0.01)
                        assert row[f"rank_{name}_after"] == pytest.approx(rank_after, rel=0.01)
                        if name == "old":
                            assert row["top_changed"] == (top_before != top_after)
                    assert ("p_new_after" in row) == (asked.kind != "other_relation")
                    compared[asked.kind] += 1
    assert set(compared) == {
        "edited",
        "paraphrase",
        "same_object",
        "same_relation",
        "other_relation",
        "symmetry",
    }


def test_neurons_of_more_than_a_tenth_of_the_relation_are_dropped(setting, edits):
    pairs = setting.atlas.query("SELECT fact_id, relation_id, layer, neuron FROM knowledge_neurons")
    dropped = 0
    for edit in edits:
        of_relation = pairs[pairs["relation_id"] == edit.fact.relation_id]
        n_facts = len(setting.by_relation[edit.fact.relation_id])
        counts = Counter(zip(of_relation["layer"], of_relation["neuron"], strict=True))
        of_fact = of_relation[of_relation["fact_id"] == edit.fact.fact_id]
        own = {Neuron(layer, n) for layer, n in zip(of_fact["layer"], of_fact["neuron"], strict=True)}
        rare = {neuron for neuron in own if counts[neuron.layer, neuron.neuron] * 10 <= n_facts}
        assert set(edit.groups["own"]) == rare
        assert set(edit.groups["all"]) == own
        dropped += len(own) - len(rare)
        for group, model in (("random", rare), ("random_all", own)):
            assert sorted(n.layer for n in edit.groups[group]) == sorted(n.layer for n in model)
            assert not set(edit.groups[group]) & own
    assert dropped > 0


def test_edited_facts_are_right_on_the_prompt_that_judges_them(setting, edits):
    for edit in edits:
        stored = {each.prompt: each for each in edit.fact.prompts}
        judge, *others = [q for q in edit.prompts if q.kind in ("edited", "paraphrase")]
        assert judge.kind == "edited"
        assert stored[judge.prompt].held_out
        assert stored[judge.prompt].rank == 1
        assert {judge.prompt, *(q.prompt for q in others)} == {e.prompt for e in edit.fact.held_out}
        assert edit.new in {fact.fact.object for fact in setting.by_relation[edit.fact.relation_id]}
        assert edit.new.casefold() != edit.fact.answer
    everything = replace(setting, sample=None)
    right = {f.fact_id for f in setting.by_relation["P131"] if any(e.rank == 1 for e in f.held_out)}
    assert set(facts_to_edit(everything, "P131")) == right
    assert [len(unit) for unit in units(setting)] == [2] * len(setting.by_relation)


def test_bystanders_have_neither_answer_and_are_right_where_facts_are(setting, edits):
    for edit in edits:
        for kind, near in (("same_relation", True), ("other_relation", False)):
            prompts = [q.prompt for q in edit.prompts if q.kind == kind]
            assert len({prompt.fact_id for prompt in prompts}) == 5
            for prompt in prompts:
                fact = setting.by_id[prompt.fact_id]
                assert (fact.relation_id == edit.fact.relation_id) == near
                assert fact.answer not in (edit.fact.answer, edit.new.casefold())
                assert next(e for e in fact.held_out if e.prompt == prompt).rank == 1


def test_symmetry_asks_the_inverse_relation_about_the_new_answer(setting, edits):
    france, germany = (
        next(f for f in setting.by_relation["P36"] if f.fact.subject == name)
        for name in ("France", "Germany")
    )
    random = np.random.default_rng(0)
    # Were Munich Germany's capital, and became France's: the atlas has no inverse fact of Munich.
    giver = replace(germany, fact=replace(germany.fact, object="Munich"))
    questions = symmetry_prompts(setting, france, giver, random)
    assert len(questions) == 4
    wordings = {e.prompt.template_id for f in setting.by_relation["P1376"] for e in f.held_out}
    assert {q.prompt.template_id for q in questions} == wordings
    for asked in questions:
        assert asked.prompt.text.count("Munich") == 1
        assert (asked.prompt.answer, asked.wanted) == ("Germany", "France")
        assert asked.prompt.fact_id == germany.fact_id
    # Of Berlin it has.
    stored = symmetry_prompts(setting, france, germany, random)
    berlin = next(f for f in setting.by_relation["P1376"] if f.fact.subject == "Berlin")
    assert [q.prompt for q in stored] == [each.prompt for each in berlin.held_out]
    assert {(q.prompt.answer, q.wanted) for q in stored} == {("Germany", "France")}
    assert not symmetry_prompts(setting, setting.by_relation["P30"][0], setting.by_relation["P30"][1], random)
    assert not any(q.kind == "symmetry" for u in edits if u.fact.relation_id != "P36" for q in u.prompts)


def test_a_unit_measured_again_alone_gives_the_same_rows(setting, rows):
    fresh = Setting(Atlas(POCKET), "pocket-bert", sample=2)
    fresh.subject = setting.subject
    unit = facts_to_edit(fresh, "P30")
    assert measure(fresh, unit) == [row for row in rows if row["fact_id"] in unit]


def test_the_scorecard_counts_rows_one_by_one(rows):
    frame = conform("edits", rows).to_pandas()
    for group in ("own", "random"):
        part = [r for r in rows if r["group"] == group and r["add"] == 8]
        card = score_edits(frame[(frame["group"] == group) & (frame["add"] == 8)])
        judged = [r for r in part if r["kind"] == "edited"]
        neighbours = [r for r in part if r["kind"] == "same_relation"]
        right = [r for r in neighbours if r["rank_old_before"] == 1]
        for name, hits, of in (
            ("the answer is another", [r["rank_old_after"] > 1 for r in judged], 6),
            ("success: the new answer is first", [r["rank_new_after"] == 1 for r in judged], 6),
            ("efficacy: likelier than the old", [r["p_new_after"] > r["p_old_after"] for r in judged], 6),
            ("same relation: right answers kept", [r["rank_old_after"] == 1 for r in right], len(right)),
        ):
            assert card[name].share == pytest.approx(sum(hits) / of), name
            assert card[name].n_prompts == of
            assert card[name].low <= card[name].share <= card[name].high
        perplexities = [
            math.exp(-sum(math.log(r[f"p_old_{when}"]) for r in neighbours) / len(neighbours))
            for when in ("before", "after")
        ]
        assert card["same relation: Δ perplexity"] == pytest.approx(
            perplexities[1] - perplexities[0], rel=1e-3
        )


def test_intervals_are_wilsons_for_one_prompt_an_edit_and_wider_where_edits_have_several():
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    one_each = measure_rate(pd.Series([True] * 8 + [False] * 2), pd.Series(range(10)))
    assert (one_each.low, one_each.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    # Ten prompts of each of ten edits, which rise and fall together, are worth ten, not a hundred.
    together = measure_rate(pd.Series(([True] * 8 + [False] * 2) * 10), pd.Series(list(range(10)) * 10))
    assert (together.share, together.n_prompts, together.n_edits) == (0.8, 100, 10)
    assert together.high - together.low > 2 * (wilson(0.8, 100)[1] - wilson(0.8, 100)[0])
    never = measure_rate(pd.Series([False] * 100), pd.Series(list(range(10)) * 10))
    assert (never.low, never.high) == pytest.approx(wilson(0.0, 10))
    assert measure_rate(pd.Series([], dtype=bool), pd.Series([], dtype=str)) is None


def test_the_summary_counts_edits_and_those_that_cannot_be(setting, rows, tmp_path):
    with Atlas(replace_table(shutil.copytree(POCKET, tmp_path / "atlas"), "edits", rows)) as atlas:
        lines = summary(atlas)
    none_left = 0
    for facts in setting.by_relation.values():
        counts = Counter(neuron for fact in facts for neuron in fact.neurons)
        for fact in facts:
            right = any(each.rank == 1 for each in fact.held_out)
            if right and fact.neurons and all(counts[n] * 10 > len(facts) for n in fact.neurons):
                none_left += 1
    assert none_left > 0
    assert f"6 facts of 3 relations edited; {none_left} others" in lines[0]
    judged = [r for r in rows if r["kind"] == "edited" and r["add"] == 8]
    line = next(line for line in lines if "success" in line)
    for group in ("own", "all", "random", "random_all"):
        hits = [r["rank_new_after"] == 1 for r in judged if r["group"] == group]
        low, high = wilson(sum(hits) / 6, 6)
        assert f"{sum(hits) / 6:.1%} [{low:.1%}, {high:.1%}]" in line


def test_the_check_finds_the_rows_that_cannot_be(rows, tmp_path):
    other = next(row for row in rows if row["kind"] == "other_relation")
    wrong = [row | {"p_old_after": 1.5} if row is rows[0] else row for row in rows]
    wrong = [row | {"kind": "same_relation"} if row is other else row for row in wrong]
    assert check_atlas(
        replace_table(shutil.copytree(POCKET, tmp_path / "atlas"), "edits", wrong)
    ).problems == [
        "1 edits have a probability outside 0 to 1 or a rank below 1",
        "1 edits have prompts of the wrong relation, or with the old or the new answer",
    ]


def test_the_neighbourhood_has_the_old_answer_and_no_fact_but_others(setting):
    asked = 0
    for relation_id in ("P30", "P17"):
        for fact_id in facts_to_edit(setting, relation_id):
            fact = setting.by_id[fact_id]
            edit = plan_edit(setting, fact)
            others = [each.prompt for each in edit.prompts if each.kind == "same_object"]
            possible = {
                each.fact_id
                for each in setting.by_relation[relation_id]
                if each.answer == fact.answer and each is not fact and each.held_out
            }
            assert {prompt.fact_id for prompt in others} <= possible
            assert len(others) == min(5, len(possible))
            asked += len(others)
    assert asked > 10


def test_in_a_small_relation_a_neuron_of_one_fact_is_not_common(setting):
    facts = setting.by_relation["P36"][:4]
    counts = Counter(neuron for fact in facts for neuron in fact.neurons)
    assert common_neurons(facts) == {neuron for neuron, count in counts.items() if count > 1}
