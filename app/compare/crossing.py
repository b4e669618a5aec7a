"""What suppressing the neurons of either set of prompts does to the prompts of both, beside random neurons.

    measure_effects(sets, neurons, progress)        # keeps them in the session
    rows = show_cross_effects(sets, neurons)        # sentences, pictures, a table; or a button to measure

`neurons` are those found on the two sides of the `Sets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, TextColumn

from app.compare import charts
from app.lab import state
from app.lab.run import Progress, show_progress
from app.shared import layout, limits
from app.shared.apart import apart
from app.shared.words import plural
from atlas.errors import AtlasError
from atlas.numbers import signed_percent

if TYPE_CHECKING:
    from atlas.experiments.crossing import CrossEffect
    from atlas.surgery.subject import Subject


@dataclass(frozen=True)
class Sets:
    """A model, and the prompts of each side."""

    subject: Subject
    a: tuple
    b: tuple

    @property
    def key(self) -> tuple:
        return self.subject.identity, self.a, self.b


def measure_effects(sets: Sets, neurons: tuple, progress: Progress) -> None:
    """Measure the effects of suppressing these neurons, and keep them in the session."""
    from atlas.experiments.crossing import cross_effects

    a, b = ([each.neuron for each in several] for several in neurons)
    both = sorted(set(a) & set(b))
    most = limits.current().neurons
    if len(a) + len(b) > most:
        raise AtlasError(
            f"There are {len(a) + len(b):,} neurons, at most {most:,} are allowed. Raise the thresholds."
        )
    effects = apart(
        cross_effects,
        sets.subject,
        {"A": a, "B": b, "both": both},
        {"A": sets.a, "B": sets.b},
        draws=min(state.CONTROL_DEFAULTS["draws"], limits.current().draws),
        progress=progress,
    )
    st.session_state["sets_effects"] = (effects_key(sets, neurons), effects)


def effects_key(sets: Sets, neurons: tuple) -> tuple:
    return (*sets.key, *(tuple(each.neuron for each in several) for several in neurons))


def show_cross_effects(sets: Sets, neurons: tuple) -> pd.DataFrame | None:
    """The effects on each other's prompts, or a button that measures them."""
    st.subheader("What suppressing them does", anchor=False)
    if not any(neurons):
        layout.nothing("No neurons to suppress. Lower the thresholds.")
        return None
    known, effects = st.session_state.get("sets_effects", (None, None))
    if known != effects_key(sets, neurons):
        st.caption("The effects of these neurons have not been measured yet.")
        pressed = st.button("Measure their effects", icon=":material/science:")
        place = st.empty()
        if not pressed:
            return None
        with layout.errors_as_sentences():
            with show_progress(place, "Suppressing them") as progress:
                measure_effects(sets, neurons, progress)
            st.rerun()
        return None
    rows = effect_rows(effects)
    describe_effects(rows)
    for place, side in zip(st.columns(2, gap="medium"), "AB", strict=True):
        with place:
            layout.draw_chart(
                partial(charts.cross_bars, rows[rows["prompts"] == side], side),
                f"Change of the answer's probability on the prompts of {side}, by whose neurons are "
                "suppressed",
            )
    with st.expander("As a table"):
        effect_table(rows)
    return rows


def effect_rows(effects: tuple[CrossEffect, ...]) -> pd.DataFrame:
    """A row a set of neurons and a set of prompts.

    Columns: neurons ('A', 'B', 'both'), n_neurons, prompts ('A', 'B'), n_prompts, before, after (mean
    probabilities), change, random, random_low, random_high (changes with random neurons: mean, lowest and
    highest of the draws), first_before, first_after (prompts with the answer first).
    """
    return pd.DataFrame(
        {
            "neurons": each.neurons,
            "n_neurons": each.n_neurons,
            "prompts": each.prompts,
            "n_prompts": len(each.before),
            "before": sum(each.before) / len(each.before),
            "after": sum(each.after) / len(each.after),
            "change": each.change,
            "random": each.random_change,
            "random_low": min(each.random_changes),
            "random_high": max(each.random_changes),
            "first_before": sum(rank == 1 for rank in each.rank_before),
            "first_after": sum(rank == 1 for rank in each.rank_after),
        }
        for each in effects
    )


def describe_effects(rows: pd.DataFrame) -> None:
    """The effect of each side's neurons on the other side's prompts, in sentences."""
    for own, other in (("A", "B"), ("B", "A")):
        crossing = rows[(rows["neurons"] == own) & (rows["prompts"] == other)]
        for row in crossing.itertuples():
            st.markdown(
                f"Suppressing {plural(row.n_neurons, 'neuron')} of **{own}** takes the answer's mean "
                f"probability on the prompts of **{other}** from **{row.before:.3f}** to **{row.after:.3f}** "
                f"({signed_percent(row.change)}); as many random neurons of the same layers: "
                f"{signed_percent(row.random)}."
            )
    st.caption(
        "A side's neurons were found on its own prompts; the other side's prompts are the test. If both "
        "fall, the neurons need not carry this fact: try another fact as B."
    )


def effect_table(rows: pd.DataFrame) -> None:
    whose = {"A": "A's", "B": "B's", "both": "those of both"}
    shown = rows.assign(
        neurons=[f"{whose[row.neurons]} ({row.n_neurons})" for row in rows.itertuples()],
        first=[f"{row.first_before} → {row.first_after}" for row in rows.itertuples()],
    )
    st.dataframe(
        shown[["neurons", "prompts", "n_prompts", "before", "after", "change", "random", "first"]],
        hide_index=True,
        alt="Mean probabilities before and after, by whose neurons are suppressed, on whose prompts",
        column_config={
            "neurons": TextColumn("Suppressed"),
            "prompts": TextColumn("Prompts of"),
            "n_prompts": NumberColumn("Prompts"),
            "before": NumberColumn("Before", format="%.3f"),
            "after": NumberColumn("After", format="%.3f"),
            "change": NumberColumn("Change", format="percent"),
            "random": NumberColumn(
                "Random",
                format="percent",
                help="As many random neurons of the same layers, mean of the draws",
            ),
            "first": TextColumn("First", help="Prompts with the answer first, before → after"),
        },
    )
