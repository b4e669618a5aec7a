"""What every page shares: the atlas picker, charts, rows, empty states, errors, the footer.

atlas = current_atlas()              # what the sidebar chose; StoreError when there is none
with errors_as_sentences(): …        # an AtlasError becomes a box, the rest of the page goes on
draw_chart(partial(layer_bars, rows), "Neurons by layer")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import CheckboxColumn, NumberColumn, TextColumn

from app.shared import limits, links, resources
from app.shared.words import (
    NOT_MEASURED,
    about_fact,
    escape,
    fact_name,
    is_missing,
    neurons_of,
    token_list,
)
from atlas import queries
from atlas.errors import AtlasError, StoreError
from atlas.store.atlas import Atlas

_FIGURE_WIDTH = 150

# A page is as wide from the start as it will be, beside the menu that is to come, and what loads takes about
# the room that it will need: a link of the menu, a field of `address` with its label, a chart, a table.
# Links to the page in view would look like menu entries that are switched on; less room above the title, and
# none for the script; a button's text goes on in a second line where it would be cut.
PAGE_STYLE = """<style>
.stMain .stMainBlockContainer { max-width: none; padding: 3rem 1rem 2rem; }
@media (min-width: 768px) {
    .stMain .stMainBlockContainer { padding-left: 5rem; padding-right: 5rem; }
    .stAppViewContainer:not(:has(> .stSidebar)) { padding-left: 300px; }
}
.stSidebar [data-testid="stSkeleton"] { height: 1.25rem; }
:is([class*="st-key-box-"], [class*="st-key-choice-"], [class*="st-key-slider-"])
    > [data-testid="stSkeleton"] { height: 4.25rem; }
[class*="st-key-chart-"] > [data-testid="stSkeleton"], .stVegaLiteChart:not(:has(svg)) { height: 18rem; }
.stPrintFixedWidth > [data-testid="stSkeleton"] { height: 18rem; }
[data-testid="stLayoutWrapper"]:has(> .st-key-history) { display: none; }
.stMain [data-testid="stPageLink-NavLink"] { background: none; padding-left: 0; }
.stMain [data-testid="stPageLink-NavLink"] * { font-weight: 500; }
.stMain [data-testid="stPageLink-NavLink"]:hover { text-decoration: underline; }
button .stMarkdownEllipsis * { white-space: normal; }
</style>"""

HISTORY_SCRIPT = f"<script>{(Path(__file__).parents[1] / 'static/history.js').read_text()}</script>"

# The folders of an absolute path, without its last name.
_FOLDERS = re.compile(r"(?<![\w/.:])/(?:[^\s/'\"]+/)+(?=[^\s/])")


# Errors and empty states ------------------------------------------------------------------------------


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Show an `AtlasError` as an error box and go on after the block."""
    try:
        yield
    except AtlasError as error:
        st.error(escape(error_text(error)))


def error_text(error: object) -> str:
    """What an error says; on a demo without the host's folders."""
    with suppress(AtlasError):
        if not limits.current().demo_mode:
            return str(error)
    return _FOLDERS.sub("", str(error))


def nothing(text: str) -> None:
    """An empty state: what is not here, and what to do about it."""
    st.info(text, icon=":material/info:")


# What is said once at the top of a page of an atlas that lacks it.
_PARTS_IN_WORDS = {
    "prompts": "prompts",
    "known": "whether the model knows a fact",
    "probabilities": "the answers' probabilities",
    "scores": "attribution scores",
    "effects": "the effects of changing neurons",
    "tokens": "what neurons promote",
    "activations": "which prompts activate neurons",
    "erasures": "the effects of erasing neurons",
    "edits": "the effects of edits",
}


def say_unmeasured(atlas: Atlas, *parts: str) -> frozenset[str]:
    """One sentence on what the atlas lacks, of `parts` as in `queries.unmeasured`; returns those.

    The page then draws nothing in their places.
    """
    lacks = resources.ask(queries.unmeasured, atlas).intersection(parts)
    if lacks:
        words = [text for part, text in _PARTS_IN_WORDS.items() if part in lacks]
        nothing(f"{NOT_MEASURED.capitalize()}: {', '.join(words)}.")
    return lacks


# The atlas in view -----------------------------------------------------------------------------------


def choose_atlas() -> None:
    """The picker in the sidebar: the URL's `atlas`, or the first there is."""
    choices = resources.atlases()
    problem = resources.configured_error()
    if problem:
        st.warning(escape(error_text(problem)))
    if not choices:
        st.caption("No atlas found.")
        return
    asked = st.query_params.get("atlas") or next(iter(choices))
    st.session_state["atlas_id"] = asked
    st.session_state["atlas_picker"] = asked if asked in choices else None
    st.selectbox(
        "Atlas",
        list(choices),
        index=0 if asked in choices else None,
        key="atlas_picker",
        on_change=_picked,
        placeholder="Choose an atlas",
        help="An atlas holds one model's knowledge neurons for one dataset.",
    )


def _picked() -> None:
    if st.session_state["atlas_picker"]:
        st.session_state["atlas_id"] = st.query_params["atlas"] = st.session_state["atlas_picker"]


def current_atlas() -> Atlas:
    """The atlas in view; raises `StoreError` when there is none or it is broken."""
    return atlas_named(st.session_state.get("atlas_id"))


def atlas_named(atlas_id: str | None) -> Atlas:
    """The atlas of that id, or the first there is; raises `StoreError` as `current_atlas`."""
    choices = resources.atlases()
    if not choices:
        raise StoreError(
            "There is no atlas to show. Build one with `python -m build run` and start the app with "
            "KNOWLEDGE_NEURON_ATLAS set to its folder."
        )
    atlas_id = atlas_id or next(iter(choices))
    if atlas_id not in choices:
        raise StoreError(f"There is no atlas '{atlas_id}' here. Choose one of: {', '.join(choices)}.")
    return resources.opened(choices[atlas_id])


# Parts of pages --------------------------------------------------------------------------------------


def draw_chart(make: partial, alternative: str) -> None:
    """The chart that `make()` gives, as wide as its place; `alternative` is its text for screen readers."""
    key = f"chart-{alternative}"  # `PAGE_STYLE` leaves room for it
    st.altair_chart(resources.KeptChart(make), width="stretch", alt=alternative, key=key)


def cards(n: int, in_a_row: int = 3) -> Iterator[Any]:
    """`n` places side by side, in rows."""
    for first in range(0, n, in_a_row):
        yield from st.columns(in_a_row)[: n - first]


def columns(widths: Mapping[str, int]) -> dict[str, Any]:
    """Name → its column, side by side in these relative widths; none for no names."""
    places = st.columns([*widths.values()], gap="medium") if widths else []
    return dict(zip(widths, places, strict=True))


def number_boxes(values: Mapping[str, tuple[str, str]]) -> None:
    """A row of boxes: label → (number, note); none for a number that was not measured."""
    with st.container(horizontal=True, gap="small"):
        for label, (value, note) in values.items():
            if value == NOT_MEASURED:
                continue
            with st.container(border=True, width=_FIGURE_WIDTH, height="stretch", gap=None):
                st.caption(escape(label))
                st.markdown(f"#### {escape(value)}")
                st.caption(escape(note))


def empty_fields(values: Mapping[str, Any]) -> list[str]:
    """The labels of the fields that have no value; white space is none."""
    return [label for label, value in values.items() if not (value and str(value).strip())]


def button_with(missing: Sequence[str], label: str, **options: Any) -> bool:
    """A button that is always there; while something is missing it is disabled, and its label names it."""
    lacks = f" (missing: {', '.join(missing)})" if missing else ""
    return st.button(label + lacks, disabled=bool(missing), **options)


def known_badge(known: Any) -> None:
    """Whether the model knows a fact, in words and colour; nothing where that was not measured."""
    if is_missing(known):
        return
    if known:
        st.badge("known", icon=":material/check:", color="blue", help="Rank 1 on most of its prompts.")
    else:
        st.badge("not known", icon=":material/close:", color="orange", help="Rank 1 on at most half of them.")


def fact_rows(rows: pd.DataFrame, *, notes: Callable[[Any], str] | None = None) -> None:
    """A link to each fact and a line about it; `rows` has the columns of a search unless `notes` is given."""
    for row in rows.itertuples(index=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
            links.fact_link(row.fact_id, fact_name(row.subject, row.object))
            st.caption(escape((notes or about_fact)(row)))


def neuron_table(
    neurons: pd.DataFrame, *, key: str | None = None, act: Callable[[str], None] | None = None
) -> None:
    """Neurons of a fact or a relation as a table that can be sorted and downloaded; without empty columns.

    With `act` a row can be chosen: `act` changes the URL by its name. `key` has to say what it changes.
    """
    names = [str(neuron) for neuron in neurons_of(neurons)]
    tokens = {side: neurons[side].map(_tokens_or_none) for side in ("promoted", "suppressed")}
    rows = neurons.assign(neuron=names, **tokens)
    rows = rows[[column for column in _NEURON_COLUMNS if column in rows]]
    measured = rows.dropna(axis="columns", how="all")
    st.dataframe(
        measured,
        hide_index=True,
        alt="Neurons with their scores and what their value vectors promote",
        key=key,
        on_select="ignore" if act is None else partial(_row_chosen, key, names, act),
        selection_mode="single-row",
        column_config={name: column for name, column in _NEURON_COLUMNS.items() if name in measured},
    )


def _tokens_or_none(pairs: Any) -> str | None:
    return token_list(pairs, missing="") or None


_NEURON_COLUMNS = {
    "neuron": TextColumn("Neuron", pinned=True),
    "change": TextColumn("Change", width="small"),
    "in_atlas": CheckboxColumn("In the atlas", width="small"),
    "share": NumberColumn("Share of prompts", format="percent"),
    "relation_share": NumberColumn("Share of facts", format="percent"),
    "mean_share": NumberColumn("Mean share of prompts", format="percent"),
    "mean_score": NumberColumn("Mean score", format="%.4f"),
    "max_score": NumberColumn("Largest score", format="%.4f"),
    "n_facts": NumberColumn("Facts"),
    "n_relations": NumberColumn("Relations"),
    "value_norm": NumberColumn("Norm", format="%.2f", help="of the value vector"),
    "promoted": TextColumn("Promotes", width="large"),
    "suppressed": TextColumn("Suppresses", width="large"),
}


def _row_chosen(key: str, names: Sequence[str], act: Callable[[str], None]) -> None:
    chosen = (st.session_state.get(key) or {}).get("selection", {}).get("rows", [])
    if chosen and 0 <= chosen[0] < len(names):
        act(names[chosen[0]])


# Footer ----------------------------------------------------------------------------------------------


def footer() -> None:
    """The model, method and data behind the numbers on the page."""
    try:
        atlas = current_atlas()
    except AtlasError:
        return
    m = atlas.manifest
    weights = m.model.weights_sha256
    st.divider()
    parts = [
        f"Atlas {m.atlas_id}",
        f"model {m.model.name}" + (f" at {_shortened(m.model.revision)}" if m.model.revision else ""),
        f"weights {weights[:12]}" if weights and weights[:12] not in (m.model.revision or "") else "",
        m.method.name.replace("_", " ") + (f", rule {m.method.rule}" if m.method.rule else ""),
        "" if m.method.tolerance is None else f"tolerance {m.method.tolerance:g}",
        f"dataset {m.dataset.id}" + (f" ({m.dataset.hash[:12]})" if m.dataset.hash else ""),
        m.dataset.licence or "",
        f"code {m.code_version}" if m.code_version else "",
    ]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(escape(" · ".join(part for part in parts if part)))
        st.page_link(links.ATLASES, label="Whole manifest", query_params=links.here())


def _shortened(revision: str) -> str:
    """Twelve digits of a commit or hash; the name of a release as it is."""
    digits = revision.removeprefix("sha256:")
    return digits[:12] if re.fullmatch(r"[0-9a-f]{12,}", digits) else revision[:40]
