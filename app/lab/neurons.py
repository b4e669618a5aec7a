"""The Lab's neurons: of the fact, found live, from the tray, or by name; each can be selected.

    selected = choose_neurons(atlas, subject, question)

What is not selected is kept by name, so that a selection stays when the list changes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, ProgressColumn, TextColumn

from app.lab import state
from app.lab.choose import is_atlas_model
from app.lab.run import show_progress
from app.lab.state import ATLAS, FOUND, GIVEN, TRAY, Question, setting
from app.lab.tables import limited_prompts
from app.shared import layout, limits, tray
from app.shared.apart import apart
from app.shared.words import escape, neurons_of, plural, token_list
from atlas import queries
from atlas.errors import AtlasError
from atlas.neuron import Neuron, Prompt
from atlas.queries.sides import pushed
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.experiments.run import Found
    from atlas.surgery.subject import Subject

FIRST_SHOWN = 8
COLUMNS = ("neuron", "label", "share", "mean_score", "promoted", "n_facts", "origin")


def choose_neurons(atlas: Atlas, subject: Subject, question: Question) -> tuple[Neuron, ...]:
    """The selected neurons, of all sources that are switched on."""
    own = rows_of_fact(atlas, subject, question)
    wanted = bool(state.get("at_once")) and own is None and not _listed(subject)
    found = find_live(subject, question, at_once=wanted)
    tables = {
        ATLAS: own,
        FOUND: rows_found(found),
        TRAY: rows_in_tray(subject),
        GIVEN: rows_given(subject),
    }
    offered = {source: table for source, table in tables.items() if table is not None and len(table)}
    if not offered:
        layout.nothing(_why_none(atlas, subject, question, found))
        return ()
    listed = choose_sources(offered)
    rows = pd.concat([offered[source] for source in listed], ignore_index=True)
    rows = add_stored(atlas, subject, question.fact_id, rows.drop_duplicates("neuron", ignore_index=True))
    selected = select_neurons(rows)
    if listed != [TRAY] and is_atlas_model(atlas, subject):
        tray.add_button(selected, "Add them to the tray", key="lab", source=question.name)
    return selected


def _why_none(atlas: Atlas, subject: Subject, question: Question, found: Found | None) -> str:
    if found is not None:
        return "No neuron reaches the threshold in enough of these prompts. Try other wordings."
    if not is_atlas_model(atlas, subject):
        return (
            f"The atlas in view is of {escape(atlas.manifest.model.name)}, not of {escape(subject.name)}. "
            "Find the neurons live."
        )
    if question.fact_id:
        return "The atlas has no neurons for this fact. Find them live, or choose another fact."
    return "No neurons yet. Find them live, or add some to the tray while browsing."


# Where they come from --------------------------------------------------------------------------------


def rows_of_fact(atlas: Atlas, subject: Subject, question: Question) -> pd.DataFrame | None:
    if not question.fact_id or not is_atlas_model(atlas, subject):
        return None
    rows = queries.neurons_of_fact(atlas, question.fact_id)
    names = [str(neuron) for neuron in neurons_of(rows)]
    return rows[["share", "mean_score"]].assign(neuron=names, origin="the atlas")


def rows_found(found: Found | None) -> pd.DataFrame | None:
    if found is None:
        return None
    rows = pd.DataFrame(map(vars, found.neurons), columns=["neuron", "share", "mean_score"])
    return rows.assign(neuron=rows["neuron"].map(str), origin="found live")


def tray_key(subject: Subject) -> str:
    """The subject's tray: filled from atlases of the same weights, or of its name where no hash is known."""
    by_hash = tray.model_key(subject.name, subject.weights_sha256)
    return by_hash if tray.neurons(by_hash) else subject.name


def rows_in_tray(subject: Subject) -> pd.DataFrame:
    inside = tray.holdings(tray_key(subject))
    return _named({neuron: source or "the tray" for neuron, source in inside.items()})


def rows_given(subject: Subject) -> pd.DataFrame:
    """Neurons from a link or typed by name."""
    given = state.get("given", {}).items()
    size = subject.n_layers, subject.n_neurons
    return _named({neuron: origin for neuron, origin in given if exists(neuron, *size)})


def _listed(subject: Subject) -> bool:
    """Whether there are neurons that a change could be applied to without finding any."""
    return any(len(rows) for rows in (rows_in_tray(subject), rows_given(subject)))


def _named(origins: dict[Neuron, str]) -> pd.DataFrame:
    return pd.DataFrame({"neuron": map(str, origins), "origin": origins.values()})


def exists(neuron: Neuron, n_layers: int, n_neurons: int) -> bool:
    return neuron.layer < n_layers and neuron.neuron < n_neurons


SOURCE_NAMES = {ATLAS: "The fact's", FOUND: "Found live", TRAY: "Tray", GIVEN: "By name"}


def choose_sources(offered: dict[str, pd.DataFrame]) -> list[str]:
    wanted = [source for source in state.get("sources", [ATLAS]) if source in offered]
    state.put("sources", wanted or [next(iter(offered))])
    return st.pills(
        "Where they come from",
        list(offered),
        selection_mode="multi",
        format_func=lambda source: f"{SOURCE_NAMES[source]} ({len(offered[source])})",
        **setting("sources", wanted),
        label_visibility="collapsed",
    )


# Live ------------------------------------------------------------------------------------------------


def find_live(subject: Subject, question: Question, *, at_once: bool = False) -> Found | None:
    """The neurons found on these prompts, in this session's last search or a new one; and boxes for more."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        pressed = st.button(
            "Find them live",
            icon=":material/search:",
            help="Integrated gradients over every neuron, prompt by prompt, each with its numerical error",
        )
        with st.popover("Add by name", icon=":material/edit:"):
            type_names(subject)
        with st.popover("Negative examples"):
            negatives = negative_prompts(subject, question)
    key = (subject.identity, question.discovery, negatives)
    place, first = st.empty(), st.empty()
    known, _ = st.session_state.get("lab_found", (None, None))
    if pressed or (at_once and known != key):
        from atlas.experiments.run import find_neurons

        def show_part(found: Found) -> None:
            with first.container():
                show_first(found, len(question.discovery))

        with show_progress(place, "Finding neurons") as progress:
            prompts = question.discovery
            found = apart(
                find_neurons, subject, prompts, negatives=negatives, progress=progress, on_part=show_part
            )
        st.session_state["lab_found"] = (key, found)
        state.put("sources", [FOUND])
        st.rerun()
    known, found = st.session_state.get("lab_found", (None, None))
    if known != key:
        return None
    certified = 1 - found.n_unconverged / max(found.n_paths, 1)
    notes = [
        f"{plural(len(found.neurons), 'neuron')} found on {plural(len(found.prompts), 'prompt')}; "
        f"{certified:.0%} of {found.n_paths} integrals within tolerance."
    ]
    if len(found.prompts) == 1:
        notes.append("With a single prompt, every neuron that reaches the threshold is kept.")
    if negatives:
        notes.append(f"Without those of {plural(len(negatives), 'negative prompt')}.")
    st.caption(" ".join(notes))
    return found


def show_first(found: Found, n_prompts: int) -> None:
    """What the first prompts give, while the others are being read."""
    strongest = sorted(found.neurons, key=lambda each: -each.mean_score)[:FIRST_SHOWN]
    names = ", ".join(f"**{each.neuron}** ({each.mean_score:.3f})" for each in strongest)
    st.markdown(f"After {len(found.prompts)} of {plural(n_prompts, 'wording')}: {names or 'none yet'}")


def type_names(subject: Subject) -> None:
    """A box for neurons by name."""
    st.text_input(
        "Neurons",
        key="lab_names",
        max_chars=2000,
        placeholder="L2.N1414, L0.N7",
        on_change=_add_names,
        args=(subject.name, subject.n_layers, subject.n_neurons),
    )
    st.caption(f"Layers 0–{subject.n_layers - 1}, neurons 0–{subject.n_neurons - 1}.")
    if state.get("names_error"):
        st.error(escape(state.get("names_error")))


def negative_prompts(subject: Subject, question: Question) -> tuple[Prompt, ...]:
    """Typed prompts whose neurons are left out; `AtlasError` where they cannot be used."""
    allowed = limits.current()
    text = st.text_area(
        "Prompts of other facts, one per line",
        **setting("negatives", ""),
        max_chars=allowed.prompts * (allowed.prompt_length + 1),
        placeholder="The capital of Italy is [Y].",
    )
    answer = st.text_input(
        "Their answer",
        **setting("negative_answer", ""),
        max_chars=allowed.answer_length,
        placeholder=question.answer,
    )
    st.caption(
        "Neurons that reach the threshold in at least half of them are left out of those found live. If they "
        "have no answer, the question's answer is used."
    )
    if not text.strip():
        return ()
    return limited_prompts(subject, text, answer or question.answer)


def _add_names(model: str, n_layers: int, n_neurons: int) -> None:
    """Add the typed neurons to the list; on an error, show it and keep the text."""
    typed = st.session_state.get("lab_names", "")
    names = [name for name in re.split(r"[\s,;]+", typed) if name]
    state.put("names_error", None)
    try:
        neurons = [Neuron.parse(name) for name in names]
        for neuron in neurons:
            if not exists(neuron, n_layers, n_neurons):
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


def add_stored(atlas: Atlas, subject: Subject, fact_id: str | None, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with each neuron's name, what it pushes on the fact, and how many facts have it.

    Empty where the atlas is of another model.
    """
    if not is_atlas_model(atlas, subject):
        return rows.assign(promoted="", label=None, n_facts=None)
    known = atlas.query(
        f"""
        WITH fires AS (
            SELECT layer, neuron, avg(mean_activation) AS on_all,
                   avg(mean_activation) FILTER (fact_id = $fact_id) AS on_fact
            FROM knowledge_neurons GROUP BY layer, neuron
        )
        SELECT 'L' || layer || '.N' || neuron AS name, label, n_facts, {pushed("coalesce(on_fact, on_all)")}
        FROM neurons AS n LEFT JOIN fires USING (layer, neuron) WHERE list_contains($names, name)
        """,
        {"names": list(rows["neuron"]), "fact_id": fact_id},
    )
    known = known.set_index("name")
    tokens = known["promoted"].map(lambda each: token_list(each, 5, missing=""))
    return rows.assign(
        promoted=rows["neuron"].map(tokens).fillna(""),
        label=rows["neuron"].map(known["label"]),
        n_facts=rows["neuron"].map(known["n_facts"]),
    )


def select_neurons(rows: pd.DataFrame) -> tuple[Neuron, ...]:
    """The table of neurons; the changes apply to the selected ones."""
    off = state.get("off", set())
    names = list(rows["neuron"])
    # A table with other rows is a new widget: its selection is set from the names that are off.
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
        alt="Neurons to change, each selectable",
        column_order=[column for column in COLUMNS if column in shown],
        column_config={
            "neuron": TextColumn("Neuron", width="small"),
            "share": NumberColumn(
                "Share",
                format="%.0f%%",
                width=60,
                help="Share of the prompts in which it reaches the threshold",
            ),
            "mean_score": ProgressColumn(
                "Mean score", format="%.4f", min_value=0.0, max_value=top, width=120
            ),
            "label": TextColumn(
                "Name", width="medium", help="What its facts share beyond chance, and what it pushes"
            ),
            "promoted": TextColumn("Promotes here", width="medium"),
            "n_facts": NumberColumn("Facts", width=60, help="Facts of the atlas that have it"),
            "origin": TextColumn("From", width="small"),
        },
    )
    on = {names[place] for place in event["selection"]["rows"] if place < len(names)}
    state.put("off", (off - set(names)) | {name for name in names if name not in on})
    selected = tuple(Neuron.parse(name) for name in names if name in on)
    most = limits.current().neurons
    if len(selected) > most:
        raise AtlasError(f"At most {most:,} neurons may be selected, got {len(selected):,}.")
    st.caption(f"{len(selected)} of {len(names)} selected: the changes apply to these.")
    return selected
