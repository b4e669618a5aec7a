"""A tray of neurons that is filled while browsing and used in the Lab.

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

_TRAYS = "trays"
_NAMES = "tray_kept"


# What is in it ---------------------------------------------------------------------------------------


def model_key(name: str, weights_sha256: str | None) -> str:
    """The key of a model's tray: the weights' hash, or the name where no hash is known."""
    return weights_sha256 or name


def holdings(model: str | None = None) -> dict[Neuron, str]:
    """The neurons in the tray in the order they came, each with its source ("" if unknown).

    `model` is a `model_key`; left out, the model of the atlas in view.
    """
    return dict(_trays().get(model or _model_in_view(), {}))


def neurons(model: str | None = None) -> tuple[Neuron, ...]:
    """The neurons in the tray, in the order they came."""
    return tuple(holdings(model))


def add(chosen: Iterable[Neuron], source: str = "") -> None:
    """Put neurons into the tray; those that are there stay, and what does not fit is left out."""
    held = holdings()
    replace(held | {neuron: source for neuron in chosen if neuron not in held})


def remove(chosen: Iterable[Neuron]) -> None:
    gone = set(chosen)
    replace({neuron: source for neuron, source in holdings().items() if neuron not in gone})


def replace(held: Mapping[Neuron, str]) -> None:
    """Hold these neurons, each with its source, and no others."""
    _trays()[_model_in_view()] = dict(list(held.items())[: limits.current().tray])


def clear() -> None:
    _trays().pop(_model_in_view(), None)


def _trays() -> dict[str, dict[Neuron, str]]:
    return st.session_state.setdefault(_TRAYS, {})


def _model_in_view() -> str:
    try:
        model = layout.current_atlas().manifest.model
    except AtlasError:
        return ""
    return model_key(model.name, model.weights_sha256)


# Widgets ---------------------------------------------------------------------------------------------


def add_button(
    chosen: Sequence[Neuron], label: str | None = None, key: str | None = None, *, source: str = ""
) -> None:
    """A button that puts neurons into the tray, and removes them once they are in.

    `source` says where they come from. `key` tells apart buttons of one page for the same neurons.
    """
    chosen = tuple(dict.fromkeys(chosen))
    if not chosen:
        return
    inside = holdings()
    missing = [neuron for neuron in chosen if neuron not in inside]
    noun = "it" if len(chosen) == 1 else f"all {len(chosen)}"
    key = f"tray-{key or '-'.join(map(str, chosen[:8]))}-{len(chosen)}"
    if not missing:
        st.button(
            "In the tray",
            key=key,
            icon=":material/check:",
            help=f"Remove {noun} from the tray",
            on_click=remove,
            args=(chosen,),
        )
        return
    most = limits.current().tray
    full = len(inside) + len(missing) > most
    st.button(
        label or ("Add to the tray" if len(chosen) == 1 else f"Add {len(chosen)} neurons to the tray"),
        key=key,
        icon=":material/playlist_add:",
        disabled=full,
        help=f"The tray holds at most {most} neurons. Remove some first."
        if full
        else "To use them in the Lab",
        on_click=add,
        args=(chosen, source),
    )


def show_tray() -> None:
    """The tray in the sidebar, with a link to the Lab; nothing while it is empty."""
    inside = holdings()
    if not inside:
        return
    names = [str(neuron) for neuron in inside]
    with st.expander(f"Tray: {plural(len(names), 'neuron')}", icon=":material/inbox:"):
        st.session_state[_NAMES] = names
        st.multiselect(
            "Neurons in the tray",
            names,
            key=_NAMES,
            label_visibility="collapsed",
            on_change=_keep_chosen,
            help="The cross beside a neuron removes it.",
        )
        st.button("Empty the tray", icon=":material/delete:", on_click=clear, width="stretch")
    # Not a link: one to the page in view would look like a menu entry.
    if st.button("Use in the Lab", icon=":material/science:", width="stretch"):
        fact = st.query_params.get("fact")
        st.switch_page(links.LAB, query_params=links.here(source="tray", fact=fact))


def _keep_chosen() -> None:
    kept = set(st.session_state.get(_NAMES, ()))
    remove(neuron for neuron in neurons() if str(neuron) not in kept)
