"""Inside the model: how the answer arises, layer by layer, and where in the sentence a neuron fires.

look_inside(subject, seen, neurons)
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app.lab import state
from app.lab.run import show_progress
from app.lab.state import option, setting
from app.shared import layout
from app.shared.apart import apart
from app.shared.texts import draw, heat
from atlas.charts.neurons import lens_lines
from atlas.neuron import Neuron

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.experiments.look import Look
    from atlas.surgery.subject import Subject


def look_inside(subject: Subject, seen: Look, neurons: Sequence[Neuron]) -> None:
    """A switch, and behind it the lens of the sentence and its tokens on the colour of a neuron."""
    if not st.toggle("Look inside: layer by layer, word by word", **setting("inside", False)):
        return
    left, right = st.columns(2, gap="medium")
    with left:
        rows = lens_rows(seen, neurons)
        layout.draw_chart(partial(lens_lines, rows), "The answer's probability after each layer")
        st.caption(
            "The state after each layer, read through the model's own end (the logit lens): what it says in "
            "early layers is unreliable."
        )
    with right:
        if neurons:
            colour_tokens(subject, seen, neurons)


def lens_rows(seen: Look, neurons: Sequence[Neuron]) -> pd.DataFrame:
    """The lens, and how many of the neurons lie in each layer.

    Columns: layer, probability, rank, top (list of {token, probability}), n_neurons.
    """
    return pd.DataFrame(
        {
            "layer": layer,
            "probability": each.probability,
            "rank": each.rank,
            "top": [{"token": token, "probability": p} for token, p in each.top],
            "n_neurons": sum(neuron.layer == layer for neuron in neurons),
        }
        for layer, each in enumerate(seen.lens.layers)
    )


def colour_tokens(subject: Subject, seen: Look, neurons: Sequence[Neuron]) -> None:
    """The sentence's tokens, each on the colour of the chosen neuron's activation there."""
    from atlas.surgery.tokens import read_text

    names = [str(neuron) for neuron in neurons]
    chosen = st.selectbox("Neuron", names, **option("inside_neuron", names, names[0]))
    key = (subject.identity, seen.prompt, chosen)
    known, read = state.get("inside_read", (None, None))
    if known != key:
        with show_progress(st.empty(), "Reading") as progress:
            read = apart(read_text, subject, seen.prompt.text, Neuron.parse(chosen), progress=progress)
        state.put("inside_read", (key, read))
    largest = max(map(abs, read.activations))
    draw(heat(read.tokens, read.activations, largest=largest, answer=read.answer))
