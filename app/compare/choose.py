"""Which two to compare: pickers, and pairs that are worth a look.

    fact = pick_fact(atlas, "a", "fact A")          # the fact that `?a=` names, or None while none is chosen

What a visitor typed becomes a parameter of a query or escaped text, nothing else.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.shared import address, layout, limits, links
from app.shared.resources import ask
from app.shared.titles import name_of
from app.shared.words import escape, fact_label
from atlas import queries
from atlas.errors import QueryError
from atlas.queries import comparison
from atlas.store.atlas import Atlas

SUGGESTED = 30


def pick_fact(atlas: Atlas, name: str, title: str, beside: str = "") -> dict[str, Any] | None:
    """A fact by search; without words, facts that share neurons with the fact `beside` are offered."""
    chosen, fact = address.id_in_url(name), None
    if chosen:
        with layout.errors_as_sentences():
            fact = queries.fact(atlas, chosen)
    text = st.text_input(
        f"Search for {title}",
        key=f"compare-search-{name}",
        max_chars=limits.current().search_length,
        placeholder="Azerbaijan, capital …" if fact is None else "Type to choose another",
    ).strip()
    options = {} if fact is None else {fact["fact_id"]: fact_label(fact)}
    if text or fact is None:
        if text or not beside:
            found = queries.facts_matching(atlas, text, limit=SUGGESTED).rows
        else:
            found = queries.facts_sharing_neurons(atlas, beside, limit=SUGGESTED)
        options |= {row.fact_id: fact_label(row._asdict()) for row in found.itertuples()}
        if text and found.empty:
            st.caption("No fact matches. Try fewer words.")
    address.choice(title[0].upper() + title[1:], name, options, placeholder="Choose a fact")
    return fact


def swap_link(**parameters: str) -> None:
    icon = ":material/swap_horiz:"
    st.page_link(links.COMPARE, label="Swap A and B", icon=icon, query_params=links.here(**parameters))


def suggest_pairs(atlas: Atlas, kind: str, sentence: str, one: str | None = None) -> None:
    """Without two choices: what to do, and pairs that are worth a look, with `one` if that is chosen."""
    layout.nothing(sentence)
    pairs = ask(comparison.partners, atlas, kind, one) if one else ask(comparison.examples, atlas, kind)
    if not pairs:
        return
    st.markdown(f"**{escape(name_of(atlas, kind, one))} beside …**" if one else "**Worth a look**")
    for title, a, b in pairs:
        names = [name_of(atlas, kind, each) for each in (a, b)]
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            links.compare_link(kind, a, b, label=escape(names[1]) if one else title)
            st.caption(escape(title if one else " beside ".join(names)))


def must_differ(a: str, b: str) -> None:
    if a == b:
        raise QueryError("A and B are the same. Choose another A or B.")
