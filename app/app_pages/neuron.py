"""Neuron: the facts that use it, what its value vector promotes, the prompts that move it most.

`?neuron=L9.N2141` names it. Without one: a box to name it, and the neurons of most relations.
"""

import pandas as pd
import streamlit as st

from app import charts, layout
from atlas import queries
from atlas.neuron import Neuron
from atlas.store import Atlas

FACTS_SHOWN = 30
LONGEST_NAME = 20


def main() -> None:
    atlas = layout.current_atlas()
    name = st.query_params.get("neuron", "")[:LONGEST_NAME]
    if not name:
        choose(atlas)
        return
    which = Neuron.parse(name)
    one_neuron(atlas, which, queries.neuron(atlas, which.layer, which.neuron))


def choose(atlas: Atlas) -> None:
    st.title("Neuron", anchor=False)
    with st.form("name", border=False):
        box, button = st.columns([5, 1], vertical_alignment="bottom")
        name = box.text_input("Layer and index", placeholder="L2.N1034", max_chars=LONGEST_NAME)
        if button.form_submit_button("Open", width="stretch") and name.strip():
            st.switch_page(layout.NEURON, query_params=layout.here(neuron=Neuron.parse(name)))
    st.subheader("Neurons of most relations", anchor=False)
    hubs = queries.hub_neurons(atlas, limit=20)
    if hubs.empty:
        layout.nothing("No neuron belongs to facts of more than one relation.")
        return
    for row in hubs.itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            layout.neuron_link(row.layer, row.neuron)
            promoted = layout.tokens(row.promoted, 5) or layout.NOT_MEASURED
            st.caption(
                layout.plain(
                    f"{layout.count(row.n_facts, 'fact')} ({row.fact_share:.0%}) of "
                    f"{layout.count(row.n_relations, 'relation')} · promotes {promoted}"
                )
            )


def one_neuron(atlas: Atlas, which: Neuron, neuron: dict) -> None:
    st.title(layout.plain(which), anchor=False)
    neighbours(atlas, which)
    layout.figures(
        {
            "Facts": (layout.number(neuron["n_facts"]), "have this neuron"),
            "Relations": (layout.number(neuron["n_relations"]), "those facts belong to"),
            "Value vector": (layout.number(neuron["value_norm"], ".2f"), "Euclidean norm"),
        }
    )
    value_vector(neuron)
    with layout.errors_as_sentences():
        activating(atlas, which)
    with layout.errors_as_sentences():
        facts(atlas, which, neuron["n_facts"])


def neighbours(atlas: Atlas, which: Neuron) -> None:
    with st.container(horizontal=True):
        if which.neuron > 0:
            layout.neuron_link(which.layer, which.neuron - 1, icon=":material/chevron_left:")
        n_neurons = atlas.manifest.model.n_neurons
        if n_neurons is None or which.neuron + 1 < n_neurons:
            layout.neuron_link(which.layer, which.neuron + 1, icon=":material/chevron_right:")


def value_vector(neuron: dict) -> None:
    st.subheader("What its value vector says", anchor=False)
    sides = (("promoted", "Promotes", charts.BLUE), ("suppressed", "Suppresses", charts.ORANGE))
    for place, (side, title, colour) in zip(st.columns(2, gap="medium"), sides, strict=True):
        pairs = neuron[side]
        with place:
            if layout.is_missing(pairs) or not len(pairs):
                layout.nothing(f"{title}: {layout.NOT_MEASURED}.")
            else:
                rows = pd.DataFrame(list(pairs))
                rows["token"] = rows["token"].map(layout.shown_token)
                layout.draw(charts.token_bars(rows, title=title, colour=colour), f"Tokens: {title.lower()}")


def facts(atlas: Atlas, which: Neuron, n_facts: int) -> None:
    st.subheader("Facts that use it", anchor=False)
    rows = queries.facts_of_neuron(atlas, which.layer, which.neuron, limit=FACTS_SHOWN)
    if rows.empty:
        layout.nothing("No fact has it as a knowledge neuron.")
        return
    layout.fact_rows(rows, notes=_score_note)
    if n_facts > len(rows):
        st.caption(f"The {len(rows)} with the largest mean score, of {n_facts:,}.")


def _score_note(row) -> str:
    return f"{row.label or row.relation_id} · score {layout.number(row.mean_score, '.3f')}"


def activating(atlas: Atlas, which: Neuron) -> None:
    st.subheader("Prompts that move it", anchor=False)
    rows = queries.activating_prompts_of_neuron(atlas, which.layer, which.neuron)
    if rows.empty:
        layout.nothing(f"Activations: {layout.NOT_MEASURED}.")
        return
    for side, title in (("top", "Most active on"), ("bottom", "Least active on")):
        st.markdown(f"**{title}**")
        part = rows[rows["side"] == side]
        st.dataframe(
            pd.DataFrame(
                {
                    "activation": part["activation"],
                    "object": part["object"],
                    "prompt": part["text"].str.replace("[Y]", "____", regex=False),
                }
            ),
            hide_index=True,
            alt=f"{title}: prompts and activations",
            column_config={
                "activation": st.column_config.NumberColumn("Activation", format="%.3f", width="small"),
                "object": st.column_config.TextColumn("Answer", width="small"),
                "prompt": st.column_config.TextColumn("Prompt", width="large"),
            },
        )


main()
