"""The refinement modes on the stored scores of real atlases equal loops over sets.

`tests/atlas/test_refinement.py` tests the modes on dense synthetic scores and edge cases.
"""

from collections import defaultdict

import pyarrow.parquet as pq
import pytest

from atlas.refinement import MODES, mode, refine
from atlas.store.atlas import Atlas, bundled
from tests.plain_refinement import paper_percent, plain_facts, plain_mode, plain_neurons

POCKET = bundled().get("starter-pocket-bert")
SMOLLM = bundled().get("starter-smollm2-135m")
# In the second atlas, the paper's share falls, stays and rises.
RELATIONS = {POCKET: ["P103", "P246", "P462"], SMOLLM: ["P1376", "P103", "P86"], None: None}


@pytest.fixture(scope="module")
def opened(sample):
    """A function: folder, or None for the synthetic atlas → plain facts, and what `refine` takes."""
    kept = {}

    def open_once(folder):
        if folder not in kept:
            with Atlas(folder or sample) as atlas:
                facts = plain_facts(atlas, RELATIONS[folder])
                attributions, prompts, all_facts = (
                    pq.read_table(atlas.path / f"{name}.parquet")
                    for name in ("attributions", "prompts", "facts")
                )
            ids = [fact.fact_id for fact in facts]
            all_facts = all_facts.to_pandas()
            kept[folder] = facts, (attributions, prompts, all_facts[all_facts["fact_id"].isin(ids)])
        return kept[folder]

    return open_once


def as_sets(rows, facts):
    found = {fact.fact_id: set() for fact in facts}
    for row in rows.to_pylist():
        found[row["fact_id"]].add((row["layer"], row["neuron"]))
    return found


@pytest.mark.parametrize("folder", RELATIONS, ids=["pocket-bert", "smollm2", "sample"])
@pytest.mark.parametrize("name", MODES)
def test_a_mode_on_stored_scores_equals_loops_over_sets(name, folder, opened):
    facts, tables = opened(folder)
    expected = plain_mode(name, facts)
    assert sum(map(bool, expected.values())) > 10
    assert as_sets(refine(*tables, MODES[name]).rows, facts) == expected


@pytest.mark.parametrize("folder", RELATIONS, ids=["pocket-bert", "smollm2", "sample"])
def test_the_final_share_of_the_paper_equals_the_loops(folder, opened):
    facts, tables = opened(folder)
    members = defaultdict(list)
    for fact in facts:
        members[fact.relation_id].append(fact)
    expected = {relation: paper_percent(each) / 100 for relation, each in members.items()}
    assert refine(*tables, MODES["paper"]).shares == pytest.approx(expected)
    if folder == SMOLLM:
        assert expected == {"P1376": 0.45, "P103": 0.7, "P86": 0.95}


@pytest.mark.parametrize("folder", [POCKET, SMOLLM], ids=["pocket-bert", "smollm2"])
def test_the_modes_differ(folder, opened):
    facts, _ = opened(folder)
    found = [plain_mode(name, facts) for name in MODES]
    assert all(one != other for one in found for other in found if one is not other)


@pytest.mark.parametrize("folder", [POCKET, SMOLLM], ids=["pocket-bert", "smollm2"])
def test_the_committed_neurons_equal_the_default_modes(folder, opened):
    facts, _ = opened(folder)
    with Atlas(folder) as atlas:
        stored = atlas.query("SELECT fact_id, layer, neuron FROM knowledge_neurons")
    found = {fact.fact_id: set() for fact in facts}
    for row in stored.itertuples():
        if row.fact_id in found:
            found[row.fact_id].add((row.layer, row.neuron))
    assert found == plain_mode("default", facts)


@pytest.mark.parametrize(("threshold", "percent"), [(0.1, 100), (0.15, 25), (0.4, 50), (0.5, 75)])
def test_other_thresholds_equal_the_loops(threshold, percent, opened):
    for folder in RELATIONS:
        facts, tables = opened(folder)
        rule = mode("default", threshold=threshold, share=percent / 100)
        expected = plain_neurons(facts, threshold=threshold, percent=percent, at_least=2)
        assert as_sets(refine(*tables, rule).rows, facts) == expected
