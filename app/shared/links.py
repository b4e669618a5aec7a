"""Links between pages; each keeps the atlas in view.

    links.fact_link("P36-France", "France → Paris")
    st.switch_page(links.LAB, query_params=links.here(fact=fact_id))

Permalinks are query parameters: `atlas` on every page, then `fact`, `relation`, `neuron` or a page's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app.shared.words import escape, neurons_of
from atlas.neuron import Neuron

HOME = "home/page.py"
SEARCH = "search/page.py"
FACT = "fact/page.py"
RELATION = "relation/page.py"
NEURON = "neuron/page.py"
LAB = "lab/page.py"
COMPARE = "compare/page.py"
ATLASES = "atlases/page.py"


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


def lab_link(fact_id: str) -> None:
    st.page_link(LAB, label="Open in the Lab", icon=":material/science:", query_params=here(fact=fact_id))


def compare_link(kind: str, a: str, b: str | None = None, label: str = "Compare") -> None:
    """To Compare; `kind` is facts, relations, neurons or atlases, `a` and `b` are ids (`L9.N2141`)."""
    icon = ":material/compare_arrows:"
    st.page_link(COMPARE, label=label, icon=icon, query_params=here(kind=kind, a=a, b=b))
