"""Consistency: the column against sets compared one by one in plain Python."""

import shutil
from itertools import combinations

import pytest

from atlas.queries import critics
from atlas.store.atlas import Atlas, bundled
from atlas.store.manifest import read_manifest, verify
from build.evidence.consistency import summary
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from tests.sample_atlas import replace_table, sample_tables, write_sample_atlas

POCKET = bundled().get("starter-pocket-bert")
OPTIONS = EvaluateOptions(experiments="consistency")


def coarse_sets(prompts, attributions):
    """Fact id → a set of coarse neurons for each of its discovery prompts."""
    largest = {
        (row["fact_id"], row["template_id"]): row["max_score"] for row in prompts if not row["held_out"]
    }
    sets = {key: set() for key, value in largest.items() if value is not None}
    for row in attributions:
        key = row["fact_id"], row["template_id"]
        if largest.get(key, 0) > 0 and row["score"] >= 0.2 * largest[key]:
            sets[key].add((row["layer"], row["neuron"]))
    by_fact = {}
    for (fact_id, _), neurons in sorted(sets.items()):
        by_fact.setdefault(fact_id, []).append(neurons)
    return by_fact


def plain_consistency(sets):
    pairs = [(one, other) for one, other in combinations(sets, 2) if one | other]
    return sum(len(one & other) / len(one | other) for one, other in pairs) / len(pairs) if pairs else None


@pytest.fixture
def sample(tmp_path):
    return write_sample_atlas(tmp_path / "sample")


def test_a_facts_consistency_is_the_mean_overlap_of_its_wordings_sets(sample):
    evaluate_atlas(sample, OPTIONS, fresh=True)
    with Atlas(sample) as atlas:
        tables = {
            name: atlas.query(f"SELECT * FROM {name}").to_dict("records")
            for name in ("facts", "prompts", "attributions")
        }
    sets = coarse_sets(tables["prompts"], tables["attributions"])
    silent = 0
    for fact in tables["facts"]:
        expected = plain_consistency(sets[fact["fact_id"]])
        silent += expected is None
        found = fact["consistency"]
        assert found != found if expected is None else found == pytest.approx(expected, rel=1e-6)
    assert 0 < silent < len(sets)


def test_of_a_real_atlas_too_with_the_share_below_the_limit_and_the_other_facts(tmp_path):
    folder = shutil.copytree(POCKET, tmp_path / "pocket")
    said = evaluate_atlas(folder, OPTIONS)
    with Atlas(folder) as atlas:
        facts = atlas.query("SELECT fact_id, known, consistency FROM facts")
        few = "fact_id IN (SELECT fact_id FROM facts ORDER BY hash(fact_id) LIMIT 40)"
        prompts, attributions = (
            atlas.query(f"SELECT * FROM {name} WHERE {few}").to_dict("records")
            for name in ("prompts", "attributions")
        )
        found = critics.consistency(atlas).set_index("facts")
    values = facts.set_index("fact_id")["consistency"]
    for fact_id, sets in coarse_sets(prompts, attributions).items():
        assert values[fact_id] == pytest.approx(plain_consistency(sets), rel=1e-5)
    row = found.loc["all"]
    assert row["n_facts"] == values.notna().sum()
    assert row["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert row["low"] < row["mean"] < row["high"]
    assert row["inconsistent"] == (values.dropna() < critics.INCONSISTENT).mean()
    assert f"Jaccard index of {row['mean']:.3f} [" in said
    other = read_manifest(folder).method.options["experiments"]["consistency"]["other_facts"]
    assert 0 < other < row["mean"]


def test_the_other_columns_stay_and_no_other_experiment_is_measured_again(sample, tmp_path):
    with Atlas(sample) as atlas:
        before = atlas.query("SELECT * EXCLUDE consistency FROM facts ORDER BY ALL")
    first = EvaluateOptions(experiments="statistics")
    evaluate_atlas(sample, first, fresh=True)
    evaluate_atlas(sample, OPTIONS)
    verify(sample)
    with Atlas(sample) as atlas:
        assert atlas.query("SELECT * EXCLUDE consistency FROM facts ORDER BY ALL").equals(before)
    # The table of facts is another file now, but what a build wrote is not.
    assert "already measured" in evaluate_atlas(sample, first)
    assert "already measured" in evaluate_atlas(sample, OPTIONS)


def test_an_atlas_without_scores_of_its_prompts_is_not_measured(sample):
    prompts = [row | {"max_score": None} for row in sample_tables()["prompts"]]
    replace_table(sample, "prompts", prompts)
    assert "not measured: the atlas has no max_score in prompts" in evaluate_atlas(sample, OPTIONS)
    with Atlas(sample) as atlas:
        assert critics.consistency(atlas).empty
        assert summary(atlas) == ["no fact has two attributed discovery prompts"]
