"""Lab: a sentence, the model's answer, the neurons behind it, a change, and what the model says now.

1. *A sentence.* A model, a sentence, what it says in the gap, further wordings.
2. *Inside.* How the answer arises layer by layer, and where in the sentence a neuron fires.
3. *Neurons.* Of the fact, found live, from the tray, or by name.
4. *Change.* Forget, boost, rewrite, set, take from another prompt; or a list of changes.
5. *What it says now.* Beside random neurons; what else flipped; whether the undo is exact.
6. *More.* Every prompt, dose and response, the path of a score, earlier runs.

The URL holds the experiment, and the library (`atlas.experiments.run`) computes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.lab import choose, inside, results, sentence, share, state
from app.lab.changes import choose_changes, describe_changes
from app.lab.neurons import choose_neurons
from app.lab.run import Run, last_run, run_experiment, show_toast
from app.lab.state import Question
from app.lab.verbs import offer_verbs
from app.shared import layout
from app.shared.words import escape, plural
from atlas.experiments.experiment import Experiment
from atlas.models import same_model
from atlas.neuron import Neuron
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

RUN = "Run the experiment"
GROUP_NOUNS = {
    "asked": "discovery prompt",
    "paraphrases": "held-out paraphrase",
    "neighbours": "same-relation prompt",
    "unrelated": "unrelated prompt",
}


@dataclass(frozen=True)
class LabChoices:
    """What is chosen so far, and what is still missing for an experiment."""

    subject: Subject | None = None
    question: Question | None = None
    experiment: Experiment | None = None
    missing: Sequence[str] = ()


def main() -> None:
    st.title("Lab", anchor=False)
    st.markdown(
        "Type a sentence, find the neurons behind the model's answer, change them, and see what it says."
    )
    atlas = layout.current_atlas()
    at_once = False
    with layout.errors_as_sentences():
        at_once = state.take_over_url(atlas)
    setup = set_up(atlas)
    at_once = bool(state.get("at_once")) or at_once
    state.put("at_once", False)
    with layout.errors_as_sentences():
        show_experiment(atlas, setup, at_once)
    run = last_run()
    was_run = run is not None and run.experiment == setup.experiment
    state.write_url(setup.experiment, atlas, was_run=was_run)
    if run is not None:
        with layout.errors_as_sentences():
            show_run(setup, run)
    show_more(atlas, setup, run)
    show_toast()


# Sentence, neurons, change ---------------------------------------------------------------------------


def set_up(atlas: Atlas) -> LabChoices:
    """The choices, from the sentence to the change."""
    subject = question = experiment = None
    missing: list[str] = []
    with layout.errors_as_sentences():
        with st.container(key="lab-sentence"):
            left, right = st.columns([1, 3], gap="medium", vertical_alignment="top")
        status = st.container()
        with left:
            subject = choose.choose_model(status)
        with right:
            question = sentence.choose_sentence(atlas, subject)
        if subject is not None and question is not None:
            within = st.container()
            selected = select_neurons(atlas, subject, question)
            with within:
                inside.look_inside(subject, sentence.last_look(), selected)
            offer_verbs(atlas, subject, question, selected)
            experiment, missing = choose_experiment(atlas, subject, question, selected)
    missing = missing or sentence.missing_before(subject, question)
    return LabChoices(subject, question, state.as_linked(experiment), missing)


def select_neurons(atlas: Atlas, subject: Subject, question: Question) -> tuple[Neuron, ...]:
    """The neurons to change; their table is folded while the fact's own are taken."""
    number, is_open = state.get("setup")
    with (
        st.expander("Neurons", expanded=is_open, key=f"lab_setup_{number}", icon=":material/scatter_plot:"),
        layout.errors_as_sentences(),
    ):
        return choose_neurons(atlas, subject, question)
    return ()


def choose_experiment(
    atlas: Atlas, subject: Subject, question: Question, selected: Sequence[Neuron]
) -> tuple[Experiment | None, list[str]]:
    """The experiment, once neurons are selected and every change is complete; and what is missing."""
    number, is_open = state.get("changes_box", (0, False))
    with st.expander(
        "Several changes, strengths, controls",
        expanded=is_open,
        icon=":material/tune:",
        key=f"lab_changes_box_{number}",
    ):
        left, right = st.columns([3, 2], gap="medium")
        with left:
            interventions, missing = choose_changes(atlas, question, selected)
        with right:
            st.markdown("##### Controls")
            sentence.choose_controls(subject)
    if missing:
        return None, missing
    experiment = Experiment(
        interventions,
        sentence.all_prompts(atlas, subject, question),
        seed=state.get("seed"),
        draws=state.get("draws"),
        model=subject.name,
        weights_sha256=subject.weights_sha256,
        config_sha256=subject.config_sha256,
        atlas_id=atlas.atlas_id,
        fact_id=question.fact_id or "",
    )
    return experiment, []


# Experiment ------------------------------------------------------------------------------------------


def show_experiment(atlas: Atlas, setup: LabChoices, at_once: bool) -> None:
    """The experiment in a sentence, and its buttons."""
    experiment, run = setup.experiment, last_run()
    with st.container(key="lab-run", border=True):
        if experiment is None:
            with st.container(horizontal=True, gap="small"):
                layout.button_with(setup.missing, RUN, icon=":material/science:", key="lab_run_button")
                share.file_popover(atlas)
            return
        st.markdown(describe_experiment(setup, experiment))
        controls = sentence.describe_controls(atlas, setup.subject, experiment)
        st.caption(f"{describe_prompts(experiment)} {controls}")
        is_current = run is not None and run.experiment == experiment
        with st.container(horizontal=True, gap="small"):
            pressed = st.button(
                "Run again" if is_current else RUN,
                icon=":material/science:",
                key="lab_run_button",
            )
            share.share_popover(experiment, atlas, run.outcome if is_current else None)
            share.file_popover(atlas)
        place = st.empty()
        if pressed or at_once:
            run_experiment(setup.subject, experiment, place)
            st.rerun()


def describe_experiment(setup: LabChoices, experiment: Experiment) -> str:
    changes = escape(describe_changes(experiment.interventions))
    asked = setup.question.name if setup.question else experiment.prompts[0].prompt.answer
    text = f"In **{escape(experiment.model)}**, **{changes}**, and ask about **{escape(asked)}**."
    subject = setup.subject
    if subject and experiment.weights_sha256 and not same_model(experiment, subject):
        text += (
            f"  \n:orange[The link was made with other weights ({experiment.weights_sha256[:12]}), or "
            f"another config, than those here ({subject.weights_sha256[:12]}): the numbers will differ.]"
        )
    return text


def describe_prompts(experiment: Experiment) -> str:
    """How many prompts of each group, and how many draws of random neurons."""
    counts = Counter(item.group for item in experiment.prompts)
    prompts = [plural(counts[group], noun) for group, noun in GROUP_NOUNS.items() if counts[group]]
    return f"On {', '.join(prompts)}. Control: {plural(experiment.draws, 'draw')} of random neurons."


# Result ----------------------------------------------------------------------------------------------


def show_run(setup: LabChoices, run: Run) -> None:
    if run.experiment != setup.experiment:
        changes = escape(describe_changes(run.experiment.interventions))
        st.info(
            f"The set-up has changed. The results below are of run {run.number}: {changes}.",
            icon=":material/history:",
        )
    st.subheader("What it says now", anchor=False)
    results.show_result(run)


def show_more(atlas: Atlas, setup: LabChoices, run: Run | None) -> None:
    """What else can be looked at, each behind a tab."""
    subject, question, runs = setup.subject, setup.question, state.get("runs", [])
    tabs = {}
    if run:
        tabs["Every prompt"] = partial(results.show_every_prompt, run)
        tabs["Dose and response"] = partial(results.show_dose_response, subject, run)
    if subject and question and (run or st.session_state.get("lab_found")):
        tabs["Path of a score"] = partial(results.show_path, subject, question)
    if runs:
        tabs["Runs"] = partial(results.show_runs, runs, atlas)
    if tabs:
        for show, tab in zip(tabs.values(), st.tabs(list(tabs), key="lab_more"), strict=True):
            with tab, layout.errors_as_sentences():
                show()


main()
