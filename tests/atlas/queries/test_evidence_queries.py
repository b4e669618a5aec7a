"""Queries of measurements equal counts of their tables' rows in plain Python."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from statistics import mean

import pandas as pd
import pytest

from atlas.queries import evidence
from atlas.store.atlas import Atlas
from atlas.store.manifest import read_manifest, record_files, write_manifest
from tests.sample_atlas import sample_tables, write_sample_atlas, write_table

TABLES = sample_tables(60)
FACTS = {fact["fact_id"]: fact for fact in TABLES["facts"]}


@pytest.fixture(scope="module")
def a(tmp_path_factory):
    with Atlas(write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")) as opened:
        yield opened


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An atlas without measurements."""
    folder = tmp_path_factory.mktemp("atlases") / "bare"
    with Atlas(write_sample_atlas(folder, leave_out=("effects", *evidence.LOADED))) as opened:
        yield opened


def rows_of(table: str, **fixed) -> list[dict]:
    return [row for row in TABLES[table] if all(row[name] == value for name, value in fixed.items())]


# Suppress and amplify --------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", ["all", "P36"])
@pytest.mark.parametrize("facts", ["known", "unknown", "all"])
def test_effects_are_the_summaries_own_neurons_first(relation, facts, a):
    found = evidence.effects(a, relation=relation, facts=facts)
    expected = rows_of("effect_summaries", relation_id=relation, facts=facts)
    keys = ("intervention", "group", "templates")
    order = [
        ("suppress", "amplify"),
        evidence.NEURON_GROUPS,
        ("held-out", "discovery"),
    ]
    expected.sort(key=lambda row: [names.index(row[key]) for key, names in zip(keys, order, strict=True)])
    assert len(expected) >= 10
    assert [tuple(row[key] for key in keys) for row in found.to_dict("records")] == [
        tuple(row[key] for key in keys) for row in expected
    ]
    for column in ("paper_change", "replication_high", "mean_after", "top_changed", "n_prompts"):
        assert found[column].tolist() == pytest.approx([row[column] for row in expected])


def test_effects_can_be_those_of_one_kind_of_templates(a):
    both = evidence.effects(a)
    for templates in ("held-out", "discovery"):
        found = evidence.effects(a, templates=templates)
        expected = both[both["templates"] == templates].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected)
    # Unrelated facts are asked on held-out prompts only.
    assert set(both[both["group"] == "unrelated"]["templates"]) == {"held-out"}


def effects(**changes: tuple[float, float, float]) -> pd.DataFrame:
    """Rows of `evidence.effects` of one intervention: group → change, low, high."""
    return pd.DataFrame(
        {
            "intervention": "suppress",
            "group": list(changes),
            "paper_change": [change for change, _, _ in changes.values()],
            "paper_low": [low for _, low, _ in changes.values()],
            "paper_high": [high for _, _, high in changes.values()],
        }
    )


def test_the_strongest_control_has_the_largest_change_of_the_same_sign():
    rows = effects(
        own=(-0.8, -0.9, -0.7),
        random=(0.9, 0.8, 1.0),
        matched=(-0.2, -0.3, -0.1),
        baseline=(-0.6, -0.7, -0.5),
        unrelated=(-0.1, -0.2, 0.0),
    )
    found = evidence.judged(rows, "suppress")
    assert (found.own, found.low, found.high) == (-0.8, -0.9, -0.7)
    assert (found.control, found.beside) == ("baseline", -0.6)
    assert found.share == pytest.approx(0.75)
    assert found.expected
    assert not found.none


def test_an_effect_counts_only_when_its_whole_interval_has_the_expected_sign():
    assert not evidence.judged(effects(own=(-0.1, -0.2, 0.01)), "suppress").expected
    assert evidence.judged(effects(own=(-0.1, -0.2, 0.01)), "suppress").none
    assert evidence.judged(effects(own=(-0.1, -0.2, -0.01)), "suppress").expected
    amplified = effects(own=(-0.05, -0.06, -0.04), matched=(-0.26, -0.27, -0.25)).assign(
        intervention="amplify"
    )
    found = evidence.judged(amplified, "amplify")
    assert not found.expected
    assert not found.none
    assert (found.control, found.share) == ("matched", pytest.approx(5.2))
    assert evidence.judged(effects(own=(0.3, 0.2, 0.4)).assign(intervention="amplify"), "amplify").expected


def test_a_single_fact_without_an_interval_is_judged_by_its_sign():
    unknown = float("nan")
    found = evidence.judged(effects(own=(-0.9, unknown, unknown)), "suppress")
    assert found.expected
    assert not found.none
    assert not evidence.judged(effects(own=(0.1, unknown, unknown)), "suppress").expected


def test_controls_of_the_opposite_sign_do_not_count():
    found = evidence.judged(effects(own=(-0.8, -0.9, -0.7), random=(0.1, 0.0, 0.2)), "suppress")
    assert (found.control, found.beside, found.share) == (None, None, 0)
    assert evidence.judged(effects(random=(0.1, 0.0, 0.2)), "suppress") is None
    assert evidence.judged(effects(own=(-0.8, -0.9, -0.7)), "amplify") is None


# Erase -----------------------------------------------------------------------------------------------


def test_doses_are_those_of_the_relation_s_own_prompts(a):
    found = evidence.erasure_doses(a, "P36")
    expected = rows_of("erasures", relation_id="P36", asked_relation_id="P36")
    doses = sorted({row["n_neurons"] for row in expected})
    assert len(doses) > 3
    assert found["n_neurons"].tolist() == doses * 2
    assert found["group"].tolist() == ["own"] * len(doses) + ["random"] * len(doses)
    by_dose = {(row["group"], row["n_neurons"]): row for row in expected}
    for row in found.itertuples():
        measured = by_dose[row.group, row.n_neurons]
        assert row.accuracy_after == pytest.approx(measured["accuracy_after"])
        assert row.perplexity_before == pytest.approx(measured["perplexity_before"], rel=1e-5)


def test_other_relations_are_those_asked_at_the_paper_s_dose(a):
    found = evidence.erasure_elsewhere(a, "P36")
    expected = rows_of("erasures", relation_id="P36", n_neurons=evidence.PAPER_DOSE)
    assert {(row.group, row.asked_relation_id) for row in found.itertuples()} == {
        (row["group"], row["asked_relation_id"]) for row in expected
    }
    assert len(found) == len(expected) > 4
    assert found["itself"].tolist() == [asked == "P36" for asked in found["asked_relation_id"]]
    labels = {row["relation_id"]: row["label"] for row in TABLES["relations"]}
    assert found["label"].tolist() == [labels[asked] for asked in found["asked_relation_id"]]


def test_the_dose_is_the_one_at_which_most_relations_were_asked(tmp_path):
    """The study does so where a relation has fewer neurons than the paper erases."""
    folder = write_sample_atlas(tmp_path / "few")
    rows = [
        row if row["asked_relation_id"] == row["relation_id"] else row | {"n_neurons": 5}
        for row in TABLES["erasures"]
    ]
    write_table(folder, "erasures", rows)
    write_manifest(folder, replace(read_manifest(folder), files=record_files(folder)))
    with Atlas(folder) as few:
        found = evidence.erasure_elsewhere(few, "P36")
    assert set(found["n_neurons"]) == {5}
    assert found["asked_relation_id"].nunique() == 4


# Edits -----------------------------------------------------------------------------------------------

COUNTED = {
    "changed": ("edited", lambda row: row["rank_old_after"] > 1),
    "success": ("edited", lambda row: row["rank_new_after"] == 1),
    "top_5": ("edited", lambda row: row["rank_new_after"] <= 5),
    "paraphrase": ("paraphrase", lambda row: row["rank_new_after"] == 1),
    "symmetry": ("symmetry", lambda row: row["rank_new_after"] == 1),
    "same_object": ("same_object", lambda row: row["rank_old_after"] == 1),
    "same_relation": ("same_relation", lambda row: row["rank_old_after"] == 1),
    "other_relation": ("other_relation", lambda row: row["rank_old_after"] == 1),
}


@pytest.mark.parametrize("relation", [None, "P36", "P103"])
def test_edit_rates_count_prompts(relation, a):
    expected = defaultdict(list)
    edits = defaultdict(set)
    for row in TABLES["edits"]:
        if relation is not None and FACTS[row["fact_id"]]["relation_id"] != relation:
            continue
        for measure, (kind, counts) in COUNTED.items():
            kept = row["rank_old_before"] == 1 or not measure.startswith(("same_", "other_"))
            if row["kind"] == kind and kept:
                key = measure, row["add"], row["group"]
                expected[key].append(counts(row))
                edits[key].add((row["fact_id"], row["new_object"]))
    found = evidence.edit_rates(a, relation=relation)
    assert {(row.measure, row.add, row.group) for row in found.itertuples()} == set(expected)
    for row in found.itertuples():
        key = row.measure, row.add, row.group
        assert row.share == pytest.approx(mean(expected[key]))
        assert row.n_prompts == len(expected[key])
        assert row.n_edits == len(edits[key])
    assert {share for share in found["share"] if 0 < share < 1}
    # The paper's strength first, then the measures and the groups in their order.
    assert list(dict.fromkeys(found["add"])) == [8.0, 2.0]
    assert list(dict.fromkeys(found["measure"])) == [
        name for name in COUNTED if any(key[0] == name for key in expected)
    ]
    assert list(dict.fromkeys(found["group"])) == ["own", "all", "random", "random_all"]


def test_edits_of_a_fact_begin_with_the_edited_prompt(a):
    fact_id = TABLES["edits"][0]["fact_id"]
    found = evidence.edits_of_fact(a, fact_id)
    keys = ("add", "group", "kind", "prompt_fact_id", "template_id")
    expected = {tuple(row[key] for key in keys): row for row in rows_of("edits", fact_id=fact_id)}
    assert len(found) == len(expected)
    assert found["kind"].iloc[0] == "edited"
    assert found["group"].head(4).tolist() == ["own", "all", "random", "random_all"]
    texts = {(row["fact_id"], row["template_id"]): row["text"] for row in TABLES["prompts"]}
    for row in found.itertuples():
        measured = expected[tuple(getattr(row, key) for key in keys)]
        assert row.p_new_after == pytest.approx(measured["p_new_after"], nan_ok=True) or (
            pd.isna(row.p_new_after) and measured["p_new_after"] is None
        )
        assert row.text == texts[row.prompt_fact_id, row.template_id]
        assert row.subject == FACTS[row.prompt_fact_id]["subject"]


# One fact --------------------------------------------------------------------------------------------


def test_counts_show_which_experiments_include_a_fact(a):
    seen = set()
    for fact_id in FACTS:
        found = evidence.counts(a, fact_id)
        assert found == {table: len(rows_of(table, fact_id=fact_id)) for table in evidence.FACT_TABLES}
        seen.add(tuple(n > 0 for n in found.values()))
    # Facts in every experiment, in some, and in none.
    assert len(seen) >= 3


def test_the_subset_curve_begins_with_nothing_suppressed(a):
    fact_id = TABLES["subsets"][0]["fact_id"]
    found = evidence.subset_curve(a, fact_id)
    for order in ("score", "random"):
        expected = sorted(rows_of("subsets", fact_id=fact_id, order=order), key=lambda row: row["k"])
        part = found[found["order"] == order]
        assert part["k"].tolist() == [0, *(row["k"] for row in expected)]
        assert part["p_after"].tolist() == pytest.approx(
            [expected[0]["p_before"], *(row["p_after"] for row in expected)]
        )
    assert found["order"].iloc[0] == "score"


def test_stability_and_contexts_are_the_fact_s_rows(a):
    fact_id = TABLES["stability"][0]["fact_id"]
    (measured,) = rows_of("stability", fact_id=fact_id)
    found = evidence.stability_of_fact(a, fact_id)
    assert found == pytest.approx({name: measured[name] for name in found})
    contexts = evidence.contexts_of_fact(a, fact_id)
    expected = {
        (row["context"], row["group"]): row["relative"] for row in rows_of("contexts", fact_id=fact_id)
    }
    assert {
        (row.context, row.group): pytest.approx(row.relative) for row in contexts.itertuples()
    } == expected
    assert list(dict.fromkeys(contexts["context"])) == ["fact", "subject", "relation", "random"]


def test_unmeasured_tables_are_empty(bare):
    fact_id = TABLES["subsets"][0]["fact_id"]
    assert evidence.counts(bare, fact_id) == dict.fromkeys(evidence.FACT_TABLES, 0)
    assert evidence.stability_of_fact(bare, fact_id) is None
    for rows in (
        evidence.effects(bare),
        evidence.erasure_doses(bare, "P36"),
        evidence.erasure_elsewhere(bare, "P36"),
        evidence.edit_rates(bare),
        evidence.edits_of_fact(bare, fact_id),
        evidence.subset_curve(bare, fact_id),
        evidence.contexts_of_fact(bare, fact_id),
    ):
        assert rows.empty


def test_an_unknown_relation_or_fact_is_no_error(a):
    assert evidence.effects(a, relation="P0'; --").empty
    assert evidence.erasure_doses(a, "P0").empty
    assert evidence.edit_rates(a, relation="P0").empty
    assert evidence.counts(a, "P0-1") == dict.fromkeys(evidence.FACT_TABLES, 0)
