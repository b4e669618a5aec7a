"""Statistics: every number against loops over pairs of facts, and the grid against plain refinement."""

import shutil
import time
from collections import Counter
from dataclasses import replace
from itertools import combinations
from statistics import mean, median

import pandas as pd
import pyarrow as pa
import pytest

from atlas.errors import BuildError
from atlas.store.atlas import Atlas, bundled
from atlas.store.manifest import read_manifest, write_manifest
from atlas.store.schema import TABLES
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from build.evidence.setting import Setting
from build.evidence.statistics import SHARES, THRESHOLDS, count_neurons, measure, units
from tests.plain_refinement import plain_facts, plain_mode, plain_neurons

POCKET = bundled().get("starter-pocket-bert")


def plain_count(found, facts, n_layers):
    """The numbers of a row by loops: `found` has a set a fact, `facts` (fact, relation, object)."""
    relation = {fact_id: r for fact_id, r, _ in facts}
    answer = {fact_id: o.lower() for fact_id, _, o in facts}
    members = {}
    for fact_id, r, _ in facts:
        members.setdefault(r, []).append(fact_id)

    def alike(groups):
        means = [mean(len(found[a] & found[b]) for a, b in pairs) for pairs in groups if pairs]
        return mean(means) if means else None

    pairs = {r: list(combinations(each, 2)) for r, each in members.items()}
    same = {r: [(a, b) for a, b in each if answer[a] == answer[b]] for r, each in pairs.items()}
    other = {r: [(a, b) for a, b in each if answer[a] != answer[b]] for r, each in pairs.items()}
    both = [r for r in pairs if same[r] and other[r]]
    sizes = [len(found[fact_id]) for fact_id in relation]
    neurons = Counter(neuron for each in found.values() for neuron in each)
    common = {n for n, _ in sorted(neurons.items(), key=lambda each: (-each[1], each[0]))[:20]}
    sets = [frozenset(each) for each in found.values() if each]
    total = sum(sizes)
    return {
        "n_facts": len(facts),
        "n_empty": sizes.count(0),
        "mean_neurons": mean(sizes),
        "median_neurons": median(sizes),
        "most_neurons": max(sizes),
        "within": alike(pairs.values()),
        "across": alike(
            [(a, b) for a in members[r] for b in members[s]] for r, s in combinations(members, 2)
        ),
        "same_object": alike(same[r] for r in both),
        "other_object": alike(other[r] for r in both),
        "identical": mean(sets.count(each) > 1 for each in sets) if sets else None,
        "commonest": max(neurons.values(), default=0) / len(facts),
        "hubs": mean(bool(found[fact_id] & common) for fact_id in relation),
        "layer_shares": [
            sum(n for (at, _), n in neurons.items() if at == layer) / total for layer in range(n_layers)
        ]
        if total
        else None,
    }


def equal(row, expected):
    for name, value in expected.items():
        assert row[name] == (value if value is None else pytest.approx(value)), name


def triples(atlas, relations=None):
    rows = atlas.query("SELECT fact_id, relation_id, object FROM facts ORDER BY fact_id").itertuples()
    return [
        (r.fact_id, r.relation_id, r.object) for r in rows if relations is None or r.relation_id in relations
    ]


def as_tables(found, facts):
    rows = [
        {"fact_id": fact_id, "layer": layer, "neuron": neuron}
        for fact_id, each in found.items()
        for layer, neuron in each
    ]
    wanted = TABLES["knowledge_neurons"]
    schema = pa.schema([wanted.field(name) for name in ("fact_id", "layer", "neuron")])
    return pa.Table.from_pylist(rows, schema=schema), pd.DataFrame(
        facts, columns=["fact_id", "relation_id", "object"]
    )


@pytest.fixture(scope="module")
def plain(sample):
    """Of the synthetic atlas: (mode, t, p) → neurons by plain loops."""
    with Atlas(sample) as atlas:
        facts = plain_facts(atlas)
    found = {(name, None, None): plain_mode(name, facts) for name in ("default", "paper", "replication")}
    for threshold in THRESHOLDS:
        for share in SHARES:
            found["grid", threshold, share] = plain_neurons(
                facts, threshold=threshold, percent=round(100 * share), at_least=2 if share >= 0.5 else 1
            )
    return found


def test_every_mode_and_grid_point_has_the_numbers_that_loops_give(sample, plain):
    with Atlas(sample) as atlas:
        setting = Setting(atlas, "none")
        facts = triples(atlas)
        assert set(units(setting)) == {*plain, ("stored", None, None)}
        distinct = set()
        for unit, found in plain.items():
            (row,) = measure(setting, unit)
            equal(row, plain_count(found, facts, 4))
            distinct.add(row["mean_neurons"])
        assert len(distinct) > 10
        (stored,) = measure(setting, ("stored", None, None))
    (default,) = measure(Setting(Atlas(sample), "none"), ("default", None, None))
    assert stored == default | {"mode": "stored"}


def test_rows_say_which_thresholds_made_them(sample):
    with Atlas(sample) as atlas:
        setting = Setting(atlas, "none")
        rows = [row for unit in units(setting)[:6] for row in measure(setting, unit)]
    assert [(row["mode"], row["threshold"], row["share"]) for row in rows] == [
        ("stored", 0.2, 0.5),
        ("default", 0.2, 0.5),
        ("paper", 0.2, None),
        ("replication", 0.3, 0.3),
        ("grid", 0.1, 0.25),
        ("grid", 0.1, 0.5),
    ]


def test_the_stored_neurons_of_a_real_atlas_are_counted_as_loops_count_them():
    relations = ["P246", "P30", "P462"]
    with Atlas(POCKET) as atlas:
        facts = triples(atlas, relations)
        rows = atlas.query("SELECT fact_id, layer, neuron FROM knowledge_neurons")
    rows = rows[rows["fact_id"].isin([fact_id for fact_id, _, _ in facts])]
    found = {fact_id: set() for fact_id, _, _ in facts}
    for row in rows.itertuples():
        found[row.fact_id].add((row.layer, row.neuron))
    table, frame = as_tables(found, facts)
    row = count_neurons(table, frame, n_layers=3)
    equal(row, plain_count(found, facts, 3))
    assert row["same_object"] > row["other_object"] > 0


A, B, C = (0, 1), (0, 2), (1, 0)


@pytest.mark.parametrize(
    "facts",
    [
        {("a", "P1", "x"): {A, B}},
        {("a", "P1", "x"): {A, B}, ("b", "P1", "X "): {A, B}, ("c", "P1", "x"): set()},
        {("a", "P1", "x"): {A}, ("b", "P1", "y"): {A, C}, ("c", "P1", "x"): {C, A}},
        {("a", "P1", "x"): {A}, ("b", "P2", "x"): {A, C}, ("c", "P3", "x"): set()},
        {("a", "P1", "x"): set(), ("b", "P1", "x"): set(), ("c", "P2", "y"): set()},
    ],
    ids=["one fact", "one object", "one relation", "relations of one fact", "no neurons"],
)
def test_small_atlases_are_counted_and_what_has_no_pairs_is_null(facts):
    triples = [(fact_id, relation, answer.strip()) for fact_id, relation, answer in facts]
    found = {fact_id: neurons for (fact_id, _, _), neurons in facts.items()}
    table, frame = as_tables(found, list(facts))
    row = count_neurons(table, frame, n_layers=2)
    equal(row, plain_count(found, triples, 2))
    if len({relation for _, relation, _ in triples}) == 1:
        assert row["across"] is None


def test_sets_that_two_facts_have_are_identical():
    found = {"a": {A, C}, "b": {C, A}, "c": {A}, "d": set(), "e": set()}
    table, frame = as_tables(found, [(fact_id, "P1", fact_id) for fact_id in found])
    assert count_neurons(table, frame, n_layers=2)["identical"] == pytest.approx(2 / 3)


def test_no_fact_at_all_gives_no_number():
    table, frame = as_tables({}, [])
    row = count_neurons(table, frame.astype(str), n_layers=2)
    assert (row["n_facts"], row["n_empty"], row["most_neurons"]) == (0, 0, 0)
    assert {row[name] for name in ("mean_neurons", "median_neurons", "within", "hubs", "identical")} == {None}


def test_a_mode_of_a_real_atlas_takes_seconds():
    with Atlas(POCKET) as atlas:
        setting = Setting(atlas, "pocket-bert")
        started = time.process_time()
        (row,) = measure(setting, ("grid", 0.1, 0.25))
        assert time.process_time() - started < 20
        unmarked = atlas.query_one("SELECT count(*) AS n FROM facts WHERE NOT (contested OR guessable)")
    assert row["n_facts"] == unmarked["n"]
    assert row["mean_neurons"] > 100


def test_the_command_adds_one_row_a_refinement_and_says_what_moves_most(sample, tmp_path):
    folder = shutil.copytree(sample, tmp_path / "copy")
    said = evaluate_atlas(folder, EvaluateOptions(experiments="statistics"))
    with Atlas(folder) as atlas:
        rows = atlas.query("SELECT * FROM statistics")
        stored = atlas.query("SELECT * FROM layer_histogram")
    assert len(rows) == 4 + len(THRESHOLDS) * len(SHARES)
    shares = rows.loc[rows["mode"] == "stored", "layer_shares"].item()
    assert shares[stored["layer"]] == pytest.approx(stored["pair_share"].to_numpy())
    grid = rows[rows["mode"] == "grid"]
    assert f"{grid['within'].min():.3f} to {grid['within'].max():.3f}" in said
    more = (grid["within"] > grid["across"]).sum()
    assert f"more is shared within a relation than across in {more} of 28" in said
    assert grid["across"].min() > 0
    moved = {
        grid[name].max() / grid[name].min(): words
        for name, words in (
            ("mean_neurons", "neurons a fact"),
            ("within", "shared within a relation"),
            ("across", "shared across"),
            ("commonest", "facts with the commonest neuron"),
            ("hubs", "facts with a hub"),
        )
    }
    assert f"they change most: {moved[max(moved)]}" in said


def test_an_atlas_that_says_nothing_of_its_refinement_gets_a_sentence(sample, tmp_path):
    folder = shutil.copytree(sample, tmp_path / "copy")
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, method=replace(manifest.method, refinement={})))
    with pytest.raises(BuildError, match=r"does not say how its neurons were refined\. Build"):
        evaluate_atlas(folder, EvaluateOptions(experiments="statistics"))
