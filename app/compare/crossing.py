"""What the neurons of either set of prompts do to the prompts of both, beside random ones.

    cross(asked, neurons, progress)                 # measure it, and keep it in the session
    rows = show_effects(asked, neurons)             # in sentences, pictures, a table; or a button to measure

`asked` is a `Sets`, `neurons` what was found on its two sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app.compare import charts
from app.lab import run, state
from app.shared import layout, limits
from app.shared.words import plural
from atlas.errors import AtlasError
from atlas.numbers import signed_percent

if TYPE_CHECKING:
    from atlas.experiments.crossing import CrossEffect
    from atlas.surgery.subject import Subject

TAKEN_AWAY = {"A": "A's", "B": "B's", "both": "those of both"}


@dataclass(frozen=True)
class Sets:
    """What is asked: a model, and each side's prompts as the library has them."""

    subject: Subject
    a: tuple
    b: tuple

    @property
    def key(self) -> tuple:
        return self.subject.weights_sha256, self.a, self.b


def cross(asked: Sets, neurons: tuple, progress: Callable[[float, str], None]) -> None:
    """Measure the effects of these neurons, and keep them in the session."""
    from atlas.experiments.crossing import cross_effects

    a, b = ([each.neuron for each in several] for several in neurons)
    both = sorted(set(a) & set(b))
    most = limits.current().neurons
    if len(a) + len(b) > most:
        raise AtlasError(f"There are {len(a) + len(b):,} neurons. Raise the thresholds to at most {most:,}.")
    effects = cross_effects(
        asked.subject,
        {"A": a, "B": b, "both": both},
        {"A": asked.a, "B": asked.b},
        draws=min(state.CONTROLS["draws"], limits.current().draws),
        progress=progress,
    )
    st.session_state["sets_effects"] = (effects_key(asked, neurons), effects)


def effects_key(asked: Sets, neurons: tuple) -> tuple:
    return (*asked.key, *(tuple(each.neuron for each in several) for several in neurons))


def show_effects(asked: Sets, neurons: tuple) -> pd.DataFrame | None:
    """The effects on each other's prompts, or a button that measures them."""
    st.subheader("What suppressing them does", anchor=False)
    if not any(neurons):
        layout.nothing("There are no neurons to suppress. Lower the thresholds.")
        return None
    known, effects = st.session_state.get("sets_effects", (None, None))
    if known != effects_key(asked, neurons):
        st.caption("Other thresholds, other neurons: what they do has not been measured yet.")
        pressed = st.button("Measure their effects", icon=":material/science:")
        place = st.empty()
        if not pressed:
            return None
        with layout.errors_as_sentences():
            with run.at_work(place, "Suppressing them") as progress:
                cross(asked, neurons, progress)
            st.rerun()
        return None
    rows = effect_rows(effects)
    say_effects(rows)
    for place, side in zip(st.columns(2, gap="medium"), "AB", strict=True):
        with place:
            layout.draw_chart(
                charts.cross_bars(rows[rows["prompts"] == side], side),
                f"Change of the answer's probability on the prompts of {side}, by whose neurons are off",
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


def say_effects(rows: pd.DataFrame) -> None:
    """The crossings in sentences: each side's neurons on the other side's prompts."""
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
        "A side's own prompts are those its neurons were found on; the other side's are the test. That both "
        "fall does not show that the neurons carry this fact: try another fact as B."
    )


def effect_table(rows: pd.DataFrame) -> None:
    percent = "percent"
    shown = rows.assign(
        neurons=[f"{TAKEN_AWAY[row.neurons]} ({row.n_neurons})" for row in rows.itertuples()],
        first=[f"{row.first_before} → {row.first_after}" for row in rows.itertuples()],
    )
    st.dataframe(
        shown[["neurons", "prompts", "n_prompts", "before", "after", "change", "random", "first"]],
        hide_index=True,
        alt="Mean probabilities before and after, by whose neurons are off and whose prompts are asked",
        column_config={
            "neurons": st.column_config.TextColumn("Suppressed"),
            "prompts": st.column_config.TextColumn("Prompts of"),
            "n_prompts": st.column_config.NumberColumn("Prompts"),
            "before": st.column_config.NumberColumn("Before", format="%.3f"),
            "after": st.column_config.NumberColumn("After", format="%.3f"),
            "change": st.column_config.NumberColumn("Change", format=percent),
            "random": st.column_config.NumberColumn(
                "Random", format=percent, help="As many random neurons of the same layers, mean of the draws"
            ),
            "first": st.column_config.TextColumn(
                "First", help="Prompts with the answer first, before → after"
            ),
        },
    )
