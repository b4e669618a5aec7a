"""The Lab's neurons: of the fact, found live, from the tray, or by name; each with a tick.

    ticked = choose_neurons(atlas, subject, question)

What is listed is kept by name, so that a tick stays when the list changes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from app.lab import run, state
from app.lab.choose import is_atlas_model
from app.lab.state import ATLAS, FOUND, GIVEN, SESSION, TRAY, Question
from app.lab.tables import typed_prompts
from app.shared import layout, limits, tray
from app.shared.words import escape, plural, token_list
from atlas import queries
from atlas.errors import AtlasError
from atlas.neuron import Neuron, Prompt
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.experiments.run import Found
    from atlas.surgery.subject import Subject

COLUMNS = ("neuron", "share", "mean_score", "promoted", "origin")
MOST_NAMES = 2000


def choose_neurons(atlas: Atlas, subject: Subject, question: Question) -> tuple[Neuron, ...]:
    """The neurons that are ticked; of all sources that are switched on."""
    st.markdown("##### Neurons")
    found = find(subject, question)
    tables = {
        ATLAS: of_the_fact(atlas, subject, question),
        FOUND: found_live(found),
        TRAY: in_the_tray(subject),
        GIVEN: by_name(subject),
    }
    offered = {source: table for source, table in tables.items() if table is not None and len(table)}
    if not offered:
        layout.nothing(_why_none(atlas, subject, question, found))
        return ()
    listed = choose_sources(offered)
    rows = pd.concat([offered[source] for source in listed], ignore_index=True)
    rows = with_readout(atlas, subject, rows.drop_duplicates("neuron", ignore_index=True))
    ticked = tick(rows)
    if listed != [TRAY] and is_atlas_model(atlas, subject):
        tray.add_button(ticked, "Put them into the tray", key="lab", source=question.name)
    return ticked


def _why_none(atlas: Atlas, subject: Subject, question: Question, found: Found | None) -> str:
    if found is not None:
        return "No neuron stands out in enough of these prompts. Try other wordings."
    if not is_atlas_model(atlas, subject):
        return (
            f"The atlas in view is about {escape(atlas.manifest.model.name)}, not about "
            f"{escape(subject.name)}. Find the neurons live."
        )
    if question.fact_id:
        return "The atlas has no neurons for this fact. Find them live, or choose another fact."
    return "There are no neurons yet. Find them live, or put some into the tray while browsing."


# Where they come from --------------------------------------------------------------------------------


def of_the_fact(atlas: Atlas, subject: Subject, question: Question) -> pd.DataFrame | None:
    if not question.fact_id or not is_atlas_model(atlas, subject):
        return None
    rows = queries.neurons_of_fact(atlas, question.fact_id)
    names = [str(Neuron(int(row.layer), int(row.neuron))) for row in rows.itertuples()]
    return pd.DataFrame(
        {
            "neuron": names,
            "share": rows["share"],
            "mean_score": rows["mean_score"],
            "origin": "the atlas",
        }
    )


def found_live(found: Found | None) -> pd.DataFrame | None:
    if found is None:
        return None
    return pd.DataFrame(
        {
            "neuron": [str(item.neuron) for item in found.neurons],
            "share": [item.share for item in found.neurons],
            "mean_score": [item.mean_score for item in found.neurons],
            "origin": "found live",
        }
    )


def tray_key(subject: Subject) -> str:
    """The subject's tray: filled from atlases of the same weights, or of its name where no hash is known."""
    by_hash = tray.model_key(subject.name, subject.weights_sha256)
    return by_hash if tray.neurons(by_hash) else subject.name


def in_the_tray(subject: Subject) -> pd.DataFrame:
    inside = tray.holdings(tray_key(subject))
    return pd.DataFrame(
        {
            "neuron": [str(neuron) for neuron in inside],
            "origin": [source or "the tray" for source in inside.values()],
        }
    )


def by_name(subject: Subject) -> pd.DataFrame:
    """Neurons that a link brought along or somebody typed."""
    given = {neuron: origin for neuron, origin in state.get("given", {}).items() if exists(subject, neuron)}
    return pd.DataFrame({"neuron": [str(neuron) for neuron in given], "origin": list(given.values())})


def exists(subject: Subject, neuron: Neuron) -> bool:
    return neuron.layer < subject.n_layers and neuron.neuron < subject.n_neurons


SOURCE_NAMES = {ATLAS: "The fact's", FOUND: "Found live", TRAY: "Tray", GIVEN: "By name"}


def choose_sources(offered: dict[str, pd.DataFrame]) -> list[str]:
    wanted = [source for source in state.get("sources", [ATLAS]) if source in offered]
    state.put("sources", wanted or [next(iter(offered))])
    return st.pills(
        "Where they come from",
        list(offered),
        selection_mode="multi",
        format_func=lambda source: f"{SOURCE_NAMES[source]} ({len(offered[source])})",
        key="lab_sources",
        persist_state=SESSION,
        label_visibility="collapsed",
    )


# Live ------------------------------------------------------------------------------------------------


def find(subject: Subject, question: Question) -> Found | None:
    """The neurons found on these prompts, in this session's last search or now; and boxes for more."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        pressed = st.button(
            "Find them live",
            icon=":material/search:",
            help="Integrated gradients over every neuron, prompt by prompt, each with its certificate",
        )
        with st.popover("Add by name", icon=":material/edit:"):
            st.text_input(
                "Neurons",
                key="lab_names",
                max_chars=MOST_NAMES,
                placeholder="L2.N1414, L0.N7",
                on_change=_add_names,
                args=(subject.name, subject.n_layers, subject.n_neurons),
            )
            st.caption(f"Layers 0–{subject.n_layers - 1}, neurons 0–{subject.n_neurons - 1}.")
            if state.get("names_error"):
                st.error(escape(state.get("names_error")))
        with st.popover("Negatives"):
            negatives = negative_prompts(subject, question)
    key = (subject.weights_sha256, question.discovery, negatives)
    place = st.empty()
    if pressed:
        from atlas.experiments.run import find_neurons

        with run.at_work(place, "Finding its neurons") as progress:
            found = find_neurons(subject, question.discovery, negatives=negatives, progress=progress)
        st.session_state["lab_found"] = (key, found)
        state.put("sources", [FOUND])
        st.rerun()
    known, found = st.session_state.get("lab_found", (None, None))
    if known != key:
        return None
    certified = 1 - found.n_unconverged / max(found.n_paths, 1)
    st.caption(
        f"{plural(len(found.neurons), 'neuron')} found on "
        f"{plural(len(found.prompts), 'prompt')}; {certified:.0%} of {found.n_paths} integrals "
        "within tolerance."
        + (" With a single prompt, all its strong neurons are kept." if len(found.prompts) == 1 else "")
        + (f" Without those of {plural(len(negatives), 'negative example')}." if negatives else "")
    )
    return found


def negative_prompts(subject: Subject, question: Question) -> tuple[Prompt, ...]:
    """Prompts whose neurons are left out, as they are typed; `AtlasError` where they cannot be used."""
    allowed = limits.current()
    text = st.text_area(
        "Prompts that the neurons should not answer, one a line",
        key=state.kept("negatives", ""),
        persist_state=SESSION,
        max_chars=allowed.prompts * (allowed.prompt_length + 1),
        placeholder="The capital of Italy is [Y].",
    )
    answer = st.text_input(
        "Their answer",
        key=state.kept("negative_answer", ""),
        persist_state=SESSION,
        max_chars=allowed.answer_length,
        placeholder=question.answer,
    )
    st.caption(
        "Neurons that stand out in at least half of them are left out of what is found live. Without an "
        "answer of their own, they are asked for the question's."
    )
    if not text.strip():
        return ()
    return typed_prompts(subject, text, answer or question.answer)


def _add_names(model: str, n_layers: int, n_neurons: int) -> None:
    """What was typed becomes neurons to tick; a sentence and the text stay when it cannot."""
    typed = st.session_state.get("lab_names", "")
    names = [name for name in re.split(r"[\s,;]+", typed) if name]
    state.put("names_error", None)
    try:
        neurons = [Neuron.parse(name) for name in names]
        for neuron in neurons:
            if neuron.layer >= n_layers or neuron.neuron >= n_neurons:
                raise AtlasError(
                    f"{model} has no neuron {neuron}. Its layers are 0–{n_layers - 1}, its neurons "
                    f"0–{n_neurons - 1}."
                )
    except AtlasError as error:
        state.put("names_error", str(error))
        return
    if neurons:
        state.put("given", state.get("given", {}) | dict.fromkeys(neurons, "typed"))
        state.put("sources", list(dict.fromkeys([*state.get("sources", []), GIVEN])))
        st.session_state["lab_names"] = ""


# The table -------------------------------------------------------------------------------------------


def with_readout(atlas: Atlas, subject: Subject, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with what each neuron promotes, where the atlas has read it out of this model."""
    promoted = {}
    if is_atlas_model(atlas, subject):
        neurons = [Neuron.parse(name) for name in rows["neuron"]]
        known = promoted_tokens(atlas, neurons)
        promoted = {str(neuron): token_list(pairs, 5, missing="") for neuron, pairs in known.items()}
    return rows.assign(promoted=[promoted.get(name, "") for name in rows["neuron"]])


def promoted_tokens(atlas: Atlas, neurons: list[Neuron]) -> dict[Neuron, Any]:
    """The tokens that these neurons' value vectors promote, as far as the atlas has read them out."""
    rows = atlas.query(
        """
        SELECT layer, neuron, promoted FROM neurons
        WHERE list_contains($names, 'L' || layer || '.N' || neuron)
        """,
        {"names": [str(neuron) for neuron in neurons]},
    )
    return {Neuron(int(row.layer), int(row.neuron)): row.promoted for row in rows.itertuples()}


def tick(rows: pd.DataFrame) -> tuple[Neuron, ...]:
    """The table; a tick before each neuron says whether the changes take it."""
    off = state.get("off", set())
    names = list(rows["neuron"])
    # A table with other rows is another widget: its ticks are set from the names that are off.
    key = f"lab_ticks_{hash(tuple(names))}"
    if key not in st.session_state:
        wanted = [place for place, name in enumerate(names) if name not in off]
        st.session_state[key] = {"selection": {"rows": wanted, "columns": [], "cells": []}}
    shown = rows.dropna(axis="columns", how="all")
    if (rows["promoted"] == "").all():
        shown = shown.drop(columns="promoted")
    top = max(float(rows["mean_score"].max()) if "mean_score" in shown else 0.0, 1e-9)
    event = st.dataframe(
        shown.assign(share=100 * shown["share"]) if "share" in shown else shown,
        key=key,
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        height=min(36 * (len(rows) + 1) + 2, 292),
        alt="Neurons to change, with a tick each",
        column_order=[column for column in COLUMNS if column in shown],
        column_config={
            "neuron": st.column_config.TextColumn("Neuron", width="small"),
            "share": st.column_config.NumberColumn(
                "Share", format="%.0f%%", width=60, help="Share of the prompts in which it is strong"
            ),
            "mean_score": st.column_config.ProgressColumn(
                "Mean score", format="%.4f", min_value=0.0, max_value=top, width=120
            ),
            "promoted": st.column_config.TextColumn("Promotes", width="medium"),
            "origin": st.column_config.TextColumn("From", width="small"),
        },
    )
    on = {names[place] for place in event["selection"]["rows"] if place < len(names)}
    state.put("off", (off - set(names)) | {name for name in names if name not in on})
    ticked = tuple(Neuron.parse(name) for name in names if name in on)
    most = limits.current().neurons
    if len(ticked) > most:
        raise AtlasError(f"{len(ticked):,} neurons are ticked. Keep at most {most:,}.")
    st.caption(f"{len(ticked)} of {len(names)} ticked. Ticks say which neurons the changes take.")
    return ticked
