"""Relation: the neurons its facts share, where they lie, the relations it shares them with, and its facts.

`?relation=` names it, `layer` keeps its neurons of one layer, `other` is the relation whose facts stand
beside its own; `ratio`, `erased` and `strength` choose how experiments are drawn. Without a relation: all of
them, and how much they share; `a` and `b` are those of a cell.
"""

from functools import partial

import pandas as pd
import streamlit as st

from app.relation import evidence
from app.shared import address, exports, layout, links, tray
from app.shared.resources import ask
from app.shared.words import (
    about_fact,
    escape,
    fact_name,
    formatted,
    is_missing,
    neurons_of,
    percentage,
    plural,
)
from atlas import queries
from atlas.charts import neurons as neuron_charts
from atlas.charts import sharing as sharing_charts
from atlas.errors import QueryError
from atlas.queries import sharing
from atlas.store.atlas import Atlas

CLOSEST = 8
_PAIRS = 10


def main() -> None:
    atlas = layout.current_atlas()
    relations = ask(queries.relations, atlas)
    relation_id = st.query_params.get("relation")
    if not relation_id:
        all_relations(atlas, relations)
        return
    found = relations[relations["relation_id"] == relation_id]
    if found.empty:
        raise QueryError(
            f"The atlas {atlas.atlas_id} has no relation '{relation_id}'. Choose one under All relations."
        )
    one_relation(atlas, relations, found.iloc[0])


# All relations ---------------------------------------------------------------------------------------


def all_relations(atlas: Atlas, relations: pd.DataFrame) -> None:
    st.title("Relations", anchor=False)
    overlap = ask(queries.relation_overlap, atlas)
    exports.offer("relations", relations=relations, shared_neurons=overlap)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        for row in relations.itertuples(index=False):
            with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
                links.relation_link(row.relation_id, row.label or row.relation_id)
                known = "" if is_missing(row.known_share) else f" · {row.known_share:.0%} known"
                st.caption(escape(f"{row.relation_id} · {plural(row.n_facts, 'fact')}{known}"))
    with right, layout.errors_as_sentences():
        chosen = pair_in_url(relations)
        address.draw_clickable(
            partial(
                sharing_charts.overlap_matrix,
                sharing_charts.some_relations(overlap, sharing_charts.neighbours_together(overlap)),
                chosen=chosen,
            ),
            "Neurons shared, by pairs of relations",
            key=f"matrix-{chosen}",
            fields=["relation_a", "relation_b"],
            act=lambda relation_a, relation_b: address.set_in_url(a=relation_a, b=relation_b),
        )
        if chosen is None:
            st.caption("Click a cell for its pairs of facts.")
        else:
            show_pairs(atlas, relations, overlap, *chosen)


def pair_in_url(relations: pd.DataFrame) -> tuple[str, str] | None:
    """The two relations of a cell, as the URL names them."""
    pair = st.query_params.get("a", ""), st.query_params.get("b", "")
    return pair if set(pair) <= set(relations["relation_id"]) else None


# One relation ----------------------------------------------------------------------------------------


def one_relation(atlas: Atlas, relations: pd.DataFrame, relation: pd.Series) -> None:
    relation_id = relation["relation_id"]
    overlap = ask(queries.relation_overlap, atlas)
    lacks = relation_heading(atlas, relation, overlap)
    by_layer = ask(queries.layer_histogram, atlas, relation=relation_id)
    if by_layer["n_pairs"].sum() == 0:
        layout.nothing("No fact of this relation has knowledge neurons.")
    else:
        show_relation_neurons(atlas, relation, by_layer)
        show_relation_experiments(atlas, relation_id, lacks)
        show_sharing_relations(atlas, relations, overlap, relation_id)
    show_relation_facts(atlas, relation_id)


def relation_heading(atlas: Atlas, relation: pd.Series, overlap: pd.DataFrame) -> frozenset[str]:
    """Title, ways on, numbers; returns what the atlas lacks of the rest."""
    relation_id = relation["relation_id"]
    st.title(escape(f"{relation['label'] or relation_id} ({relation_id})"), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.page_link(
            links.RELATION, label="All relations", icon=":material/arrow_back:", query_params=links.here()
        )
        links.compare_link("relations", relation_id, label="Compare with another")
        links.text_link(links.SEARCH, "Search its facts", relation=relation_id)
    lacks = layout.say_unmeasured(atlas, "known", "effects", "tokens", "erasures", "edits")
    within = overlap[(overlap["relation_a"] == relation_id) & overlap["within"]]["mean_shared"]
    layout.number_boxes(
        {
            "Facts": (formatted(relation["n_facts"]), plural(relation["n_templates"], "template")),
            "The model knows": (percentage(relation["known_share"]), "of its facts"),
            "With neurons": (formatted(relation["n_with_neurons"]), "facts"),
            "Neurons per fact": (formatted(relation["mean_neurons"], ".1f"), "mean"),
            "Two facts share": (
                formatted(within.iloc[0] if len(within) else None, ".2f"),
                "neurons (mean)",
            ),
        }
    )
    return lacks


def show_relation_neurons(atlas: Atlas, relation: pd.Series, by_layer: pd.DataFrame) -> None:
    relation_id = relation["relation_id"]
    text = st.query_params.get("layer", "")
    layer = int(text) if text in set(by_layer["layer"].astype(str)) else None
    neurons = ask(queries.relation_neurons, atlas, relation_id, layer=layer)
    widely = ask(sharing.neurons_by_sharing, atlas, relation_id)
    left, right = st.columns(2, gap="medium")
    with left, layout.errors_as_sentences():
        if neurons.empty:
            layout.nothing(f"No fact of this relation has a neuron in layer {layer}.")
        else:
            address.draw_clickable(
                partial(sharing_charts.relation_neuron_bars, neurons),
                "Neurons most of its facts share",
                key=f"neurons-{relation_id}-{layer}",
                fields=["name"],
                act=lambda name: st.switch_page(links.NEURON, query_params=links.here(neuron=name)),
            )
            st.caption("Click a neuron for its page.")
    with right, layout.errors_as_sentences():
        address.draw_clickable(
            partial(neuron_charts.layer_bars, by_layer, title="Where its neurons lie", chosen=layer),
            "Its neurons by layer",
            key=f"layers-{relation_id}-{layer}",
            fields=["layer"],
            act=lambda layer: address.switch_in_url("layer", layer),
        )
        if layer is None:
            st.caption("Click a layer to see only its neurons.")
        else:
            icon, label = ":material/close:", f"Layer {layer} only: show all"
            st.button(label, icon=icon, on_click=address.set_in_url, kwargs={"layer": None})
        layout.draw_chart(
            partial(sharing_charts.sharing_histogram, widely, int(relation["n_facts"])),
            "How many of its neurons are shared by how many of its facts",
        )
    if neurons.empty:
        return
    st.subheader("Its most shared neurons", anchor=False)
    layout.neuron_table(neurons)
    links.neuron_links(neurons.head(12))
    with st.container(horizontal=True, gap="small"):
        tray.add_button(
            neurons_of(neurons.head(20)),
            key=f"relation-{relation_id}-{layer}",
            source=f"{relation['label'] or relation_id} ({relation_id})",
        )
        exports.offer(
            f"relation {relation_id}", neurons=neurons, layers=by_layer, neurons_by_facts_sharing_them=widely
        )


# What changing its neurons does ----------------------------------------------------------------------


def show_relation_experiments(atlas: Atlas, relation_id: str, lacks: frozenset[str]) -> None:
    """What was measured of them: effects and erasures side by side, edits below."""
    show = {
        "effects": evidence.show_relation_effects,
        "erasures": evidence.show_erasing,
        "edits": evidence.show_edit_rates,
    }
    there = [name for name in show if name not in lacks]
    if not there:
        return
    st.subheader("What changing its neurons does", anchor=False)
    tables: dict[str, pd.DataFrame] = {}
    places = layout.columns({name: 1 for name in there if name != "edits"})
    for name in there:
        with places[name] if name in places else st.container(), layout.errors_as_sentences():
            tables |= show[name](atlas, relation_id)
    exports.offer(f"experiments {relation_id}", **tables)


# Sharing ---------------------------------------------------------------------------------------------


def show_sharing_relations(
    atlas: Atlas, relations: pd.DataFrame, overlap: pd.DataFrame, relation_id: str
) -> None:
    st.subheader("Relations it shares neurons with", anchor=False)
    other = st.query_params.get("other")
    if other not in set(relations["relation_id"]):
        other = relation_id
    left, right = st.columns(2, gap="medium")
    with left, layout.errors_as_sentences():
        row = overlap[overlap["relation_a"] == relation_id].dropna(subset="mean_shared")
        near = row[~row["within"]].nlargest(CLOSEST - 1, "mean_shared")["relation_b"]
        order = [relation_id, *near]
        if other not in order:
            order[-1] = other
        address.draw_clickable(
            partial(
                sharing_charts.overlap_matrix,
                sharing_charts.some_relations(overlap, order),
                chosen=(relation_id, other),
                numbers=True,
            ),
            "Neurons shared with the relations closest to it",
            key=f"closest-{relation_id}-{other}",
            fields=["relation_a", "relation_b"],
            act=choose_other,
        )
        st.caption(
            "This relation and those it shares most with; the diagonal is two facts of one relation. "
            "Click a cell for its pairs of facts."
        )
    with right, layout.errors_as_sentences():
        labels = {
            row.relation_id: f"{row.label or ''} ({row.relation_id})"
            for row in relations.itertuples()
            if row.relation_id != relation_id
        }
        address.choice("Pairs of facts with", "other", labels, placeholder="its own facts")
        show_pairs(atlas, relations, overlap, relation_id, other)


def choose_other(relation_a: str, relation_b: str) -> None:
    """A cell of this relation's row or column stays on its page; any other goes to another relation's."""
    here = st.query_params.get("relation")
    if relation_b == here:
        relation_a, relation_b = relation_b, relation_a
    if relation_a == here:
        address.set_in_url(other=relation_b)
    else:
        address.set_in_url(relation=relation_a, other=relation_b, layer=None)


def show_pairs(
    atlas: Atlas, relations: pd.DataFrame, overlap: pd.DataFrame, relation_a: str, relation_b: str
) -> None:
    """The pairs of facts that share most neurons, of two relations or within one."""
    labels = relations.set_index("relation_id")["label"]
    names = [escape(f"{labels[each] or each} ({each})") for each in (relation_a, relation_b)]
    title = f"Two facts of {names[0]}" if relation_a == relation_b else f"{names[0]} and {names[1]}"
    st.markdown(f"**{title}**")
    cell = overlap[(overlap["relation_a"] == relation_a) & (overlap["relation_b"] == relation_b)]
    cell = cell.dropna(subset="mean_shared")
    pairs = ask(sharing.closest_pairs, atlas, relation_a, relation_b, limit=_PAIRS)
    if cell.empty or pairs.empty:
        layout.nothing("No two of these facts have a neuron in common.")
        return
    st.caption(
        f"{cell['mean_shared'].iloc[0]:.2f} neurons in common, mean over "
        f"{plural(cell['n_pairs'].iloc[0], 'pair')}. The {len(pairs)} pairs with most:"
    )
    for row in pairs.itertuples(index=False):
        with st.container(gap=None):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                links.fact_link(row.fact_a, fact_name(row.subject_a, row.object_a))
                links.fact_link(row.fact_b, fact_name(row.subject_b, row.object_b))
            of = f"of {row.n_neurons_a} and {row.n_neurons_b}"
            same = " · same answer" if row.same_object else ""
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.caption(escape(f"{row.n_shared} in common, {of} ({row.jaccard:.0%}){same}"))
                links.compare_link("facts", row.fact_a, row.fact_b)
    exports.offer(f"pairs {relation_a} {relation_b}", pairs=pairs)


# Its facts -------------------------------------------------------------------------------------------


def show_relation_facts(atlas: Atlas, relation_id: str) -> None:
    st.subheader("Its facts", anchor=False)
    page = {"limit": address.PAGE_ROWS, "offset": address.page_offset()}
    hits = queries.facts_matching(atlas, relation=relation_id, **page)
    layout.fact_rows(hits.rows, notes=partial(about_fact, relation=False))
    address.draw_page_numbers(hits.total)


main()
