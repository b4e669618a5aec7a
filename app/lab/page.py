"""Lab: find the neurons of a fact in a live model, change them, and see what else changes.

1. *Set-up.* A model, a question, neurons, a list of changes, the controls.
2. *Bench.* The experiment in a sentence; run it, share it.
3. *Result.* Before and after, beside random neurons and other facts; proof that nothing stayed.
4. *More.* Every prompt, dose and response, the path of a score, earlier runs.

The URL holds the experiment. What is computed is the library's (`atlas.experiments.run`); each step is a
module `app.lab_…`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.lab import changes as lab_changes
from app.lab import choose, neurons, results, share, state
from app.lab import run as lab_run
from app.lab.run import Run
from app.lab.state import Question
from app.shared import layout
from app.shared.words import escape, plural
from atlas.errors import AtlasError
from atlas.experiments.experiment import Experiment
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

ASKED = {
    "asked": "discovery prompt",
    "paraphrases": "held-out paraphrase",
    "neighbours": "neighbouring fact",
    "unrelated": "unrelated fact",
}
EVERY_PROMPT, DOSES, PATH, RUNS = "Every prompt", "Dose and response", "Path of a score", "Runs"


@dataclass(frozen=True)
class Setup:
    """What has been chosen so far."""

    subject: Subject | None = None
    question: Question | None = None
    experiment: Experiment | None = None


def main() -> None:
    st.title("Lab", anchor=False)
    st.markdown(
        "Change a handful of neurons in a live model and see what it says then: always beside the same "
        "change to random neurons, and beside other facts."
    )
    atlas = layout.current_atlas()
    status = st.container()
    at_once = False
    with layout.errors_as_sentences():
        at_once = state.arrive(atlas)
    setup = set_up(atlas, status)
    with layout.errors_as_sentences():
        bench(atlas, setup, at_once)
    run = lab_run.last_run()
    state.remember(setup.experiment, was_run=run is not None and run.experiment == setup.experiment)
    if run is not None:
        with layout.errors_as_sentences():
            result(setup, run)
    more(atlas, setup, run)
    lab_run.say_what_happened()


# Set-up ----------------------------------------------------------------------------------------------


def set_up(atlas: Atlas, status: Any) -> Setup:
    """The choices; `status` is in view also while they are folded away."""
    subject = question = experiment = None
    number, is_open = state.get("setup")
    with st.expander(
        "Set up: model, question, neurons, changes",
        expanded=is_open,
        key=f"lab_setup_{number}",
        icon=":material/tune:",
    ):
        try:
            left, right = st.columns([1, 2], gap="large")
            with left:
                subject = choose.choose_model(status)
            with right:
                question = choose.choose_question(atlas, subject)
            if subject is not None and question is not None:
                experiment = choose_experiment(atlas, subject, question)
        except AtlasError as error:
            (st if is_open else status).error(escape(error))
    return Setup(subject, question, state.as_linked(experiment))


def choose_experiment(atlas: Atlas, subject: Subject, question: Question) -> Experiment | None:
    """The experiment, once neurons are ticked and every change is complete."""
    left, right = st.columns([6, 5], gap="medium")
    with left:
        ticked = neurons.choose_neurons(atlas, subject, question)
    with right:
        interventions = lab_changes.choose_changes(atlas, question, ticked)
        with st.popover("Controls", icon=":material/balance:"):
            choose.choose_controls()
    if not interventions:
        return None
    return Experiment(
        interventions,
        choose.all_prompts(atlas, subject, question),
        seed=state.get("seed"),
        draws=state.get("draws"),
        model=subject.name,
        weights_sha256=subject.weights_sha256,
        atlas_id=atlas.atlas_id,
        fact_id=question.fact_id or "",
    )


# Bench -----------------------------------------------------------------------------------------------


def bench(atlas: Atlas, setup: Setup, at_once: bool) -> None:
    """The experiment in a sentence, and what can be done with it."""
    experiment, run = setup.experiment, lab_run.last_run()
    with st.container(border=True):
        if experiment is None:
            st.markdown(missing(setup))
            with st.container(horizontal=True, gap="small"):
                if setup.question is None and state.get("ask") != state.PROMPTS:
                    choose.any_fact(atlas)
                share.open_file(atlas)
            return
        st.markdown(sentence(setup, experiment))
        st.caption(controls(experiment))
        is_current = run is not None and run.experiment == experiment
        with st.container(horizontal=True, gap="small"):
            pressed = st.button(
                "Run again" if is_current else "Run the experiment",
                type="secondary" if is_current else "primary",
                icon=":material/science:",
                key="lab_run_button",
            )
            share.share(experiment, run.outcome if is_current else None)
            share.open_file(atlas)
        place = st.empty()
        if pressed or at_once:
            lab_run.run(setup.subject, experiment, place)
            st.rerun()


def missing(setup: Setup) -> str:
    """What still has to be chosen, in a sentence."""
    if setup.subject is None:
        return "**First** choose a model that is at hand."
    if setup.question is None:
        if state.get("ask") == state.PROMPTS:
            return "**Next** type prompts, and the answer that should fill their gap."
        return "**Next** choose a fact, or ask with prompts of your own."
    return "**Next** tick neurons and complete the changes; then the experiment can be run."


def sentence(setup: Setup, experiment: Experiment) -> str:
    changes = ", then ".join(lab_changes.in_words(item) for item in experiment.interventions)
    asked = setup.question.name if setup.question else experiment.asked[0].prompt.answer
    text = f"In **{escape(experiment.model)}**, {changes}; and ask for **{escape(asked)}**."
    subject = setup.subject
    if subject and experiment.weights_sha256 not in ("", subject.weights_sha256):
        text += (
            f"  \n:orange[The link was made with other weights ({experiment.weights_sha256[:12]}) than are "
            f"loaded here ({subject.weights_sha256[:12]}): the numbers will differ.]"
        )
    return text


def controls(experiment: Experiment) -> str:
    """Which prompts are asked, and what stands beside them."""
    counted = [(sum(item.group == group for item in experiment.asked), noun) for group, noun in ASKED.items()]
    prompts = ", ".join(plural(n, noun) for n, noun in counted if n)
    return f"Asked: {prompts}. Beside it: {plural(experiment.draws, 'draw')} of random neurons."


# Result ----------------------------------------------------------------------------------------------


def result(setup: Setup, run: Run) -> None:
    if run.experiment != setup.experiment:
        changes = ", then ".join(lab_changes.in_words(item) for item in run.experiment.interventions)
        st.info(
            f"The set-up has changed. What follows is of run {run.number}: {changes}.",
            icon=":material/history:",
        )
    st.subheader("Result", anchor=False)
    results.draw(run)


def more(atlas: Atlas, setup: Setup, run: Run | None) -> None:
    """What can be looked at besides, each behind a tab."""
    subject, question = setup.subject, setup.question
    runs = state.get("runs", [])
    names = [EVERY_PROMPT, DOSES] if run else []
    names += [PATH] if subject and question and (run or st.session_state.get("lab_found")) else []
    names += [RUNS] if runs else []
    if not names:
        return
    for name, tab in zip(names, st.tabs(names, key="lab_more"), strict=True):
        with tab, layout.errors_as_sentences():
            if name == EVERY_PROMPT:
                results.every_prompt(run)
            elif name == DOSES:
                results.dose_response(subject, run)
            elif name == PATH:
                results.paths(subject, question)
            else:
                results.earlier(runs, atlas)


main()
