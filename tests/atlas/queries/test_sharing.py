"""Shared neurons equal counts of the sample's rows in plain Python; and their charts."""

import time
from collections import Counter
from dataclasses import replace
from itertools import combinations, product

import pytest

import atlas
from atlas import queries
from atlas.charts import sharing as sharing_charts
from atlas.errors import QueryError
from atlas.neuron import Neuron
from atlas.queries import sharing
from atlas.store.manifest import read_manifest, record_files, write_manifest
from tests.sample_atlas import replace_table, sample_tables, write_sample_atlas, write_table

TABLES = sample_tables(60)
NEURONS = {
    fact["fact_id"]: {
        (row["layer"], row["neuron"])
        for row in TABLES["knowledge_neurons"]
        if row["fact_id"] == fact["fact_id"]
    }
    for fact in TABLES["facts"]
}


@pytest.fixture(scope="module")
def a(tmp_path_factory):
    with atlas.open(write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")) as opened:
        yield opened


def facts_of(relation):
    return [fact["fact_id"] for fact in TABLES["facts"] if fact["relation_id"] == relation]


def how_many_have(relation):
    return Counter(neuron for fact_id in facts_of(relation) for neuron in NEURONS[fact_id])


# Questions -------------------------------------------------------------------------------------------


def test_neurons_are_counted_by_how_many_facts_have_them(a):
    expected = Counter(how_many_have("P36").values())
    found = sharing.neurons_by_sharing(a, "P36")
    assert dict(zip(found["n_facts"], found["n_neurons"], strict=True)) == expected
    for row in found.itertuples():
        assert row.relation_share == pytest.approx(row.n_facts / len(facts_of("P36")))


@pytest.mark.parametrize("most", [0.1, 0.3, 0.9])
def test_neurons_that_a_larger_share_of_the_relation_has_are_left_out(most, a):
    relation, counts = "P36", how_many_have("P36")
    everything = [Neuron(*pair) for pair in counts]
    n_facts = len(facts_of(relation))
    expected = {Neuron(*pair) for pair, n in counts.items() if n <= max(1, most * n_facts)}
    found = sharing.uncommon_neurons(a, [*everything, Neuron(7, 7)], relation_id=relation, most=most)
    assert found == tuple(sorted(expected | {Neuron(7, 7)}))  # a neuron of none of its facts is not common
    fact_id = facts_of(relation)[0]
    own = [Neuron(*pair) for pair in NEURONS[fact_id]]
    assert set(sharing.uncommon_neurons(a, own, fact_id=fact_id, most=most)) == expected & set(own)


def test_common_neurons_are_those_that_the_measured_edits_leave_out(a):
    from build.evidence.update import common_neurons

    class Fact:
        def __init__(self, fact_id):
            self.neurons = [Neuron(*pair) for pair in NEURONS[fact_id]]

    for relation in {fact["relation_id"] for fact in TABLES["facts"]}:
        facts = [Fact(fact_id) for fact_id in facts_of(relation)]
        everything = {neuron for fact in facts for neuron in fact.neurons}
        kept = queries.uncommon_neurons(a, everything, relation_id=relation)
        assert everything - set(kept) == common_neurons(facts)


def test_a_fact_that_the_atlas_does_not_have_has_no_uncommon_neurons(a):
    with pytest.raises(QueryError, match="has no fact 'P0:none'"):
        sharing.uncommon_neurons(a, [Neuron(0, 1)], fact_id="P0:none")


@pytest.mark.parametrize(("one", "other"), [("P36", "P36"), ("P36", "P176"), ("P176", "P36")])
def test_the_closest_pairs_have_most_neurons_in_common(one, other, a):
    pairs = combinations(facts_of(one), 2) if one == other else product(facts_of(one), facts_of(other))
    expected = {pair: len(NEURONS[pair[0]] & NEURONS[pair[1]]) for pair in pairs}
    found = sharing.closest_pairs(a, one, other, limit=10_000)
    assert len(found) == sum(n > 0 for n in expected.values()) > 0
    objects = {fact["fact_id"]: fact["object"] for fact in TABLES["facts"]}
    for row in found.itertuples():
        assert row.n_shared == expected[row.fact_a, row.fact_b]
        assert (row.n_neurons_a, row.n_neurons_b) == (len(NEURONS[row.fact_a]), len(NEURONS[row.fact_b]))
        assert row.jaccard == pytest.approx(row.n_shared / len(NEURONS[row.fact_a] | NEURONS[row.fact_b]))
        assert row.same_object == (objects[row.fact_a] == objects[row.fact_b])
    assert found["n_shared"].is_monotonic_decreasing
    assert list(found.head(3)["fact_a"]) == list(sharing.closest_pairs(a, one, other, limit=3)["fact_a"])


def test_pairs_explain_the_mean_of_their_cell(a):
    overlap = queries.relation_overlap(a)
    for row in overlap[overlap["relation_a"] <= overlap["relation_b"]].itertuples():
        pairs = sharing.closest_pairs(a, row.relation_a, row.relation_b, limit=10_000)
        assert pairs["n_shared"].sum() / row.n_pairs == pytest.approx(row.mean_shared)


def test_an_unknown_relation_shares_nothing(a):
    assert sharing.neurons_by_sharing(a, "P0").empty
    assert sharing.closest_pairs(a, "P0", "P36").empty


def test_a_relation_s_neurons_can_be_those_of_one_layer(a):
    everywhere = queries.relation_neurons(a, "P36", limit=1000)
    for layer in everywhere["layer"].unique():
        found = queries.relation_neurons(a, "P36", layer=int(layer), limit=1000)
        expected = everywhere[everywhere["layer"] == layer]
        assert list(found["neuron"]) == list(expected["neuron"])


def test_effects_of_a_relation_are_those_of_its_facts(a):
    rows = [
        row
        for row in TABLES["effects"]
        if row["fact_id"] in facts_of("P36")
        and (row["intervention"], row["group"]) == ("suppress", "own")
        and row["held_out"]
    ]
    found = queries.effect_summary(a, held_out=True, relation="P36")
    own = found[(found["intervention"] == "suppress") & (found["group"] == "own")].iloc[0]
    assert own["n_prompts"] == len(rows)
    assert own["mean_before"] == pytest.approx(sum(row["p_before"] for row in rows) / len(rows))
    assert own["n_facts"] == len({row["fact_id"] for row in rows})


def test_comparing_the_largest_relations_of_the_bundled_atlas_is_fast():
    with atlas.open("starter-pocket-bert") as starter:
        largest = starter.query("SELECT relation_id FROM relations ORDER BY n_facts DESC LIMIT 2")[
            "relation_id"
        ]
        begun = time.process_time()
        sharing.closest_pairs(starter, largest[0], largest[0])
        sharing.closest_pairs(starter, *largest)
        assert time.process_time() - begun < 3


# A fact to begin with --------------------------------------------------------------------------------


def test_the_telling_fact_is_known_and_falls_without_its_neurons_only(a):
    fact = queries.telling_fact(a)
    rows = [
        row
        for row in TABLES["effects"]
        if row["fact_id"] == fact["fact_id"] and row["intervention"] == "suppress" and row["held_out"]
    ]
    mean = {
        (group, when): sum(row[when] for row in rows if row["group"] == group)
        / sum(row["group"] == group for row in rows)
        for group in ("own", "random")
        for when in ("p_before", "p_after")
    }
    assert fact["known"]
    assert fact["n_neurons"] == len(NEURONS[fact["fact_id"]]) > 0
    assert fact["before"] == pytest.approx(mean["own", "p_before"])
    assert fact["after"] == pytest.approx(mean["own", "p_after"])
    assert fact["random"] == pytest.approx(mean["random", "p_after"])
    assert fact["after"] < 0.5 * fact["before"]
    assert "[Y]" in fact["text"]
    assert fact["subject"] in fact["text"]


@pytest.mark.parametrize("name", ["starter-pocket-bert", "starter-smollm2-135m"])
def test_the_first_experiment_of_the_bundled_atlases_is_a_strong_one(name):
    with atlas.open(name) as starter:
        fact = queries.telling_fact(starter)
    assert fact["before"] > 0.4
    assert fact["after"] < 0.1 * fact["before"]
    assert abs(fact["random"] - fact["before"]) < 0.1 * fact["before"]


def test_without_effects_the_telling_fact_is_still_a_known_one(tmp_path):
    with atlas.open(write_sample_atlas(tmp_path / "bare", leave_out=("effects", "prompts"))) as bare:
        fact = queries.telling_fact(bare)
    assert fact["known"]
    assert fact["n_neurons"] > 0
    assert fact["before"] is fact["after"] is fact["text"] is None


def test_an_atlas_without_neurons_has_no_telling_fact(tmp_path):
    folder = write_sample_atlas(tmp_path / "silent")
    write_table(folder, "facts", [{**fact, "n_neurons": 0} for fact in TABLES["facts"]])
    write_manifest(folder, replace(read_manifest(folder), files=record_files(folder)))
    with atlas.open(folder) as silent:
        assert queries.telling_fact(silent) is None


def test_the_telling_text_is_of_the_surest_prompt_whose_text_random_neurons_leave(tmp_path):
    folder = write_sample_atlas(tmp_path / "sample")
    asked = {
        row["fact_id"]: row["template_id"] for row in TABLES["generations"] if row["group"] == "unchanged"
    }
    sure = {(row["fact_id"], row["template_id"]): row["probability"] for row in TABLES["prompts"]}
    order = sorted(asked, key=lambda fact_id: -sure[fact_id, asked[fact_id]])
    with atlas.open(folder) as opened:
        text = queries.telling_text(opened)
    assert text["fact_id"] == order[0]
    assert text["unchanged"] == text["random"] != text["own"]
    assert "[Y]" in text["prompt"]
    said = text["unchanged"]
    # The surest answers the same without its neurons; the second's control changes.
    others = {(order[0], "own"): said, (order[1], "random"): " else"}
    rows = [
        row | {"text": others.get((row["fact_id"], row["group"]), row["text"])}
        for row in TABLES["generations"]
    ]
    with atlas.open(replace_table(folder, "generations", rows)) as opened:
        assert queries.telling_text(opened)["fact_id"] == order[2]
    # Where every control changes, the surest of those that lose their answer.
    rows = [row | {"text": " else"} if row["group"] == "random" else row for row in rows]
    with atlas.open(replace_table(folder, "generations", rows)) as opened:
        assert queries.telling_text(opened)["fact_id"] == order[1]


def test_an_atlas_without_texts_has_no_telling_one(tmp_path):
    with atlas.open(write_sample_atlas(tmp_path / "bare", leave_out=("generations",))) as bare:
        assert queries.telling_text(bare) is None


# Pictures --------------------------------------------------------------------------------------------


def test_the_histogram_s_bins_double_and_hold_every_neuron(a):
    counts = how_many_have("P36")
    rows = sharing_charts._doubled(sharing.neurons_by_sharing(a, "P36"), len(facts_of("P36")))
    assert list(rows["facts"]) == ["1", "2", "3–4", "5–8", "9–15"]
    assert rows["n_neurons"].sum() == len(counts)
    assert rows["n_neurons"][0] == sum(n == 1 for n in counts.values())
    assert rows["n_neurons"][2] == sum(n in (3, 4) for n in counts.values())
    assert rows["share"][0] == "6.7%"
    assert rows["share"][2] == "20.0% to 26.7%"


def test_a_relation_of_one_fact_has_a_histogram(a):
    rows = sharing_charts._doubled(sharing.neurons_by_sharing(a, "P36").head(0), 1)
    assert list(rows["facts"]) == ["1"]


def test_the_matrix_has_each_relation_once_and_starts_with_the_closest_two(a):
    overlap = queries.relation_overlap(a)
    order = sharing_charts.neighbours_together(overlap)
    assert sorted(order) == sorted(set(overlap["relation_a"]))
    across = overlap[~overlap["within"]].sort_values("mean_shared", ascending=False)
    assert set(order[:2]) == {across["relation_a"].iloc[0], across["relation_b"].iloc[0]}
    rows = sharing_charts.some_relations(overlap, order[:2])
    assert list(rows["relation_a"]) == [order[0], order[0], order[1], order[1]]


def test_the_chosen_cell_is_framed(a):
    chart = sharing_charts.overlap_matrix(queries.relation_overlap(a), chosen=("P36", "P30"))
    (framed,) = chart.data[chart.data["frame"] > 0].to_dict("records")
    assert (framed["relation_a"], framed["relation_b"]) == ("P36", "P30")
