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
    text = layout.search_box(
        "Search subjects, objects, relations and prompts",
        "q",
        placeholder='Azerbaijan, "New York", capital',
    )
    relation, known, layer = filters(atlas)

    # Query
    begun = time.perf_counter()
    hits = queries.facts_matching(
        atlas,
        text,
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
    ids = relations["relation_id"]
    labels = {r: f"{label} ({r})" for r, label in zip(ids, relations["label"], strict=True)}
    layers = {str(layer): layer for layer in ask(queries.layer_histogram, atlas)["layer"]}
    left, middle, right = st.columns(3)
    with left:
        relation = layout.choice("Relation", "relation", labels, placeholder="any")
    with middle:
        known = layout.choice(
            "Does the model know it?",
            "known",
            dict(zip(KNOWN, KNOWN, strict=True)),
            placeholder="either",
            help="Known: the answer has rank 1 on more than half of the fact's prompts.",
        )
    with right:
        layer = layout.choice("Has a neuron in layer", "layer", layers, placeholder="any")
    return relation, known, None if layer is None else int(layer)


main()
