"""Whose neurons are they: how much of what suppressing costs a fact others lose, too.

    rows = split(effects)                  # rows of the table `specificity`

A fact loses a share of its answer's probability without its neurons; facts that share its answer, its
relation, both or neither lose some, too, without the same neurons. With these five falls, F(…), each a mean
over relations:

1. *general*: F(unrelated), what any fact loses.
2. *relation*, *answer*: what sharing it adds, averaged over the two orders in which both can be added (the
   Shapley value): relation = ½ [F(same relation) − F(unrelated) + F(both) − F(same answer)].
3. *own*: F(the fact) − F(both), what the nearest other facts are spared.

The four sum to the fall. Only relations count in which each of the five was asked `FEWEST` prompts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from atlas.intervals import BOOTSTRAP_DRAWS, bootstrap_interval, draw_weights
from build.jobs.evaluation import seeded

FEWEST = 10
GROUPS = ("own", "same_relation_same_answer", "same_answer", "same_relation", "unrelated")


def parts(falls: np.ndarray) -> dict[str, np.ndarray]:
    """The four parts of the fall, and the fall. falls: (5, …), in the order of `GROUPS`."""
    own, both, answer, relation, unrelated = falls
    return {
        "fall": own,
        "general": unrelated,
        "relation": (relation - unrelated + both - answer) / 2,
        "answer": (answer - unrelated + both - relation) / 2,
        "own": own - both,
    }


def split(effects: pd.DataFrame, *, seed: int = 0, draws: int = BOOTSTRAP_DRAWS) -> list[dict[str, Any]]:
    """Rows of `specificity`: of every relation with enough prompts, and of all of them together.

    effects: rows of `effects` with relation_id, known and asked_known. Intervals are by bootstrap: facts are
    drawn again within their relation; for 'all', relations, too.
    """
    rows = effects[(effects["intervention"] == "suppress") & effects["known"] & effects["asked_known"]]
    rows = rows[rows["held_out"] == rows["held_out"].any()]
    rows = rows[rows["group"].isin(GROUPS)].assign(change=rows["p_after"] - rows["p_before"])
    found, falls, drawn = [], [], []
    for relation_id, part in rows.groupby("relation_id"):
        sums = part.pivot_table(
            index="fact_id", columns="group", values=["p_before", "change"], aggfunc="sum", fill_value=0.0
        ).astype(float)
        n_prompts = part.groupby("group").size().reindex(GROUPS, fill_value=0)
        if n_prompts.min() < FEWEST:
            continue
        before, change = (sums[name].reindex(columns=GROUPS).to_numpy() for name in ("p_before", "change"))
        weights = draw_weights(seeded(seed, "specificity", str(relation_id)), len(sums), draws)
        falls.append(-change.sum(axis=0) / before.sum(axis=0))
        with np.errstate(invalid="ignore"):  # a draw may leave a group out
            drawn.append((-(weights @ change) / (weights @ before)).T)
        found += _rows(
            relation_id, falls[-1], drawn[-1], n_relations=1, n_facts=len(sums), n_prompts=n_prompts
        )
    if not falls:
        return []
    again = seeded(seed, "specificity", "all").integers(len(falls), size=(len(falls), draws))
    over = np.take_along_axis(np.stack(drawn), again[:, None, :], axis=0)  # (n_relations, 5, draws)
    counts = pd.DataFrame(found).drop_duplicates("relation_id")
    asked = rows[rows["relation_id"].isin(counts["relation_id"])].groupby("group").size()
    return [
        *_rows(
            "all",
            np.mean(falls, axis=0),
            np.nanmean(over, axis=0),
            n_relations=len(falls),
            n_facts=int(counts["n_facts"].sum()),
            n_prompts=asked,
        ),
        *found,
    ]


def _rows(
    relation_id: str, falls: np.ndarray, drawn: np.ndarray, *, n_prompts: pd.Series, **counts: int
) -> list[dict[str, Any]]:
    values, spread = parts(falls), parts(drawn)
    rows = []
    for part, value in values.items():
        low, high = _interval(spread[part])
        share_low, share_high = _interval(spread[part] / spread["fall"])
        rows.append(
            {"relation_id": relation_id, "part": part, "value": float(value), "low": low, "high": high}
            | {"share": float(value / values["fall"]), "share_low": share_low, "share_high": share_high}
            | {"n_prompts": int(n_prompts.min()), **counts}
        )
    return rows


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    return bootstrap_interval(drawn[np.isfinite(drawn)])
