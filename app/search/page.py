"""Search: one box over subjects, objects, relations and prompts, with filters; the URL holds all of it."""

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app.shared import address, exports, layout, links
from app.shared.resources import ask
from app.shared.words import NOT_MEASURED, about_fact, escape, plural
from atlas import queries
from atlas.charts import sharing as sharing_charts
from atlas.neuron import OBJECT_SLOT
from atlas.queries import search
from atlas.store.atlas import Atlas

PAGE_ROWS = 20
GAP = "____"
KNOWN = {"known": True, "not known": False}
SORTED = {
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
    text = address.search_box(
        "Search subjects, objects, relations and prompts",
        "q",
        placeholder='Azerbaijan, "New York", capital',
    )
    by_relation, *others = st.columns(4)
    relations = ask(queries.relations, atlas)
    relation = relation_asked(relations)
    known, layer, sort = choices(atlas, relations, others)
    asked = {"relation": relation, "known": KNOWN.get(known), "layer": layer, "sort": sort}

    # Query
    begun = time.perf_counter()
    hits = search.facts_matching(
        atlas, text, **asked, limit=PAGE_ROWS, offset=(address.page_asked() - 1) * PAGE_ROWS
    )
    milliseconds = 1000 * (time.perf_counter() - begun)

    # Draw
    with by_relation:
        choose_relation(relations, hits)
    understood(text, hits)
    if not hits.total:
        st.caption(f"0 facts · {milliseconds:.0f} ms")
        nothing_found(hits)
        return
    left, right = st.columns([2, 1], gap="medium")
    with left:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"{plural(hits.total, 'fact')} · {milliseconds:.0f} ms")
            export(atlas, text, asked, hits)
        if hits.rows.empty:
            layout.nothing("There are fewer pages than that. Choose one below.")
        found_facts(atlas, text, hits)
        address.pages(hits.total, PAGE_ROWS)
    with right:
        draw_relations(hits.by_relation, relation)


# Choose ----------------------------------------------------------------------------------------------


def relation_asked(relations: pd.DataFrame) -> str | None:
    """The relation that the URL names; its choice is drawn after the query, which counts hits for it."""
    asked = st.query_params.get("relation")
    return asked if asked in set(relations["relation_id"]) else None


def choose_relation(relations: pd.DataFrame, hits: search.Hits) -> None:
    """The choice of a relation, with hits counted beside each: what the chart says, for the keyboard."""
    counts = dict(zip(hits.by_relation["relation_id"], hits.by_relation["n"], strict=True))
    labels = {
        row.relation_id: f"{row.label or ''} ({row.relation_id}): {counts.get(row.relation_id, 0):,}"
        for row in relations.itertuples()
    }
    address.choice("Relation", "relation", labels, placeholder="any")


def choices(atlas: Atlas, relations: pd.DataFrame, columns: Sequence) -> tuple[str | None, int | None, str]:
    """A key of `KNOWN`, a layer (None where anything goes), and a key of `search.SORTS`."""
    layers = {str(layer): layer for layer in ask(queries.layer_histogram, atlas)["layer"]}
    measured = bool(relations["n_known"].notna().any())
    first, second, third = columns
    with first:
        known = address.choice(
            "Does the model know it?",
            "known",
            dict(zip(KNOWN, KNOWN, strict=True)),
            placeholder="either" if measured else NOT_MEASURED,
            disabled=not measured,
            help="Known: the answer has rank 1 on more than half of the fact's prompts.",
        )
    with second:
        layer = address.choice("Has a neuron in layer", "layer", layers, placeholder="any")
    with third:
        sort = address.choice("Sorted by", "sort", SORTED, placeholder="best match")
    return known if measured else None, None if layer is None else int(layer), sort or search.BEST


# Draw ------------------------------------------------------------------------------------------------


def understood(text: str, hits: search.Hits) -> None:
    """What was searched instead of a typo, or could be."""
    if hits.instead:
        said = "; ".join(
            f"“{escape(word)}”: showing **{escape(', '.join(near))}**" for word, near in hits.instead.items()
        )
        st.markdown(f"No fact has exactly these words. {said}.")
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
        st.button("Take the filters away", icon=":material/filter_alt_off:", on_click=without_filters)
    else:
        layout.nothing("No fact matches. Try fewer words, or another spelling.")


def without_filters() -> None:
    address.set_in_url(relation=None, known=None, layer=None)


def found_facts(atlas: Atlas, text: str, hits: search.Hits) -> None:
    """The facts, and where only a prompt has the words, that prompt."""
    words = [near for word in search.search_words(text) for near in (word, *hits.instead.get(word, ()))]
    elsewhere = hits.rows.loc[~hits.rows["in_names"].astype(bool), "fact_id"]
    prompts = search.prompts_with(atlas, list(elsewhere), words)

    def about(row: Any) -> str:
        prompt = prompts.get(row.fact_id)
        return about_fact(row) + (f" · “{prompt.replace(OBJECT_SLOT, GAP)}”" if prompt else "")

    layout.fact_rows(hits.rows, notes=about)


def draw_relations(by_relation: pd.DataFrame, relation: str | None) -> None:
    address.draw_clickable(
        sharing_charts.hits_by_relation(by_relation, relation),
        "Hits by relation",
        key=f"hits-{relation}",
        fields=["relation_id"],
        act=only_relation,
    )
    more = len(by_relation) - sharing_charts.MOST_BARS
    rest = f" {more} more relations have hits." if more > 0 else ""
    if relation is None:
        st.caption(f"Click a relation to see its facts only.{rest}")
    else:
        st.caption(f"Click the relation again to see all.{rest}")


def only_relation(relation_id: str) -> None:
    address.switch_in_url("relation", relation_id)


def export(atlas: Atlas, text: str, asked: dict, hits: search.Hits) -> None:
    """All hits in their order, and the counts by relation."""

    def facts() -> pd.DataFrame:
        return search.facts_matching(atlas, text, **asked, limit=hits.total).rows.drop(columns="in_names")

    exports.offer(f"search {text}", facts=exports.Later(hits.total, facts), relations=hits.by_relation)


main()
