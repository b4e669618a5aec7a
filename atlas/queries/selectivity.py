"""Selectivity: what a neuron's facts have in common, compared with random facts.

    found = selectivity(a, 9, 2141)        # found.relation.share and .by_chance; None without facts
    relations_of_neuron(a, 9, 2141)        # its facts counted by relation
    related_neurons(a, 9, 2141)            # neurons of the same facts
    nearest_neurons(a, 9, 2141)            # the layer's last before it and first after it that have facts

A neuron of few facts always looks selective: of one fact, one relation has 100 %. So each share has a
control, the mean largest share in random draws of as many facts with neurons: of any facts for relations; of
facts of the same relations for answers, because a relation with few answers (continents) would look like a
preference for one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from atlas.errors import QueryError
from atlas.queries.sides import pushed
from atlas.store.atlas import Atlas

# The population, made once per atlas: each fact with neurons, numbers for its relation and its answer.
_POPULATION_TABLE = "facts_with_neurons"
_POPULATION_SOURCE = """
    SELECT fact_id, (dense_rank() OVER (ORDER BY relation_id) - 1)::INTEGER AS relation,
           (dense_rank() OVER (ORDER BY object) - 1)::INTEGER AS answer
    FROM facts WHERE n_neurons > 0
"""
# Draws of many facts hardly differ, so fewer of them are needed.
_DRAWS = 50
_FACTS_DRAWN = 20_000
_ORDERS = {"jaccard": "jaccard DESC, n_shared DESC", "shared": "n_shared DESC, jaccard DESC"}


@dataclass(frozen=True)
class Largest:
    """The relation, or the answer, that most of a neuron's facts have.

    `share` is n_facts of the neuron's facts; `by_chance` is the mean largest share of random draws.
    """

    name: str
    n_facts: int
    share: float
    by_chance: float


@dataclass(frozen=True)
class Selectivity:
    """How much a neuron's facts concentrate in one relation (by id) and in one answer."""

    n_facts: int
    relation: Largest
    answer: Largest


def selectivity(
    atlas: Atlas, layer: int, index: int, *, draws: int | None = None, seed: int = 0
) -> Selectivity | None:
    """How selective a neuron is; None when no fact has it. The same numbers for the same seed."""
    atlas.prepare(_POPULATION_TABLE, _POPULATION_SOURCE)
    mine = atlas.query(
        f"""
        SELECT f.relation_id, f.object, p.relation FROM knowledge_neurons AS k
        JOIN facts AS f ON f.fact_id = k.fact_id
        JOIN {_POPULATION_TABLE} AS p ON p.fact_id = k.fact_id
        WHERE k.layer = $layer AND k.neuron = $neuron
        """,
        {"layer": layer, "neuron": index},
    )
    if mine.empty:
        return None
    everyone = atlas.query(f"SELECT relation, answer FROM {_POPULATION_TABLE} ORDER BY relation, fact_id")
    relations, answers = everyone["relation"].to_numpy(), everyone["answer"].to_numpy()
    random = np.random.default_rng(seed)
    n = len(mine)
    draws = draws or min(_DRAWS, 5 + _FACTS_DRAWN // n)
    sizes = np.bincount(mine["relation"], minlength=relations[-1] + 1)
    any_facts = [relations[random.choice(len(relations), n, replace=False)] for _ in range(draws)]
    same_relations = [answers[_draw_by_relation(sizes, relations, random)] for _ in range(draws)]
    return Selectivity(
        n,
        relation=_largest(mine["relation_id"], any_facts),
        answer=_largest(mine["object"], same_relations),
    )


def _draw_by_relation(sizes: np.ndarray, relations: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Places of facts drawn without replacement, `sizes[r]` of each relation; `relations` is sorted."""
    first = np.searchsorted(relations, np.arange(len(sizes) + 1))
    return np.concatenate(
        [
            first[r] + random.choice(first[r + 1] - first[r], sizes[r], replace=False)
            for r in np.flatnonzero(sizes)
        ]
    )


def _largest(names: pd.Series, drawn: list[np.ndarray]) -> Largest:
    counts = names.groupby(names).size()
    # Of several that are equally large, the first by name.
    name = counts.idxmax()
    by_chance = float(np.mean([np.bincount(codes).max() for codes in drawn])) / len(names)
    return Largest(str(name), int(counts[name]), float(counts[name] / len(names)), by_chance)


def relations_of_neuron(atlas: Atlas, layer: int, index: int) -> pd.DataFrame:
    """The neuron's facts counted by relation, the largest count first.

    Columns: relation_id, label, n_facts (of the neuron), fact_share (of the neuron's facts), relation_share
    (of the relation's facts with neurons), expected_share (the relation's share of all facts with neurons).
    """
    return atlas.query(
        """
        WITH mine AS (
            SELECT relation_id, count(*) AS n_facts FROM knowledge_neurons
            WHERE layer = $layer AND neuron = $neuron GROUP BY relation_id
        ), sizes AS (
            SELECT relation_id, count(*) AS n, n / sum(n) OVER () AS expected_share
            FROM facts WHERE n_neurons > 0 GROUP BY relation_id
        )
        SELECT mine.relation_id, r.label, mine.n_facts,
               mine.n_facts / sum(mine.n_facts) OVER () AS fact_share,
               mine.n_facts / sizes.n AS relation_share, sizes.expected_share
        FROM mine LEFT JOIN sizes USING (relation_id)
        LEFT JOIN relations AS r ON r.relation_id = mine.relation_id
        ORDER BY mine.n_facts DESC, mine.relation_id
        """,
        {"layer": layer, "neuron": index},
    )


def related_neurons(
    atlas: Atlas, layer: int, index: int, *, order: str = "jaccard", limit: int = 20
) -> pd.DataFrame:
    """Other neurons by the facts they have in common with this one.

    `order` is 'jaccard' (facts in common ÷ facts of either, so that hubs do not come first) or 'shared'
    (their number). Columns: layer, neuron, n_shared, n_facts, jaccard, label, promoted, suppressed (as each
    acts on its facts).
    """
    if order not in _ORDERS:
        raise QueryError(f"order must be one of {', '.join(_ORDERS)}, got '{order}'.")
    return atlas.query(
        f"""
        WITH mine AS (
            SELECT fact_id FROM knowledge_neurons WHERE layer = $layer AND neuron = $neuron
        ), shared AS (
            SELECT layer, neuron, count(*) AS n_shared FROM knowledge_neurons SEMI JOIN mine USING (fact_id)
            WHERE NOT (layer = $layer AND neuron = $neuron) GROUP BY layer, neuron
        ), sizes AS (
            SELECT layer, neuron, count(*) AS n_facts, avg(mean_activation) AS fires
            FROM knowledge_neurons GROUP BY layer, neuron
        ), related AS (
            SELECT layer, neuron, n_shared, n_facts, fires,
                   n_shared / (n_facts + (SELECT count(*) FROM mine) - n_shared) AS jaccard
            FROM shared JOIN sizes USING (layer, neuron)
            ORDER BY {_ORDERS[order]}, layer, neuron LIMIT $limit
        )
        SELECT related.* EXCLUDE fires, n.label, {pushed("fires")}
        FROM related LEFT JOIN neurons AS n ON n.layer = related.layer AND n.neuron = related.neuron
        ORDER BY {_ORDERS[order]}, related.layer, related.neuron
        """,
        {"layer": layer, "neuron": index, "limit": limit},
    )


def nearest_neurons(atlas: Atlas, layer: int, index: int) -> tuple[int | None, int | None]:
    """Indices of the layer's nearest neurons on either side that any fact has; None where there is none."""
    row = atlas.query_row(
        """
        SELECT max(neuron) FILTER (neuron < $neuron) AS before, min(neuron) FILTER (neuron > $neuron) AS after
        FROM knowledge_neurons WHERE layer = $layer
        """,
        {"layer": layer, "neuron": index},
    )
    return row["before"], row["after"]
