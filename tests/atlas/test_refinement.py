"""Each refinement mode equals a plain-Python computation from its definition, prompt by prompt."""

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from atlas.errors import AtlasError
from atlas.neuron import Neuron
from atlas.refinement import MODES, STORED_FRACTION, coarse, mode, refine, refine_scores
from atlas.store.schema import TABLES, difference
from tests.plain_refinement import PlainFact, coarse_counts, paper_percent, plain_mode

N_LAYERS, N_NEURONS = 3, 20


class World:
    """Random dense scores for facts of two relations, and the tables that would be stored of them."""

    def __init__(self, seed, n_facts=24, n_templates=10, n_common=4, spread=1.0):
        random = np.random.default_rng(seed)
        self.dense = {}
        self.held_out = {}
        self.facts = []
        for index in range(n_facts):
            fact_id, relation = f"fact{index:02d}", f"P{index % 2}"
            self.facts.append({"fact_id": fact_id, "relation_id": relation, "object": f"o{index % 5}"})
            # Neurons that a fact's prompts have in common, some of them with the facts beside it.
            own = [(int(random.integers(N_LAYERS)), (index + j) % N_NEURONS) for j in range(n_common)]
            for place in range(n_templates - index % 3):
                scores = random.normal(0, 0.02 * spread, (N_LAYERS, N_NEURONS))
                for neuron in own:
                    if random.random() < 0.7:
                        scores[neuron] += random.uniform(0.05, 0.2)
                if random.random() < 0.1:
                    scores = -np.abs(scores)
                key = (fact_id, f"{relation}.{place}")
                self.dense[key] = scores.astype(np.float32)
                self.held_out[key] = place % 2 == 1

    def tables(self):
        prompts, attributions = [], []
        for (fact_id, template_id), scores in self.dense.items():
            held_out = self.held_out[fact_id, template_id]
            largest = scores.max()
            prompt = {"fact_id": fact_id, "template_id": template_id}
            prompts.append(prompt | {"held_out": held_out, "max_score": largest})
            if largest > 0:
                for layer, neuron in np.argwhere(scores.astype(float) >= STORED_FRACTION * float(largest)):
                    place = {"layer": int(layer), "neuron": int(neuron)}
                    attributions.append(prompt | place | {"score": scores[layer, neuron]})
        return pd.DataFrame(attributions), pd.DataFrame(prompts), pd.DataFrame(self.facts)

    def discovery(self, fact_id):
        return sorted(t for f, t in self.dense if f == fact_id and not self.held_out[f, t])

    def plain_facts(self):
        return [
            PlainFact(
                fact["fact_id"],
                fact["relation_id"],
                {t: self.scores_of(fact["fact_id"], t) for t in self.discovery(fact["fact_id"])},
            )
            for fact in self.facts
        ]

    def scores_of(self, fact_id, template_id):
        """(layer, neuron) → score, of one prompt."""
        return dict(np.ndenumerate(self.dense[fact_id, template_id].astype(float)))


def brute_force(world, name):
    """{(fact, layer, neuron): (share, mean, max)} and the share of each relation in per cent."""
    rule, facts, rows = RULES[name], world.plain_facts(), {}
    found = plain_mode(name, facts)
    for fact in facts:
        count = coarse_counts(fact, rule["threshold"], reaching=rule["inclusive"])
        prompts = [(scores, max(scores.values())) for scores in fact.prompts.values()]
        for neuron in found[fact.fact_id]:
            stored = [s[neuron] for s, top in prompts if top > 0 and s[neuron] >= STORED_FRACTION * top]
            rows[fact.fact_id, *neuron] = (count[neuron] / len(prompts), np.mean(stored), max(stored))
    members = {relation: [f for f in facts if f.relation_id == relation] for relation in ("P0", "P1")}
    return rows, {
        relation: paper_percent(each) if name == "paper" else rule["percent"]
        for relation, each in members.items()
    }


RULES = {
    "default": {"threshold": 0.2, "inclusive": True, "percent": 50, "at_least": 2},
    "paper": {"threshold": 0.2, "inclusive": True, "percent": 70, "at_least": 3},
    "replication": {"threshold": 0.3, "inclusive": False, "percent": 30, "at_least": 1},
}


def as_dict(rows):
    return {
        (r["fact_id"], r["layer"], r["neuron"]): (r["share"], r["mean_score"], r["max_score"])
        for r in rows.to_pylist()
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", RULES)
def test_a_mode_keeps_what_its_definition_says(name, seed):
    world = World(seed)
    refined = refine(*world.tables(), MODES[name])
    expected, percents = brute_force(world, name)
    found = as_dict(refined.rows)
    assert set(found) == set(expected)
    assert len(found) > 20
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-6)
    assert refined.shares == pytest.approx({r: p / 100 for r, p in percents.items()})


@pytest.mark.parametrize(("n_common", "direction"), [(1, -1), (30, 1)])
def test_the_paper_s_share_moves_until_a_fact_has_two_to_five_neurons(n_common, direction):
    world = World(7, n_common=n_common, n_templates=20, spread=0.2)
    refined = refine(*world.tables(), MODES["paper"])
    expected, percents = brute_force(world, "paper")
    assert set(as_dict(refined.rows)) == set(expected)
    assert refined.shares == pytest.approx({r: p / 100 for r, p in percents.items()})
    assert all(np.sign(share - 0.7) == direction for share in refined.shares.values())


def test_the_paper_s_share_is_tried_six_times_at_most():
    # One neuron in every prompt: the mean is 1 at any share, so the share falls to the end.
    prompts = pd.DataFrame(
        [{"fact_id": "a", "template_id": f"t{i}", "held_out": False, "max_score": 1.0} for i in range(10)]
    )
    attributions = prompts[["fact_id", "template_id"]].assign(layer=0, neuron=1, score=1.0)
    facts = pd.DataFrame([{"fact_id": "a", "relation_id": "P36"}])
    refined = refine(attributions, prompts, facts, MODES["paper"])
    assert refined.shares == pytest.approx({"P36": 0.7 - 5 * 0.05})
    assert refined.rows.num_rows == 1


@pytest.mark.parametrize("name", MODES)
def test_the_rows_fit_the_table_for_any_order_and_type_of_input(name):
    tables = World(1).tables()
    rows = refine(*tables, MODES[name]).rows
    assert difference("knowledge_neurons", rows.schema) is None
    shuffled = [t.sample(frac=1, random_state=3) for t in tables]
    assert refine(*shuffled, MODES[name]).rows.equals(rows)
    arrow = [pa.Table.from_pandas(t, preserve_index=False) for t in tables]
    assert refine(*arrow, MODES[name]).rows.equals(rows)


def test_one_fact_s_dense_scores_give_the_same_neurons():
    world = World(3)
    rows = as_dict(refine(*world.tables(), MODES["default"]).rows)
    for fact in world.facts:
        scores = [world.dense[fact["fact_id"], t] for t in world.discovery(fact["fact_id"])]
        found = refine_scores(scores, MODES["default"])
        mine = {k[1:]: v for k, v in rows.items() if k[0] == fact["fact_id"]}
        assert {(n.neuron.layer, n.neuron.neuron) for n in found} == set(mine)
        for each in found:
            values = mine[each.neuron.layer, each.neuron.neuron]
            assert (each.share, each.mean_score, each.max_score) == pytest.approx(values, rel=1e-6)
        assert [n.share for n in found] == sorted((n.share for n in found), reverse=True)
    assert refine_scores([], MODES["default"]) == []


def test_prompts_without_a_positive_score_have_no_neurons_and_count_in_the_share():
    prompts = pd.DataFrame(
        [
            {"fact_id": "a", "template_id": f"t{i}", "held_out": False, "max_score": m}
            for i, m in enumerate([1.0, 1.0, -0.5, -0.5])
        ]
    )
    attributions = pd.DataFrame(
        [
            {"fact_id": "a", "template_id": f"t{i}", "layer": 0, "neuron": n, "score": 1.0}
            for i, n in [(0, 5), (1, 5), (0, 6)]
        ]
    )
    facts = pd.DataFrame([{"fact_id": "a", "relation_id": "P36"}])
    rows = refine(attributions, prompts, facts, MODES["default"]).rows.to_pylist()
    assert [(r["neuron"], r["share"]) for r in rows] == [(5, 0.5)]
    assert not coarse(np.full((2, 3), -1.0), 0.2).any()
    assert not coarse(np.zeros((2, 3)), 0.2).any()


def test_held_out_and_unattributed_prompts_are_never_used():
    world = World(5)
    attributions, prompts, facts = world.tables()
    rows = refine(attributions, prompts, facts, MODES["default"]).rows
    only = prompts[~prompts["held_out"]]
    kept = attributions.merge(only[["fact_id", "template_id"]])
    assert refine(kept, only, facts, MODES["default"]).rows.equals(rows)
    # A prompt that was not attributed has no maximum, and is no evidence either way.
    unattributed = prompts.assign(max_score=prompts["max_score"].where(~prompts["held_out"]))
    assert refine(kept, unattributed.assign(held_out=False), facts, MODES["default"]).rows.equals(rows)


def test_coarse_is_relative_to_the_prompt_s_largest_score():
    scores = np.array([[0.2, 1.0, 0.19], [0.3, -1.0, 0.0]])
    assert coarse(scores, 0.2).tolist() == [[True, True, False], [True, False, False]]
    assert coarse(scores, 0.3, inclusive=False).tolist() == [[False, True, False], [False, False, False]]


@pytest.mark.parametrize("name", RULES)
def test_negative_examples_subtract_neurons_that_answer_other_facts_too(name):
    world = World(2)
    tables = world.tables()
    plain = refine(*tables, MODES[name])
    # With as many negatives as there are facts, which ones are drawn does not matter.
    less = refine(*tables, mode(name, negatives=len(world.facts)))
    rule = RULES[name]
    objects = {f["fact_id"]: f["object"] for f in world.facts}
    relation = {f["fact_id"]: f["relation_id"] for f in world.facts}
    expected = {}
    for key, values in as_dict(plain.rows).items():
        fact_id, *neuron = key
        negative = {
            (other, t): world.scores_of(other, t)
            for other in objects
            if relation[other] == relation[fact_id] and objects[other] != objects[fact_id]
            for t in world.discovery(fact_id)
            if t in world.discovery(other)
        }
        others = PlainFact("others", "", negative)
        count = coarse_counts(others, rule["threshold"], reaching=rule["inclusive"])[tuple(neuron)]
        # Whole numbers only, so that no rounding can decide.
        wanted = round(100 * plain.shares[relation[fact_id]]) * len(negative)
        reached = 100 * count >= wanted if rule["inclusive"] else 100 * count > wanted
        if not (reached and count >= rule["at_least"]):
            expected[key] = values
    assert as_dict(less.rows) == expected
    assert less.shares == plain.shares


def test_a_neuron_of_the_whole_relation_is_subtracted_and_a_fact_s_own_is_not():
    facts = pd.DataFrame([{"fact_id": f"f{i}", "relation_id": "P36", "object": f"o{i}"} for i in range(6)])
    prompts = facts[["fact_id"]].merge(
        pd.DataFrame({"template_id": ["a", "b"], "held_out": False, "max_score": 1.0}), how="cross"
    )
    common = prompts[["fact_id", "template_id"]].assign(layer=0, neuron=99, score=1.0)
    own = prompts[["fact_id", "template_id"]].assign(
        layer=1, neuron=prompts["fact_id"].str[1:].astype(int), score=0.5
    )
    attributions = pd.concat([common, own])
    assert refine(attributions, prompts, facts, MODES["default"]).rows.num_rows == 12
    rows = refine(attributions, prompts, facts, mode("default", negatives=3)).rows
    assert [(r["fact_id"], r["layer"], r["neuron"]) for r in rows.to_pylist()] == [
        (f"f{i}", 1, i) for i in range(6)
    ]
    # Facts with the same answer are no negative examples.
    same = facts.assign(object="one answer")
    assert refine(attributions, prompts, same, mode("default", negatives=3)).rows.num_rows == 12


def test_negative_examples_are_the_same_for_the_same_seed():
    tables = World(2).tables()
    once = refine(*tables, mode("default", negatives=2, seed=4)).rows
    assert refine(*tables, mode("default", negatives=2, seed=4)).rows.equals(once)


def test_no_scores_give_no_neurons():
    _, prompts, facts = World(2).tables()
    nothing = TABLES["attributions"].empty_table()
    for name in MODES:
        assert refine(nothing, prompts, facts, mode(name, negatives=1)).rows.num_rows == 0
    none = TABLES["prompts"].empty_table()
    assert refine(nothing, none, facts, MODES["paper"]).rows.num_rows == 0


def test_a_share_is_not_lost_to_rounding():
    rule = mode("default", share=0.7 - 0.05, at_least=1)
    assert rule.needed(20) == 13
    assert mode("default", share=0.55, at_least=1).needed(20) == 11
    assert MODES["replication"].needed(10) == 4
    assert MODES["paper"].needed(np.array([2, 4, 10])).tolist() == [3, 3, 7]


def test_a_rule_can_be_written_into_a_manifest():
    plain = MODES["paper"].to_dict()
    assert plain["mode"] == "paper"
    assert plain["target"] == [2.0, 5.0]
    assert plain["tries"] == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threshold", 0.05), ("threshold", 1.5), ("share", -0.1), ("share", 1.2)),
        *(("at_least", 0), ("negatives", -1), ("tries", 0)),
    ],
)
def test_a_number_out_of_range_is_refused(name, value):
    with pytest.raises(AtlasError, match=f"{name} must be .*, got {value}"):
        mode("default", **{name: value})


def test_an_unknown_mode_is_refused_with_the_names_of_the_others():
    with pytest.raises(AtlasError, match=r"no refinement mode 'best'\. Choose one of: default, paper"):
        mode("best")


def test_half_a_million_scores_are_refined_in_seconds():
    random = np.random.default_rng(0)
    n_facts, per_prompt = 5_000, 25
    ids = np.array([f"fact{i:06d}" for i in range(n_facts)])
    facts = pd.DataFrame({"fact_id": ids, "relation_id": [f"P{i % 39}" for i in range(n_facts)]})
    templates = pd.DataFrame({"template_id": list("abcd"), "held_out": False, "max_score": 1.0})
    prompts = facts[["fact_id"]].merge(templates, how="cross")
    attributions = prompts[["fact_id", "template_id"]].loc[prompts.index.repeat(per_prompt)]
    attributions = attributions.assign(
        layer=np.tile(np.arange(per_prompt), len(prompts)),
        neuron=random.integers(0, 3, len(attributions)),
        score=random.random(len(attributions)),
    )
    started = time.perf_counter()
    rows = refine(attributions, prompts, facts, MODES["default"]).rows
    assert time.perf_counter() - started < 10
    assert rows.num_rows > 10_000


def test_a_neuron_is_named_by_layer_and_index():
    found = refine_scores([np.eye(2, 3)] * 2, MODES["default"])
    assert [n.neuron for n in found] == [Neuron(0, 0), Neuron(1, 1)]
