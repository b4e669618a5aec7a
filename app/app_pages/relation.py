"""Relation: the neurons its facts share, where they lie, and its facts. `?relation=` names it.

Without one: all relations, and how much they share.
"""

import streamlit as st

from app import charts, layout
from app.resources import ask
from atlas import queries
from atlas.errors import QueryError
from atlas.store import Atlas

PAGE_ROWS = 20


def main() -> None:
    atlas = layout.current_atlas()
    relations = ask(queries.relations, atlas)
    relation_id = st.query_params.get("relation")
    if not relation_id:
        all_relations(atlas, relations)
        return
    found = relations[relations["relation_id"] == relation_id]
    if found.empty:
        raise QueryError(f"The atlas {atlas.atlas_id} has no relation '{relation_id}'. See all relations.")
    one_relation(atlas, found.iloc[0])


def all_relations(atlas: Atlas, relations) -> None:
    st.title("Relations", anchor=False)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        for row in relations.itertuples(index=False):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                layout.relation_link(row.relation_id, row.label or row.relation_id)
                known = "" if layout.is_missing(row.known_share) else f" · {row.known_share:.0%} known"
                st.caption(layout.plain(f"{row.relation_id} · {layout.count(row.n_facts, 'fact')}{known}"))
    with right, layout.errors_as_sentences():
        layout.draw(
            charts.overlap_matrix(ask(queries.relation_overlap, atlas)),
            "Neurons shared, by pairs of relations",
        )


def one_relation(atlas: Atlas, relation) -> None:
    relation_id = relation["relation_id"]
    st.title(layout.plain(f"{relation['label'] or relation_id} ({relation_id})"), anchor=False)
    st.page_link(
        layout.RELATION, label="All relations", icon=":material/arrow_back:", query_params=layout.here()
    )
    overlap = ask(queries.relation_overlap, atlas)
    within = overlap[(overlap["relation_a"] == relation_id) & overlap["within"]]["mean_shared"]
    layout.figures(
        {
            "Facts": (layout.number(relation["n_facts"]), layout.count(relation["n_templates"], "template")),
            "The model knows": (layout.percent(relation["known_share"]), "of its facts"),
            "With neurons": (layout.number(relation["n_with_neurons"]), "facts"),
            "Neurons a fact": (layout.number(relation["mean_neurons"], ".1f"), "mean"),
            "Two facts share": (
                layout.number(within.iloc[0] if len(within) else None, ".2f"),
                "neurons (mean)",
            ),
        }
    )
    neurons = ask(queries.relation_neurons, atlas, relation_id)
    if neurons.empty:
        layout.nothing("No fact of this relation has knowledge neurons.")
    else:
        left, right = st.columns(2, gap="medium")
        with left, layout.errors_as_sentences():
            layout.draw(charts.relation_neuron_bars(neurons), "Neurons most of its facts share")
        with right, layout.errors_as_sentences():
            layers = ask(queries.layer_histogram, atlas, relation=relation_id)
            layout.draw(charts.layer_bars(layers), "Its neurons by layer")
            if overlap["relation_b"].nunique() > 1:
                layout.draw(
                    charts.relation_overlap_bars(overlap, relation_id), "Neurons shared with relations"
                )
        st.subheader("Its most shared neurons", anchor=False)
        layout.neuron_table(neurons)
        layout.neuron_links(neurons.head(12))

    st.subheader("Its facts", anchor=False)
    hits = queries.facts_matching(
        atlas, relation=relation_id, limit=PAGE_ROWS, offset=(layout.page_asked() - 1) * PAGE_ROWS
    )
    layout.fact_rows(hits.rows)
    layout.pages(hits.total, PAGE_ROWS)


main()
