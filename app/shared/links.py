"""Links between pages; each keeps the atlas in view.

    links.fact_link("P36-France", "France → Paris")
    st.switch_page(links.LAB, query_params=links.here(fact=fact_id))
    links.cell(links.FACT, "France → Paris", fact=fact_id)      # in a table's column("Fact")

Permalinks are query parameters: `atlas` on every page, then `fact`, `relation`, `neuron` or a page's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import pandas as pd
import streamlit as st
from streamlit.column_config import LinkColumn

from app.shared.words import escape, neurons_of, seen
from atlas.neuron import Neuron

HOME = "home/page.py"
SEARCH = "search/page.py"
FACT = "fact/page.py"
RELATION = "relation/page.py"
NEURON = "neuron/page.py"
LAB = "lab/page.py"
COMPARE = "compare/page.py"
EVIDENCE = "evidence/page.py"
ATLASES = "atlases/page.py"

# What the Lab's address calls a change → its name, icon and explanation.
LAB_VERBS = {
    "suppress": ("Forget", "ink_eraser", "Switch its neurons off, and see whether the answer goes"),
    "amplify:3": ("Boost", "trending_up", "Multiply its neurons' activations by 3"),
    "edit": ("Rewrite to …", "edit", "Let its neurons write another answer"),
    "set": ("Set to …", "tune", "Give its neurons one activation"),
    "patch": (
        "Take from another prompt",
        "content_paste_go",
        "Give its neurons another prompt's activations",
    ),
}
UNFINISHED = ("edit", "set", "patch")  # the Lab asks for their options


def here(**parameters: Any) -> dict[str, str]:
    """Query parameters of a link inside the atlas in view, or another `atlas`; None and "" are left out."""
    atlas_id = parameters.pop("atlas", None) or st.session_state.get("atlas_id")
    wanted = {"atlas": atlas_id, **parameters}
    return {name: str(value) for name, value in wanted.items() if value not in (None, "")}


def menu(pages: Sequence[Any]) -> None:
    """The menu; its links keep the atlas, which Streamlit's own would drop."""
    st.markdown("#### Knowledge Neuron Atlas")
    for page in pages:
        st.page_link(page, query_params=here() or None)


def text_link(page: str, label: Any, *, icon: str | None = None, **parameters: Any) -> None:
    """A link that looks like one, to a page of the atlas in view; `label` is text from data."""
    st.page_link(page, label=f":blue[{escape(label)}]", icon=icon, query_params=here(**parameters))


def fact_link(fact_id: str, label: str) -> None:
    text_link(FACT, label, fact=fact_id)


def relation_link(relation_id: str, label: str) -> None:
    text_link(RELATION, label, relation=relation_id)


def neuron_link(layer: int, index: int, *, icon: str | None = None) -> None:
    name = str(Neuron(int(layer), int(index)))
    text_link(NEURON, name, icon=icon, neuron=name)


def neuron_links(rows: pd.DataFrame) -> None:
    """Links to neurons on one line; `rows` has layer and neuron."""
    with st.container(horizontal=True, gap="small"):
        for neuron in neurons_of(rows):
            neuron_link(neuron.layer, neuron.neuron)


def cell(page: str, label: Any, **parameters: Any) -> str:
    """The relative address of a page of the atlas in view, with its label after the #; see `column`.

    `static/history.js` follows it in the visitor's session.
    """
    return f"{page.partition('/')[0]}?{urlencode(here(**parameters))}#{quote(seen(label))}"


def column(title: str, **options: Any) -> Any:
    """A table's column of `cell`s, which shows their labels."""
    return LinkColumn(title, display_text="#(.*)$", alignment="left", **options)


def lab_verbs(fact_id: str) -> None:
    """To the Lab, each with one change of the fact's neurons: run at once, or its options open."""
    with st.container(key="lab_verbs", horizontal=True, gap="small"):
        for change, (label, icon, about) in LAB_VERBS.items():
            run = None if change in UNFINISHED else 1
            parameters = here(fact=fact_id, change=change, run=run)
            st.page_link(LAB, label=label, icon=f":material/{icon}:", help=about, query_params=parameters)


def lab_link(fact_id: str) -> None:
    st.page_link(LAB, label="Open in the Lab", icon=":material/science:", query_params=here(fact=fact_id))


def compare_link(kind: str, a: str, b: str | None = None, label: str = "Compare") -> None:
    """To Compare; `kind` is facts, relations, neurons or atlases, `a` and `b` are ids (`L9.N2141`)."""
    icon = ":material/compare_arrows:"
    st.page_link(COMPARE, label=label, icon=icon, query_params=here(kind=kind, a=a, b=b))
