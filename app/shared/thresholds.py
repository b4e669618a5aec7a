"""Other thresholds for a fact's neurons: sliders, and what becomes of the set. No model is needed.

    asked = choose(atlas)                      # the sliders; asked.moved says whether they were
    rows = compared(stored, found)             # a column `change`: kept, added or removed

`t` is the coarse threshold (a score counts from t × the prompt's largest), `p` the share of discovery prompts
that it must count in, `n` the number of other facts whose prompts are negative examples. The URL has them;
the atlas's own are left out of it. `atlas.refinement` says more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import streamlit as st

from app.shared import address
from app.shared.words import plural
from atlas.charts.neurons import ADDED, OTHER, OWN, REMOVED
from atlas.refinement import MODES, STORED_FRACTION
from atlas.store.manifest import Manifest

STEP = 0.05
MOST_NEGATIVES = 10
KEPT = "kept"
# What became of a neuron → what the charts call it.
KINDS = {KEPT: OWN, ADDED: ADDED, REMOVED: REMOVED}
KEYS = ["layer", "neuron"]


@dataclass(frozen=True)
class Thresholds:
    """What the sliders say, beside what the atlas was made with."""

    t: float
    p: float
    at_least: int
    own_t: float
    own_p: float
    n: int = 0
    own_n: int = 0
    seed: int = 0

    @property
    def moved(self) -> bool:
        return (self.t, self.p, self.n) != (self.own_t, self.own_p, self.own_n)

    def needed(self, n_prompts: int) -> int:
        """In how many of a fact's discovery prompts a score has to count."""
        return max(math.ceil(n_prompts * self.p - 1e-9), self.at_least)


def own(manifest: Manifest) -> Thresholds:
    """The thresholds that the atlas was made with; those of the mode `default` where it does not say."""
    rule = MODES["default"].to_dict() | {k: v for k, v in manifest.method.refinement.items() if v is not None}
    t, p = float(rule["threshold"]), float(rule["share"])
    n = int(rule["negatives"])
    return Thresholds(t, p, int(rule["at_least"]), t, p, n, n, int(rule["seed"]))


def choose(manifest: Manifest) -> Thresholds:
    """Three sliders whose values are the URL's `t`, `p` and `n`."""
    rule = own(manifest)
    lowest = manifest.method.stored_fraction or STORED_FRACTION
    left, middle, right = st.columns(3, gap="medium", vertical_alignment="bottom")
    moved = sliders(rule, (left, middle), lowest=lowest)
    with right:
        n = address.slider(
            "… and not where so many other facts are asked for (n)",
            "n",
            low=0.0,
            high=float(MOST_NEGATIVES),
            step=1.0,
            default=float(rule.own_n),
            format="%d",
            help="Negative examples: neurons that stand out as often in the same prompts of n other facts of "
            "the relation, with other answers, are left out.",
        )
    return replace(moved, n=int(n))


def sliders(rule: Thresholds, places: Sequence[Any], *, lowest: float) -> Thresholds:
    """Two of them, for `t` and `p`, which are the rule's own until somebody moves them."""
    left, right = places
    with left:
        t = address.slider(
            "A score counts from … × the prompt's largest (t)",
            "t",
            low=lowest,
            high=1.0,
            step=STEP,
            default=rule.own_t,
            help="The coarse threshold. Smaller scores are not stored.",
        )
    with right:
        p = address.slider(
            "… in at least this share of its prompts (p)",
            "p",
            low=0.0,
            high=1.0,
            step=STEP,
            default=rule.own_p,
            help=f"Of the prompts that neurons are found on; never fewer than {rule.at_least} of them.",
        )
    return replace(rule, t=t, p=p)


def compared(stored: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The neurons found with other thresholds, marked kept or added, then those of the atlas that are gone.

    Takes `queries.neurons_of_fact` and `queries.rethreshold`; gives their columns and `change`.
    """
    before, after = (pd.MultiIndex.from_frame(rows[KEYS]) for rows in (stored, found))
    now = found.assign(change=[KEPT if there else ADDED for there in after.isin(before)])
    gone = stored[~before.isin(after)].assign(change=REMOVED)
    parts = [part for part in (now, gone) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else now


def with_kinds(scores: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Scores with what each neuron is to the fact now; `rows` as `compared` gives them."""
    changes = dict(zip(zip(rows["layer"], rows["neuron"], strict=True), rows["change"], strict=True))
    pairs = zip(scores["layer"], scores["neuron"], strict=True)
    return scores.assign(kind=[KINDS[changes[pair]] if pair in changes else OTHER for pair in pairs])


def summary(rows: pd.DataFrame) -> str:
    """What the sliders did, in words; `rows` as `compared` gives them."""
    counts = rows["change"].value_counts()
    n = {change: int(counts.get(change, 0)) for change in (KEPT, ADDED, REMOVED)}
    parts = [f"{number} {change}" for change, number in n.items() if number]
    return f"{plural(n[KEPT] + n[ADDED], 'neuron')}" + (f": {', '.join(parts)}" if parts else "")
