"""How few of a fact's neurons give half the effect: rows from zeroing by hand, halves by counting."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from atlas.neuron import Neuron
from atlas.queries.subsets import half_effect
from atlas.store.atlas import DATA, Atlas
from atlas.store.manifest import read_manifest
from build.evidence import STUDIES
from build.evidence.setting import Setting
from build.evidence.subsets import measure, subset_sizes, summary, units
from build.output.check import check_rows
from tests.by_hand import probability_scaled
from tests.sample_atlas import replace_table, sample_tables, write_sample_atlas

# --- what is asked ---


@pytest.mark.parametrize("n", [1, 2, 20, 39, 40, 41, 42, 57, 100, 283, 5000])
def test_doses_are_every_number_or_every_small_one_and_a_grid_to_all(n):
    found = subset_sizes(n)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (1, n)
    assert found[:20] == list(range(1, min(n, 20) + 1))
    assert len(found) == min(n, 40)
    if n > 40:
        steps = [b - a for a, b in pairwise(found[19:])]
        assert max(steps) - min(steps) <= 1


def test_facts_without_held_out_prompts_are_not_asked(tmp_path):
    folder = write_sample_atlas(tmp_path / "sample")
    prompts = sample_tables()["prompts"]
    without = {"P36-00000", "P103-00001"}
    for row in prompts:
        row["held_out"] &= row["fact_id"] not in without
    with Atlas(replace_table(folder, "prompts", prompts)) as atlas:
        asked = {fact_id for unit in units(Setting(atlas, "none")) for fact_id in unit}
        with_neurons = set(atlas.query("SELECT fact_id FROM facts WHERE n_neurons > 0")["fact_id"])
    assert without < with_neurons
    assert asked == with_neurons - without


# --- the rows, from the model by hand ---


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(Atlas(DATA / "starter-pocket-bert"), "pocket-bert")


@pytest.fixture(scope="module")
def facts(setting: Setting) -> tuple[str, str]:
    """A known fact of few neurons and one of many."""
    few, many = (
        setting.atlas.query_one(
            "SELECT fact_id FROM facts WHERE known AND n_neurons BETWEEN $low AND $high ORDER BY fact_id",
            {"low": low, "high": high},
        )
        for low, high in ((3, 12), (55, 70))
    )
    return few["fact_id"], many["fact_id"]


@pytest.fixture(scope="module")
def rows(setting: Setting, facts: tuple[str, str]) -> pd.DataFrame:
    return table_of(measure(setting, facts))


def table_of(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).set_index(["fact_id", "order", "k"]).sort_index()


def by_hand(setting: Setting, fact_id: str, neurons: list[Neuron]) -> float:
    """Mean probability of the answer on held-out prompts with these neurons zero."""
    prompts = [each.prompt for each in setting.by_id[fact_id].prompts if each.held_out]
    return float(np.mean([probability_scaled(setting.subject, prompt, neurons, 0) for prompt in prompts]))


def by_score(setting: Setting, fact_id: str) -> list[Neuron]:
    rows = setting.atlas.query(
        "SELECT layer, neuron, mean_score FROM knowledge_neurons WHERE fact_id = $fact_id",
        {"fact_id": fact_id},
    )
    plain = sorted(rows.itertuples(), key=lambda row: (-row.mean_score, row.layer, row.neuron))
    return [Neuron(row.layer, row.neuron) for row in plain]


def test_each_dose_is_what_zeroing_the_best_scored_neurons_by_hand_gives(setting, facts, rows):
    for fact_id in facts:
        neurons = by_score(setting, fact_id)
        n = len(neurons)
        of_fact = rows.loc[fact_id, "score"]
        assert list(of_fact.index) == subset_sizes(n)
        assert (of_fact["n_neurons"] == n).all()
        assert of_fact["p_before"].to_numpy() == pytest.approx(by_hand(setting, fact_id, []), rel=1e-4)
        for k in {1, 3, subset_sizes(n)[-2], n}:
            expected = by_hand(setting, fact_id, neurons[:k])
            assert of_fact.loc[k, "p_after"] == pytest.approx(expected, rel=1e-3), (fact_id, k)


def test_the_random_order_adds_one_neuron_at_a_time_and_ends_with_all(setting, facts, rows):
    few, many = facts
    neurons = by_score(setting, few)
    first: list[Neuron] = []
    # Which neuron comes next is read off its effect: exactly one gives this probability.
    for k in range(1, 4):
        wanted = rows.loc[few, "random", k]["p_after"]
        apart = {
            each: abs(by_hand(setting, few, [*first, each]) - wanted) for each in set(neurons) - set(first)
        }
        found = min(apart, key=apart.get)
        assert apart[found] < 1e-3 * wanted
        first.append(found)
    assert first != neurons[:3]
    for fact_id in facts:
        n = rows.loc[fact_id]["n_neurons"].iloc[0]
        whole = rows.loc[fact_id].xs(n, level="k")["p_after"]
        assert whole["random"] == pytest.approx(whole["score"], rel=1e-4)
    assert (rows.loc[many, "random"]["p_after"] - rows.loc[many, "score"]["p_after"]).abs().max() > 1e-3


def test_the_random_order_is_another_with_another_seed_and_the_same_with_the_same(setting, facts, rows):
    few = facts[0]
    again = table_of(measure(setting, [few]))
    assert again["p_after"].to_numpy() == pytest.approx(rows.loc[[few]]["p_after"].to_numpy(), rel=1e-5)
    other = Setting(setting.atlas, "pocket-bert", seed=1)
    other.subject = setting.subject
    moved = table_of(measure(other, [few]))
    apart = (moved["p_after"] - again["p_after"]).abs().groupby("order").max()
    assert apart["score"] < 1e-6
    assert apart["random"] > 1e-4


# --- half of the effect ---

# Probability before, and after 1, 2, 3 … neurons (n is their number, or as given with the doses).
CURVES = {
    ("P36-00000", "score"): (0.8, {1: 0.3, 2: 0.2, 3: 0.2}),  # half of 0.6 is 0.3: one suffices
    ("P36-00000", "random"): (0.8, {1: 0.7, 2: 0.51, 3: 0.2}),  # 0.29 is not half
    ("P36-00001", "score"): (0.5, {1: 0.49, 2: 0.47, 3: 0.46}),  # no effect that could be halved
    ("P36-00001", "random"): (0.5, {1: 0.55, 2: 0.5, 3: 0.46}),
    ("P30-00000", "score"): (0.4, {1: 0.1, 2: 0.3, 4: 0.05, 6: 0.2}),  # more hurts less, twice
    ("P30-00000", "random"): (0.4, {1: 0.398, 2: 0.4, 4: 0.29, 6: 0.2}),
    ("P36-00004", "score"): (0.5, {1: 0.0}),  # a single neuron: no next step; not known
    ("P36-00004", "random"): (0.5, {1: 0.0}),
    ("P30-00002", "score"): (0.5, {1: 0.6, 2: 0.9}),  # suppressing raises
    ("P30-00001", "score"): (0.0, {1: 0.0, 2: 0.0}),  # nothing to lose
}


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    rows = [
        {"fact_id": fact_id, "order": order, "k": k, "n_neurons": max(after), "p_before": p, "p_after": value}
        for (fact_id, order), (p, after) in CURVES.items()
        for k, value in after.items()
    ]
    folder = write_sample_atlas(tmp_path_factory.mktemp("halved") / "sample")
    return Atlas(replace_table(folder, "subsets", rows))


def test_half_the_effect_is_the_first_dose_whose_fall_is_half_of_all(halved):
    found = half_effect(halved).set_index(["fact_id", "order"])
    assert set(found.index) == set(CURVES)
    assert found.loc[("P36-00000", "score"), "k_half"] == 1
    assert found.loc[("P36-00000", "random"), "k_half"] == 3
    assert found.loc["P36-00001", "k_half"].isna().all()
    for key, (p, after) in CURVES.items():
        row = found.loc[key]
        assert row["n_neurons"] == max(after)
        if not p:
            assert row[["k_half", "fall_all", "fall_first", "fall_most"]].isna().all()
            continue
        falls = [1 - value / p for value in after.values()]
        expected = next((k for k, fall in zip(after, falls, strict=True) if fall >= falls[-1] / 2), None)
        if falls[-1] < 0.1:
            assert np.isnan(row["k_half"])
        else:
            assert row["k_half"] == expected
        assert row[["fall_all", "fall_first", "fall_most"]].tolist() == pytest.approx(
            [falls[-1], falls[0], max(falls)], abs=1e-6
        )
        rises = [b < a - 0.01 for a, b in pairwise(falls)]
        assert row["rises"] == pytest.approx(np.mean(rises)) if rises else np.isnan(row["rises"])


def test_the_summary_counts_facts_and_the_steps_at_which_more_hurts_less(halved):
    known = dict(halved.query("SELECT fact_id, known FROM facts").itertuples(index=False))
    assert not known["P36-00004"]
    assert all(known[fact_id] for fact_id, _ in CURVES if fact_id != "P36-00004")
    lines = {line.split("  ")[0]: line.split() for line in summary(halved)}
    every = lines["all, 3 of 6 facts, score"]
    # k of P36-00000, P30-00000, P36-00004: 1, 1, 1 of 3, 6, 1; rises 0 of 2, 2 of 3; one overshoots.
    assert every[6:] == ["1", "(1", "to", "1)", "25%", "33%", "67%", "100%", "33.3%", "33%"]
    some = lines["known, 2 of 3 facts, random"]
    assert some[6:10] == ["3.5", "(3.25", "to", "3.75)"]  # 3 of 3 and 4 of 6


def test_facts_without_an_effect_are_counted_and_nothing_is_said_of_them(tmp_path):
    folder = write_sample_atlas(tmp_path / "sample")
    row = {"fact_id": "P36-00000", "order": "score", "k": 1, "n_neurons": 1, "p_before": 0.5, "p_after": 0.5}
    with Atlas(replace_table(folder, "subsets", [row, row | {"order": "random"}])) as atlas:
        # Its only fact is known, so nothing is said twice.
        assert summary(atlas)[2:] == ["known, 0 of 1 facts, score", "known, 0 of 1 facts, random"]


# --- the check of an atlas ---


def test_a_synthetic_atlas_passes_and_subsets_that_contradict_its_other_tables_do_not(tmp_path):
    others = tuple(
        table
        for study in STUDIES.values()
        for table in study.tables
        if not study.extends and table != "subsets"
    )
    folder = write_sample_atlas(tmp_path / "sample", leave_out=others)
    with Atlas(folder) as atlas:
        rows = atlas.query("SELECT * FROM subsets").to_dict("records")
    n_orders = len({(row["fact_id"], row["order"]) for row in rows})

    def problems(change: dict, which=lambda row: True) -> list[str]:
        broken = [row | change if which(row) else row for row in rows]
        replace_table(folder, "subsets", broken)
        return [each for each in check_rows(folder, read_manifest(folder)).problems if "key" not in each]

    assert problems({}) == []
    assert problems({"p_after": 1.5}) == [f"{len(rows)} subsets have a probability outside 0 to 1"]
    assert problems({"p_after": float("nan")}) == [f"{len(rows)} subsets have a probability outside 0 to 1"]
    mean = "subsets do not start from the mean probability of their fact's held-out prompts"
    assert problems({"p_before": 0.123}) == [f"{len(rows)} {mean}"]
    order = "orders of a fact's neurons do not go from 1 to all of them"
    assert problems({"n_neurons": 99}) == [f"{n_orders} {order}"]
    assert problems({"k": 0}, lambda row: row["k"] == 1) == [f"{n_orders} {order}"]
    last = sum(row["k"] == row["n_neurons"] for row in rows)
    assert problems({"k": 100}, lambda row: row["k"] == row["n_neurons"]) == [f"{last} {order}"]
