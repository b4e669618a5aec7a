"""Who shares which neurons: the neurons of a relation by how many of its facts have them, and pairs of facts.

    neurons_by_sharing(a, "P36")                # how many neurons 1, 2, 3 … of its facts have
    closest_pairs(a, "P36", "P30")              # the pairs of facts behind one number of `relation_overlap`

As in `atlas.queries.facts`: each docstring states the columns.
"""

from __future__ import annotations

import pandas as pd

from atlas.store.atlas import Atlas


def neurons_by_sharing(atlas: Atlas, relation_id: str) -> pd.DataFrame:
    """How many of the relation's neurons are had by 1, 2, 3 … of its facts; numbers that none has are absent.

    Columns: n_facts, n_neurons, relation_share (n_facts of all its facts).
    """
    return atlas.query(
        """
        SELECT n_facts, count(*) AS n_neurons, any_value(relation_share) AS relation_share
        FROM relation_neurons WHERE relation_id = $relation_id GROUP BY n_facts ORDER BY n_facts
        """,
        {"relation_id": relation_id},
    )


def closest_pairs(atlas: Atlas, relation_a: str, relation_b: str, *, limit: int = 20) -> pd.DataFrame:
    """Pairs of facts, one of each relation (twice the same: two facts of it), with most neurons in common.

    Columns: fact_a, subject_a, object_a, n_neurons_a, the same with _b, n_shared, jaccard (n_shared of the
    neurons that either has), same_object.
    """
    return atlas.query(
        """
        WITH a AS MATERIALIZED (
            SELECT fact_id, dense_rank() OVER (ORDER BY fact_id) AS f, layer::BIGINT << 32 | neuron AS k
            FROM knowledge_neurons WHERE relation_id = $a
        ), b AS MATERIALIZED (
            SELECT fact_id, dense_rank() OVER (ORDER BY fact_id) AS f, layer::BIGINT << 32 | neuron AS k
            FROM knowledge_neurons WHERE relation_id = $b
        ), shared AS MATERIALIZED (
            -- Numbers for facts and neurons: most of the time goes into counting pairs.
            SELECT a.f << 32 | b.f AS pair, count(*) AS n_shared
            FROM a JOIN b ON a.k = b.k WHERE $a <> $b OR a.f < b.f GROUP BY pair
        ), most AS (
            SELECT pair >> 32 AS f_a, pair & 4294967295 AS f_b, n_shared FROM shared
            WHERE n_shared >= (SELECT min(n_shared)
                               FROM (SELECT n_shared FROM shared ORDER BY n_shared DESC LIMIT $limit))
        ), closest AS (
            SELECT size_a.fact_id AS fact_a, size_b.fact_id AS fact_b, n_shared,
                   size_a.n AS n_neurons_a, size_b.n AS n_neurons_b,
                   n_shared / (n_neurons_a + n_neurons_b - n_shared) AS jaccard
            FROM most
            JOIN (SELECT f, fact_id, count(*) AS n FROM a GROUP BY f, fact_id) AS size_a ON size_a.f = f_a
            JOIN (SELECT f, fact_id, count(*) AS n FROM b GROUP BY f, fact_id) AS size_b ON size_b.f = f_b
            ORDER BY n_shared DESC, jaccard DESC, fact_a, fact_b LIMIT $limit
        )
        SELECT c.fact_a, a.subject AS subject_a, a.object AS object_a, c.n_neurons_a,
               c.fact_b, b.subject AS subject_b, b.object AS object_b, c.n_neurons_b,
               c.n_shared, c.jaccard, a.object = b.object AS same_object
        FROM closest AS c JOIN facts AS a ON a.fact_id = c.fact_a JOIN facts AS b ON b.fact_id = c.fact_b
        ORDER BY c.n_shared DESC, c.jaccard DESC, c.fact_a, c.fact_b
        """,
        {"a": relation_a, "b": relation_b, "limit": limit},
    )
