"""Comparisons equal counts in plain Python, and chance equals the exact distribution."""

from __future__ import annotations

from math import comb, isclose, sqrt

import pandas as pd
import pytest

from atlas import queries
from atlas.errors import QueryError
from atlas.neuron import Neuron
from atlas.queries import comparison
from atlas.queries.comparison import Overlap, overlap
from atlas.store.atlas import Atlas, bundled, open_atlas
from tests.sample_atlas import write_sample_atlas


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    with Atlas(write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pairs(atlas) -> pd.DataFrame:
    """Every (fact, neuron) pair, to count by hand."""
    return atlas.query("SELECT * FROM knowledge_neurons")


def neurons_of(pairs: pd.DataFrame, fact_id: str) -> set[tuple[int, int]]:
    mine = pairs[pairs["fact_id"] == fact_id]
    return set(zip(mine["layer"], mine["neuron"], strict=True))


def where(rows: pd.DataFrame, place: str) -> set[tuple[int, int]]:
    part = rows[rows["where"] == place]
    return set(zip(part["layer"], part["neuron"], strict=True))


# Overlap and chance ----------------------------------------------------------------------------------


def rows_of(**layers: str) -> pd.DataFrame:
    """`zero="bba"`: in layer `zero` two neurons in both and one in A only (B: `-`)."""
    places = {"x": "both", "a": "a", "b": "b"}
    return pd.DataFrame(
        [(layer, places[letter]) for layer, letters in layers.items() for letter in letters],
        columns=["layer", "where"],
    )


def in_both_by_chance(n_a: int, n_b: int, size: int) -> tuple[float, float]:
    """Mean and variance of the hypergeometric distribution, summed term by term."""
    p = {k: comb(n_a, k) * comb(size - n_a, n_b - k) / comb(size, n_b) for k in range(min(n_a, n_b) + 1)}
    mean = sum(k * q for k, q in p.items())
    return mean, sum((k - mean) ** 2 * q for k, q in p.items())


def test_an_overlap_counts_what_is_in_both_and_in_one():
    found = overlap(rows_of(zero="xxxaab", one="xb"), size=None)
    assert found == Overlap(both=4, only_a=2, only_b=2)
    assert found.either == 8
    assert found.jaccard == 0.5
    assert found.chance is None
    assert found.chance_jaccard is None


def test_chance_is_drawing_as_many_from_each_layer():
    found = overlap(rows_of(zero="xxxaab", one="xbbbb"), size=20, by="layer")
    zero, one = in_both_by_chance(5, 4, 20), in_both_by_chance(1, 5, 20)
    assert isclose(found.chance, zero[0] + one[0])
    assert isclose(found.spread, sqrt(zero[1] + one[1]))
    assert isclose(found.chance_jaccard, found.chance / (6 + 9 - found.chance))


def test_without_layers_chance_draws_from_all():
    found = overlap(rows_of(zero="xa", one="xb"), size=9)
    mean, variance = in_both_by_chance(3, 3, 9)
    assert isclose(found.chance, mean)
    assert isclose(found.spread, sqrt(variance))


def test_two_full_sets_overlap_completely():
    found = overlap(rows_of(zero="xxx"), size=3, by="layer")
    assert (found.chance, found.spread, found.jaccard) == (3, 0, 1)


def test_two_empty_sets_have_no_jaccard():
    found = overlap(rows_of(), size=9, by="layer")
    assert (found.both, found.either, found.jaccard, found.chance_jaccard) == (0, 0, None, None)


def test_chance_by_layer_adds_up_to_chance():
    rows = rows_of(zero="xxxaab", one="xbbbb", two="a")
    by_layer = comparison.chance_by_layer(rows, 20)
    assert list(by_layer["layer"]) == sorted(["zero", "one", "two"])
    assert isclose(by_layer["expected"].sum(), overlap(rows, size=20, by="layer").chance)


# Facts -----------------------------------------------------------------------------------------------


def test_the_neurons_of_two_facts_are_each_facts_own(atlas, pairs):
    a, b = "P36-00001", "P36-00002"
    rows = comparison.neurons_of_facts(atlas, a, b)
    assert where(rows, "both") == neurons_of(pairs, a) & neurons_of(pairs, b)
    assert where(rows, "a") == neurons_of(pairs, a) - neurons_of(pairs, b)
    assert where(rows, "b") == neurons_of(pairs, b) - neurons_of(pairs, a)
    scores = pairs.set_index(["fact_id", "layer", "neuron"])["mean_score"]
    for row in rows.itertuples():
        for fact_id, score, place in ((a, row.score_a, "a"), (b, row.score_b, "b")):
            if row.where in ("both", place):
                assert score == scores[fact_id, row.layer, row.neuron]
            else:
                assert pd.isna(score)
        uses = pairs[(pairs["layer"] == row.layer) & (pairs["neuron"] == row.neuron)]
        assert (row.n_facts, row.n_relations) == (len(uses), uses["relation_id"].nunique())


def test_swapping_two_facts_swaps_sides(atlas):
    one = comparison.neurons_of_facts(atlas, "P36-00001", "P36-00002")
    two = comparison.neurons_of_facts(atlas, "P36-00002", "P36-00001")
    assert where(one, "a") == where(two, "b")
    assert where(one, "both") == where(two, "both")
    assert len(where(one, "a") | where(one, "b")) > 0


def test_suppression_of_a_fact_is_the_change_of_its_mean_probability(atlas):
    found = comparison.suppression(atlas, fact="P36-00001")
    effects = atlas.query("SELECT * FROM effects WHERE fact_id = 'P36-00001' AND held_out")
    effects = effects[effects["intervention"] == "suppress"]
    assert set(found) == set(effects["group"])
    for group, change in found.items():
        part = effects[effects["group"] == group].astype({"p_before": float, "p_after": float})
        assert isclose(change, part["p_after"].sum() / part["p_before"].sum() - 1)
    assert found["own"] < found["random"]


def test_suppression_of_a_relation_counts_known_facts_only(atlas):
    facts = atlas.query("SELECT * FROM facts").set_index("fact_id")
    effects = atlas.query(
        "SELECT * FROM effects WHERE held_out AND intervention = 'suppress' AND n_neurons > 0"
    )
    own = effects[
        (effects["group"] == "own")
        & (effects["fact_id"].map(facts["relation_id"]) == "P36")
        & effects["fact_id"].map(facts["known"])
    ].astype({"p_before": float, "p_after": float})
    expected = own["p_after"].sum() / own["p_before"].sum() - 1
    assert isclose(comparison.suppression(atlas, relation="P36")["own"], expected)


def test_unmeasured_effects_are_absent(tmp_path):
    bare = write_sample_atlas(tmp_path / "bare", leave_out=("effects", "neurons", "prompts"))
    with Atlas(bare) as atlas:
        assert comparison.suppression(atlas, fact="P36-00001") == {}
        assert comparison.neurons_of_facts(atlas, "P36-00001", "P36-00002")["promoted"].isna().all()
        assert comparison.prompts_in_both(atlas, atlas, "P36-00001", "P36-00001").empty


# Relations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [0.0, 0.1, 0.25, 0.5])
def test_the_neurons_of_a_relation_are_those_that_enough_of_its_facts_have(atlas, pairs, least):
    rows = comparison.neurons_of_relations(atlas, "P36", "P30", least=least)
    sizes = atlas.query("SELECT relation_id, count(*) AS n FROM facts GROUP BY ALL").set_index("relation_id")[
        "n"
    ]
    counts = pairs.groupby(["relation_id", "layer", "neuron"]).size()
    enough = {}
    for relation in ("P36", "P30"):
        mine = counts[relation]
        enough[relation] = {tuple(key) for key, n in mine.items() if n / sizes[relation] >= least}
    assert where(rows, "both") == enough["P36"] & enough["P30"]
    assert where(rows, "a") == enough["P36"] - enough["P30"]
    assert where(rows, "b") == enough["P30"] - enough["P36"]
    for row in rows.itertuples():
        key = ("P30", row.layer, row.neuron)
        assert row.n_facts_b == counts.get(key, 0)
        assert isclose(row.share_b, row.n_facts_b / sizes["P30"])


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_an_impossible_share_is_refused(atlas, least):
    with pytest.raises(QueryError, match="least must be between 0 and 1"):
        comparison.neurons_of_relations(atlas, "P36", "P30", least=least)


# Neurons ---------------------------------------------------------------------------------------------


def test_the_facts_of_two_neurons_are_each_neurons_own(atlas, pairs):
    a, b = Neuron(0, 7), Neuron(3, 11)
    rows = comparison.facts_of_neurons(atlas, a, b)
    of = {
        name: set(pairs[(pairs["layer"] == n.layer) & (pairs["neuron"] == n.neuron)]["fact_id"])
        for name, n in (("a", a), ("b", b))
    }
    assert of["a"]
    assert of["b"]
    found = {place: set(rows[rows["where"] == place]["fact_id"]) for place in comparison.WHERE}
    assert found == {"both": of["a"] & of["b"], "a": of["a"] - of["b"], "b": of["b"] - of["a"]}
    assert comparison.n_facts_with_neurons(atlas) == pairs["fact_id"].nunique()


# Two atlases -----------------------------------------------------------------------------------------


def test_the_same_fact_is_found_by_any_id_case_and_accents(atlas, tmp_path):
    with Atlas(write_sample_atlas(tmp_path / "other")) as other:
        fact = queries.fact(atlas, "P36-00001")
        assert comparison.same_fact(atlas, other, "P36-00001") == "P36-00001"
        other.query("SELECT 1")
        renamed = _Renamed(other, fact)
        assert comparison.same_fact(atlas, renamed, "P36-00001") == "renamed"


class _Renamed:
    """Another atlas with another id for the fact, whose names lack accents and are in capitals."""

    def __init__(self, atlas: Atlas, fact: dict) -> None:
        self.atlas, self.fact = atlas, fact

    def query_one(self, sql: str, values: dict) -> dict | None:
        names = f"""
            SELECT 'renamed' AS fact_id, relation_id, upper(strip_accents(subject)) AS subject,
                   upper(strip_accents(object)) AS object
            FROM main.facts WHERE fact_id = '{self.fact["fact_id"]}'
        """
        return self.atlas.query_one(f"WITH facts AS ({names}) {sql}", values)


def test_a_fact_that_the_other_atlas_lacks_is_none(atlas, tmp_path):
    with Atlas(write_sample_atlas(tmp_path / "few", n_facts=8)) as few:
        assert comparison.same_fact(atlas, few, "P36-00005") is None
        assert comparison.same_fact(few, atlas, "P36-00001") is not None
        with pytest.raises(QueryError, match="has no fact 'P36-00005'"):
            comparison.same_fact(few, atlas, "P36-00005")


def test_prompts_of_two_models_are_matched_by_wording():
    known = bundled()
    with open_atlas(known["starter-pocket-bert"]) as a, open_atlas(known["starter-smollm2-135m"]) as b:
        rows = comparison.prompts_in_both(a, b, "P36:france", "P36:france")
        for side, atlas in (("a", a), ("b", b)):
            own = atlas.query("SELECT * FROM prompts WHERE fact_id = 'P36:france'").set_index("text")
            asked = rows[rows[f"rank_{side}"].notna()]
            assert set(asked["text"]) == set(own.index)
            assert [own["rank"][text] for text in asked["text"]] == list(asked[f"rank_{side}"])
            assert [own["top_token"][text] for text in asked["text"]] == list(asked[f"says_{side}"])
    both = rows[["rank_a", "rank_b"]].notna().all(axis=1)
    assert both.any()
    assert not both.all()
    assert list(both) == sorted(both, reverse=True)


def test_layers_are_parts_of_the_depth_and_shares_add_up(atlas, pairs):
    rows = comparison.layers_of_fact(atlas, "P36-00001")
    mine = pairs[pairs["fact_id"] == "P36-00001"]
    assert list(rows["layer"]) == [0, 1, 2, 3]
    assert list(rows["n_neurons"]) == [int((mine["layer"] == layer).sum()) for layer in range(4)]
    assert isclose(rows["share"].sum(), 1)
    assert list(rows["depth_from"]) == [0, 0.25, 0.5, 0.75]
    assert list(rows["depth_to"]) == [0.25, 0.5, 0.75, 1]


def test_a_fact_without_neurons_has_none_in_any_layer(atlas):
    silent = atlas.query_one("SELECT fact_id FROM facts WHERE n_neurons = 0")["fact_id"]
    rows = comparison.layers_of_fact(atlas, silent)
    assert rows["n_neurons"].sum() == 0
    assert rows["share"].isna().all()


# Examples --------------------------------------------------------------------------------------------


def test_examples_are_pairs_that_can_be_compared(atlas):
    facts = {title: (a, b) for title, a, b in comparison.examples(atlas, "facts")}
    a, b = (queries.fact(atlas, each) for each in facts["The same answer"])
    assert a["object"].lower() == b["object"].lower()
    a, b = (queries.fact(atlas, each) for each in facts["The same relation, another answer"])
    assert a["relation_id"] == b["relation_id"]
    assert a["object"] != b["object"]
    a, b = (queries.fact(atlas, each) for each in facts["Unrelated facts"])
    assert a["relation_id"] != b["relation_id"]
    assert a["object"] != b["object"]
    overlaps = queries.relation_overlap(atlas).query("not within").set_index(["relation_a", "relation_b"])
    title, first, second = comparison.examples(atlas, "relations")[0]
    assert title == "They share most"
    assert overlaps["mean_shared"][first, second] == overlaps["mean_shared"].max()
    for _, first, second in comparison.examples(atlas, "neurons"):
        assert queries.neuron(atlas, *_place(first))["n_relations"] > 1
        assert first != second
    (_, fact_id, _), *_ = comparison.examples(atlas, "atlases")
    assert queries.fact(atlas, fact_id)["n_neurons"] > 0


def test_partners_share_most(atlas, pairs):
    one = "P36-00001"
    own = neurons_of(pairs, one)
    shared = {each: len(own & neurons_of(pairs, each)) for each in set(pairs["fact_id"]) - {one}}
    found = comparison.partners(atlas, "facts", one, limit=3)
    assert [(title, a, shared[b]) for title, a, b in found] == [
        (f"{n} neuron{'' if n == 1 else 's'} in common", one, n) for n in sorted(shared.values())[:-4:-1]
    ]
    overlaps = queries.relation_overlap(atlas).query("not within and relation_a == 'P36'")
    (title, _, other), *_ = comparison.partners(atlas, "relations", "P36")
    assert other == overlaps.sort_values("mean_shared")["relation_b"].iloc[-1]
    assert title == f"{overlaps['mean_shared'].max():.2f} neurons (mean) in common"
    for title, _, other in comparison.partners(atlas, "neurons", "L0.N7"):
        both = comparison.facts_of_neurons(atlas, Neuron(0, 7), Neuron.parse(other))["where"].eq("both").sum()
        assert title.startswith(f"{both} fact")
    assert comparison.partners(atlas, "atlases", one) == []


def _place(name: str) -> tuple[int, int]:
    neuron = Neuron.parse(name)
    return neuron.layer, neuron.neuron


def test_an_unknown_kind_is_refused(atlas):
    with pytest.raises(QueryError, match="kind must be one of facts"):
        comparison.examples(atlas, "models")
