"""The Lab at work: progress, the place in line, cancel; and the experiment's outcome in this session.

    with at_work(place, "Finding its neurons") as progress:      # a bar and a Cancel button in `place`
        found = find_neurons(subject, prompts, progress=progress)
    outcome = outcome_of(subject, experiment)

Cancelling is Streamlit's own way: a click stops the script at its next message to the page, by raising
through whatever runs. Nothing has to be undone then: weights are never written, hooks are gone with the
forward pass, and the place in line is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.lab import state
from atlas.experiments.experiment import Experiment

if TYPE_CHECKING:
    from atlas.experiments.run import Outcome
    from atlas.surgery.subject import Subject

RUNS_KEPT = 10


@contextmanager
def at_work(place: Any, title: str) -> Iterator[Callable[[float, str], None]]:
    """A bar and a Cancel button in `place` (an `st.empty`) while the block computes; gone afterwards."""
    with place.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        bar = st.progress(0.0, text=f"{title} …")
        st.button("Cancel", key="lab_cancel", icon=":material/close:", on_click=_cancelled)
    try:
        yield lambda share, said: bar.progress(min(max(share, 0.0), 1.0), text=f"{title} · {said}")
    finally:
        place.empty()


def _cancelled() -> None:
    state.put("said", "Cancelled. Nothing was changed.")


def say_what_happened() -> None:
    """What the last click did, where the page itself does not show it."""
    said = state.get("said")
    if said:
        state.put("said", None)
        st.toast(said)


# Outcomes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One experiment that was run in this session."""

    number: int
    experiment: Experiment
    outcome: Outcome


def last_run() -> Run | None:
    """The run whose results are on the screen."""
    return state.get("run")


def run(subject: Subject, experiment: Experiment, place: Any) -> Run:
    """Do the experiment now and keep its outcome. Raises `AtlasError` when the model cannot do it."""
    from atlas.experiments import run as experiments

    with at_work(place, "Running") as progress:
        outcome = experiments.run(subject, experiment, progress=progress)
    number = state.get("runs_made", 0) + 1
    state.put("runs_made", number)
    done = Run(number, experiment, outcome)
    state.put("run", done)
    state.put("runs", [*state.get("runs", []), done][-RUNS_KEPT:])
    return done
