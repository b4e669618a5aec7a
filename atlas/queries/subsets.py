"""The smallest subset of a fact's neurons with half the effect of all, from the table `subsets`.

    rows = half_effect(a)                       # one row a fact and order
    rows[rows["k_half"] == 1]                   # facts for which a single neuron suffices

A fall is relative: 1 − probability after ÷ probability before.
"""

from __future__ import annotations

import pandas as pd

from atlas.store.atlas import Atlas

SUBSET_ORDERS = ("score", "random")
LEAST_FALL = 0.1
"""A smaller fall by all neurons does not count as an effect."""
RISE = 0.01
"""Smaller changes, as a share of the probability before, do not count as a rise."""


def half_effect(atlas: Atlas) -> pd.DataFrame:
    """The smallest measured k whose fall reaches half of the fall by all neurons, by fact and order.

    Columns: fact_id, known, order, n_neurons, k_half (null where all neurons lower the probability by less
    than `LEAST_FALL`), fall_all, fall_first (by the first neuron), fall_most (the largest at any k),
    rises (share of the steps to the next k at which the probability rises by `RISE` of p_before or more:
    0 everywhere if more neurons never hurt less; null for a single neuron).
    """
    return atlas.query(
        """
        WITH falls AS (
            SELECT fact_id, "order", k, s.n_neurons, known,
                   1 - p_after::DOUBLE / nullif(p_before, 0) AS fall,
                   last_value(fall) OVER of_fact AS fall_all,
                   fall - lead(fall) OVER of_fact AS rise
            FROM subsets AS s JOIN facts USING (fact_id)
            WINDOW of_fact AS (PARTITION BY fact_id, "order" ORDER BY k
                               ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
        )
        SELECT fact_id, any_value(known) AS known, "order", any_value(n_neurons) AS n_neurons,
               min(k) FILTER (fall_all >= $least AND fall >= fall_all / 2)::DOUBLE AS k_half,
               any_value(fall_all) AS fall_all, arg_min(fall, k) AS fall_first, max(fall) AS fall_most,
               avg((rise >= $rise)::INT) AS rises
        FROM falls GROUP BY fact_id, "order" ORDER BY fact_id, "order" DESC
        """,
        {"least": LEAST_FALL, "rise": RISE},
    )
