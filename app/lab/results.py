"""The results of an experiment: in sentences, in pictures, prompt by prompt; always beside its controls.

    show_result(run)                         # the effect, its controls, the likeliest answers
    show_every_prompt(run), show_dose_response(subject, run), show_path(subject, question)

`atlas.experiments.outcome` computes the numbers, `app.lab.tables` makes tables of them.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, ProgressColumn, TextColumn

from app.lab import charts, share, state, tables
from app.lab.changes import describe_changes
from app.lab.run import Run, show_progress
from app.lab.state import Question, option
from app.shared import exports, layout
from app.shared.apart import apart
from app.shared.texts import draw, parted
from app.shared.words import escape, plural, shown_token, with_blank
from atlas.models import same_model
from atlas.neuron import PROMPT_GROUPS, Neuron, Prompt
from atlas.numbers import signed_percent
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.attribution.attribution import Attribution
    from atlas.experiments.generate import Texts
    from atlas.experiments.outcome import Outcome, PromptOutcome
    from atlas.experiments.run import Found
    from atlas.surgery.subject import Subject

# The order in which groups of prompts are shown.
FROM_ZERO = "undefined, from probability 0"
FLIPS_SHOWN = 8
ORDER = {"paraphrases": 0, "asked": 1, "neighbours": 2, "unrelated": 3}


# What it says now ------------------------------------------------------------------------------------


def show_result(run: Run) -> None:
    say_now(run.outcome)
    if run.texts is not None:
        show_texts(run.outcome.prompts[0].prompt, run.texts)
    show_flips(run.outcome)
    summary = tables.summary_rows(run.outcome)
    describe_effect(run.outcome, summary)
    if run.outcome.undo_is_exact:
        st.caption(
            ":material/check: Exact undo: without the change, the probabilities are the same, bit for bit."
        )
    else:
        st.error("Without the change, the probabilities differ from before. Please report this.")
    with st.expander("The numbers", icon=":material/bar_chart:", key="lab_numbers"):
        picture, numbers = st.columns([5, 8], gap="medium")
        with picture:
            layout.draw_chart(
                partial(charts.before_and_after, summary),
                "The answer's probability before and after the change",
            )
        with numbers:
            show_groups(summary)
        show_answers(run)


def say_now(outcome: Outcome) -> None:
    """What the model says in the sentence's gap: before, after, and with random neurons."""
    trial = outcome.prompts[0]
    before, after = (escape(shown_token(each.top_token)) for each in (trial.before, trial.after))
    st.caption(escape(with_blank(trial.prompt.text)))
    flipped = trial.before.top_token != trial.after.top_token
    st.markdown(f"## {before} → :red[{after}]" if flipped else f"## still {after}")
    random = Counter(escape(shown_token(each.top_token)) for each in trial.random)
    says = ", ".join(f"**{token}** ({n} of {len(trial.random)} draws)" for token, n in random.most_common(3))
    st.markdown(f"With as many random neurons of the same layers: {says}.")


def show_texts(prompt: Prompt, texts: Texts) -> None:
    """What the model writes, in three columns; the first word that differs is marked."""
    columns = {
        "As it was": texts.before,
        "With the change": texts.after,
        "With random neurons changed": texts.random,
    }
    for place, (title, written) in zip(st.columns(3, gap="medium"), columns.items(), strict=True):
        with place:
            st.caption(title)
            beside = None if written is texts.before else texts.before.text
            draw(parted(written.text, beside=beside, asked=prompt.before))
    st.caption("The change holds at every word that is written, not only at the first.")


def show_flips(outcome: Outcome) -> None:
    """Other facts that the model now answers otherwise, worst first."""
    rows = tables.flip_rows(outcome)
    others = tables.trial_rows(outcome)["group"].isin(state.NEAR_AND_FAR).sum()
    if not others:
        return
    st.markdown(f"**What else flipped:** {len(rows)} of {plural(others, 'other fact')}.")
    for row in rows.head(FLIPS_SHOWN).itertuples():
        st.markdown(
            f"- {escape(with_blank(row.text))} **{escape(shown_token(row.says_before))}** → "
            f":red[**{escape(shown_token(row.says_after))}**] :gray[{PROMPT_GROUPS[row.group].lower()}]"
        )
    if len(rows) > FLIPS_SHOWN:
        st.caption(f"The {FLIPS_SHOWN} that lost most; every prompt is below.")


def describe_effect(outcome: Outcome, summary: pd.DataFrame) -> None:
    """The effect in a sentence, on the held-out paraphrases where there are any."""
    rows = summary.set_index("group")
    group = next((name for name in ORDER if name in rows.index), None)
    own = rows.loc[group]
    answer = next(trial.prompt.answer for trial in outcome.prompts if trial.group == group)
    n = len(outcome.experiment.neurons)
    noun = "held-out paraphrase" if group == "paraphrases" else "prompt"
    change = partial(signed_percent, missing=FROM_ZERO)
    parts = [
        f"Changing {plural(n, 'neuron')} takes the probability of **{escape(answer)}** from "
        f"**{own['before']:.3f}** to **{own['after']:.3f}** ({change(own['change'])}) on "
        f"{plural(own['n_prompts'], noun)}",
        f"with as many random neurons of the same layers: {change(own['random_change'])}",
    ]
    if "unrelated" in rows.index:
        parts.append(f"on unrelated facts: {change(rows.loc['unrelated', 'change'])}")
    st.markdown("; ".join(parts) + ".")
    new = next((each for each in outcome.new_summary() if each.group == group), None)
    if new is not None:
        st.markdown(
            f"The new answer **{escape(outcome.experiment.new_answer)}** goes from "
            f"**{new.before:.3f}** to **{new.after:.3f}**, rank 1 on {new.rank_1_after} of {new.n_prompts}; "
            f"with as many random neurons of the same layers: {new.random:.3f}, rank 1 on "
            f"{round(new.rank_1_random, 1):g} of {new.n_prompts}."
        )


def show_groups(summary: pd.DataFrame) -> None:
    percent = "%+.1f%%"
    rows = pd.DataFrame(
        {
            "asked": [f"{row.label} ({row.n_prompts})" for row in summary.itertuples()],
            "before": summary["before"],
            "after": summary["after"],
            "change": 100 * summary["change"],
            "random": 100 * summary["random_change"],
            "first": [f"{row.rank_1_before} → {row.rank_1_after}" for row in summary.itertuples()],
        }
    )
    st.dataframe(
        rows,
        hide_index=True,
        alt="Mean probabilities before and after, by group of prompts, beside random neurons",
        column_config={
            "asked": TextColumn("Prompts (number)", width=165),
            "before": NumberColumn("Before", format="%.3f", width=60),
            "after": NumberColumn("After", format="%.3f", width=60),
            "change": NumberColumn("Change", format=percent, width=65),
            "random": NumberColumn(
                "Random",
                format=percent,
                width=65,
                help="Change with as many random neurons of the same layers, mean of the draws",
            ),
            "first": TextColumn("Rank 1", width=65, help="Prompts whose answer has rank 1, before → after"),
        },
    )


# The likeliest answers -------------------------------------------------------------------------------


def show_answers(run: Run) -> None:
    """The ten likeliest tokens of one prompt, before and after, with each one's change of rank."""
    st.subheader("The ten likeliest answers", anchor=False)
    trials = sorted(run.outcome.prompts, key=lambda trial: ORDER[trial.group])
    names = [f"{with_blank(trial.prompt.text)}  ·  {PROMPT_GROUPS[trial.group]}" for trial in trials]
    place = st.selectbox(
        "Prompt",
        range(len(trials)),
        format_func=lambda i: names[i],
        **option("trial", range(len(trials)), 0),
        label_visibility="collapsed",
    )
    trial = trials[place]
    st.caption(describe_answer(trial))
    answer_tables(tables.answer_rows(trial))


def describe_answer(trial: PromptOutcome) -> str:
    """The answer's rank and probability on one prompt, before and after."""
    parts = [
        f"**{escape(trial.prompt.answer)}**: rank {trial.before.rank} → {trial.after.rank}, "
        f"probability {trial.before.probability:.4f} → {trial.after.probability:.4f}; with random neurons "
        f"{trial.random_probability:.4f}."
    ]
    if trial.new_after is not None:
        parts.append(
            f"The new answer: rank {trial.new_before.rank} → {trial.new_after.rank}, probability "
            f"{trial.new_before.probability:.4f} → {trial.new_after.probability:.4f}; with random neurons "
            f"{trial.new_random_probability:.4f}."
        )
    return " ".join(parts)


def answer_tables(rows: pd.DataFrame) -> None:
    rows = rows.copy()
    for column in ("before", "after"):
        rows[column] = [shown_token(token) for token in rows[column]]
    top = max(float(rows["p_before"].max()), float(rows["p_after"].max()), 1e-9)
    bar = ProgressColumn("Probability", format="%.3f", min_value=0.0, max_value=top)
    sides = {
        "before": ("becomes", "Ranks gained ▲ or lost ▼; or gone, with its rank after"),
        "after": ("moved", "Ranks gained ▲ or lost ▼; or new, with its rank before"),
    }
    for place, (side, (change, explained)) in zip(st.columns(2, gap="medium"), sides.items(), strict=True):
        place.dataframe(
            rows[["rank", side, change, f"p_{side}"]],
            hide_index=True,
            alt=f"The ten likeliest tokens {side} the change",
            column_config={
                "rank": NumberColumn("#", width=30),
                side: TextColumn(side.capitalize(), width=85),
                change: TextColumn("Change", width=85, help=explained),
                f"p_{side}": bar,
            },
        )


# Prompt by prompt ------------------------------------------------------------------------------------

_TEXT_LABELS = {
    "group": "Prompts",
    "text": "Prompt",
    "answer": "Answer",
    "rank_before": "Rank before",
    "rank_after": "Rank after",
    "rank_random": "Rank, random",
    "says_before": "Says before",
    "says_after": "Says after",
    "new_rank_before": "New answer's rank before",
    "new_rank_after": "New answer's rank after",
    "new_rank_random": "New answer's rank, random",
}
_NUMBER_LABELS = {
    "before": "Before",
    "after": "After",
    "random": "Random",
    "new_before": "New answer before",
    "new_after": "New answer after",
    "new_random": "New answer, random",
}


def show_every_prompt(run: Run) -> None:
    rows = tables.trial_rows(run.outcome)
    rows["group"] = rows["group"].map(PROMPT_GROUPS)
    rows["text"] = rows["text"].map(with_blank)
    st.dataframe(
        rows,
        hide_index=True,
        alt="Every prompt with the answer's probability and rank, before, after and with random neurons",
        column_order=["text", *rows.columns.drop("text")],
        column_config=_TEXT_LABELS
        | {key: NumberColumn(label, format="%.4f") for key, label in _NUMBER_LABELS.items()},
    )
    exports.offer(
        f"experiment-{run.number}",
        prompts=rows,
        summary=tables.summary_rows(run.outcome),
        random_neurons=random_rows(run.outcome),
    )


def random_rows(outcome: Outcome) -> pd.DataFrame:
    """The random neurons of each draw. Columns: draw, layer, neuron."""
    return pd.DataFrame(
        [
            {"draw": draw, "layer": neuron.layer, "neuron": neuron.neuron}
            for draw, neurons in enumerate(outcome.random_neurons, 1)
            for neuron in neurons
        ],
        columns=["draw", "layer", "neuron"],
    )


# Dose and response -----------------------------------------------------------------------------------


def show_dose_response(subject: Subject, run: Run) -> None:
    """The curve over the factor, measured at the click of a button."""
    st.markdown(
        "The answers' probabilities when the activations of these neurons, or of random neurons of the same "
        "layers, are multiplied by a factor. The changes above do not apply."
    )
    if subject is None or not same_model(subject, run.outcome.experiment):
        layout.nothing("The loaded model is not the model of this run. Run the experiment again.")
        return
    place = st.empty()
    known, doses = state.get("doses", (None, None))
    key = (subject.identity, run.experiment)
    if known != key:
        if st.button("Measure the curve", icon=":material/timeline:"):
            from atlas.experiments.run import dose_response

            with show_progress(place, "Measuring") as progress:
                doses = apart(dose_response, subject, run.experiment, progress=progress)
            state.put("doses", (key, doses))
            st.rerun()
        return
    rows = tables.dose_rows(doses)
    layout.draw_chart(partial(charts.factor_lines, rows), "The answers' mean probability over the factor")
    exports.offer(f"dose-response-{run.number}", doses=rows)


# The path --------------------------------------------------------------------------------------------


def show_path(subject: Subject, question: Question) -> None:
    """P(α) of one prompt along the path of one layer: what attribution integrates."""
    st.markdown(
        "The probability of the answer while one layer's activations are scaled from 0 (α = 0) to their "
        "value (α = 1). A neuron's score integrates along this path; the scores of a layer add up to "
        "P(1) − P(0)."
    )
    place = st.empty()
    known, found = st.session_state.get("lab_found", ((), None))
    same = known[:2] == (subject.identity, question.discovery)
    attributions = dict(found_paths(found)) if same else {}
    attributions |= state.get("paths", {}).get(subject.identity, {})
    prompts = list(question.discovery)
    choose, layers = st.columns([3, 1], vertical_alignment="bottom")
    at = choose.selectbox(
        "Prompt of the path",
        range(len(prompts)),
        format_func=lambda i: with_blank(prompts[i].text),
        **option("path_prompt", range(len(prompts)), 0),
    )
    attribution = attributions.get(prompts[at])
    if attribution is None:
        if layers.button("Follow the path", icon=":material/show_chart:", width="stretch"):
            from atlas.experiments.run import find_neurons

            with show_progress(place, "Following the path") as progress:
                one = apart(find_neurons, subject, [prompts[at]], progress=progress)
            state.put("paths", {subject.identity: dict(found_paths(one))})
            st.rerun()
        return
    strongest = int(attribution.scores.max(axis=1).argmax())
    layer = layers.selectbox(
        "Layer",
        range(subject.n_layers),
        index=strongest,
        format_func=lambda n: f"{n} (strongest)" if n == strongest else str(n),
        key=f"lab_layer_{strongest}",
    )
    rows = tables.path_rows(attribution, layer)
    picture, certificate = st.columns([3, 2], gap="medium", vertical_alignment="center")
    with picture:
        layout.draw_chart(
            partial(charts.path_line, rows, layer), f"P(answer) along the path of layer {layer}"
        )
    with certificate:
        path_facts(attribution, layer)
    exports.offer(f"path-layer-{layer}", path=rows)


def found_paths(found: Found) -> list[tuple[Any, Attribution]]:
    return list(zip(found.prompts, found.attributions, strict=True))


def path_facts(attribution: Attribution, layer: int) -> None:
    """The integral's certificate and the layer's strongest neurons."""
    scores = attribution.scores[layer]
    best = [int(index) for index in scores.argsort()[::-1][:3]]
    ends = attribution.p_one[:, layer].mean() - attribution.p_zero[:, layer].mean()
    within = bool(attribution.converged[:, layer].all())
    st.markdown(
        f"P(1) − P(0) = **{ends:+.4f}**; the layer's scores add up to **{scores.sum():+.4f}**, on "
        f"{int(attribution.n_points[:, layer].max())} points"
        f"{', within tolerance' if within else ', not within tolerance'}."
    )
    st.caption("Strongest: " + ", ".join(f"{Neuron(layer, index)} ({scores[index]:.4f})" for index in best))


# Earlier runs ----------------------------------------------------------------------------------------


def run_rows(runs: list[Run]) -> pd.DataFrame:
    """A row for each run, the latest first, on held-out paraphrases where there are any.

    Columns: number, model, answer, changes, neurons, before, after, change, random_change,
    unrelated_change.
    """
    rows = []
    for run in reversed(runs):
        groups = {each.group: each for each in run.outcome.summary()}
        own = next(groups[name] for name in ORDER if name in groups)
        trial = next(each for each in run.outcome.prompts if each.group == own.group)
        rows.append(
            {
                "number": run.number,
                "model": run.experiment.model,
                "answer": trial.prompt.answer,
                "changes": describe_changes(run.experiment.interventions),
                "neurons": len(run.experiment.neurons),
                "before": own.before,
                "after": own.after,
                "change": own.change,
                "random_change": own.random_change,
                "unrelated_change": groups["unrelated"].change if "unrelated" in groups else None,
            }
        )
    return pd.DataFrame(rows)


def show_runs(runs: list[Run], atlas: Atlas) -> None:
    """The runs of this session; each can be restored."""
    rows = run_rows(runs)
    percents = {"change": "Change", "random_change": "Random", "unrelated_change": "Unrelated"}
    event = st.dataframe(
        rows.assign(**{name: 100 * rows[name] for name in percents}),
        key=f"lab_notebook_{len(runs)}_{runs[-1].number}",
        on_select="rerun",
        selection_mode="single-row",
        hide_index=True,
        alt="The runs of this session",
        column_order=[name for name in rows if name != "neurons"],
        column_config={
            "number": NumberColumn("Run", width=40),
            "model": TextColumn("Model", width=95),
            "answer": TextColumn("Answer", width=90),
            "changes": TextColumn("Changes", width=170),
            "before": NumberColumn("Before", format="%.3f", width=60),
            "after": NumberColumn("After", format="%.3f", width=60),
        }
        | {name: NumberColumn(label, format="%+.1f%%", width=70) for name, label in percents.items()},
    )
    exports.offer("experiments", runs=rows)
    chosen = event["selection"]["rows"]
    run = runs[len(runs) - 1 - chosen[0]] if chosen else None
    if run is not None:
        st.markdown(f"Run {run.number}: {escape(describe_changes(run.experiment.interventions))}.")
    layout.button_with(
        [] if run else ["a row of the table"],
        f"Restore run {run.number}" if run else "Restore a run",
        icon=":material/history:",
        on_click=share.restore_run,
        args=(run, atlas),
    )
