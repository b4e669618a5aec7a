"""Stability across template halves: rows against plain sets and hand-set activations on pocket-bert."""

import json
import shutil
from dataclasses import replace

import pytest

from atlas.neuron import Neuron
from atlas.store.atlas import Atlas, bundled
from atlas.store.manifest import read_manifest, write_manifest
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from build.evidence.setting import Setting
from build.evidence.stability import (
    attribution_options,
    draw_other_fact,
    held_out_neurons,
    jaccard,
    measure,
    relation_rule,
    units,
)
from tests.by_hand import probability_scaled
from tests.sample_atlas import write_sample_atlas

POCKET = bundled().get("starter-pocket-bert")


@pytest.fixture(scope="module")
def setting():
    return Setting(Atlas(POCKET), "pocket-bert", sample=5)


@pytest.fixture(scope="module")
def rows(setting):
    return [row for unit in units(setting) for row in measure(setting, unit)]


def plain_neurons(subject, prompts):
    """Neurons that reach a fifth of the largest score in half of the prompts, and in two: one by one."""
    from atlas.attribution.attribution import attribute

    hits = {}
    for prompt in prompts:
        scores = attribute(subject, [prompt], tolerance=0.01, max_points=513)[0].scores.astype(float)
        for layer, neuron in zip(*(scores >= 0.2 * scores.max()).nonzero(), strict=True):
            hits[int(layer), int(neuron)] = hits.get((int(layer), int(neuron)), 0) + 1
    return {Neuron(*at) for at, n in hits.items() if n >= 2 and n >= 0.5 * len(prompts)}


def test_a_row_is_what_both_halves_find_and_do(setting, rows):
    assert [row["fact_id"] for row in rows] == [fact.fact_id for fact in setting.sampled("stability")]
    for row in rows:
        fact = setting.by_id[row["fact_id"]]
        mine = set(fact.neurons)
        other = plain_neurons(setting.subject, [each.prompt for each in fact.held_out])
        assert len(fact.held_out) == len(fact.discovery) == 4
        assert (row["n_discovery"], row["n_held_out"]) == (len(mine), len(other))
        assert row["shared"] == len(mine & other) > 0
        assert row["jaccard"] == pytest.approx(len(mine & other) / len(mine | other))
        for name, neurons in (("p_before", set()), ("p_discovery", mine), ("p_held_out", other)):
            found = [probability_scaled(setting.subject, each.prompt, neurons, 0) for each in fact.discovery]
            assert row[name] == pytest.approx(sum(found) / 4, rel=1e-4)
    assert sum(row["p_held_out"] < row["p_before"] for row in rows) >= 4


def test_the_stored_neurons_are_what_the_same_steps_find_on_the_discovery_half(setting):
    fact = setting.sampled("stability")[0]
    swapped = replace(fact, prompts=tuple(replace(each, held_out=not each.held_out) for each in fact.prompts))
    assert set(held_out_neurons(setting, [swapped])[fact.fact_id]) == set(fact.neurons)


def test_the_other_facts_differ_as_they_should_and_do_not_depend_on_the_sample(setting, rows):
    every = Setting(setting.atlas, "pocket-bert")
    for row in rows:
        fact = setting.by_id[row["fact_id"]]
        held_out = plain_neurons(setting.subject, [each.prompt for each in fact.held_out])
        for name, same in (("jaccard_relation", True), ("jaccard_random", False)):
            other = draw_other_fact(setting, fact, same_relation=same)
            theirs = set(other.neurons)
            assert row[name] == pytest.approx(len(held_out & theirs) / len(held_out | theirs))
            assert draw_other_fact(every, fact, same_relation=same) == other
    for fact in setting.facts[::60]:
        relation = draw_other_fact(setting, fact, same_relation=True)
        random = draw_other_fact(setting, fact, same_relation=False)
        assert relation.relation_id == fact.relation_id != random.relation_id
        assert fact.fact.object.lower() not in (relation.fact.object.lower(), random.fact.object.lower())
        assert min(len(relation.neurons), len(random.neurons)) > 0
        assert random.known == fact.known


def test_a_relation_of_one_fact_has_no_other_to_compare_with(tmp_path):
    with Atlas(write_sample_atlas(tmp_path / "one", n_facts=1)) as atlas:
        setting = Setting(atlas, "none")
        assert draw_other_fact(setting, setting.facts[0], same_relation=True) is None
        assert draw_other_fact(setting, setting.facts[0], same_relation=False) is None
    assert jaccard([], []) is None
    assert jaccard([Neuron(0, 1)], []) == 0


@pytest.fixture
def strict(tmp_path):
    """An atlas whose rule asks for the largest score of every prompt: hardly any half finds a neuron."""
    folder = shutil.copytree(POCKET, tmp_path / "strict")
    manifest = read_manifest(folder)
    rule = {**manifest.method.refinement, "threshold": 1.0, "share": 1.0}
    write_manifest(folder, replace(manifest, method=replace(manifest.method, refinement=rule)))
    return folder


def test_a_half_that_finds_nothing_changes_nothing(strict):
    with Atlas(strict) as atlas:
        setting = Setting(atlas, "pocket-bert", sample=12)
        rows = [row for unit in units(setting) for row in measure(setting, unit)]
    empty = [row for row in rows if row["n_held_out"] == 0]
    assert empty
    for row in empty:
        assert row["p_held_out"] == row["p_before"] != row["p_discovery"]
        assert (row["jaccard"], row["jaccard_relation"], row["jaccard_random"], row["shared"]) == (0, 0, 0, 0)
    # Whatever half finds something finds one neuron: the largest of all its prompts.
    assert {row["n_held_out"] for row in rows} == {0, 1}


def test_facts_with_fewer_held_out_prompts_than_the_rule_asks_for_are_left_out(strict):
    manifest = read_manifest(strict)
    for at_least, some in ((4, True), (5, False)):
        rule = {**manifest.method.refinement, "at_least": at_least}
        write_manifest(strict, replace(manifest, method=replace(manifest.method, refinement=rule)))
        with Atlas(strict) as atlas:
            assert bool(units(Setting(atlas, "pocket-bert", sample=3))) == some
    said = evaluate_atlas(strict, EvaluateOptions(experiments="stability"), fresh=True)
    assert "no fact has neurons, and as many held-out prompts as the rule asks for\n  0 rows" in said


def test_a_share_that_adapted_is_the_one_its_relation_ended_with():
    manifest = read_manifest(POCKET)
    paper = {"mode": "paper", "threshold": 0.2, "share": 0.7, "at_least": 3, "target": [2, 5]}
    method = replace(manifest.method, refinement={**paper, "shares": {"P36": 0.45}})
    manifest = replace(manifest, method=method)
    assert relation_rule(manifest, "P36").share == 0.45
    assert relation_rule(manifest, "P37").share == 0.7
    assert relation_rule(manifest, "P36").target is None


def test_the_held_out_half_is_attributed_as_the_atlas_was():
    manifest = read_manifest(POCKET)
    assert attribution_options(manifest) == {"rule": "certified", "tolerance": 0.01, "max_points": 513}
    left = replace(manifest, method=replace(manifest.method, rule="left", tolerance=None, max_points=20))
    assert attribution_options(left) == {"rule": "left", "steps": 20}


def test_the_command_adds_the_table_and_says_what_the_other_half_keeps(tmp_path):
    folder = shutil.copytree(POCKET, tmp_path / "pocket")
    said = evaluate_atlas(folder, EvaluateOptions(experiments="stability", sample=6), fresh=True)
    with Atlas(folder) as atlas:
        rows = atlas.query("SELECT * FROM stability")
    assert len(rows) == 6
    assert json.loads((folder / "manifest.json").read_text())["files"]["stability.parquet"]["rows"] == 6
    falls = [(rows["p_before"] - rows[name]).sum() for name in ("p_held_out", "p_discovery")]
    assert f"the other templates' neurons keep {falls[0] / falls[1]:.0%} [" in said
    assert f"Jaccard index {rows['jaccard'].mean():.3f} [" in said
    # The interval that is stated holds nearly all means of facts drawn again.
    low, high = (float(x) for x in said.partition("Jaccard index ")[2].split("[")[1].split("]")[0].split(","))
    assert rows["jaccard"].min() <= low < rows["jaccard"].mean() < high <= rows["jaccard"].max()
