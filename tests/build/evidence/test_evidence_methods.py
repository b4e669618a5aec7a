"""Ways to choose neurons: choices by sorting and by plain refinement, effects by hand-set activations."""

import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from atlas.neuron import Neuron
from atlas.store.atlas import Atlas, bundled
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from build.evidence.methods import COMPARED_METHODS, choose_by_score, measure, stored_choices, units
from build.evidence.setting import Setting
from tests.by_hand import probability_scaled
from tests.plain_refinement import plain_facts, plain_mode
from tests.sample_atlas import replace_table

POCKET = bundled().get("starter-pocket-bert")
STORED_MODES = ("default", "paper", "replication", "count")


@pytest.fixture(scope="module")
def setting():
    return Setting(Atlas(POCKET), "pocket-bert", sample=6)


@pytest.fixture(scope="module")
def rows(setting):
    found = [row for unit in units(setting) for row in measure(setting, unit)]
    return {(row["fact_id"], row["method"], row["mode"]): row for row in found}


def plain_largest(scored, count):
    """Of dicts neuron → score, one a prompt: the neurons of the largest mean share of each one's largest."""
    total = {}
    for scores in scored:
        most = max(scores.values())
        for neuron, score in scores.items():
            total[neuron] = total.get(neuron, 0.0) + score / most
    return {Neuron(*neuron) for neuron in sorted(total, key=total.get, reverse=True)[:count]}


def dense(scores):
    return {(int(a), int(b)): float(x) for (a, b), x in np.ndenumerate(scores)}


@pytest.fixture(scope="module")
def chosen(setting, rows):
    """(fact, method, mode) → neurons, found by loops for the facts that all methods scored."""
    from atlas.attribution.attribution import attribute

    ids = sorted({fact_id for fact_id, method, _ in rows if method == "log_prob_increase"})
    facts = plain_facts(setting.atlas, {setting.by_id[fact_id].relation_id for fact_id in ids})
    by_mode = {name: plain_mode(name, facts) for name in ("default", "paper", "replication")}
    stored = {fact.fact_id: list(fact.prompts.values()) for fact in facts}
    found = {}
    for fact_id in ids:
        for mode, neurons in by_mode.items():
            found[fact_id, "integrated_gradients", mode] = {Neuron(*each) for each in neurons[fact_id]}
        count = len(by_mode["default"][fact_id])
        found[fact_id, "integrated_gradients", "count"] = plain_largest(stored[fact_id], count)
        prompts = [each.prompt for each in setting.by_id[fact_id].discovery]
        activations = setting.subject.activations(prompts).numpy()
        found[fact_id, "activation", "count"] = plain_largest([dense(each) for each in activations], count)
        for method in ("gradient_x_activation", "log_prob_increase"):
            scores = [
                dense(attribute(setting.subject, [prompt], method=method)[0].scores) for prompt in prompts
            ]
            found[fact_id, method, "count"] = plain_largest(scores, count)
    return found


def test_every_choice_has_the_overlap_and_the_effect_of_the_neurons_that_loops_choose(setting, rows, chosen):
    assert len(chosen) == 2 * 7
    for (fact_id, method, mode), neurons in chosen.items():
        row = rows[fact_id, method, mode]
        reference = chosen[fact_id, "integrated_gradients", mode]
        assert row["n_neurons"] == len(neurons) > 10
        assert row["shared"] == len(neurons & reference)
        prompts = [each.prompt for each in setting.by_id[fact_id].held_out]
        for name, factor in (("p_before", 1), ("p_suppressed", 0), ("p_amplified", 2)):
            said = [probability_scaled(setting.subject, prompt, neurons, factor) for prompt in prompts]
            assert row[name] == pytest.approx(np.mean(said), rel=1e-3)


def test_methods_choose_as_many_neurons_as_the_default_and_not_the_same(rows):
    ids = {fact_id for fact_id, _, _ in rows}
    for fact_id in ids:
        n = rows[fact_id, "integrated_gradients", "default"]["n_neurons"]
        for method in COMPARED_METHODS:
            if (fact_id, method, "count") in rows:
                assert rows[fact_id, method, "count"]["n_neurons"] == n
        assert rows[fact_id, "activation", "count"]["shared"] < n
        for mode in STORED_MODES:
            row = rows[fact_id, "integrated_gradients", mode]
            assert row["shared"] == row["n_neurons"]


def test_the_slow_method_takes_a_third_of_the_same_facts(setting, rows):
    quick = [fact_id for fact_id, method, _ in rows if method == "activation"]
    slow = [fact_id for fact_id, method, _ in rows if method == "log_prob_increase"]
    assert quick == [fact.fact_id for fact in setting.sampled("methods")]
    assert len(quick) == 6
    assert len(slow) == 2
    assert set(slow) < set(quick)
    # Relations take turns among the third, too.
    many = units(Setting(setting.atlas, "pocket-bert", sample=90))
    third = [fact_id for kind, ids in many if kind == "log_prob_increase" for fact_id in ids]
    assert len(third) == 30
    assert len({setting.by_id[fact_id].relation_id for fact_id in third}) == 30


def test_the_largest_neurons_are_those_of_the_mean_relative_score():
    scores = np.zeros((3, 2, 4))
    scores[0, 0] = [10, 9, 0, -50]
    scores[1, 0] = [1, 4, 3, 0]
    scores[2] = -1
    # Relative: 1 + ¼, 0.9 + 1, 0 + ¾; the last prompt has no positive score and counts as nothing.
    assert choose_by_score(scores, 2) == (Neuron(0, 0), Neuron(0, 1))
    assert choose_by_score(scores, 1) == (Neuron(0, 1),)
    assert choose_by_score(scores, 0) == ()


def test_stored_choices_of_the_synthetic_atlas_are_those_of_plain_loops(sample):
    with Atlas(sample) as atlas:
        setting = Setting(atlas, "none")
        found = stored_choices(setting, setting.facts)
        facts = plain_facts(atlas)
    for mode in ("default", "paper", "replication"):
        expected = plain_mode(mode, facts)
        assert {
            fact_id: {(n.layer, n.neuron) for n in choices["integrated_gradients", mode]}
            for fact_id, choices in found.items()
        } == expected
        assert not all(expected.values())


@pytest.fixture
def emptied(tmp_path):
    """An atlas in which the scores of its first sampled facts are below every threshold: none is stored."""
    folder = shutil.copytree(POCKET, tmp_path / "emptied")
    with Atlas(folder) as atlas:
        ids = [fact.fact_id for fact in Setting(atlas, "pocket-bert", sample=2).sampled("methods")]
    rows = pq.read_table(folder / "attributions.parquet")
    kept = rows.filter(pc.invert(pc.is_in(rows["fact_id"], pc.cast(ids, "string"))))
    assert kept.num_rows < rows.num_rows
    return replace_table(folder, "attributions", kept)


def test_a_choice_of_no_neurons_changes_nothing(emptied):
    with Atlas(emptied) as atlas:
        setting = Setting(atlas, "pocket-bert", sample=2)
        rows = [row for unit in units(setting) for row in measure(setting, unit)]
    assert len(rows) == 2 * 6 + 1
    for row in rows:
        assert (row["n_neurons"], row["shared"]) == (0, 0)
        assert row["p_before"] == row["p_suppressed"] == row["p_amplified"] > 0


def test_the_command_adds_the_table_and_says_overlap_and_effect_of_each(tmp_path):
    folder = shutil.copytree(POCKET, tmp_path / "pocket")
    said = evaluate_atlas(folder, EvaluateOptions(experiments="methods", sample=4), fresh=True).splitlines()
    with Atlas(folder) as atlas:
        rows = atlas.query("SELECT * FROM methods")
    assert len(rows) == 4 * 6 + 1
    for method, mode in (("integrated_gradients", "paper"), ("activation", "count")):
        part = rows[(rows["method"] == method) & (rows["mode"] == mode)]
        (line,) = [each for each in said if each.strip().startswith(f"{method}, {mode}")][:1]
        overlap = (part["shared"] / part["n_neurons"]).mean()
        fall = part["p_suppressed"].sum() / part["p_before"].sum() - 1
        rise = part["p_amplified"].sum() / part["p_before"].sum() - 1
        assert line.split()[2:] == [
            "4",
            f"{part['n_neurons'].mean():.1f}",
            f"{overlap:.0%}",
            f"{fall:+.1%}",
            f"{rise:+.1%}",
        ]
