"""Queries about neurons that facts and relations share. Each docstring states the columns.

relation_neurons(a, "P36")                  # the neurons that its facts share
uncommon_neurons(a, neurons, fact_id=f)     # without those that the fact's relation shares: what to edit
neurons_by_sharing(a, "P36")                # how many neurons 1, 2, 3 … of its facts have
closest_pairs(a, "P36", "P30")              # the pairs of facts behind one number of `relation_overlap`
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from atlas.errors import QueryError
from atlas.neuron import Neuron
from atlas.queries.sides import pushed
from atlas.store.atlas import Atlas

# Neurons that a larger share of a relation's facts have are the relation's: to edit them changes its other
# facts, too (Dai et al., ACL 2022, section 5.1).
COMMON_SHARE = 0.1


def relation_neurons(
    atlas: Atlas, relation_id: str, *, layer: int | None = None, limit: int = 50
) -> pd.DataFrame:
    """The neurons that the relation's facts share, the most shared first; of one layer if given.

    Columns: layer, neuron, n_facts (of the relation), relation_share (of all its facts), mean_share,
    mean_score, n_relations (that have the neuron at all), label, value_norm, promoted, suppressed (as it acts
    on the relation's facts).
    """
    return atlas.query(
        f"""
        WITH top AS MATERIALIZED (
            SELECT * FROM relation_neurons
            WHERE relation_id = $relation_id AND ($layer IS NULL OR layer = $layer)
            ORDER BY n_facts DESC, mean_score DESC, layer, neuron LIMIT $limit
        ), everywhere AS (
            SELECT layer, neuron, count(DISTINCT relation_id) AS n_relations,
                   avg(mean_activation) FILTER (relation_id = $relation_id) AS fires
            FROM knowledge_neurons SEMI JOIN top USING (layer, neuron) GROUP BY layer, neuron
        )
        SELECT top.layer, top.neuron, top.n_facts, top.relation_share, top.mean_share, top.mean_score,
               everywhere.n_relations, n.label, n.value_norm, {pushed("everywhere.fires")}
        FROM top JOIN everywhere USING (layer, neuron) LEFT JOIN neurons AS n USING (layer, neuron)
        ORDER BY top.n_facts DESC, top.mean_score DESC, top.layer, top.neuron
        """,
        {"relation_id": relation_id, "layer": layer, "limit": limit},
    )


def uncommon_neurons(
    atlas: Atlas,
    neurons: Iterable[Neuron],
    *,
    fact_id: str | None = None,
    relation_id: str | None = None,
    most: float = COMMON_SHARE,
) -> tuple[Neuron, ...]:
    """Those of the neurons that at most this share of the relation's facts have, sorted; perhaps none.

    The relation is the one given, or the fact's. A neuron of a single fact is never common. Raises
    `QueryError` for a fact that the atlas does not have.
    """
    if relation_id is None:
        of_fact = atlas.query_one("SELECT relation_id FROM facts WHERE fact_id = $f", {"f": fact_id})
        if of_fact is None:
            raise QueryError(f"The atlas has no fact '{fact_id}'. Give another, or a relation.")
        relation_id = of_fact["relation_id"]
    common = atlas.query(
        """
        SELECT layer, neuron FROM relation_neurons
        WHERE relation_id = $relation_id AND relation_share > $most AND n_facts > 1
        """,
        {"relation_id": relation_id, "most": most},
    )
    left_out = set(zip(common["layer"], common["neuron"], strict=True))
    return tuple(sorted(each for each in set(neurons) if (each.layer, each.neuron) not in left_out))


def relation_overlap(atlas: Atlas) -> pd.DataFrame:
    """Mean number of neurons two different facts share, for all pairs of relations in both orders.

    Columns: relation_a, label_a, relation_b, label_b, within, n_pairs, mean_shared (null without pairs).
    """
    return atlas.query(
        """
        SELECT o.relation_a, a.label AS label_a, o.relation_b, b.label AS label_b, o.within, o.n_pairs,
               o.mean_shared
        FROM relation_overlap AS o
        LEFT JOIN relations AS a ON a.relation_id = o.relation_a
        LEFT JOIN relations AS b ON b.relation_id = o.relation_b
        ORDER BY o.relation_a, o.relation_b
        """
    )


def neurons_by_sharing(atlas: Atlas, relation_id: str) -> pd.DataFrame:
    """Number of the relation's neurons that 1, 2, 3 … of its facts have; numbers without a neuron are absent.

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
