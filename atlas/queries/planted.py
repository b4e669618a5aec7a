"""Whether methods find planted neurons, from the tables `planted` and `planted_summaries`.

    leaderboard(a)                     # a row a number of neurons and method, the best recall first
    plantings(a)                       # how many were learned, and what the planting did

`python -m build evaluate DIR --experiments planted` fills them.
"""

from __future__ import annotations

import pandas as pd

from atlas.store.atlas import Atlas

PLANTED_METHODS = {
    "integrated_gradients": "integrated gradients, certified",
    "riemann_left": "integrated gradients, 20 points (left)",
    "riemann_endpoints": "integrated gradients, 20 points (ends)",
    "sequential_integrated_gradients": "sequential integrated gradients",
    "gradient_x_activation": "gradient × activation",
    "log_prob_increase": "log-probability increase",
    "activation": "activation",
    "random": "random order",
}
"""Method → its words, in the order in which they are measured."""
GONE = 0.9
"""The neurons of a planting hold its answer where it falls by so much when they are suppressed."""


def leaderboard(atlas: Atlas) -> pd.DataFrame:
    """The methods by mean recall, for each number of planted neurons.

    Columns: n_planted, method, n_plantings, n_left_out, chance, and recall, precision, auc and fall with the
    ends of their 95 % intervals (recall_low, recall_high, …); null where no planting was learned.
    """
    return atlas.query("SELECT * FROM planted_summaries ORDER BY n_planted, recall DESC, method")


def plantings(atlas: Atlas) -> pd.DataFrame:
    """What planting did, by the number of neurons.

    Columns: n_planted, n, n_learned, n_unsaid (the answer did not come first on most held-out prompts), and
    n_elsewhere (it did, and stays without the planted neurons); of the learned ones the means n_steps,
    p_before, p_after, p_suppressed.
    """
    return atlas.query(
        """
        SELECT n_planted, count(*) AS n, count(*) FILTER (learned) AS n_learned,
               count(*) FILTER (share_first <= 0.5) AS n_unsaid,
               n - n_learned - n_unsaid AS n_elsewhere,
               avg(n_steps) FILTER (learned) AS n_steps, avg(p_before) FILTER (learned) AS p_before,
               avg(p_after) FILTER (learned) AS p_after, avg(p_suppressed) FILTER (learned) AS p_suppressed
        FROM (SELECT DISTINCT ON (fact_id, n_planted) * FROM planted)
        GROUP BY n_planted ORDER BY n_planted
        """
    )
