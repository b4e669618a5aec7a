"""Tables of an experiment, and the limits on experiments from visitors.

    outcome = run(subject, experiment)                     # atlas.experiments.run
    summary_rows(outcome), trial_rows(outcome), answer_rows(outcome.prompts[0]), dose_rows(doses)
    decode(documents.to_link(experiment)) == experiment    # the value of the URL's `x`

Pure functions of values, without streamlit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from app.shared import limits
from app.shared.words import plural
from atlas.errors import AtlasError
from atlas.experiments import documents
from atlas.experiments.experiment import Experiment
from atlas.interventions import Amplify, Edit, Patch, SetTo
from atlas.neuron import PROMPT_GROUPS, Prompt

if TYPE_CHECKING:
    from atlas.attribution.attribution import Attribution
    from atlas.experiments.outcome import Outcome, PromptOutcome
    from atlas.experiments.run import Dose
    from atlas.surgery.subject import Subject

SHOWN_ANSWERS = 10
# More control prompts than the page offers.
MOST_CONTROLS = 100


def limited_prompts(subject: Subject, text: str, answer: str) -> tuple[Prompt, ...]:
    """Typed prompts, one per line; `AtlasError` beyond the app's limits."""
    from atlas.experiments.run import parse_prompts

    allowed = limits.current()
    return parse_prompts(subject, text, answer, max_prompts=allowed.prompts, max_length=allowed.prompt_length)


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


def summary_rows(outcome: Outcome) -> pd.DataFrame:
    """A row for each group with prompts, in the order of `PROMPT_GROUPS`.

    Columns: group, label, n_prompts, before, after, random (mean probabilities of the answer), change and
    random_change (mean after ÷ mean before − 1), rank_1_before, rank_1_after, rank_1_random (numbers of
    prompts whose answer has rank 1; of the draws, the mean number); for an edit also new_before, new_after,
    new_random and new_rank_1_before, new_rank_1_after, new_rank_1_random (the same of the new answer; null
    for other facts).
    """
    rows = pd.DataFrame(
        asdict(each)
        | {"label": PROMPT_GROUPS[each.group], "change": each.change, "random_change": each.random_change}
        for each in outcome.summary()
    )
    if new := outcome.new_summary():
        of_new = pd.DataFrame(map(asdict, new)).set_index("group").drop(columns="n_prompts")
        rows = rows.join(of_new.add_prefix("new_"), on="group")
    return rows


def trial_rows(outcome: Outcome) -> pd.DataFrame:
    """A row a prompt.

    Columns: group, text, answer, before, after, random (probabilities of the answer), rank_before,
    rank_after, rank_random (median over the draws), says_before, says_after (likeliest token); for an edit
    also new_before, new_after, new_random, new_rank_before, new_rank_after, new_rank_random (of the new
    answer; null in other groups).
    """
    edited = any(trial.new_after is not None for trial in outcome.prompts)
    rows = []
    for trial in outcome.prompts:
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
        if edited:
            for when, answer in (("before", trial.new_before), ("after", trial.new_after)):
                row[f"new_{when}"] = None if answer is None else answer.probability
                row[f"new_rank_{when}"] = None if answer is None else answer.rank
            row |= {"new_random": trial.new_random_probability, "new_rank_random": trial.new_random_rank}
        rows.append(row)
    return pd.DataFrame(rows)


def flip_rows(outcome: Outcome) -> pd.DataFrame:
    """The rows of `trial_rows` of other facts whose likeliest token is another one after the change.

    The largest fall of the answer's probability comes first.
    """
    rows = trial_rows(outcome)
    flipped = rows["group"].isin(("neighbours", "unrelated")) & (rows["says_before"] != rows["says_after"])
    fall = (rows["before"] - rows["after"]).rename("fall")
    return rows[flipped].join(fall).sort_values("fall", ascending=False, kind="stable").drop(columns="fall")


def answer_rows(trial: PromptOutcome) -> pd.DataFrame:
    """The ten likeliest tokens before and after, side by side, with each one's change of rank.

    Columns: rank, before, p_before, becomes (of the token of `before`: ▲ 2, ▼ 3, =, or "gone" with its rank
    after), after, p_after, moved (of the token of `after`: ▲ 2, ▼ 3, =, or "new" with its rank before).
    """
    before, after = _places(trial.before.top), _places(trial.after.top)
    pairs = list(zip(trial.before.top, trial.after.top, strict=True))[:SHOWN_ANSWERS]
    return pd.DataFrame(
        {
            "rank": place,
            "before": old,
            "p_before": p_old,
            "becomes": moved(place, after.get(old), n_ranked=len(after)),
            "after": new,
            "p_after": p_new,
            "moved": moved(before.get(new), place, n_ranked=len(before)),
        }
        for place, ((old, p_old), (new, p_new)) in enumerate(pairs, 1)
    )


def _places(top: Iterable[tuple[str, float]]) -> dict[str, int]:
    """Token → its first place."""
    return {token: place for place, (token, _) in reversed(list(enumerate(top, 1)))}


def moved(before: int | None, after: int | None, *, n_ranked: int) -> str:
    """A change of rank in a few characters; None is a rank beyond `n_ranked`.

    ▲ towards rank 1, ▼ away from it, = unchanged; "new" and "gone" for tokens that enter or leave the ten
    shown, with their rank on the other side.
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
            "label": PROMPT_GROUPS[dose.group],
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


def decode(text: str) -> Experiment:
    """The experiment in a link, if it is within the app's limits; `AtlasError` if not."""
    experiment = documents.from_link(text, most=limits.current().experiment_bytes)
    check_limits(experiment)
    return experiment


def check_limits(experiment: Experiment) -> None:
    """Raise `AtlasError` for an experiment beyond the app's limits."""
    allowed = limits.current()
    allowed.check_model(experiment.model)
    own = [item for item in experiment.prompts if item.group in ("asked", "paraphrases")]
    texts = [item.prompt.text for item in experiment.prompts]
    texts += [item.from_prompt for item in experiment.interventions if isinstance(item, Patch)]
    answer = max(len(item.prompt.answer) for item in experiment.prompts)
    strengths = [0.0]
    for item in experiment.interventions:
        if isinstance(item, Amplify):
            strengths.append(abs(item.factor))
        elif isinstance(item, SetTo):
            strengths.append(abs(item.value))
        elif isinstance(item, Edit):
            strengths += [item.remove, item.add]
    for what, given, most in (
        ("own prompts", len(own), 2 * allowed.prompts),
        ("control prompts", len(experiment.prompts) - len(own), MOST_CONTROLS),
        ("characters per prompt", max(map(len, texts)), allowed.prompt_length),
        ("characters per answer", answer, allowed.answer_length),
        ("neurons", len(experiment.neurons), allowed.neurons),
        ("changes", len(experiment.interventions), allowed.changes),
        ("random draws", experiment.draws, allowed.draws),
        ("as strength", max(strengths), allowed.strength),
    ):
        if given > most:
            raise AtlasError(f"The experiment may have at most {most:,g} {what}, got {given:,g}.")
    n_neurons = sum(len(item.neurons) for item in experiment.interventions)
    size = len(experiment.prompts) * n_neurons * (experiment.draws + 1)
    if size > allowed.experiment_size:
        raise AtlasError(
            f"The experiment has a size of {size:,} ({plural(len(experiment.prompts), 'prompt')} × "
            f"{plural(n_neurons, 'changed neuron')} × {plural(experiment.draws + 1, 'run')}); at most "
            f"{allowed.experiment_size:,} (experiment_size) are allowed. Use fewer neurons, prompts or draws."
        )
