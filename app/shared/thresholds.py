"""Other thresholds for a fact's neurons: sliders, and how the set changes. No model is needed.

    own = atlas_thresholds(atlas.manifest, "P36")
    chosen = choose_thresholds(atlas.manifest, own)     # the sliders
    rows = mark_changes(stored, found)             # a column `change`: kept, added or removed

The URL's `t`, `p` and `n` are the threshold, the share of discovery prompts and the number of negative
examples of a `Refinement`. It holds what differs from the atlas's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from app.shared import address
from app.shared.words import plural
from atlas.charts.neurons import ADDED, OTHER, OWN, REMOVED
from atlas.refinement import MODES, STORED_FRACTION, Refinement
from atlas.store.manifest import Manifest

KEPT = "kept"
_MOST_NEGATIVES = 10
# What the atlas says about its rule and `queries.rethreshold` takes.
_CHOSEN = ("threshold", "share", "at_least", "inclusive", "negatives", "seed")
# Change of a neuron → its kind in the charts.
_CHANGE_KINDS = {KEPT: OWN, ADDED: ADDED, REMOVED: REMOVED}


def atlas_thresholds(manifest: Manifest, relation_id: str) -> Refinement:
    """The thresholds that found the relation's neurons; those of the mode `default` where it is not said."""
    refinement = manifest.method.refinement
    said = {name: refinement.get(name) for name in _CHOSEN}
    # The mode `paper` fits the share to each relation.
    said["share"] = refinement.get("shares", {}).get(relation_id, said["share"])
    return replace(MODES["default"], **{name: value for name, value in said.items() if value is not None})


def choose_thresholds(manifest: Manifest, own: Refinement) -> Refinement:
    """Three sliders whose values are the URL's `t`, `p` and `n`; `own` where nobody moves them."""
    left, middle, right = st.columns(3, gap="medium", vertical_alignment="bottom")
    lowest = manifest.method.stored_fraction or STORED_FRACTION
    chosen = choose_t_and_p(own, (left, middle), lowest=lowest)
    with right:
        n = address.slider(
            "Negative examples (n)",
            "n",
            low=0.0,
            high=float(_MOST_NEGATIVES),
            step=1.0,
            default=float(own.negatives),
            format="%d",
            help="Other facts of the relation with other answers. Neurons that pass the thresholds on their "
            "prompts too are left out.",
        )
    return replace(chosen, negatives=int(n))


def choose_t_and_p(own: Refinement, places: Sequence[Any], *, lowest: float) -> Refinement:
    """Two sliders, for `t` and `p`; `own` where nobody moves them."""
    reaches = "at least" if own.inclusive else "more than"
    with places[0]:
        t = address.slider(
            "Threshold (t)",
            "t",
            low=lowest,
            high=1.0,
            step=0.05,
            default=own.threshold,
            help=f"A score counts if it is {reaches} this share of the prompt's largest score.",
        )
    with places[1]:
        p = address.slider(
            "Share of prompts (p)",
            "p",
            low=0.0,
            high=1.0,
            step=0.05,
            default=own.share,
            help=f"A score has to count in {reaches} this share of the discovery prompts; at least in "
            f"{own.at_least}.",
        )
    return replace(own, threshold=t, share=p)


def mark_changes(stored: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The neurons at other thresholds, marked kept or added, then those of the atlas that are removed.

    Takes `queries.neurons_of_fact` and `queries.rethreshold`; returns their columns and `change`.
    """
    before, after = (pd.MultiIndex.from_frame(rows[["layer", "neuron"]]) for rows in (stored, found))
    now = found.assign(change=[KEPT if there else ADDED for there in after.isin(before)])
    gone = stored[~before.isin(after)].assign(change=REMOVED)
    parts = [part for part in (now, gone) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else now


def mark_kinds(scores: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Scores with each neuron's kind for the charts; `rows` as `mark_changes` returns them."""
    kinds = rows.set_index(["layer", "neuron"])["change"].map(_CHANGE_KINDS)
    pairs = pd.MultiIndex.from_frame(scores[["layer", "neuron"]])
    return scores.assign(kind=kinds.reindex(pairs).fillna(OTHER).to_numpy())


def count_changes(rows: pd.DataFrame) -> str:
    """How many neurons there are now, and how many were kept, added and removed."""
    counts = rows["change"].value_counts().reindex([KEPT, ADDED, REMOVED], fill_value=0)
    parts = ", ".join(f"{n} {change}" for change, n in counts.items() if n)
    return plural(counts[KEPT] + counts[ADDED], "neuron") + (f": {parts}" if parts else "")
