"""Queries equal counts of the sample's rows in plain Python."""

import statistics
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

import atlas
from atlas import queries
from atlas.errors import QueryError
from atlas.neuron import Neuron
from atlas.queries.evidence import CONTROLS, NEURON_GROUPS
from atlas.refinement import MODES, mode, refine
from atlas.store.manifest import read_manifest, record_files, write_manifest
from atlas.store.schema import SORT_KEYS
from tests.sample_atlas import (
    N_LAYERS,
    N_TEMPLATES,
    OPTIONAL_TABLES,
    sample_tables,
    write_sample_atlas,
    write_table,
)

TABLES = sample_tables(60)


@pytest.fixture(scope="module")
def a(tmp_path_factory):
    with atlas.open(write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")) as opened:
        yield opened


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = write_sample_atlas(tmp_path_factory.mktemp("atlases") / "published", leave_out=OPTIONAL_TABLES)
    with atlas.open(folder) as opened:
        yield opened


def neurons_of(fact_id):
    return {(r["layer"], r["neuron"]) for r in TABLES["knowledge_neurons"] if r["fact_id"] == fact_id}


def facts_where(condition):
    return {fact["fact_id"] for fact in TABLES["facts"] if condition(fact)}


# Facts -----------------------------------------------------------------------------------------------


def test_a_random_fact_has_neurons_and_follows_its_seed(a):
    drawn = {queries.random_fact(a, known=True, seed=seed) for seed in range(20)}
    assert len(drawn) > 5
    assert drawn <= facts_where(lambda f: f["known"] and f["n_neurons"] > 0)
    assert queries.random_fact(a, seed=3) == queries.random_fact(a, seed=3)
    assert queries.random_fact(a) in facts_where(lambda f: f["n_neurons"] > 0)


# One fact --------------------------------------------------------------------------------------------


def test_a_fact_comes_with_its_relation_s_label(a):
    expected = TABLES["facts"][0]
    found = queries.fact(a, expected["fact_id"])
    assert found["label"] == "native language"
    assert {key: found[key] for key in expected if key != "mean_probability"} == {
        key: value for key, value in expected.items() if key != "mean_probability"
    }
    with pytest.raises(QueryError, match="has no fact 'nobody'"):
        queries.fact(a, "nobody")


def test_prompts_of_a_fact_come_with_discovery_first(a):
    fact_id = TABLES["facts"][1]["fact_id"]
    found = queries.prompts_of_fact(a, fact_id)
    expected = [row for row in TABLES["prompts"] if row["fact_id"] == fact_id]
    expected.sort(key=lambda row: (row["held_out"], row["template_id"]))
    assert len(found) == N_TEMPLATES
    assert found["text"].to_list() == [row["text"] for row in expected]
    assert found["probability"].to_list() == pytest.approx([row["probability"] for row in expected])


def test_neurons_of_a_fact_say_how_many_other_facts_have_them(a):
    counts = Counter((r["layer"], r["neuron"]) for r in TABLES["knowledge_neurons"])
    fact_id = TABLES["facts"][2]["fact_id"]
    found = queries.neurons_of_fact(a, fact_id)
    assert {(r.layer, r.neuron) for r in found.itertuples()} == neurons_of(fact_id)
    for row in found.itertuples():
        assert row.n_facts == counts[row.layer, row.neuron]
        # What it pushes on this fact, where a neuron that fires below zero pushes what it lowers otherwise.
        assert row.promoted[0]["token"] == ("up0" if row.mean_activation > 0 else "down0")
        assert len(row.suppressed) == 10
    assert set(found["mean_activation"] > 0) == {True, False}
    assert found["share"].is_monotonic_decreasing


def test_attributions_of_a_fact_are_one_row_a_neuron(a):
    fact_id = TABLES["facts"][2]["fact_id"]
    rows = [r for r in TABLES["attributions"] if r["fact_id"] == fact_id]
    found = queries.attributions_of_fact(a, fact_id)
    scores = defaultdict(list)
    for r in rows:
        scores[r["layer"], r["neuron"]].append(r["score"])
    assert len(found) == len(scores)
    for row in found.itertuples():
        mine = scores[row.layer, row.neuron]
        assert row.n_prompts == len(mine)
        assert row.mean_score == pytest.approx(statistics.mean(mine))
        assert row.max_score == pytest.approx(max(mine))
        assert row.is_knowledge_neuron == ((row.layer, row.neuron) in neurons_of(fact_id))
    assert found["max_relative"].max() == 1
    one = queries.attributions_of_fact(a, fact_id, template_id=rows[0]["template_id"])
    assert len(one) == sum(r["template_id"] == rows[0]["template_id"] for r in rows)


def test_facts_sharing_neurons_are_ordered_by_how_many(a):
    mine = TABLES["facts"][1]
    found = queries.facts_sharing_neurons(a, mine["fact_id"], limit=1000)
    expected = {}
    for other in TABLES["facts"]:
        shared = neurons_of(mine["fact_id"]) & neurons_of(other["fact_id"])
        if shared and other is not mine:
            expected[other["fact_id"]] = len(shared)
    assert dict(zip(found["fact_id"], found["n_shared"], strict=True)) == expected
    assert found["n_shared"].is_monotonic_decreasing
    for row in found.itertuples():
        union = neurons_of(mine["fact_id"]) | neurons_of(row.fact_id)
        assert row.jaccard == pytest.approx(row.n_shared / len(union))
        assert row.same_relation == (row.relation_id == mine["relation_id"])
    assert len(queries.facts_sharing_neurons(a, mine["fact_id"], limit=2)) == 2


def test_effects_of_a_fact_show_every_group(a):
    fact_id = TABLES["facts"][0]["fact_id"]
    found = queries.effects_of_fact(a, fact_id)
    assert len(found) == sum(r["fact_id"] == fact_id for r in TABLES["effects"])
    there = set(found["group"])
    assert there >= {"own", *CONTROLS, "same_relation", "unrelated"}
    assert list(found["group"].unique()) == [group for group in NEURON_GROUPS if group in there]
    stored = {tuple(r[key] for key in SORT_KEYS["effects"]): r for r in TABLES["effects"]}
    for row in found.to_dict("records"):
        r = stored[tuple(({"fact_id": fact_id} | row)[key] for key in SORT_KEYS["effects"])]
        change = (r["p_after"] - r["p_before"]) / r["p_before"]
        assert row["relative_change"] == pytest.approx(change, abs=1e-5)
    unrelated = found[found["group"] == "unrelated"]
    assert set(unrelated["prompt_fact_id"]) != {fact_id}
    assert unrelated["text"].notna().all()


# Thresholds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fact", TABLES["facts"][:6], ids=lambda f: f["fact_id"])
def test_rethreshold_at_the_default_is_the_stored_table(fact, a):
    found = queries.rethreshold(a, fact["fact_id"], 0.2, 0.5)
    stored = {(r["layer"], r["neuron"]): r for r in TABLES["knowledge_neurons"]}
    assert {(r.layer, r.neuron) for r in found.itertuples()} == neurons_of(fact["fact_id"])
    stored = queries.neurons_of_fact(a, fact["fact_id"]).set_index(["layer", "neuron"])
    for row in found.itertuples():
        same = stored.loc[(row.layer, row.neuron)]
        assert (row.share, row.mean_score, row.max_score) == pytest.approx(
            (same["share"], same["mean_score"], same["max_score"])
        )


@pytest.mark.parametrize(
    ("t", "p", "at_least"), [(0.1, 0.25, 1), (0.3, 0.5, 2), (0.5, 0.75, 1), (1, 0, 1), (0.2, 1, 2)]
)
def test_rethreshold_agrees_with_refinement(t, p, at_least, a):
    tables = [a.query(f"SELECT * FROM {table}") for table in ("attributions", "prompts", "facts")]
    rule = mode("default", threshold=t, share=p, at_least=at_least)
    rows = refine(*tables, rule).rows.to_pandas()
    for fact in TABLES["facts"][:10]:
        found = queries.rethreshold(a, fact["fact_id"], t, p, at_least=at_least)
        expected = rows[rows["fact_id"] == fact["fact_id"]]
        assert set(zip(found["layer"], found["neuron"], strict=True)) == set(
            zip(expected["layer"], expected["neuron"], strict=True)
        )


def test_the_stored_neurons_are_the_default_refinement_of_the_stored_scores(a):
    tables = [a.query(f"SELECT * FROM {table}") for table in ("attributions", "prompts", "facts")]
    found = refine(*tables, MODES["default"]).rows.drop_columns("mean_activation")
    stored = a.query("SELECT * EXCLUDE mean_activation FROM knowledge_neurons").to_dict("list")
    assert found.to_pandas().to_dict("list") == stored


@pytest.mark.parametrize(("t", "p"), [(0.05, 0.5), (1.2, 0.5), (0.2, -0.1), (0.2, 1.5), (float("nan"), 0.5)])
def test_thresholds_out_of_range_are_refused(t, p, a):
    with pytest.raises(QueryError, match=r"must be between 0\.1"):
        queries.rethreshold(a, TABLES["facts"][0]["fact_id"], t, p)


# Neurons ---------------------------------------------------------------------------------------------


def test_a_neuron_lists_its_facts_and_prompts(a):
    expected = TABLES["neurons"][0]
    found = queries.neuron(a, expected["layer"], expected["neuron"])
    assert (found["n_facts"], found["n_relations"]) == (expected["n_facts"], expected["n_relations"])
    assert [t["token"] for t in found["promoted"]] == [t["token"] for t in expected["promoted"]]
    facts = queries.facts_of_neuron(a, expected["layer"], expected["neuron"])
    assert set(facts["fact_id"]) == {
        r["fact_id"]
        for r in TABLES["knowledge_neurons"]
        if (r["layer"], r["neuron"]) == (expected["layer"], expected["neuron"])
    }
    prompts = queries.activating_prompts_of_neuron(a, expected["layer"], expected["neuron"])
    assert prompts["side"].to_list() == ["top"] * 3 + ["bottom"] * 3
    assert prompts["rank"].to_list() == [1, 2, 3] * 2
    assert prompts["text"].str.contains("[Y]", regex=False).all()


def test_a_neuron_of_no_fact_is_empty_and_one_the_model_lacks_is_refused(a):
    taken = {(r["layer"], r["neuron"]) for r in TABLES["knowledge_neurons"]}
    free = next(n for n in range(256) if (0, n) not in taken)
    found = queries.neuron(a, 0, free)
    assert found["n_facts"] == 0
    assert found["promoted"] is None
    assert queries.facts_of_neuron(a, 0, free).empty
    for layer, index in [(N_LAYERS, 0), (0, 256), (-1, 0), (0, -3)]:
        with pytest.raises(QueryError, match="has no neuron"):
            queries.neuron(a, layer, index)


def test_hubs_are_neurons_of_several_relations(a):
    relations = defaultdict(set)
    for r in TABLES["knowledge_neurons"]:
        relations[r["layer"], r["neuron"]].add(r["relation_id"])
    found = queries.hub_neurons(a, limit=1000)
    assert {(r.layer, r.neuron): r.n_relations for r in found.itertuples()} == {
        n: len(ids) for n, ids in relations.items() if len(ids) > 1
    }
    assert found["n_relations"].is_monotonic_decreasing


# Relations and the whole -----------------------------------------------------------------------------


def test_relations_count_their_known_facts(a):
    found = queries.relations(a)
    assert len(found) == 4
    for row in found.itertuples():
        mine = [f for f in TABLES["facts"] if f["relation_id"] == row.relation_id]
        assert row.n_facts == len(mine)
        assert row.n_known == sum(f["known"] for f in mine)
        assert row.known_share == pytest.approx(row.n_known / row.n_facts)
        assert row.mean_neurons == pytest.approx(statistics.mean(f["n_neurons"] for f in mine))
        assert row.n_with_neurons == sum(f["n_neurons"] > 0 for f in mine)


def test_relation_neurons_are_those_most_facts_share(a):
    counts = Counter(
        (r["layer"], r["neuron"]) for r in TABLES["knowledge_neurons"] if r["relation_id"] == "P30"
    )
    found = queries.relation_neurons(a, "P30", limit=1000)
    assert {(r.layer, r.neuron): r.n_facts for r in found.itertuples()} == dict(counts)
    assert found["n_facts"].is_monotonic_decreasing
    assert len(queries.relation_neurons(a, "P30", limit=3)) == 3
    assert queries.relation_neurons(a, "P999").empty


def test_relation_overlap_names_both_relations(a):
    found = queries.relation_overlap(a)
    assert len(found) == 16
    assert found["label_a"].notna().all()
    assert found["within"].sum() == 4


def test_the_layer_histogram_lists_every_layer(a):
    for relation in (None, "P36", "P999"):
        rows = [r for r in TABLES["knowledge_neurons"] if relation in (None, r["relation_id"])]
        counts = Counter(r["layer"] for r in rows)
        found = queries.layer_histogram(a, relation=relation)
        assert found["layer"].to_list() == list(range(N_LAYERS))
        assert found["n_pairs"].to_list() == [counts[layer] for layer in range(N_LAYERS)]


def test_relations_by_layers_are_shares_of_each_relation_s_pairs(a):
    pairs = Counter((r["relation_id"], r["layer"]) for r in TABLES["knowledge_neurons"])
    of_relation = Counter(r["relation_id"] for r in TABLES["knowledge_neurons"])
    found = queries.layers_by_relation(a)
    assert {(r.relation_id, r.layer): r.n_pairs for r in found.itertuples()} == pairs
    for r in found.itertuples():
        assert r.pair_share == pytest.approx(r.n_pairs / of_relation[r.relation_id])
    means = (found["layer"] * found["pair_share"]).groupby(found["relation_id"], sort=False).sum()
    assert means.is_monotonic_increasing


def test_an_overview_counts_facts_and_holds_effects_of_known_ones(a):
    seen = queries.overview(a)
    assert (seen.n_facts, seen.n_relations) == (len(TABLES["facts"]), 4)
    assert seen.n_known == sum(fact["known"] for fact in TABLES["facts"])
    own = seen.effects[seen.effects["group"] == "own"]
    assert set(own["n_facts"]) == {seen.n_known}
    assert seen.text == queries.telling_text(a)


def test_the_summary_counts_what_is_there(a):
    summary = queries.atlas_summary(a)
    facts, prompts = TABLES["facts"], TABLES["prompts"]
    assert (summary.n_relations, summary.n_facts, summary.n_prompts) == (4, len(facts), len(prompts))
    assert summary.n_known == sum(f["known"] for f in facts)
    assert summary.n_held_out == sum(p["held_out"] for p in prompts)
    assert summary.n_with_neurons == sum(f["n_neurons"] > 0 for f in facts)
    assert summary.mean_neurons == pytest.approx(statistics.mean(f["n_neurons"] for f in facts))
    assert summary.median_neurons == statistics.median(f["n_neurons"] for f in facts)
    assert summary.n_neurons == len({(r["layer"], r["neuron"]) for r in TABLES["knowledge_neurons"]})
    assert summary.converged_share == 1
    overlap = a.query("SELECT * FROM relation_overlap WHERE within")
    assert summary.within == pytest.approx((overlap["mean_shared"] * overlap["n_pairs"]).sum() / 420)
    assert 0 < summary.across < summary.within


@pytest.mark.parametrize("known", [None, True, False])
@pytest.mark.parametrize("held_out", [None, True, False])
def test_the_effect_summary_is_the_mean_over_prompts(known, held_out, a):
    is_known = {f["fact_id"]: f["known"] for f in TABLES["facts"]}
    expected = defaultdict(list)
    for r in TABLES["effects"]:
        if r["n_neurons"] == 0 or (held_out is not None and r["held_out"] != held_out):
            continue
        if known is not None and is_known[r["fact_id"]] != known:
            continue
        if known and not is_known[r["prompt_fact_id"]]:
            continue
        expected[r["intervention"], r["group"]].append(r)
    found = queries.effect_summary(a, known=known, held_out=held_out)
    assert {(r.intervention, r.group) for r in found.itertuples()} == set(expected)
    for row in found.itertuples():
        rows = expected[row.intervention, row.group]
        assert row.n_prompts == len(rows)
        assert row.n_facts == len({r["fact_id"] for r in rows})
        changes = [(r["p_after"] - r["p_before"]) / r["p_before"] for r in rows if r["p_before"] > 0]
        assert row.mean_relative_change == pytest.approx(statistics.mean(changes), rel=1e-5)
        ratio = sum(r["p_after"] for r in rows) / sum(r["p_before"] for r in rows) - 1
        assert row.ratio_of_means == pytest.approx(ratio, rel=1e-5)
        assert row.rank_1_after == pytest.approx(statistics.mean(r["rank_after"] == 1 for r in rows))
    # Other facts are asked with held-out prompts only.
    there = set(found["group"])
    assert there == {"own", *CONTROLS} if held_out is False else "unrelated" in there
    assert found["group"].to_list() == [group for group in NEURON_GROUPS if group in there] * 2


def test_an_atlas_without_scores_still_answers(published):
    fact = next(f for f in TABLES["facts"] if f["n_neurons"])
    found = queries.neurons_of_fact(published, fact["fact_id"])
    assert len(found) == fact["n_neurons"]
    assert found["promoted"].isna().all()
    assert queries.facts_matching(published, "oslo").total == len(
        facts_where(lambda f: f["object"] == "Oslo")
    )
    assert len(queries.facts_sharing_neurons(published, fact["fact_id"]))
    assert len(queries.relation_neurons(published, "P36"))
    assert len(queries.hub_neurons(published))
    for nothing in (
        queries.prompts_of_fact(published, fact["fact_id"]),
        queries.attributions_of_fact(published, fact["fact_id"]),
        queries.effects_of_fact(published, fact["fact_id"]),
        queries.rethreshold(published, fact["fact_id"], 0.2, 0.5),
        queries.effect_summary(published),
    ):
        assert nothing.empty
    summary = queries.atlas_summary(published)
    assert summary.n_prompts == 0
    assert summary.converged_share is None


def test_unmeasured_values_are_null_and_not_zero(tmp_path):
    folder = write_sample_atlas(tmp_path / "imported", leave_out=OPTIONAL_TABLES)
    facts = [{**f, "known": None, "mean_probability": None} for f in TABLES["facts"]]
    write_table(folder, "facts", facts)
    write_manifest(folder, replace(read_manifest(folder), files=record_files(folder)))
    with atlas.open(folder) as imported:
        assert queries.atlas_summary(imported).n_known is None
        relations = queries.relations(imported)
        assert relations[["n_known", "known_share", "mean_probability"]].isna().all(axis=None)
        assert queries.fact(imported, TABLES["facts"][0]["fact_id"])["known"] is None
        assert queries.facts_matching(imported, known=True).total == 0


# What the model says layer by layer, and writes ------------------------------------------------------


def test_the_lens_has_every_layer_of_both_prompts_and_counts_the_fact_s_neurons(a):
    rows = queries.lens_of_fact(a, "P36-00001")
    plain = sample_tables()["lens"]
    mine = {(r["template_id"], r["layer"]): r for r in plain if r["fact_id"] == "P36-00001"}
    assert len(rows) == len(mine) == 2 * 4
    for row in rows.itertuples():
        stored = mine[row.template_id, row.layer]
        assert row.probability == pytest.approx(stored["probability"])
        assert (row.rank, [each["token"] for each in row.top]) == (
            stored["rank"],
            [each["token"] for each in stored["top"]],
        )
    assert rows["held_out"].tolist() == [True] * 4 + [False] * 4
    counts = queries.neurons_of_fact(a, "P36-00001").groupby("layer").size()
    assert rows.head(4)["n_neurons"].tolist() == [counts.get(layer, 0) for layer in range(4)]


def test_texts_stand_beside_the_unchanged_one_of_their_own_prompt(a):
    rows = queries.generations_of_fact(a, "P36-00001").set_index("group")
    plain = [r for r in sample_tables()["generations"] if r["fact_id"] == "P36-00001"]
    assert list(rows.index) == ["unchanged", "own", "random", "unrelated"]
    assert rows["text"].to_dict() == {r["group"]: r["text"] for r in plain}
    assert (rows.loc[["unchanged", "own", "random"], "unchanged"] == rows.loc["unchanged", "text"]).all()
    other = rows.loc["unrelated", "prompt_fact_id"]
    (theirs,) = [
        r["text"]
        for r in sample_tables()["generations"]
        if r["fact_id"] == other and r["group"] == "unchanged"
    ]
    assert other != "P36-00001"
    assert rows.loc["unrelated", "unchanged"] == theirs
    assert rows.loc["unrelated", "subject"] == queries.fact(a, other)["subject"]


def test_examples_are_known_facts_of_different_relations(a):
    facts = queries.example_facts(a, limit=4)
    assert facts["relation_id"].nunique() == 4
    known = a.query("SELECT fact_id FROM facts WHERE known AND n_neurons > 0")["fact_id"]
    assert set(facts["fact_id"]) <= set(known)


def test_example_neurons_have_different_names_and_the_best_scores(a):
    found = queries.example_neurons(a)
    names = [label.split(" · ")[0] for label in found["label"]]
    assert len(set(names)) == len(names) == 3
    assert queries.neurons_named(a, [Neuron(3, 11), Neuron(3, 254)]).to_dict("records") == [
        {
            "layer": 3,
            "neuron": 11,
            "n_facts": queries.neuron(a, 3, 11)["n_facts"],
            "label": queries.neuron(a, 3, 11)["label"],
        },
        {"layer": 3, "neuron": 254, "n_facts": 0, "label": pytest.approx(float("nan"), nan_ok=True)},
    ]
