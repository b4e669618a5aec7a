"""What the URL holds: widgets whose value is one of its parameters, and clicks that change it.

    q = address.text_box("Search", "q", longest=500)              # ?q=
    t = address.slider("Threshold", "t", low=0.1, high=1, step=0.05, default=0.2)
    address.draw_clickable(partial(bars, rows), "…", key=…, fields=["relation_id"], act=address.set_in_url)

A page is a function of the URL, so a link restores it. A widget takes its value from the URL before it is
drawn and writes it back when it changes; defaults are left out of the URL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import streamlit as st

from app.shared import limits, resources
from atlas.charts import look
from atlas.neuron import Neuron

PAGE_ROWS = 20
# Of a table, which sorts what it has.
TABLE_ROWS = 500
_NEURON_LENGTH = 20
_LAST, _OPENS = "last_address", "opens_the_session"


# The URL -------------------------------------------------------------------------------------------


@contextmanager
def followed(page: str) -> Iterator[None]:
    """Run a page whose address follows a link from it to itself: Streamlit does so for other pages only.

    `page` is the page's path.
    """
    before, now = st.session_state.get(_LAST), (page, st.query_params.to_dict())
    st.session_state[_LAST], st.session_state[_OPENS] = now, before is None
    if before is not None and before[0] == page and before != now:
        st.query_params.from_dict(now[1])
    try:
        yield
    finally:
        st.session_state[_OPENS] = False


def write(parameters: Mapping[str, Any]) -> None:
    """Change parameters of the URL, all at once; None and "" remove one.

    A page leaves the URL that opens the session as it is: as yet, the browser would make a second entry of
    its history for it (`static/history.js`).
    """
    now = st.query_params.to_dict()
    wanted = {name: str(value) for name, value in {**now, **parameters}.items() if value not in (None, "")}
    if wanted != now and not st.session_state.get(_OPENS):
        st.query_params.from_dict(wanted)


def set_in_url(**parameters: str | None) -> None:
    """Change the URL's parameters (None removes one) and go back to a list's first page."""
    write({"page": None, **parameters})


def switch_in_url(name: str, value: str) -> None:
    """Set a parameter of the URL, or remove it if it has this value."""
    set_in_url(**{name: None if st.query_params.get(name) == value else value})


def id_in_url(name: str) -> str:
    """An id of the URL, cut to the length of a search."""
    return st.query_params.get(name, "")[: limits.current().search_length]


def neuron_in_url(name: str = "neuron") -> Neuron | None:
    """The neuron that the URL names; raises `AtlasError` for a name that cannot be read."""
    text = st.query_params.get(name, "")[:_NEURON_LENGTH]
    return Neuron.parse(text) if text else None


def _write(name: str, key: str, default: Any = None, forget: Sequence[str] = ()) -> None:
    """Copy a changed widget's value into the URL, and remove the parameters that it makes obsolete."""
    value = st.session_state.get(key)
    text = f"{value:g}" if isinstance(value, float) else value
    set_in_url(**dict.fromkeys(forget), **{name: None if value == default else text})


# Clicks --------------------------------------------------------------------------------------------


def draw_clickable(
    make: partial, alternative: str, *, key: str, fields: Sequence[str], act: Callable[..., None]
) -> None:
    """The chart that `make()` gives, with clickable marks.

    A click calls `act(**fields)` with the mark's fields as text, which changes URL or page.
    `key` has to name what `act` changes, so that the chart starts without a selection afterwards. A click is
    as trusted as a URL: `act` writes it there, and the page validates what it reads.
    """
    key = f"chart-{key}"  # `layout.PAGE_STYLE` leaves room for it
    st.altair_chart(
        resources.KeptChart(make, *fields),
        width="stretch",
        alt=alternative,
        key=key,
        on_select=partial(_clicked, key, tuple(fields), act),
    )


def _clicked(key: str, fields: Sequence[str], act: Callable[..., None]) -> None:
    selection = (st.session_state.get(key) or {}).get("selection") or {}
    marks = selection.get(look.CLICK) or []
    if isinstance(marks, list) and marks and isinstance(marks[0], Mapping) and set(fields) <= set(marks[0]):
        act(**{name: str(marks[0][name]) for name in fields})


# Pages of a list -----------------------------------------------------------------------------------


def page_number() -> int:
    """The page of a list that the URL names, from 1."""
    text = st.query_params.get("page", "1")[:6]
    return max(1, int(text)) if text.isascii() and text.isdigit() else 1


def page_offset(rows: int = PAGE_ROWS) -> int:
    """How many rows come before the page of a list that the URL names; `rows` are on a page."""
    return (page_number() - 1) * rows


def draw_page_numbers(total: int, rows: int = PAGE_ROWS) -> None:
    """Page numbers below a list of `total` rows, `rows` on a page."""
    n_pages = max(1, math.ceil(total / rows))
    if n_pages == 1:
        return
    page = min(page_number(), n_pages)
    key = f"page-{page}"
    st.pagination(n_pages, default=page, key=key, on_change=_write, args=("page", key, 1))


# Widgets -------------------------------------------------------------------------------------------


def text_box(
    label: str,
    name: str,
    *,
    longest: int,
    forget: Sequence[str] = (),
    box: Callable[..., str] = st.text_input,
    **widget: Any,
) -> str:
    """A box whose text is the URL's parameter `name`; a change removes the parameters `forget`."""
    key = f"box-{name}"
    st.session_state[key] = st.query_params.get(name, "")[:longest]
    return box(label, key=key, max_chars=longest, on_change=_write, args=(name, key, None, forget), **widget)


def choice(
    label: str, name: str, options: Mapping[str, Any], *, placeholder: str, **widget: Any
) -> str | None:
    """A choice that is the URL's parameter `name`; `options`: value → label. None where nothing is chosen."""
    key = f"choice-{name}"
    value = st.query_params.get(name)
    st.session_state[key] = value if value in options else None
    return st.selectbox(
        label,
        list(options),
        index=None,
        key=key,
        format_func=lambda value: str(options.get(value, value)),
        placeholder=placeholder,
        on_change=_write,
        args=(name, key),
        **widget,
    )


def slider(
    label: str, name: str, *, low: float, high: float, step: float, default: float, **widget: Any
) -> float:
    """A number from `low` to `high` that is the URL's parameter `name`."""
    key = f"slider-{name}"
    try:
        value = float(st.query_params.get(name, default))
    except ValueError:
        value = default
    # Streamlit refuses NaN and values off the scale.
    st.session_state[key] = min(max(value, low), high) if math.isfinite(value) else default
    return st.slider(
        label, low, high, step=step, key=key, on_change=_write, args=(name, key, default), **widget
    )


def segments(
    label: str,
    name: str,
    options: Mapping[str, str],
    *,
    default: str | None = None,
    label_visibility: str = "collapsed",
) -> str:
    """One of a few options, side by side, that is the URL's parameter `name`; the default is the first."""
    if len(options) == 1:
        return next(iter(options))
    key = f"one-of-{name}"
    default = default or next(iter(options))
    value = st.query_params.get(name, default)
    st.session_state[key] = value if value in options else default
    return st.segmented_control(
        label,
        list(options),
        key=key,
        required=True,
        wrap=True,
        format_func=lambda value: options.get(value, value),
        on_change=_write,
        args=(name, key, default),
        label_visibility=label_visibility,
    )
