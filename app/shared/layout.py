"""What every page shares: the atlas picker, charts, rows, empty states, errors, the footer.

atlas = current_atlas()              # what the sidebar chose; StoreError when there is none
with errors_as_sentences(): …        # an AtlasError becomes a box, the rest of the page goes on
draw_chart(partial(layer_bars, rows), "Neurons by layer")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
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
_ROW, _TABLE = 35, 400  # pixels: a row, and the most that a table takes

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
    "lens": "what it would say after each layer",
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


SHORTCUTS = """
| key | does |
|---|---|
| `Ctrl` + `K` | go to the search box |
| `?` | show these shortcuts |
| `Ctrl` + `Enter` | run the query (SQL) |
| `Tab`, `Enter` | take the completion (SQL) |
| `Ctrl` + `Space` | list what can stand here (SQL) |
"""


def show_shortcuts() -> None:
    """The shortcuts in the sidebar (`static/shortcuts.js`); to open them runs nothing."""
    with st.popover("Shortcuts", icon=":material/keyboard:", type="tertiary", key="shortcuts"):
        st.markdown(SHORTCUTS)
        st.caption("On a Mac, ⌘ stands for Ctrl. The first two work while no field has the focus.")


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


def search_form(label: str, placeholder: str) -> str:
    """What a visitor has typed into the box of a page that nothing is chosen on, once; "" otherwise."""
    with st.form("search", border=False):
        box, button = st.columns([5, 1], vertical_alignment="bottom")
        text = box.text_input(label, placeholder=placeholder, max_chars=limits.current().search_length)
        return text.strip() if button.form_submit_button("Search", width="stretch") else ""


def examples(shown: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Links to begin with, on one line: a page, a label, the address's parameters."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("For example:", width="content")
        for page, label, parameters in shown:
            links.text_link(page, label, **parameters)


def codes(neurons: pd.DataFrame) -> list[str]:
    """`L9.N2141` of each row."""
    return [str(neuron) for neuron in neurons_of(neurons)]


def fact_table(facts: pd.DataFrame, alternative: str) -> None:
    """Facts as a table that can be sorted, the first cell a link; without the columns that are empty."""
    names = map(fact_name, facts["subject"], facts["object"])
    pairs = zip(facts["fact_id"], names, strict=True)
    rows = facts.assign(fact=[links.cell(links.FACT, name, fact=fact_id) for fact_id, name in pairs])
    if "label" in facts:
        rows["label"] = facts["label"].fillna(facts["relation_id"])
    _show_table(rows, _FACT_COLUMNS, alternative)


def neuron_table(neurons: pd.DataFrame, alternative: str = "Neurons and what they promote") -> None:
    """Neurons as `fact_table`, by their names; those without one by their codes."""
    names = codes(neurons)
    labels = neurons["label"] if "label" in neurons else pd.Series([None] * len(names), dtype=object)
    cells = [
        links.cell(links.NEURON, code if is_missing(label) else label, neuron=code)
        for code, label in zip(names, labels, strict=True)
    ]
    tokens = {side: neurons[side].map(_tokens_or_none) for side in ("promoted", "suppressed")}
    rows = neurons.assign(cell=cells, code=names if labels.notna().any() else None, **tokens)
    _show_table(rows, _NEURON_COLUMNS, alternative)


def _show_table(rows: pd.DataFrame, columns: Mapping[str, Any], alternative: str) -> None:
    shown = rows[[name for name in columns if name in rows]].dropna(axis="columns", how="all")
    config = {name: column for name, column in columns.items() if name in shown}
    # The height that it would have anyway: said beforehand, nothing below moves when the table arrives.
    height = min(_ROW * (len(shown) + 1) + 2, _TABLE)
    st.dataframe(shown, height=height, hide_index=True, alt=alternative, column_config=config)


def _tokens_or_none(pairs: Any) -> str | None:
    return token_list(pairs, missing="") or None


ACTIVATION_EXPLAINED = (
    "How strongly the neuron fires where the answer goes, on average over the fact's prompts. Below zero it "
    "pushes what it would otherwise hold back."
)
_SCORE = NumberColumn(
    "Score",
    format="%.4f",
    help="Attribution: how much of the answer's probability is due to the neuron, by integrated gradients",
)
_SHARE = NumberColumn(
    "Share of prompts", format="percent", help="Of the fact's prompts, those in which the neuron counts"
)
_OVERLAP = NumberColumn(
    "Overlap", format="percent", help="What both have in common, of what either has: 100% for the same set"
)
_FACT_COLUMNS = {
    "fact": links.column("Fact", pinned=True, width=220),
    "label": TextColumn("Relation"),
    "known": CheckboxColumn("Known", width="small", help="The model's first answer on most of its prompts"),
    "mean_probability": NumberColumn(
        "Probability", format="%.2f", help="Of the right answer, on average over its prompts"
    ),
    "n_neurons": NumberColumn("Neurons", help="Knowledge neurons of the fact"),
    "n_shared": NumberColumn("In common", help="Neurons that both facts have"),
    "jaccard": _OVERLAP,
    "mean_score": _SCORE,
    "share": _SHARE,
    "mean_activation": NumberColumn("Activation", format="%+.2f", help=ACTIVATION_EXPLAINED),
    "compare": links.column("Side by side", width="small"),
}
_NEURON_COLUMNS = {
    "cell": links.column("Neuron", pinned=True, width=190),
    "code": TextColumn("Code", width="small", help="Layer and index, both counted from 0"),
    "change": TextColumn("Change", width="small", help="With the thresholds chosen, beside the atlas's own"),
    "in_atlas": CheckboxColumn("In the atlas", width="small"),
    "cosine": NumberColumn(
        "Likeness", format="%.2f", help="Cosine of the two value vectors: 1 where they have one direction"
    ),
    "n_shared": NumberColumn("In common", help="Facts that both neurons have"),
    "jaccard": _OVERLAP,
    "mean_score": _SCORE,
    "mean_activation": NumberColumn("Activation", format="%+.2f", help=ACTIVATION_EXPLAINED),
    "promoted": TextColumn(
        "Pushes", width=300, help="The tokens that it makes likelier, firing as it does here"
    ),
    "share": _SHARE,
    "relation_share": NumberColumn(
        "Share of facts", format="percent", help="Of the relation's facts, those that have it"
    ),
    "n_facts": NumberColumn("Facts", help="Facts that have the neuron"),
    "n_relations": NumberColumn("Relations", help="Relations of those facts"),
    "suppressed": TextColumn("Holds back", width="large", help="The tokens that it makes less likely"),
    "compare": links.column("Side by side", width="small"),
}


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
