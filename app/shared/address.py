"""What the URL holds: widgets whose value is one of its parameters, and clicks that change it.

    q = address.search_box("Search", "q", placeholder="…")        # ?q=
    t = address.slider("Threshold", "t", low=0.1, high=1, step=0.05, default=0.2)
    address.draw_clickable(chart, "…", key=…, fields=["relation_id"], act=address.set_in_url)

A page reads the URL and nothing else, so a link restores it. A widget takes its value from there before it is
drawn and writes it back when it changes; what is as it would be anyway is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import altair as alt
import streamlit as st

from app.shared import limits
from atlas.charts import look as charts

# The URL -------------------------------------------------------------------------------------------


def set_in_url(**parameters: str | None) -> None:
    """Change the URL's parameters (None takes one out); a list on the page begins again."""
    st.query_params.pop("page", None)
    for name, value in parameters.items():
        if value in (None, ""):
            st.query_params.pop(name, None)
        else:
            st.query_params[name] = str(value)


def switch_in_url(name: str, value: str) -> None:
    """Set a parameter of the URL, or take it out if it is there with this value."""
    set_in_url(**{name: None if st.query_params.get(name) == value else value})


# Clicks --------------------------------------------------------------------------------------------


def draw_clickable(
    chart: alt.Chart, alternative: str, *, key: str, fields: Sequence[str], act: Callable[..., None]
) -> None:
    """A chart whose marks can be clicked: `act(**fields)` of the mark's row, as text, changes URL or page.

    `key` has to name what `act` changes: then the chart begins anew after it, with nothing clicked.
    What a browser says was clicked is as trusted as a URL; `act` puts it there, and the page reads it.
    """
    st.altair_chart(
        charts.clickable(chart, *fields),
        width="stretch",
        alt=alternative,
        key=key,
        on_select=partial(_clicked, key, tuple(fields), act),
    )


def _clicked(key: str, fields: Sequence[str], act: Callable[..., None]) -> None:
    selection = (st.session_state.get(key) or {}).get("selection") or {}
    marks = selection.get(charts.CLICK) or []
    if isinstance(marks, list) and marks and isinstance(marks[0], Mapping) and set(fields) <= set(marks[0]):
        act(**{name: str(marks[0][name]) for name in fields})


# Pages of a list -----------------------------------------------------------------------------------


def page_asked() -> int:
    """The page of a list that the URL names, from 1."""
    asked = st.query_params.get("page", "1")[:6]
    return max(1, int(asked)) if asked.isascii() and asked.isdigit() else 1


def pages(total: int, size: int) -> None:
    """Page numbers below a list; the URL keeps the one in view."""
    n_pages = max(1, math.ceil(total / size))
    if n_pages == 1:
        return
    page = min(page_asked(), n_pages)
    key = f"page-{page}"
    st.pagination(n_pages, default=page, key=key, on_change=_to_url, args=("page", key))


# Widgets -------------------------------------------------------------------------------------------


def search_box(label: str, name: str, *, placeholder: str) -> str:
    """A box whose text is the URL's parameter `name`."""
    key = f"box-{name}"
    longest = limits.current().search_length
    st.session_state[key] = st.query_params.get(name, "")[:longest]
    return st.text_input(
        label,
        key=key,
        type="search",
        max_chars=longest,
        placeholder=placeholder,
        on_change=_to_url,
        args=(name, key),
    )


def choice(label: str, name: str, options: Mapping[str, Any], *, placeholder: str, **look: Any) -> str | None:
    """A choice that is the URL's parameter `name`; `options`: value → what is shown. None is any."""
    key = f"choice-{name}"
    asked = st.query_params.get(name)
    st.session_state[key] = asked if asked in options else None
    return st.selectbox(
        label,
        list(options),
        index=None,
        key=key,
        format_func=lambda value: str(options.get(value, value)),
        placeholder=placeholder,
        on_change=_to_url,
        args=(name, key),
        **look,
    )


def slider(
    label: str, name: str, *, low: float, high: float, step: float, default: float, **look: Any
) -> float:
    """A number from `low` to `high` that is the URL's parameter `name`; the default is left out of it."""
    key = f"slider-{name}"
    try:
        asked = float(st.query_params.get(name, default))
    except ValueError:
        asked = default
    # Neither a number that is none nor one off the scale: the slider would refuse it.
    st.session_state[key] = min(max(asked, low), high) if math.isfinite(asked) else default
    return st.slider(
        label,
        low,
        high,
        step=step,
        key=key,
        on_change=_number_to_url,
        args=(name, key, default),
        **look,
    )


def _number_to_url(name: str, key: str, default: float) -> None:
    value = st.session_state[key]
    set_in_url(**{name: None if value == default else f"{value:g}"})


def one_of(label: str, name: str, options: Mapping[str, str], **look: Any) -> str:
    """One of a few, side by side, that is the URL's parameter `name`; the first is left out of the URL."""
    key = f"one-of-{name}"
    first = next(iter(options))
    asked = st.query_params.get(name, first)
    st.session_state[key] = asked if asked in options else first
    return st.segmented_control(
        label,
        list(options),
        key=key,
        required=True,
        wrap=True,
        format_func=lambda value: options.get(value, value),
        on_change=_one_to_url,
        args=(name, key, first),
        **look,
    )


def _one_to_url(name: str, key: str, first: str) -> None:
    value = st.session_state[key]
    set_in_url(**{name: None if value == first else value})


def _to_url(name: str, key: str) -> None:
    """A widget changed: the URL says so, and whatever list it filters begins again."""
    value = st.session_state.get(key)
    set_in_url(**{name: None if name == "page" and value == 1 else value})
