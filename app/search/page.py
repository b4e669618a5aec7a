"""Search: one box over facts and neurons, with filters of facts; the URL holds them all.

1. *Facts* of the atlas in view, in pages.
2. *Neurons* of the atlas in view: by name, label, and the tokens that they push.
3. *Other atlases*: the first of both in each, and a link to all.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app.shared import address, exports, layout, limits, links, resources
from app.shared.resources import ask
from app.shared.words import (
    NOT_MEASURED,
    about_fact,
    escape,
    fact_name,
    is_missing,
    joined,
    plural,
    promotes,
    with_blank,
)
from atlas import queries
from atlas.charts import sharing as sharing_charts
from atlas.models import title_of
from atlas.neuron import Neuron
from atlas.queries import search
from atlas.store.atlas import Atlas

NEURONS_SHOWN, TOKENS_SHOWN, FACTS_OF_OTHERS = 6, 4, 3
KNOWN = {"known": True, "not known": False}
ORDER_LABELS = {
    "subject": "subject, A to Z",
    "object": "object, A to Z",
    "relation": "relation, A to Z",
    "probability": "probability, highest first",
    "-probability": "probability, lowest first",
    "neurons": "neurons, most first",
    "-neurons": "neurons, fewest first",
}


def main() -> None:
    st.title("Search", anchor=False)
    atlas = layout.current_atlas()

    # Choose
    text = address.text_box(
        "Search facts and neurons",
        "q",
        longest=limits.current().search_length,
        type="search",
        placeholder='Azerbaijan, "New York", capital, L9.N2141',
    )
    by_relation, *others = st.columns(4)
    relations = ask(queries.relations, atlas)
    filters = choose_filters(atlas, relations, others)

    # Query
    begun = time.perf_counter()
    page = {"limit": address.PAGE_ROWS, "offset": address.page_offset()}
    hits = search.facts_matching(atlas, text, **filters, **page)
    milliseconds = 1000 * (time.perf_counter() - begun)

    # Draw
    with by_relation:
        choose_relation(relations, hits)
    show_corrections(text, hits)
    left, right = st.columns([2, 1], gap="medium")
    with left:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"{plural(hits.total, 'fact')} · {milliseconds:.0f} ms")
            if hits.total:
                export(atlas, text, filters, hits)
        if not hits.total:
            nothing_found(hits)
        elif hits.rows.empty:
            layout.nothing("The list has fewer pages. Choose one below.")
        show_hits(atlas, text, hits)
        address.draw_page_numbers(hits.total)
    with right:
        meant = " ".join(hits.instead.get(word, (word,))[0] for word in search.search_words(text))
        show_neurons(search.neurons_matching(atlas, meant, limit=NEURONS_SHOWN))
        if hits.total:
            draw_relations(hits.by_relation, filters["relation"])
    if text:
        show_other_atlases(atlas, text)


# Choose ----------------------------------------------------------------------------------------------


def choose_relation(relations: pd.DataFrame, hits: search.Hits) -> None:
    """The choice of a relation with its number of hits: the chart's data, for the keyboard."""
    counts = dict(zip(hits.by_relation["relation_id"], hits.by_relation["n"], strict=True))
    labels = {
        row.relation_id: f"{row.label or ''} ({row.relation_id}): {counts.get(row.relation_id, 0):,}"
        for row in relations.itertuples()
    }
    address.choice("Relation", "relation", labels, placeholder="any")


def choose_filters(atlas: Atlas, relations: pd.DataFrame, columns: Sequence) -> dict[str, Any]:
    """The options of `search.facts_matching`; the relation's choice is drawn later, with its hits."""
    layers = {str(layer): layer for layer in ask(queries.layer_histogram, atlas)["layer"]}
    measured = bool(relations["n_known"].notna().any())
    with columns[0]:
        known = address.choice(
            "Does the model know it?",
            "known",
            dict(zip(KNOWN, KNOWN, strict=True)),
            placeholder="either" if measured else NOT_MEASURED,
            disabled=not measured,
            help="Known: the answer has rank 1 on more than half of the fact's prompts.",
        )
    with columns[1]:
        layer = address.choice("Has a neuron in layer", "layer", layers, placeholder="any")
    with columns[2]:
        order = address.choice("Sorted by", "sort", ORDER_LABELS, placeholder="best match")
    relation = st.query_params.get("relation")
    return {
        "relation": relation if relation in set(relations["relation_id"]) else None,
        "known": KNOWN.get(known) if measured else None,
        "layer": None if layer is None else int(layer),
        "sort": order or search.BEST,
    }


# Draw ------------------------------------------------------------------------------------------------


def show_corrections(text: str, hits: search.Hits) -> None:
    """What was searched instead of a typo, or could be."""
    if hits.instead:
        instead = "; ".join(
            f"“{escape(word)}”: showing **{escape(', '.join(near))}**" for word, near in hits.instead.items()
        )
        st.markdown(f"No fact has exactly these words. {instead}.")
    if hits.similar:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown("Did you mean")
            for word, near in hits.similar.items():
                for other in near:
                    links.text_link(links.SEARCH, other, q=search.replaced(text, word, other))


def nothing_found(hits: search.Hits) -> None:
    if hits.without_filters:
        layout.nothing(
            f"No fact passes the filters; {plural(hits.without_filters, 'fact')} would without them."
        )
        st.button(
            "Remove the filters",
            icon=":material/filter_alt_off:",
            on_click=address.set_in_url,
            kwargs=dict.fromkeys(("relation", "known", "layer")),
        )
    else:
        layout.nothing("No fact matches. Try fewer words, or another spelling.")


def show_hits(atlas: Atlas, text: str, hits: search.Hits) -> None:
    """The facts, and the prompt where only a prompt has the words."""
    words = [near for word in search.search_words(text) for near in (word, *hits.instead.get(word, ()))]
    elsewhere = hits.rows.loc[~hits.rows["in_names"].astype(bool), "fact_id"]
    prompts = search.prompts_with(atlas, list(elsewhere), words)

    def about(row: Any) -> str:
        prompt = prompts.get(row.fact_id)
        return about_fact(row) + (f" · “{with_blank(prompt)}”" if prompt else "")

    with st.container(key="hits", gap="small"):
        layout.fact_rows(hits.rows, notes=about)


def show_neurons(hits: search.NeuronHits, atlas_id: str | None = None) -> None:
    """Links to the neurons with what they push; of the atlas in view unless another is named."""
    if not hits.total:
        return
    st.markdown(f"**{plural(hits.total, 'neuron')}**")
    for row in hits.rows.itertuples(index=False):
        name = str(Neuron(int(row.layer), int(row.neuron)))
        label = name if is_missing(row.label) else f"{row.label} ({name})"
        with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
            links.text_link(links.NEURON, label, neuron=name, atlas=atlas_id)
            st.caption(escape(joined(promotes(row.promoted, TOKENS_SHOWN), plural(row.n_facts, "fact"))))


def show_other_atlases(atlas: Atlas, text: str) -> None:
    """The first facts and neurons of each other atlas, beside each other, with links into it."""
    others = {name: folder for name, folder in resources.atlases().items() if folder.resolve() != atlas.path}
    if not others:
        return
    st.subheader("In other atlases", anchor=False)
    for place, (atlas_id, folder) in zip(layout.cards(len(others)), others.items(), strict=True):
        with place, layout.errors_as_sentences():
            show_other_atlas(atlas_id, resources.opened(folder), text)


def show_other_atlas(atlas_id: str, other: Atlas, text: str) -> None:
    facts = ask(search.facts_matching, other, text, limit=FACTS_OF_OTHERS)
    neurons = ask(search.neurons_matching, other, text, limit=FACTS_OF_OTHERS)
    model, dataset = other.manifest.model, other.manifest.dataset
    st.markdown(f"**{escape(title_of(model.name))} × {escape(dataset.id)}**")
    if not facts.total and not neurons.total:
        st.caption("Nothing is called so.")
    if facts.total:
        links.text_link(links.SEARCH, f"All {plural(facts.total, 'fact')}", atlas=atlas_id, q=text)
    for row in facts.rows.itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
            name = fact_name(row.subject, row.object)
            links.text_link(links.FACT, name, fact=row.fact_id, atlas=atlas_id)
            st.caption(escape(about_fact(row)))
    show_neurons(neurons, atlas_id)


def draw_relations(by_relation: pd.DataFrame, relation: str | None) -> None:
    address.draw_clickable(
        partial(sharing_charts.hits_by_relation, by_relation, relation),
        "Hits by relation",
        key=f"hits-{relation}",
        fields=["relation_id"],
        act=lambda relation_id: address.switch_in_url("relation", relation_id),
    )
    more = len(by_relation) - sharing_charts.MOST_BARS
    rest = f" {more} more relations have hits." if more > 0 else ""
    if relation is None:
        st.caption(f"Click a relation to see only its facts.{rest}")
    else:
        st.caption(f"Click the relation again to see all.{rest}")


def export(atlas: Atlas, text: str, filters: dict, hits: search.Hits) -> None:
    """All hits in their order, and the counts by relation."""

    def facts() -> pd.DataFrame:
        return search.facts_matching(atlas, text, **filters, limit=hits.total).rows.drop(columns="in_names")

    exports.offer(f"search {text}", facts=exports.Later(hits.total, facts), relations=hits.by_relation)


main()
