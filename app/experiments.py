"""What the Lab shows of an experiment: tables for the screen.

    outcome = run(subject, experiment)                     # atlas.surgery.experiments
    summary(outcome), trial_rows(outcome), answer_rows(outcome.trials[0])

Pure functions of outcomes; no streamlit here, and no torch before a model is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app import limits
from atlas.controls import control_prompts, prompts_of_fact
from atlas.experiment import Experiment
from atlas.interventions import make_intervention
from atlas.neuron import GROUPS, Asked, Prompt

if TYPE_CHECKING:
    from atlas.surgery.attribution import Attribution
    from atlas.surgery.experiments import Outcome, Trial
    from atlas.surgery.subject import Subject

__all__ = [
    "GROUPS",
    "Asked",
    "Experiment",
    "answer_rows",
    "control_prompts",
    "make_intervention",
    "moved",
    "path_rows",
    "prompts_of_fact",
    "summary",
    "trial_rows",
    "typed_prompts",
]

KINDS = {"suppress": "Suppress", "amplify": "Amplify", "erase": "Erase", "edit": "Edit"}

SHOWN_ANSWERS = 10

_OF_THE_LIBRARY = ("Found", "Outcome", "Trial", "find_neurons", "matched_randomly", "run", "usable")


def __getattr__(name: str) -> Any:
    # What needs a model comes from the library, when it is asked for: importing it imports torch.
    if name in _OF_THE_LIBRARY:
        from atlas.surgery import experiments as library

        return getattr(library, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def typed_prompts(subject: Subject, text: str, answer: str) -> tuple[Prompt, ...]:
    """Prompts as visitors type them, within the app's limits."""
    from atlas.surgery.experiments import typed_prompts

    allowed = limits.current()
    return typed_prompts(subject, text, answer, max_prompts=allowed.prompts, max_length=allowed.prompt_length)


def path_rows(attribution: Attribution, layer: int) -> pd.DataFrame:
    """P(α) along the path of one layer. Columns: alpha, probability, token (of the answer, from 1)."""
    if attribution.paths is None:
        return pd.DataFrame(columns=["alpha", "probability", "token"])
    parts = []
    for token, layers in enumerate(attribution.paths):
        alphas, values = np.asarray(layers[layer])
        order = np.argsort(alphas)
        parts.append(pd.DataFrame({"alpha": alphas[order], "probability": values[order], "token": token + 1}))
    return pd.concat(parts, ignore_index=True)


def summary(outcome: Outcome) -> pd.DataFrame:
    """A row a group of prompts that has any, in the order of `GROUPS`.

    Columns: group, label, n_prompts, before, after, random (mean probabilities of the answer), change and
    random_change (mean after ÷ mean before − 1), rank_1_before, rank_1_after, rank_1_random (numbers of
    prompts whose answer has rank 1; of the draws, the mean number).
    """
    return pd.DataFrame(
        {
            "group": each.group,
            "label": GROUPS[each.group],
            "n_prompts": each.n_prompts,
            "before": each.before,
            "after": each.after,
            "random": each.random,
            "change": each.change,
            "random_change": each.random_change,
            "rank_1_before": each.rank_1_before,
            "rank_1_after": each.rank_1_after,
            "rank_1_random": each.rank_1_random,
        }
        for each in outcome.summary()
    )


def trial_rows(outcome: Outcome) -> pd.DataFrame:
    """A row a prompt.

    Columns: group, text, answer, before, after, random (probabilities of the answer), rank_before,
    rank_after, rank_random (median over the draws), says_before, says_after (likeliest token); for an edit
    also new_before, new_after, new_rank_before, new_rank_after (of the new answer; null in other groups).
    """
    rows = []
    for trial in outcome.trials:
        row = {
            "group": trial.group,
            "text": trial.prompt.text,
            "answer": trial.prompt.answer,
            "before": trial.before.probability,
            "after": trial.after.probability,
            "random": trial.random_probability,
            "rank_before": trial.before.rank,
            "rank_after": trial.after.rank,
            "rank_random": trial.random_rank,
            "says_before": trial.before.top_token,
            "says_after": trial.after.top_token,
        }
        if any(each.new_after is not None for each in outcome.trials):
            new = trial.new_before, trial.new_after
            row |= {
                "new_before": None if new[0] is None else new[0].probability,
                "new_after": None if new[1] is None else new[1].probability,
                "new_rank_before": None if new[0] is None else new[0].rank,
                "new_rank_after": None if new[1] is None else new[1].rank,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def answer_rows(trial: Trial) -> pd.DataFrame:
    """The ten likeliest tokens before and after, side by side.

    Columns: rank, before, p_before, after, p_after, moved (places gained by the token of `after` since
    before: ▲3, ▼2, =, or ▲ and the least it gained when it was not among the likeliest that were kept).
    """
    before, after = trial.before.top, trial.after.top
    former = {token: place for place, (token, _) in reversed(list(enumerate(before, 1)))}
    rows = []
    for place, (old, new) in enumerate(zip(before, after, strict=True), 1):
        if place > SHOWN_ANSWERS:
            break
        rows.append(
            {
                "rank": place,
                "before": old[0],
                "p_before": old[1],
                "after": new[0],
                "p_after": new[1],
                "moved": moved(former.get(new[0]), place, n_ranked=len(before)),
            }
        )
    return pd.DataFrame(rows)


def moved(before: int | None, after: int, *, n_ranked: int) -> str:
    """A change of rank as an arrow: ▲ towards rank 1, ▼ away from it, = where it was."""
    if before is None:
        return f"▲ >{n_ranked - after}"
    if before == after:
        return "="
    return f"▲ {before - after}" if after < before else f"▼ {after - before}"
