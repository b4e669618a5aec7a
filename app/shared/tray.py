"""A tray of neurons that fills up while browsing and is emptied in the Lab.

    tray.add_button([Neuron(9, 2141)], source="France → Paris")    # on any page
    tray.neurons(), tray.holdings()                                # of the atlas in view; with their sources
    tray.clear()

It lives in the visitor's session, one tray a model: two atlases of one model share it, and a neuron's name
means nothing in another model. The sidebar shows how many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import streamlit as st

from app.shared import layout, limits, links
from app.shared.words import plural
from atlas.errors import AtlasError
from atlas.neuron import Neuron
from atlas.store.manifest import ModelRecord

KEY = "trays"
KEPT = "tray_kept"


# What is in it ---------------------------------------------------------------------------------------


def model_key(name: str, weights_sha256: str | None) -> str:
    """What tells models apart: the weights' hash, or the name where no hash is known."""
    return weights_sha256 or name


def holdings(model: str | None = None) -> Mapping[Neuron, str]:
    """The neurons in the tray in the order they came, each with where it was taken from ("" if unknown).

    `model` is a `model_key`; left out, the model of the atlas in view.
    """
    return dict(_trays().get(model or _model_in_view(), {}))


def neurons(model: str | None = None) -> tuple[Neuron, ...]:
    """The neurons in the tray, in the order they came."""
    return tuple(holdings(model))


def add(chosen: Iterable[Neuron], *, source: str = "", model: str | None = None) -> None:
    """Put neurons into the tray; those that are there stay, and what does not fit is left out."""
    kept = dict.fromkeys(chosen, source) | holdings(model)
    order = [*holdings(model), *(neuron for neuron in kept if neuron not in holdings(model))]
    _trays()[model or _model_in_view()] = {neuron: kept[neuron] for neuron in order[: limits.current().tray]}


def remove(chosen: Iterable[Neuron], *, model: str | None = None) -> None:
    gone = set(chosen)
    left = {neuron: source for neuron, source in holdings(model).items() if neuron not in gone}
    _trays()[model or _model_in_view()] = left


def clear(*, model: str | None = None) -> None:
    _trays().pop(model or _model_in_view(), None)


def _trays() -> dict[str, dict[Neuron, str]]:
    return st.session_state.setdefault(KEY, {})


def _model_in_view() -> str:
    try:
        model: ModelRecord = layout.current_atlas().manifest.model
    except AtlasError:
        return ""
    return model_key(model.name, model.weights_sha256)


# Widgets ---------------------------------------------------------------------------------------------


def add_button(
    chosen: Sequence[Neuron],
    label: str | None = None,
    key: str | None = None,
    *,
    source: str = "",
    model: str | None = None,
) -> None:
    """A button that puts neurons into the tray, and takes them out again once they are in.

    `source` is plain text: where they come from. `key` tells buttons of one page apart that offer the same.
    """
    chosen = tuple(dict.fromkeys(chosen))
    if not chosen:
        return
    inside = holdings(model)
    missing = [neuron for neuron in chosen if neuron not in inside]
    noun = "it" if len(chosen) == 1 else f"all {len(chosen)}"
    key = f"tray-{key or '-'.join(map(str, chosen[:8]))}-{len(chosen)}"
    if not missing:
        st.button(
            "In the tray",
            key=key,
            icon=":material/check:",
            help=f"Take {noun} out again",
            on_click=remove,
            args=(chosen,),
            kwargs={"model": model},
        )
        return
    most = limits.current().tray
    full = len(inside) + len(missing) > most
    st.button(
        label or ("Add to the tray" if len(chosen) == 1 else f"Add {len(chosen)} neurons to the tray"),
        key=key,
        icon=":material/playlist_add:",
        disabled=full,
        help=f"The tray holds {most} neurons. Take some out first." if full else "To use them in the Lab",
        on_click=add,
        args=(chosen,),
        kwargs={"source": source, "model": model},
    )


def show() -> None:
    """The tray in the sidebar: how many, which, and the way to the Lab. Nothing while it is empty."""
    inside = holdings()
    if not inside:
        return
    names = [str(neuron) for neuron in inside]
    with st.expander(f"Tray: {plural(len(names), 'neuron')}", icon=":material/inbox:"):
        st.session_state[KEPT] = names
        st.multiselect(
            "Neurons in the tray",
            names,
            key=KEPT,
            label_visibility="collapsed",
            on_change=_keep_chosen,
            help="The cross at a neuron takes it out.",
        )
        st.button("Empty the tray", icon=":material/delete:", on_click=clear, width="stretch")
    # A button: a link to the page in view would look like a menu entry.
    if st.button("Use in the Lab", icon=":material/science:", width="stretch"):
        fact = st.query_params.get("fact")
        st.switch_page(links.LAB, query_params=links.here(source="tray", fact=fact))


def _keep_chosen() -> None:
    kept = set(st.session_state.get(KEPT, ()))
    remove(neuron for neuron in neurons() if str(neuron) not in kept)
