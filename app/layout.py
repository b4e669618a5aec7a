"""What every page shares: menu, atlas picker, links, rows, empty states, errors, footer.

    atlas = current_atlas()                       # what the sidebar chose; StoreError when there is none
    fact_link("P36-France", "France → Paris")     # a link that keeps the atlas
    st.markdown(f"**{plain(subject)}**")          # text from data never becomes markdown
    with errors_as_sentences(): …                 # an AtlasError becomes a box, the rest of the page goes on

Permalinks are query parameters: `atlas` on every page, then `fact`, `relation`, `neuron`, or the search's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import streamlit as st

from app import resources
from atlas.errors import AtlasError, StoreError
from atlas.neuron import Neuron
from atlas.store import Atlas

NOT_MEASURED = "not measured in this atlas"

HOME = "app_pages/home.py"
SEARCH = "app_pages/search.py"
FACT = "app_pages/fact.py"
RELATION = "app_pages/relation.py"
NEURON = "app_pages/neuron.py"
LAB = "app_pages/lab.py"

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=/@\"'])")


# Text ------------------------------------------------------------------------------------------------


def plain(text: Any) -> str:
    """Text from data or a visitor, so that markdown shows it as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def is_missing(value: Any) -> bool:
    """Whether a value is null: None, NaN, NaT or pd.NA (a list is a value)."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def number(value: Any, form: str = ",.0f") -> str:
    """A number as text, or that it was not measured."""
    return NOT_MEASURED if is_missing(value) else format(value, form)


def percent(value: Any, digits: int = 0) -> str:
    """A share as a percentage, or that it was not measured."""
    return number(value, f".{digits}%")


def tokens(pairs: Any, limit: int = 8) -> str:
    """The tokens of a promoted or suppressed list, spaces made visible."""
    if is_missing(pairs) or len(pairs) == 0:
        return ""
    return ", ".join(shown_token(pair["token"]) for pair in list(pairs)[:limit])


def shown_token(token: Any) -> str:
    """A token as people can read it: what is only white space is spelt out."""
    text = str(token)
    return text.strip() or repr(text)


# Errors and empty states ------------------------------------------------------------------------------


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Show an `AtlasError` as the sentence it is and go on after the block."""
    try:
        yield
    except AtlasError as error:
        st.error(plain(error))


def nothing(sentence: str) -> None:
    """An empty state: what is not here, and what to do about it."""
    st.info(sentence, icon=":material/info:")


# The atlas in view -----------------------------------------------------------------------------------


def choose_atlas() -> None:
    """The picker in the sidebar; the URL's `atlas` wins over what was chosen before."""
    choices = resources.atlases()
    problem = resources.configured_error()
    if problem:
        st.warning(plain(problem))
    if not choices:
        st.caption("There is no atlas to choose.")
        return
    asked = st.query_params.get("atlas") or st.session_state.get("atlas_id") or next(iter(choices))
    st.session_state["atlas_id"] = asked
    st.session_state["atlas_picker"] = asked if asked in choices else None
    st.selectbox(
        "Atlas",
        list(choices),
        index=None,
        key="atlas_picker",
        on_change=_picked,
        placeholder="Choose an atlas",
        help="One atlas is one model asked one set of facts.",
    )


def _picked() -> None:
    if st.session_state["atlas_picker"]:
        st.session_state["atlas_id"] = st.query_params["atlas"] = st.session_state["atlas_picker"]


def current_atlas() -> Atlas:
    """The atlas this page is about; raises `StoreError` when there is none or it is broken."""
    choices = resources.atlases()
    if not choices:
        raise StoreError(
            "There is no atlas to show. Build one with `python -m build run` and start the app with "
            "KNOWLEDGE_NEURON_ATLAS set to its folder."
        )
    atlas_id = st.session_state.get("atlas_id") or next(iter(choices))
    if atlas_id not in choices:
        raise StoreError(f"There is no atlas '{atlas_id}' here. Choose one of: {', '.join(choices)}.")
    return resources.opened(choices[atlas_id])


def here(**parameters: Any) -> dict[str, str]:
    """Query parameters of a link inside this atlas."""
    atlas_id = st.session_state.get("atlas_id")
    wanted = {"atlas": atlas_id, **parameters}
    return {name: str(value) for name, value in wanted.items() if value not in (None, "")}


# Links -----------------------------------------------------------------------------------------------


def menu(pages: Sequence[Any]) -> None:
    """The menu; its links keep the atlas, which Streamlit's own would drop."""
    st.markdown("#### Knowledge Neuron Atlas")
    for page in pages:
        st.page_link(page, query_params=here() or None)


def fact_link(fact_id: str, label: str) -> None:
    st.page_link(FACT, label=plain(label), query_params=here(fact=fact_id))


def relation_link(relation_id: str, label: str) -> None:
    st.page_link(RELATION, label=plain(label), query_params=here(relation=relation_id))


def neuron_link(layer: int, index: int) -> None:
    name = str(Neuron(int(layer), int(index)))
    st.page_link(NEURON, label=plain(name), query_params=here(neuron=name))


def lab_link(fact_id: str, label: str = "Open in the Lab") -> None:
    st.page_link(LAB, label=label, icon=":material/science:", query_params=here(fact=fact_id))


def fact_name(subject: str, answer: str) -> str:
    return f"{subject} → {answer}"


# Footer ----------------------------------------------------------------------------------------------


def footer() -> None:
    """What the numbers on the page were made from."""
    try:
        atlas = current_atlas()
    except AtlasError:
        return
    m = atlas.manifest
    st.divider()
    parts = [
        f"Atlas {m.atlas_id}",
        f"model {m.model.name}" + (f" at {m.model.revision[:12]}" if m.model.revision else ""),
        f"{m.method.name}, rule {m.method.rule or '?'}, tolerance {number(m.method.tolerance, 'g')}",
        f"dataset {m.dataset.id}" + (f" ({m.dataset.hash[:12]})" if m.dataset.hash else ""),
    ]
    if m.dataset.licence:
        parts.append(m.dataset.licence)
    if m.code_version:
        parts.append(f"code {m.code_version}")
    st.caption(plain(" · ".join(parts)))
