"""Neuron lists: the tray under a name and with a note, to be kept, sent and opened again.

    lists.open_link()                # the tray of ?list=L2.N23,L2.N410&list_name=Capitals
    lists.show_lists()               # in the sidebar: name, keep, send, open

Kept lists lie in the visitor's browser (`static/lists.js`), which sends them when the menu is opened. A link,
a file and the browser's storage are as untrusted as what is typed: they have a longest text, and a list that
does not fit the model in view is refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode, urljoin

import streamlit as st
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from app.shared import layout, limits, links, tray, visitors
from app.shared.exports import export_name
from app.shared.words import escape, plural
from atlas.errors import AtlasError
from atlas.neuron import Neuron
from atlas.rows import csv_text
from atlas.store.manifest import ModelRecord

_NAME, _NOTE, _KEPT, _CHANGED, _FILES, _OPENED, _ERROR = (
    *("list-name", "list-note", "list-kept", "list-changed"),
    *("list-files", "list-opened", "list-error"),
)
# Servers and mail programs cut longer links.
LONGEST_LINK = 2_000
LONGEST_NAME, LONGEST_NOTE = 80, 500
_LONGEST_NEURON = 20

_storage = st.components.v2.component(
    "neuron_lists", js=(Path(__file__).parents[1] / "static" / "lists.js").read_text(encoding="utf-8")
)


@dataclass(frozen=True, config=ConfigDict(strict=True))
class NeuronList:
    """A named list of one model's neurons. `neurons`: name (`L2.N23`) → where it comes from, or ""."""

    name: Annotated[str, Field(max_length=LONGEST_NAME)]
    note: Annotated[str, Field(max_length=LONGEST_NOTE)]
    model: str
    weights_sha256: str | None
    neurons: Mapping[str, str]

    def is_of(self, model: ModelRecord) -> bool:
        return tray.model_key(self.model, self.weights_sha256) == tray.model_key(
            model.name, model.weights_sha256
        )

    def neurons_in(self, model: ModelRecord) -> dict[Neuron, str]:
        """The neurons with their sources; raises `AtlasError` where they are not the model's, or too many."""
        if not self.is_of(model):
            raise AtlasError(
                f"The list is of neurons in {self.model}, and the atlas in view of {model.name}. "
                "Choose an atlas of that model first."
            )
        most = limits.current().tray
        if len(self.neurons) > most:
            raise AtlasError(f"The list has {len(self.neurons):,} neurons. The tray holds at most {most:,}.")
        found = {Neuron.parse(name[:_LONGEST_NEURON]): source for name, source in self.neurons.items()}
        for each in found:
            if each.layer >= (model.n_layers or 2**15) or each.neuron >= (model.n_neurons or 2**31):
                raise AtlasError(f"{model.name} has no neuron {each}. Take it off the list.")
        return found


_ONE, _ALL = TypeAdapter(NeuronList), TypeAdapter(list[NeuronList])


# Kept in the browser ---------------------------------------------------------------------------------


def kept() -> list[NeuronList]:
    """The lists of the browser's storage; none where it holds something else."""
    try:
        return _ALL.validate_json(st.session_state.get(_KEPT) or "[]")
    except ValidationError:
        return []


def keep(given: NeuronList) -> None:
    """Keep a list; it takes the place of one of the same name and model."""
    _write([*_without(given), given])


def forget(given: NeuronList) -> None:
    _write(_without(given))


def _without(given: NeuronList) -> list[NeuronList]:
    return [each for each in kept() if (each.name, each.model) != (given.name, given.model)]


def _write(lists: list[NeuronList]) -> None:
    text = _ALL.dump_json(lists).decode()
    most = limits.current().lists_length
    if len(text) > most:
        _say(f"Your lists would take more than {most:,} characters (lists_length). Forget one first.")
        return
    st.session_state[_KEPT], st.session_state[_CHANGED] = text, time.time()


def _read() -> None:
    """What the browser sends."""
    text = st.session_state["list-storage"].get("text")
    if isinstance(text, str) and len(text) <= limits.current().lists_length:
        st.session_state[_KEPT] = text


# Opened ----------------------------------------------------------------------------------------------


def open_list(given: NeuronList) -> None:
    """Put a list into the tray, in the place of what is there."""
    try:
        tray.replace(given.neurons_in(layout.current_atlas().manifest.model))
    except AtlasError as error:
        _say(str(error))
        return
    st.session_state[_NAME], st.session_state[_NOTE] = given.name, given.note


def open_link() -> None:
    """Put the list of the URL into the tray, once."""
    text = st.query_params.get("list", "")[:LONGEST_LINK]
    if not text or st.session_state.get(_OPENED) == text:
        return
    st.session_state[_OPENED] = text
    name, note = (st.query_params.get(each, "") for each in ("list_name", "list_note"))
    try:
        model = layout.current_atlas().manifest.model
    except AtlasError:
        return
    neurons = dict.fromkeys(text.split(","), "a link")
    open_list(NeuronList(name[:LONGEST_NAME], note[:LONGEST_NOTE], model.name, model.weights_sha256, neurons))


def _open_file() -> None:
    given = st.session_state.get(_file_key())
    if given is None:
        return
    text = given.getvalue().decode("utf-8", "replace")
    visitors.forget_uploads()
    # A new key empties the uploader.
    st.session_state[_FILES] = st.session_state.get(_FILES, 0) + 1
    try:
        open_list(_ONE.validate_json(text[: limits.current().lists_length]))
    except ValidationError:
        _say("The file holds no neuron list. Choose one that was downloaded here as JSON.")


def _file_key() -> str:
    return f"list-file-{st.session_state.get(_FILES, 0)}"


def _say(error: str) -> None:
    st.session_state[_ERROR] = error


# Widgets ---------------------------------------------------------------------------------------------


def show_lists() -> None:
    """The menu of lists in the sidebar."""
    try:
        model = layout.current_atlas().manifest.model
    except AtlasError:
        return
    if error := st.session_state.pop(_ERROR, None):
        st.error(escape(layout.error_text(error)))
    with st.popover("Neuron lists", icon=":material/bookmarks:", type="tertiary", key="lists"):
        if inside := tray.holdings():
            _show_tray(NeuronList("", "", model.name, model.weights_sha256, _named(inside)))
        else:
            st.caption("To make a list, put neurons into the tray on any page.")
        st.markdown("**Kept in this browser**")
        _show_kept(model)
        st.file_uploader("Open a list (JSON)", type="json", key=_file_key(), on_change=_open_file)
        data = {"text": st.session_state.get(_KEPT, "[]"), "changed": st.session_state.get(_CHANGED, 0)}
        _storage(key="list-storage", data=data, on_text_change=_read)


def _named(neurons: Mapping[Neuron, str]) -> dict[str, str]:
    return {str(neuron): source for neuron, source in neurons.items()}


def _show_tray(given: NeuronList) -> None:
    """Name, note and ways to send the neurons of the tray."""
    st.markdown(f"**The tray: {plural(len(given.neurons), 'neuron')}**")
    name = st.text_input("Name", key=_NAME, max_chars=LONGEST_NAME)
    note = st.text_area("Note", key=_NOTE, max_chars=LONGEST_NOTE, height=80)
    given = replace(given, name=name.strip(), note=note.strip())
    file = partial(export_name, "neurons", given.name)
    with st.container(horizontal=True, gap="small"):
        layout.button_with(
            [] if given.name else ["a name"],
            "Keep",
            icon=":material/bookmark_add:",
            on_click=keep,
            args=(given,),
        )
        st.download_button(
            "JSON", partial(_json, given), file_name=file(ending="json"), on_click="ignore", key="list-json"
        )
        st.download_button(
            "CSV", partial(_csv, given), file_name=file(ending="csv"), on_click="ignore", key="list-csv"
        )
    link = _link(given)
    if len(link) <= LONGEST_LINK:
        st.code(link, language=None, wrap_lines=True)
    else:
        st.caption("The list is too long for a link. Send it as a file.")


def _show_kept(model: ModelRecord) -> None:
    shown = [each for each in kept() if each.is_of(model)]
    if not shown:
        st.caption(f"No list of neurons in {escape(model.name)}.")
    for number, each in enumerate(shown):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.button(
                f":blue[{escape(each.name)}]",
                key=f"list-open-{number}",
                type="tertiary",
                help="Put it into the tray",
                on_click=open_list,
                args=(each,),
            )
            st.caption(plural(len(each.neurons), "neuron"))
            st.button(
                "Forget",
                key=f"list-forget-{number}",
                type="tertiary",
                icon=":material/delete:",
                on_click=forget,
                args=(each,),
            )
        if each.note:
            st.caption(escape(each.note))


def _link(given: NeuronList) -> str:
    named = {"list_name": given.name, "list_note": given.note, "list": ",".join(given.neurons)}
    page = urljoin(str(st.context.url or "").partition("?")[0], "./")
    return f"{page}?{urlencode(links.here(**named))}"


def _json(given: NeuronList) -> str:
    return _ONE.dump_json(given, indent=2).decode()


def _csv(given: NeuronList) -> str:
    neurons = map(Neuron.parse, given.neurons)
    rows = [
        (each.layer, each.neuron, source)
        for each, source in zip(neurons, given.neurons.values(), strict=True)
    ]
    return csv_text(["layer", "neuron", "source"], rows, for_spreadsheets=True)
