"""Search: one box over subjects, objects, relations and prompts, with filters; the URL holds all of it."""

import time

import streamlit as st

from app import layout
from app.resources import ask
from atlas import queries
from atlas.store import Atlas

PAGE_ROWS = 20
KNOWN = {"known": True, "not known": False}


def main() -> None:
    st.title("Search", anchor=False)
    atlas = layout.current_atlas()

    # Choose
    text = st.text_input(
        "Search subjects, objects, relations and prompts",
        key="q",
        bind="query-params",
        type="search",
        max_chars=200,
        placeholder='Azerbaijan, capital, "New York" …',
        on_change=layout.first_page,
    )
    relation, known, layer = filters(atlas)

    # Query
    begun = time.perf_counter()
    hits = queries.facts_matching(
        atlas,
        text or "",
        relation=relation,
        known=KNOWN.get(known),
        layer=layer,
        limit=PAGE_ROWS,
        offset=(layout.page_asked() - 1) * PAGE_ROWS,
    )
    milliseconds = 1000 * (time.perf_counter() - begun)

    # Draw
    st.caption(f"{layout.count(hits.total, 'fact')} · {milliseconds:.0f} ms")
    if not hits.total:
        layout.nothing("No fact matches. Try fewer words, or take a filter away.")
        return
    if hits.rows.empty:
        layout.nothing("There are fewer pages than that. Choose one below.")
    layout.fact_rows(hits.rows)
    layout.pages(hits.total, PAGE_ROWS)


def filters(atlas: Atlas) -> tuple[str | None, str | None, int | None]:
    """Relation id, a key of `KNOWN`, layer; None where anything goes."""
    relations = ask(queries.relations, atlas)
    labels = dict(zip(relations["relation_id"], relations["label"], strict=True))
    layers = ask(queries.layer_histogram, atlas)["layer"].tolist()
    left, middle, right = st.columns(3)
    relation = left.selectbox(
        "Relation",
        list(labels),
        index=None,
        key="relation",
        bind="query-params",
        format_func=lambda r: f"{labels.get(r)} ({r})",
        placeholder="any",
        on_change=layout.first_page,
    )
    known = middle.selectbox(
        "Does the model know it?",
        list(KNOWN),
        index=None,
        key="known",
        bind="query-params",
        placeholder="either",
        on_change=layout.first_page,
        help="Known: the answer has rank 1 on more than half of the fact's prompts.",
    )
    layer = right.selectbox(
        "Has a neuron in layer",
        layers,
        index=None,
        key="layer",
        bind="query-params",
        placeholder="any",
        on_change=layout.first_page,
    )
    return relation, known, layer


main()
