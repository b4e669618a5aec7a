"""Neuron, live: its activation in a visitor's own text, and the neurons that write as it does.

    live.show_own_text(atlas, neuron, largest)     # a box; the tokens of its text in colour
    live.by_value_vector(atlas, neuron)            # neurons by the cosine of value vectors

Torch is imported once a text is there, or the comparison is asked for, and where the model is at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from app.lab.choose import offer_to_fetch
from app.lab.run import show_progress
from app.shared import address, limits, resources
from app.shared.apart import apart
from app.shared.texts import draw, heat
from app.shared.words import escape
from atlas import queries
from atlas.errors import ModelError
from atlas.models import locate, may_be_on_hub
from atlas.models.families import FAMILIES
from atlas.neuron import Neuron
from atlas.store.atlas import Atlas

_KEPT = "neuron_live"
ANSWERS_KEPT = 20
RELATED_SHOWN = 12


def at_hand(atlas: Atlas) -> bool:
    """Whether visitors may use the atlas's model, and it is on this machine."""
    name = atlas.manifest.model.name
    if not limits.current().offers(name):
        return False
    try:
        locate(name, allow_download=False)
    except ModelError:
        return False
    return True


def show_own_text(atlas: Atlas, neuron: Neuron, largest: float) -> None:
    """A box for a text; below it the text's tokens on the colour of the neuron's activation."""
    name, allowed = atlas.manifest.model.name, limits.current()
    if not at_hand(atlas):
        offer_the_model(name)
        return
    family = FAMILIES.get(atlas.manifest.model.family or "")
    causal = family is not None and family.kind == "causal"
    text = address.text_box(
        "Try your own text",
        "text",
        longest=allowed.prompt_length,
        placeholder="The Eiffel Tower stands in" + ("" if causal else " [MASK]."),
        help=f"Asks {escape(name)} itself. [MASK] or [Y] marks a gap; a causal model reads up to it.",
    )
    place = st.empty()
    if not text.strip():
        return
    from atlas.surgery.tokens import read_text

    read = _kept((atlas.atlas_id, neuron, text), place, "Reading", read_text, name, text, neuron)
    deepest = max([largest, *map(abs, read.activations)])
    draw(heat(read.tokens, read.activations, largest=deepest, answer=read.answer))


def offer_the_model(name: str) -> None:
    """A button that fetches the model, where visitors may; folded, since the page is complete without."""
    if not limits.current().may_download(name):
        return
    try:
        locate(name, allow_download=False)
    except ModelError as missing:
        if may_be_on_hub(name):
            with st.expander("Try your own text: the model has to be fetched first"):
                offer_to_fetch(name, missing)


def by_value_vector(atlas: Atlas, neuron: Neuron) -> pd.DataFrame:
    """The neurons whose value vectors are nearest, with what they promote above zero.

    Columns: layer, neuron, cosine, n_facts, label, promoted, suppressed.
    """
    from atlas.surgery.readout import nearest_values

    name, key = atlas.manifest.model.name, (atlas.atlas_id, neuron)
    found = _kept(key, st.empty(), "Comparing", nearest_values, name, neuron, k=RELATED_SHOWN)
    rows = queries.neurons_named(atlas, [says.neuron for says, _ in found])
    sides = {
        side: [
            [{"token": token, "logit": logit} for token, logit in getattr(says, side)] for says, _ in found
        ]
        for side in ("promoted", "suppressed")
    }
    return rows.assign(cosine=[cosine for _, cosine in found], **sides)


def _kept(
    key: Any, place: Any, title: str, function: Callable[..., Any], name: str, *given: Any, **options: Any
) -> Any:
    """What the function finds with the model, kept for this session; a progress bar in `place` meanwhile."""
    kept = st.session_state.setdefault(_KEPT, {})
    if key not in kept:
        with show_progress(place, title) as progress:
            kept[key] = apart(function, resources.subject(name), *given, progress=progress, **options)
        for old in list(kept)[:-ANSWERS_KEPT]:
            del kept[old]
    return kept[key]
