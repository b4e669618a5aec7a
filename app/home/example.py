"""Home's example: a text that a model wrote with and without a fact's neurons, and ways to try it live.

Where no atlas at hand has stored texts, it is what suppressing a fact's neurons does to its probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import streamlit as st

from app.shared import limits, links, resources
from app.shared.resources import ask
from app.shared.words import escape, fact_name, plural, with_blank
from atlas import queries
from atlas.models import is_ready, known_model, title_of
from atlas.models.families import FAMILIES
from atlas.neuron import OBJECT_SLOT
from atlas.queries import Overview
from atlas.store.atlas import Atlas
from atlas.store.manifest import Manifest

PICKED = "An example, picked for its large effect; it is no typical fact."

Seen = tuple[Manifest, Overview]
"""What Home keeps of an atlas."""


def show_example(atlas: Atlas, seen: Mapping[str, Seen]) -> None:
    """The first stored text, else an experiment of the atlas in view; and a field for the visitor's own."""
    atlas_id = next((each for each, (_, overview) in seen.items() if overview.text), None)
    with st.container(border=True):
        if atlas_id is not None:
            manifest, overview = seen[atlas_id]
            show_texts(overview.text, manifest.model.name)
            st.caption(PICKED)
            offer_experiment(atlas_id, overview.text["fact_id"], manifest.model.name, seen)
        elif fact := ask(queries.telling_fact, atlas):
            model = atlas.manifest.model.name
            st.markdown(introduce_experiment(fact, model))
            if fact["after"] is not None:
                st.caption(PICKED)
            offer_experiment(st.session_state["atlas_id"], fact["fact_id"], model, seen)
        own_sentence(atlas_id, seen)


# The text --------------------------------------------------------------------------------------------


def show_texts(text: Mapping[str, Any], model: str) -> None:
    """What the model wrote after a prompt: as it is, without the fact's neurons, without random ones."""
    n = text["n_neurons"]
    prompt = text["prompt"].partition(OBJECT_SLOT)[0].strip()
    st.markdown(f"##### {escape(title_of(model))} reads “{escape(prompt)}” and writes …")
    written = {
        "as it is": text["unchanged"],
        f"without its {plural(n, 'neuron')}": text["own"],
        f"without {plural(n, 'random neuron')}": text["random"],
    }
    shown = {label: each for label, each in written.items() if each is not None}
    for column, (label, each) in zip(st.columns(len(shown)), shown.items(), strict=True):
        with column:
            st.caption(label)
            st.markdown(f"##### {coloured(each, text['object'])}")


def coloured(text: str, answer: str) -> str:
    """The text in markdown; in colour where it does not begin with the answer."""
    shown = f"{escape(text) or '(nothing)'} …"
    return shown if text.strip().lower().startswith(answer.lower()) else f":orange[{shown}]"


def introduce_experiment(fact: Mapping[str, Any], model: str) -> str:
    """What the model predicts, and what the atlas measured without the fact's neurons."""
    prompt = f"“{escape(with_blank(fact['text']))}”" if fact["text"] else escape(fact["subject"])
    # Only of a known fact is it true that the model says the answer.
    says, subject = (f"{escape(model)} says", "it") if fact["known"] else ("the answer is", escape(model))
    neurons = f"its {fact['n_neurons']} knowledge neurons" if fact["n_neurons"] > 1 else "its one neuron"
    text = f"{prompt}: {says} **{escape(fact['object'])}**. What does {subject} say without {neurons}?"
    before, after, random = fact["before"], fact["after"], fact["random"]
    if before is None or after is None:
        return text
    beside = "" if random is None else f"; with as many random neurons suppressed it is {random:.2f}"
    return (
        f"{text} In the atlas, suppressing them takes the answer's probability from **{before:.2f}** to "
        f"**{after:.2f}**{beside}."
    )


# Live ------------------------------------------------------------------------------------------------


def offer_experiment(atlas_id: str, fact_id: str, model: str, seen: Mapping[str, Seen]) -> None:
    """A button that opens the Lab with the fact, and runs it; elsewhere where its model is not here."""
    ready, fetched = is_at_hand(model), can_be_fetched(model)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        if (ready or fetched) and st.button("Do it live", type="primary", icon=":material/science:"):
            st.switch_page(links.LAB, query_params=links.here(atlas=atlas_id, fact=fact_id, run=1))
        st.page_link(
            links.FACT,
            label=":blue[See the fact]",
            query_params=links.here(atlas=atlas_id, fact=fact_id),
        )
    if not ready:
        offer_another_model(atlas_id, model, seen)


def can_be_fetched(model: str) -> bool:
    """Whether a visitor may have the Lab fetch this model, and it can be fetched from somewhere."""
    return known_model(model) is not None and limits.current().may_download(model)


def offer_another_model(atlas_id: str, model: str, seen: Mapping[str, Seen]) -> None:
    """Where the model is not on this machine: what the Lab does, and a fact for a model that is here."""
    known = known_model(model)
    if known is not None and can_be_fetched(model):
        text = (
            f"The model {model} is not on this machine yet: "
            f"the Lab fetches it first ({known.download_mb} MB)."
        )
    else:
        text = f"The model {model} is not on this machine, so the Lab cannot run it."
    st.caption(escape(text))
    for other in ready_atlases(seen):
        _, fact = resources.glance(resources.atlases()[other], queries.telling_fact)
        if other != atlas_id and fact is not None:
            name = fact_name(fact["subject"], fact["object"])
            st.page_link(
                links.LAB,
                label=escape(f"Try {name} in {seen[other][0].model.name}, which is on this machine"),
                icon=":material/science:",
                query_params={"atlas": other, "fact": fact["fact_id"], "run": "1"},
            )
            return


def ready_atlases(seen: Mapping[str, Seen]) -> Iterator[str]:
    """The atlases whose models visitors may use, and which are on this machine."""
    return (atlas_id for atlas_id, (manifest, _) in seen.items() if is_at_hand(manifest.model.name))


def is_at_hand(model: str) -> bool:
    return limits.current().offers(model) and is_ready(model)


def own_sentence(atlas_id: str | None, seen: Mapping[str, Seen]) -> None:
    """A field for a sentence, that opens the Lab with it: the example's model, else one that is here."""
    ready = list(ready_atlases(seen))
    chosen = atlas_id if atlas_id in ready or not ready else ready[0]
    if chosen is None:
        return
    model = seen[chosen][0].model
    family = FAMILIES.get(model.family or "")
    masked = family is not None and family.kind == "masked"
    with st.form("sentence", border=False):
        box, button = st.columns([5, 1], vertical_alignment="bottom")
        text = box.text_input(
            f"Try your own sentence on {title_of(model.name)}",
            placeholder="The largest city of Japan is" + (" [MASK]." if masked else ""),
            max_chars=limits.current().prompt_length,
        )
        if button.form_submit_button("Ask", icon=":material/edit:", width="stretch") and text.strip():
            st.switch_page(links.LAB, query_params={"atlas": chosen, "prompts": text.strip()})
