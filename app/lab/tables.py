"""What the Lab shows of an experiment, and takes from strangers: tables for the screen, links, limits.

    outcome = run(subject, experiment)                     # atlas.experiments.run
    summary(outcome), trial_rows(outcome), answer_rows(outcome.trials[0]), dose_rows(doses)
    decode(encode(experiment)) == experiment               # the value of a URL's parameter

Pure functions of values; no streamlit here, and no torch before a model is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from app.shared import limits
from atlas.errors import AtlasError
from atlas.experiments import documents
from atlas.experiments.experiment import Experiment
from atlas.interventions import Amplify, Edit
from atlas.neuron import GROUPS, Prompt

if TYPE_CHECKING:
    from atlas.attribution.attribution import Attribution
    from atlas.experiments.outcome import Outcome, Trial
    from atlas.experiments.run import Dose
    from atlas.surgery.subject import Subject

SHOWN_ANSWERS = 10
NEW_ANSWER = ("before", "after", "random", "rank_1_before", "rank_1_after", "rank_1_random")
# More other facts than the page lets anybody ask for.
MOST_CONTROLS = 100


def typed_prompts(subject: Subject, text: str, answer: str) -> tuple[Prompt, ...]:
    """Prompts as visitors type them, within the app's limits."""
    from atlas.experiments.run import typed_prompts

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
    prompts whose answer has rank 1; of the draws, the mean number); for an edit also new_before, new_after,
    new_random and new_rank_1_before, new_rank_1_after, new_rank_1_random (the same of the new answer; null
    for other facts).
    """
    rows = pd.DataFrame(
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
    new = {each.group: each for each in outcome.new_summary()}
    if new:
        for name in NEW_ANSWER:
            rows[f"new_{name}"] = [
                getattr(new[group], name) if group in new else np.nan for group in rows["group"]
            ]
    return rows


def trial_rows(outcome: Outcome) -> pd.DataFrame:
    """A row a prompt.

    Columns: group, text, answer, before, after, random (probabilities of the answer), rank_before,
    rank_after, rank_random (median over the draws), says_before, says_after (likeliest token); for an edit
    also new_before, new_after, new_random, new_rank_before, new_rank_after, new_rank_random (of the new
    answer; null in other groups).
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
                "new_random": trial.new_random_probability,
                "new_rank_before": None if new[0] is None else new[0].rank,
                "new_rank_after": None if new[1] is None else new[1].rank,
                "new_rank_random": trial.new_random_rank,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def answer_rows(trial: Trial) -> pd.DataFrame:
    """The ten likeliest tokens before and after, side by side, with how each one's rank changes.

    Columns: rank, before, p_before, becomes (of the token of `before`: ▲ 2, ▼ 3, =, or "gone" with its rank
    after), after, p_after, moved (of the token of `after`: ▲ 2, ▼ 3, =, or "new" with its rank before).
    """
    before, after = _places(trial.before.top), _places(trial.after.top)
    rows = []
    for place, (old, new) in enumerate(zip(trial.before.top, trial.after.top, strict=True), 1):
        if place > SHOWN_ANSWERS:
            break
        rows.append(
            {
                "rank": place,
                "before": old[0],
                "p_before": old[1],
                "becomes": moved(place, after.get(old[0]), n_ranked=len(trial.after.top)),
                "after": new[0],
                "p_after": new[1],
                "moved": moved(before.get(new[0]), place, n_ranked=len(trial.before.top)),
            }
        )
    return pd.DataFrame(rows)


def _places(top: Iterable[tuple[str, float]]) -> dict[str, int]:
    """Token → its first place."""
    return {token: place for place, (token, _) in reversed(list(enumerate(top, 1)))}


def moved(before: int | None, after: int | None, *, n_ranked: int) -> str:
    """A change of rank in a few characters; None is a rank beyond the `n_ranked` that were kept.

    ▲ towards rank 1, ▼ away from it, = where it was; "new" and "gone" for tokens that come into the ten
    shown or leave them, with their rank on the other side.
    """
    if before is None or before > SHOWN_ANSWERS:
        return f"new ({before or f'>{n_ranked}'})"
    if after is None or after > SHOWN_ANSWERS:
        return f"gone ({after or f'>{n_ranked}'})"
    if before == after:
        return "="
    return f"▲ {before - after}" if after < before else f"▼ {after - before}"


def dose_rows(doses: Iterable[Dose]) -> pd.DataFrame:
    """A row a factor and group of prompts.

    Columns: factor, group, label, n_prompts, probability (mean), rank_1 (prompts with the answer first),
    random, random_low, random_high (mean, lowest and highest of the draws; null where none were made).
    """
    return pd.DataFrame(
        {
            "factor": dose.factor,
            "group": dose.group,
            "label": GROUPS[dose.group],
            "n_prompts": dose.n_prompts,
            "probability": dose.probability,
            "rank_1": dose.rank_1,
            "random": float(np.mean(dose.random)) if dose.random else np.nan,
            "random_low": min(dose.random, default=np.nan),
            "random_high": max(dose.random, default=np.nan),
        }
        for dose in doses
    )


# Links -----------------------------------------------------------------------------------------------


def encode(experiment: Experiment) -> str:
    """The experiment as the value of the parameter `x`."""
    return documents.to_link(experiment)


def decode(text: str) -> Experiment:
    """The experiment in a link, if it is within the app's limits; `AtlasError` if not."""
    experiment = documents.from_link(text, most=limits.current().experiment_bytes)
    check(experiment)
    return experiment


def check(experiment: Experiment) -> None:
    """Raise `AtlasError` for more than visitors may ask for."""
    allowed = limits.current()
    allowed.check_model(experiment.model)
    own = [item for item in experiment.asked if item.group in ("asked", "paraphrases")]
    text = max(len(item.prompt.text) for item in experiment.asked)
    answer = max(len(item.prompt.answer) for item in experiment.asked)
    strengths = [0.0]
    for item in experiment.interventions:
        if isinstance(item, Amplify):
            strengths.append(abs(item.factor))
        elif isinstance(item, Edit):
            strengths += [item.remove, item.add]
    for what, given, most in (
        ("prompts of its own", len(own), 2 * allowed.prompts),
        ("control prompts", len(experiment.asked) - len(own), MOST_CONTROLS),
        ("characters in a prompt", text, allowed.prompt_length),
        ("characters in an answer", answer, allowed.answer_length),
        ("neurons", len(experiment.neurons), allowed.neurons),
        ("changes", len(experiment.interventions), allowed.changes),
        ("random draws", experiment.draws, allowed.draws),
        ("as its largest strength", max(strengths), allowed.strength),
    ):
        if given > most:
            raise AtlasError(f"The experiment has {given:,g} {what}. Give at most {most:,g}.")
