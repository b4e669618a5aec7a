"""The choice of a model, for the Lab and for Compare.

subject = choose_model(status)                       # None while it has to be fetched
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.lab import state
from app.lab.state import OTHER_MODEL, option, setting
from app.shared import limits, resources
from app.shared.words import escape, joined
from atlas.errors import ModelError
from atlas.models import KNOWN_MODELS, known_model, locate, may_be_on_hub, same_model
from atlas.models.families import FAMILIES
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject


# The model -------------------------------------------------------------------------------------------


def choose_model(status: Any) -> Subject | None:
    """The chosen subject model, loaded; None while it has to be named or fetched.

    `status` is a container that is always visible: it shows the loading, then what the model is.
    """
    allowed = limits.current()
    names = list(allowed.models) if allowed.demo_mode else [*allowed.models, OTHER_MODEL]
    chosen = st.selectbox(
        "Model",
        names,
        **option("model", names, names[0]),
    )
    if chosen == OTHER_MODEL:
        st.text_input(
            "Folder or hub id",
            **setting("folder", ""),
            max_chars=300,
            placeholder="~/models/my-bert or bert-base-uncased",
        )
    name = state.model_name()
    if not name:
        st.caption(f"Safetensors weights of one of these types: {', '.join(FAMILIES)}.")
        return None
    allowed.check_model(name)
    try:
        locate(name, allow_download=False)
    except ModelError as missing:
        with status:
            offer_to_fetch(name, missing)
        return None
    return load_model(name, status)


def offer_to_fetch(name: str, missing: ModelError) -> None:
    """A button that fetches the model, where visitors may have it fetched."""
    if not may_be_on_hub(name):
        raise missing
    limits.current().check_download(name)
    known = known_model(name)
    if known is None:
        size = " from the hub"
    elif name in KNOWN_MODELS:
        size = f" ({known.download_mb} MB, {known.disk_mb} MB on disk)"
    else:
        size = f" from the hub ({known.download_mb} MB)"
    if known is None:
        st.info(escape(missing))
    if st.button(f"Fetch {escape(name)}{size}", type="primary", icon=":material/download:"):
        resources.fetch(name)


def load_model(name: str, status: Any) -> Subject:
    with status:
        with st.spinner("Loading the model …"):
            subject = resources.subject(name)
        known = known_model(name)
        size = f"{subject.n_layers} layers of {subject.n_neurons:,} neurons"
        weights = f"weights {subject.weights_sha256[:12]}"
        about = known.description if known else ""
        st.caption(escape(joined(subject.family.kind, size, weights, about)))
    return subject


def is_atlas_model(atlas: Atlas, subject: Subject) -> bool:
    """Whether the atlas was made from the same model."""
    return same_model(subject, atlas.manifest.model)
