"""From shards to tables: what is done relation by relation is what doing all at once gives."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from atlas.refinement import MODES, mode, refine
from atlas.store.schema import TABLES
from build.output import tables

N_RELATIONS, N_FACTS, N_TEMPLATES, N_SCORES = 3, 40, 6, 30


@pytest.fixture(scope="module")
def made_up() -> tuple[tables.Prompts, tables.StoredScores, pa.Table]:
    """Facts of three relations, mixed; few neurons, so that many are shared; one prompt without scores."""
    chance = np.random.default_rng(11)
    facts = [(f"P{k % N_RELATIONS}.{k:03d}", f"P{k % N_RELATIONS}") for k in range(N_FACTS)]
    n = N_FACTS * N_TEMPLATES
    held_out = [j % 2 == 1 for _ in facts for j in range(N_TEMPLATES)]
    given = {
        "fact_id": [fact_id for fact_id, _ in facts for _ in range(N_TEMPLATES)],
        "template_id": [f"{relation}.{j}" for _, relation in facts for j in range(N_TEMPLATES)],
        "held_out": held_out,
        "max_score": [None if each else 1.0 for each in held_out],
    }
    schema = TABLES["prompts"]
    columns = {field.name: pa.array(given.get(field.name, [None] * n), field.type) for field in schema}
    asked = np.flatnonzero(~np.array(held_out))[1:]
    scores = tables.StoredScores(
        prompt=np.repeat(asked, N_SCORES).astype(np.int32),
        layer=chance.integers(0, 3, len(asked) * N_SCORES).astype(np.int16),
        neuron=np.concatenate([chance.permutation(60)[:N_SCORES] for _ in asked]).astype(np.int32),
        score=chance.random(len(asked) * N_SCORES).astype(np.float32),
    )
    ids, relations = zip(*facts, strict=True)
    return (
        tables.Prompts(pa.table(columns, schema=pa.schema([pa.field(f.name, f.type) for f in schema]))),
        scores,
        pa.table({"fact_id": list(ids), "relation_id": list(relations)}),
    )


@pytest.mark.parametrize("name", MODES)
def test_relations_refined_one_by_one_are_what_refining_all_at_once_gives(name, made_up):
    prompts, scores, facts = made_up
    rule = mode(name)
    all_at_once = pa.table(
        {
            "fact_id": prompts.table["fact_id"].take(scores.prompt),
            "template_id": prompts.table["template_id"].take(scores.prompt),
            "layer": scores.layer,
            "neuron": scores.neuron,
            "score": scores.score,
        }
    )
    expected = refine(all_at_once, prompts.table, facts, rule)
    found = tables.refine_by_relation(prompts, scores, facts, rule)
    assert found.rows.num_rows > 5
    assert found.rows.equals(expected.rows)
    assert found.shares == expected.shares
    assert set(found.shares) == {"P0", "P1", "P2"}
