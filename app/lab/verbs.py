"""The Lab's verbs: what to do to the neurons, each a button that runs the experiment.

    offer_verbs(atlas, subject, question, selected)   # Forget · Boost · Rewrite to … · Set to … · Take from …

A verb replaces the list of changes (`app.lab.changes`) by one change of the selected neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app.lab import state
from app.lab.changes import objects_of_relation
from app.lab.choose import is_atlas_model
from app.lab.state import Question, setting
from app.shared import limits, resources
from app.shared.words import escape
from atlas.errors import AtlasError
from atlas.neuron import Neuron
from atlas.queries import COMMON_SHARE
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

BOOST = 3.0


def offer_verbs(atlas: Atlas, subject: Subject, question: Question, selected: Sequence[Neuron]) -> None:
    allowed = limits.current()
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        st.button(
            "Forget",
            icon=":material/ink_eraser:",
            type="primary",
            help="Suppress: sets the neurons' activations at the answer position to 0",
            on_click=do,
            args=("suppress",),
        )
        st.button(
            "Boost",
            icon=":material/trending_up:",
            help=f"Amplify: multiplies the neurons' activations at the answer position by {BOOST:g}",
            on_click=do,
            kwargs={"kind": "amplify", "factor": BOOST},
        )
        with st.popover("Rewrite to …", icon=":material/edit:"), st.form("lab_rewriting", border=False):
            others = resources.ask(objects_of_relation, atlas, question.relation_id or "")
            st.selectbox(
                "New answer",
                [name for name in others if name != question.answer],
                index=None,
                **setting("rewrite", None),
                accept_new_options=True,
                placeholder="Choose or type",
                help="Moves the neurons' value vectors from the old answer's embedding to the new one's. "
                f"Neurons of more than {COMMON_SHARE:.0%} of the relation's facts are left out: changing "
                "them changes those facts, too.",
            )
            own = is_atlas_model(atlas, subject) and question.relation_id
            only = state.to_rewrite(atlas, question.relation_id, selected) if own else ()
            st.form_submit_button("Rewrite", on_click=_rewrite, args=(only,))
        with st.popover("Set to …", icon=":material/tune:"), st.form("lab_setting", border=False):
            st.number_input(
                "Activation", -allowed.strength, allowed.strength, step=0.5, **setting("set_to", 0.0)
            )
            st.form_submit_button("Set", on_click=_set)
        with (
            st.popover("Take from another prompt", icon=":material/content_paste_go:"),
            st.form("lab_taking", border=False),
        ):
            st.text_input(
                "Another sentence",
                **setting("take_from", ""),
                max_chars=allowed.prompt_length,
                placeholder="The capital of Italy is",
                help="The neurons get the activations that they have at this sentence's gap",
            )
            st.form_submit_button("Take", on_click=_take, args=(subject,))
    if problem := state.get("take_error"):
        state.put("take_error", None)
        st.error(escape(problem))


def do(kind: str, *, only: Sequence[Neuron] = (), **options: object) -> None:
    """Change the selected neurons in this way, or only these, and run the experiment."""
    state.put_change(kind, only=only, **options)
    state.open_setup(False)  # what the model says now comes into view
    state.put("at_once", True)


def _rewrite(only: Sequence[Neuron]) -> None:
    if new := (state.get("rewrite") or "").strip():
        do("edit", only=only, new=new[: limits.current().answer_length])


def _set() -> None:
    do("set", value=state.get("set_to"))


def _take(subject: Subject) -> None:
    from atlas.experiments.look import with_gap

    if text := state.get("take_from", "").strip():
        try:
            do("patch", from_prompt=with_gap(subject, text))
        except AtlasError as error:
            state.put("take_error", str(error))
