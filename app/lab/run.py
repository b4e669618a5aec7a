"""The Lab at work: progress and cancel; and the runs of this session.

    with show_progress(place, "Finding neurons") as progress:      # a bar and a Cancel button in `place`
        found = apart(find_neurons, subject, prompts, progress=progress)
    run = run_experiment(subject, experiment, place)

Cancelling is Streamlit's own way: a click stops the script at its next message to the page, by raising
through whatever runs; so does leaving. Messages go out between batches. Nothing has to be undone: weights are
never written, hooks end with the forward pass, and the place in line is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.lab import state
from app.lab.tables import check_limits
from app.shared import limits
from app.shared.apart import apart
from atlas.experiments.experiment import Experiment

if TYPE_CHECKING:
    from atlas.experiments.generate import Texts
    from atlas.experiments.run import Outcome
    from atlas.surgery.subject import Subject

RUNS_KEPT = 10
TEXT_TOKENS = 20
Progress = Callable[[float, str], None]


@contextmanager
def show_progress(place: Any, title: str) -> Iterator[Progress]:
    """A bar and a Cancel button in `place` (an `st.empty`) while the block computes; gone afterwards."""
    with place.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        bar = st.progress(0.0, text=f"{title} …")
        st.button(
            "Cancel",
            key=f"lab_cancel_{title}",
            icon=":material/close:",
            on_click=_cancel,
        )
    try:
        yield lambda share, text: bar.progress(min(max(share, 0.0), 1.0), text=f"{title} · {text}")
    finally:
        place.empty()


def _cancel() -> None:
    state.put("at_once", False)
    state.put("toast", "Cancelled. Nothing was changed.")


def show_toast() -> None:
    """What the last click did, where the page itself does not show it."""
    if text := state.get("toast"):
        state.put("toast", None)
        st.toast(text)


@dataclass(frozen=True)
class Run:
    """An experiment that was run in this session; `texts` of a causal model, after the first prompt."""

    number: int
    experiment: Experiment
    outcome: Outcome
    texts: Texts | None = None


def last_run() -> Run | None:
    """The run whose results are shown."""
    return state.get("run")


def run_experiment(subject: Subject, experiment: Experiment, place: Any) -> Run:
    """Run the experiment and keep its outcome.

    Raises `AtlasError` when the model cannot run it, or when it is beyond the limits.
    """
    from atlas.experiments.generate import write_texts
    from atlas.experiments.run import run

    check_limits(experiment)
    texts = None
    with show_progress(place, "Running") as progress:
        outcome = apart(run, subject, experiment, progress=progress)
        if subject.family.kind == "causal":
            n = min(state.get("tokens", TEXT_TOKENS), limits.current().tokens)
            first = experiment.prompts[0].prompt
            texts = apart(write_texts, subject, experiment, first, n_tokens=n, progress=progress)
    number = state.get("runs_made", 0) + 1
    state.put("runs_made", number)
    done = Run(number, experiment, outcome, texts)
    state.put("run", done)
    state.put("runs", [*state.get("runs", []), done][-RUNS_KEPT:])
    return done
