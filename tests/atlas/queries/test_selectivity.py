"""Selectivity equals counts of the sample's rows in plain Python."""

from collections import Counter, defaultdict

import numpy as np
import pytest

import atlas
from atlas import queries
from atlas.errors import QueryError
from atlas.queries import selectivity
from tests.sample_atlas import sample_tables, write_sample_atlas

TABLES = sample_tables(60)
FACTS = {fact["fact_id"]: fact for fact in TABLES["facts"]}
FACTS_OF = defaultdict(set)
for row in TABLES["knowledge_neurons"]:
    FACTS_OF[row["layer"], row["neuron"]].add(row["fact_id"])
HUB = max(FACTS_OF, key=lambda neuron: len(FACTS_OF[neuron]))
ALONE = next(neuron for neuron, facts in sorted(FACTS_OF.items()) if len(facts) == 1)


@pytest.fixture(scope="module")
def a(tmp_path_factory):
    with atlas.open(write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")) as opened:
        yield opened


@pytest.mark.parametrize("neuron", sorted(FACTS_OF)[::7])
def test_the_largest_relation_and_answer_are_those_most_facts_have(neuron, a):
    found = selectivity.selectivity(a, *neuron)
    for largest, column in ((found.relation, "relation_id"), (found.answer, "object")):
        counts = Counter(FACTS[fact_id][column] for fact_id in FACTS_OF[neuron])
        assert largest.n_facts == max(counts.values())
        assert largest.name == min(name for name, n in counts.items() if n == max(counts.values()))
        assert largest.share == pytest.approx(largest.n_facts / len(FACTS_OF[neuron]))
        assert 0 < largest.by_chance <= 1


def test_chance_draws_as_many_facts_with_neurons(a):
    with_neurons = [fact for fact in TABLES["facts"] if fact["n_neurons"]]
    n = len(FACTS_OF[HUB])
    random = np.random.default_rng(5)
    by_relation, by_answer = [], []
    wanted = Counter(FACTS[fact_id]["relation_id"] for fact_id in FACTS_OF[HUB])
    for _ in range(2000):
        drawn = random.permutation(len(with_neurons))
        by_relation.append(max(Counter(with_neurons[i]["relation_id"] for i in drawn[:n]).values()) / n)
        left, answers = Counter(wanted), Counter()
        for i in drawn:
            fact = with_neurons[i]
            if left[fact["relation_id"]]:
                left[fact["relation_id"]] -= 1
                answers[fact["object"]] += 1
        by_answer.append(max(answers.values()) / n)
    found = selectivity.selectivity(a, *HUB, draws=2000, seed=1)
    assert found.relation.by_chance == pytest.approx(np.mean(by_relation), abs=0.01)
    assert found.answer.by_chance == pytest.approx(np.mean(by_answer), abs=0.01)


def test_one_fact_is_as_selective_as_chance(a):
    found = selectivity.selectivity(a, *ALONE)
    assert (found.relation.share, found.relation.by_chance) == (1, 1)
    assert (found.answer.share, found.answer.by_chance) == (1, 1)


def test_the_same_seed_gives_the_same_numbers(a):
    assert selectivity.selectivity(a, *HUB, seed=3) == selectivity.selectivity(a, *HUB, seed=3)
    assert selectivity.selectivity(a, *HUB, seed=3) != selectivity.selectivity(a, *HUB, seed=4)


def test_a_neuron_of_no_fact_has_no_selectivity(a):
    assert selectivity.selectivity(a, 0, next(n for n in range(256) if (0, n) not in FACTS_OF)) is None


def test_its_facts_are_counted_by_relation(a):
    found = selectivity.relations_of_neuron(a, *HUB)
    counts = Counter(FACTS[fact_id]["relation_id"] for fact_id in FACTS_OF[HUB])
    assert dict(zip(found["relation_id"], found["n_facts"], strict=True)) == dict(counts)
    assert found["n_facts"].is_monotonic_decreasing
    assert found["fact_share"].sum() == pytest.approx(1)
    with_neurons = Counter(fact["relation_id"] for fact in TABLES["facts"] if fact["n_neurons"])
    for row in found.itertuples():
        assert row.relation_share == pytest.approx(row.n_facts / with_neurons[row.relation_id])
        assert row.expected_share == pytest.approx(with_neurons[row.relation_id] / with_neurons.total())


@pytest.mark.parametrize("order", ["jaccard", "shared"])
def test_related_neurons_are_those_of_the_same_facts(order, a):
    mine = FACTS_OF[HUB]
    expected = {
        neuron: (len(mine & facts), len(mine & facts) / len(mine | facts))
        for neuron, facts in FACTS_OF.items()
        if neuron != HUB and mine & facts
    }
    found = selectivity.related_neurons(a, *HUB, order=order, limit=1000)
    assert {(r.layer, r.neuron): (r.n_shared, r.jaccard) for r in found.itertuples()} == expected
    assert found["n_facts"].to_list() == [len(FACTS_OF[r.layer, r.neuron]) for r in found.itertuples()]
    assert found["jaccard" if order == "jaccard" else "n_shared"].is_monotonic_decreasing
    assert found["promoted"].notna().all()
    assert len(selectivity.related_neurons(a, *HUB, limit=3)) == 3


def test_an_unknown_order_is_refused(a):
    with pytest.raises(QueryError, match="order must be one of jaccard, shared, got 'n_shared; DROP'"):
        selectivity.related_neurons(a, *HUB, order="n_shared; DROP")


@pytest.mark.parametrize("index", [0, 7, 100, 255])
def test_the_nearest_neurons_with_facts_are_on_either_side(index, a):
    taken = sorted(neuron for layer, neuron in FACTS_OF if layer == 0)
    before = [neuron for neuron in taken if neuron < index]
    after = [neuron for neuron in taken if neuron > index]
    expected = (before[-1] if before else None, after[0] if after else None)
    assert selectivity.nearest_neurons(a, 0, index) == expected


def test_loaded_tables_answer_the_same(a):
    with atlas.open(a.path) as loaded:
        loaded.load("facts", "knowledge_neurons", "neurons")
        loaded.load("facts", "knowledge_neurons", "neurons")
        assert loaded.query("SELECT count(*) AS n FROM duckdb_tables()")["n"][0] == 3
        for table in ("facts", "knowledge_neurons", "neurons"):
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert loaded.query(rows).to_dict("list").keys() == a.query(rows).to_dict("list").keys()
            assert loaded.query(rows).to_string() == a.query(rows).to_string()
        assert selectivity.selectivity(loaded, *HUB) == selectivity.selectivity(a, *HUB)
        assert queries.hub_neurons(loaded).to_string() == queries.hub_neurons(a).to_string()
        assert queries.relation_overlap(loaded).equals(queries.relation_overlap(a))
