"""Relation: the neurons its facts share, where they lie, the relations it shares them with, and its facts.

`?relation=` names it, `layer` keeps its neurons of one layer, `other` is the relation whose facts stand
beside its own; `ratio`, `erased` and `strength` choose how experiments are drawn. Without a relation: all of
them, where their neurons lie, and how much they share; `a` and `b` are those of a cell.
"""

from functools import partial

import pandas as pd
import streamlit as st
from streamlit.column_config import CheckboxColumn, NumberColumn, TextColumn

from app.relation import evidence
from app.shared import address, exports, layout, links, tray
from app.shared.resources import ask
from app.shared.words import (
    escape,
    fact_name,
    is_missing,
    joined,
    neurons_of,
    plural,
    relation_name,
)
from atlas import queries
from atlas.charts import neurons as neuron_charts
from atlas.charts import sharing as sharing_charts
from atlas.errors import QueryError
from atlas.queries import sharing
from atlas.store.atlas import Atlas

CLOSEST = 8
_PAIRS = 10
_ROW = 35  # pixels
KNOWN_EXPLAINED = "A fact is known where the right answer is the model's first on most of its prompts."


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
    if text := layout.search_form("A relation, or one of its facts", "capital"):
        st.switch_page(links.SEARCH, query_params=links.here(q=text))
    first = relations.nlargest(3, "n_with_neurons").itertuples(index=False)
    layout.examples((links.RELATION, relation_name(row), {"relation": row.relation_id}) for row in first)
    overlap = ask(queries.relation_overlap, atlas)
    left, right = st.columns([6, 5], gap="medium")
    with left:
        relation_table(relations)
        exports.offer("relations", relations=relations, shared_neurons=overlap)
    with right, layout.errors_as_sentences():
        show_layers(atlas)
    show_overlap(atlas, relations, overlap)


def relation_table(relations: pd.DataFrame) -> None:
    cells = [
        links.cell(links.RELATION, relation_name(row), relation=row.relation_id)
        for row in relations.itertuples(index=False)
    ]
    columns = {
        "relation": links.column("Relation", pinned=True, width=170),
        "relation_id": TextColumn("Id", width=60, help="Of the property in Wikidata"),
        "n_facts": NumberColumn("Facts", width=60),
        "known_share": NumberColumn("Known", format="percent", width=70, help=KNOWN_EXPLAINED),
        "mean_neurons": NumberColumn("Neurons a fact", format="%.1f", width=100),
    }
    shown = relations.assign(relation=cells)[list(columns)].dropna(axis="columns", how="all")
    st.dataframe(
        shown,
        height=min(_ROW * (len(shown) + 1) + 3, 620),
        hide_index=True,
        alt="All relations",
        column_config={name: column for name, column in columns.items() if name in shown},
    )


def show_layers(atlas: Atlas) -> None:
    """Relations and layers as a map, whose cells lead to their relation."""
    layers = ask(queries.layers_by_relation, atlas)
    if layers.empty:
        layout.nothing("No fact has knowledge neurons.")
        return
    address.draw_clickable(
        partial(neuron_charts.relation_layers, layers, n_layers=atlas.manifest.model.n_layers, named=True),
        "Where the neurons of each relation lie, by layer",
        key="layers",
        fields=["relation_id", "layer"],
        act=lambda relation_id, layer: address.set_in_url(relation=relation_id, layer=layer),
    )
    st.caption("The stronger a cell, the more of the relation's neurons lie there. Click one for them.")


def show_overlap(atlas: Atlas, relations: pd.DataFrame, overlap: pd.DataFrame) -> None:
    """How many neurons relations share, as a matrix, and the pairs of facts of a chosen cell."""
    st.subheader("What they share", anchor=False)
    chosen = pair_in_url(relations)
    left, right = st.columns([3, 2], gap="medium")
    with left, layout.errors_as_sentences():
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
    with right, layout.errors_as_sentences():
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
    with st.container(key="relation-ways", horizontal=True, vertical_alignment="center", gap="medium"):
        st.page_link(
            links.RELATION, label="All relations", icon=":material/arrow_back:", query_params=links.here()
        )
        links.compare_link("relations", relation_id, label="Compare with another")
        links.text_link(links.SEARCH, "Search its facts", relation=relation_id)
    within = overlap[(overlap["relation_a"] == relation_id) & overlap["within"]]["mean_shared"].dropna()
    known, mean = relation["known_share"], relation["mean_neurons"]
    numbers = [
        plural(relation["n_facts"], "fact"),
        plural(relation["n_templates"], "wording"),
        "" if is_missing(known) else f"the model knows {known:.0%}",
        "" if is_missing(mean) else f"{mean:.1f} neurons a fact",
        f"two facts share {within.iloc[0]:.2f}" if len(within) else "",
    ]
    st.caption(escape(joined(*numbers)), help=f"{KNOWN_EXPLAINED} Numbers of neurons are means.")
    return layout.say_unmeasured(atlas, "known", "effects", "tokens", "erasures", "edits")


def show_relation_neurons(atlas: Atlas, relation: pd.Series, by_layer: pd.DataFrame) -> None:
    relation_id = relation["relation_id"]
    text = st.query_params.get("layer", "")
    layer = int(text) if text in set(by_layer["layer"].astype(str)) else None
    neurons = ask(queries.relation_neurons, atlas, relation_id, layer=layer)
    widely = ask(sharing.neurons_by_sharing, atlas, relation_id)
    st.subheader(
        "The neurons that its facts share", anchor=False, help="Those of most of its facts come first."
    )
    if neurons.empty:
        layout.nothing(f"No fact of this relation has a neuron in layer {layer}.")
    else:
        layout.neuron_table(neurons.drop(columns="n_facts"), "The neurons that most of its facts share")
    with st.container(horizontal=True, gap="small"):
        tray.add_button(
            neurons_of(neurons.head(20)),
            key=f"relation-{relation_id}-{layer}",
            source=f"{relation['label'] or relation_id} ({relation_id})",
        )
        exports.offer(
            f"relation {relation_id}", neurons=neurons, layers=by_layer, neurons_by_facts_sharing_them=widely
        )
        if layer is not None:
            icon, label = ":material/close:", f"Layer {layer} only: show all"
            st.button(label, icon=icon, on_click=address.set_in_url, kwargs={"layer": None})
    left, right = st.columns(2, gap="medium")
    with left, layout.errors_as_sentences():
        address.draw_clickable(
            partial(neuron_charts.layer_bars, by_layer, title="Where its neurons lie", chosen=layer),
            "Its neurons by layer",
            key=f"layers-{relation_id}-{layer}",
            fields=["layer"],
            act=lambda layer: address.switch_in_url("layer", layer),
        )
        st.caption("Click a layer to see only its neurons.")
    with right, layout.errors_as_sentences():
        layout.draw_chart(
            partial(sharing_charts.sharing_histogram, widely, int(relation["n_facts"])),
            "How many of its neurons are shared by how many of its facts",
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
    pair_table(pairs)
    exports.offer(f"pairs {relation_a} {relation_b}", pairs=pairs)


def pair_table(pairs: pd.DataFrame) -> None:
    sides = {
        side: [
            links.cell(links.FACT, fact_name(subject, answer), fact=fact_id)
            for fact_id, subject, answer in zip(
                *(pairs[f"{name}_{side}"] for name in ("fact", "subject", "object")), strict=True
            )
        ]
        for side in "ab"
    }
    both = zip(pairs["fact_a"], pairs["fact_b"], strict=True)
    compared = [links.cell(links.COMPARE, "Compare", kind="facts", a=a, b=b) for a, b in both]
    st.dataframe(
        pairs.assign(**sides, compare=compared)[["a", "b", "n_shared", "jaccard", "same_object", "compare"]],
        hide_index=True,
        alt="Pairs of facts with the neurons that they have in common",
        column_config={
            "a": links.column("Fact", pinned=True, width=160),
            "b": links.column("and fact", width=160),
            "n_shared": NumberColumn("In common", width=80, help="Neurons that both have"),
            "jaccard": NumberColumn(
                "Overlap", format="percent", width=70, help="Of the neurons that either has"
            ),
            "same_object": CheckboxColumn("Same answer", width=90),
            "compare": links.column("Side by side", width=90),
        },
    )


# Its facts -------------------------------------------------------------------------------------------


def show_relation_facts(atlas: Atlas, relation_id: str) -> None:
    st.subheader("Its facts", anchor=False)
    page = {"limit": address.TABLE_ROWS, "offset": address.page_offset(address.TABLE_ROWS)}
    hits = queries.facts_matching(atlas, relation=relation_id, **page)
    layout.fact_table(hits.rows.drop(columns="label"), "The facts of the relation")
    address.draw_page_numbers(hits.total, address.TABLE_ROWS)


main()
