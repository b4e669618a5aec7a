"""What the Lab computes: a change of some neurons, what it does to some prompts, and its controls.

    found = find_neurons(subject, prompts)
    experiment = Experiment((Suppress(found.chosen),), asked_of_fact(atlas, fact_id, seed=0).asked)
    outcome = run(subject, experiment)
    summary(outcome), trial_rows(outcome), answer_rows(outcome.trials[0]), outcome.undo_is_exact

Pure functions of a subject, an atlas and values; no streamlit here, and no torch before a model is there.

1. *Before.* Every prompt as the model is.
2. *After.* The same prompts with the interventions in force.
3. *Random.* The same with as many random neurons of the same layers, several draws.
4. *New answer* (edits). Before and after for the answer that the edit writes.
5. *Undo.* Every prompt once more as the model is: equal to the first time in every bit.

Groups of prompts: `asked` (the neurons were found on them), `paraphrases` (held-out templates of the same
fact), `neighbours` (other facts of the relation with other objects), `unrelated` (facts that differ in
relation and object). Dai et al. (ACL 2022), sections 4.2 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from app import limits
from atlas.errors import AtlasError, PromptError
from atlas.neuron import Neuron, Prompt
from atlas.refinement import MODES, KnowledgeNeuron, refine_scores

if TYPE_CHECKING:
    from atlas.store import Atlas
    from atlas.surgery.attribution import Attribution
    from atlas.surgery.interventions import Intervention
    from atlas.surgery.subject import Prediction, Subject

GROUPS = {
    "asked": "Discovery prompts",
    "paraphrases": "Held-out paraphrases",
    "neighbours": "Same relation",
    "unrelated": "Unrelated facts",
}
KINDS = {"suppress": "Suppress", "amplify": "Amplify", "erase": "Erase", "edit": "Edit"}

SHOWN_ANSWERS = 10
# Ranks of the shown answers are looked up this far down on the other side.
RANKED_ANSWERS = 100

Progress = Callable[[float, str], None]


# Which prompts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A prompt and why it is asked: one of `GROUPS`."""

    group: str
    prompt: Prompt


def typed_prompts(subject: Subject, text: str, answer: str) -> tuple[Prompt, ...]:
    """Prompts as people type them, one a line; `AtlasError` when a line or the answer cannot be used."""
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise PromptError("There is no prompt yet. Type one a line, with [Y] where the answer goes.")
    allowed = limits.current()
    if len(lines) > allowed.prompts:
        raise PromptError(f"There are {len(lines)} prompts. Give at most {allowed.prompts}.")
    for line in lines:
        if len(line) > allowed.prompt_length:
            raise PromptError(
                f"The prompt '{line[:60]}…' has {len(line)} characters. Give at most {allowed.prompt_length}."
            )
    if not answer.strip():
        raise PromptError("There is no answer yet. Type the word that should fill the gap.")
    prompts = tuple(subject.prompt(line, answer.strip()) for line in lines)
    for prompt in prompts:
        subject.encode(prompt)
    return prompts


def prompts_of_fact(atlas: Atlas, fact_id: str) -> tuple[Asked, ...]:
    """A fact's prompts: its discovery templates are `asked`, its held-out ones `paraphrases`."""
    rows = atlas.query(
        """
        SELECT p.template_id, p.text, p.held_out, f.object
        FROM prompts AS p JOIN facts AS f USING (fact_id)
        WHERE p.fact_id = $fact_id ORDER BY p.held_out, p.template_id
        """,
        {"fact_id": fact_id},
    )
    return tuple(
        Asked(
            "paraphrases" if row.held_out else "asked", Prompt(fact_id, row.template_id, row.text, row.object)
        )
        for row in rows.itertuples()
    )


def control_prompts(
    atlas: Atlas,
    *,
    fact_id: str | None = None,
    answers: Sequence[str] = (),
    causal: bool = False,
    neighbours: int = 6,
    unrelated: int = 12,
    seed: int = 0,
) -> tuple[Asked, ...]:
    """One prompt each (held out where there is one) of `neighbours` and `unrelated` facts, drawn by the seed.

    Neighbours share the fact's relation and have another object; unrelated facts differ in both. Without a
    fact, all facts whose object is none of `answers` count as unrelated. With `causal`, only prompts that end
    with the answer. Facts that the atlas' model knows come first: what is not known cannot be lost.
    """
    avoided = [answer.strip().casefold() for answer in answers]
    relation = None
    if fact_id is not None:
        own = atlas.query_one(
            "SELECT relation_id, object FROM facts WHERE fact_id = $fact_id", {"fact_id": fact_id}
        )
        if own is None:
            return ()
        relation = own["relation_id"]
        avoided.append(own["object"].strip().casefold())
    rows = atlas.query(
        """
        WITH others AS (
            SELECT fact_id, object, coalesce(known, true) AS known,
                   relation_id IS NOT DISTINCT FROM $relation AS near
            FROM facts WHERE NOT list_contains($avoided, lower(trim(object)))
        ), drawn AS (
            SELECT *, row_number() OVER (
                PARTITION BY near ORDER BY known DESC, hash(fact_id || $seed)) AS place
            FROM others
        )
        SELECT fact_id, object, near, place,
               first(template_id ORDER BY held_out DESC, hash(template_id || $seed)) AS template_id,
               first(text ORDER BY held_out DESC, hash(template_id || $seed)) AS text
        FROM drawn JOIN prompts USING (fact_id)
        WHERE (NOT $causal OR regexp_matches(text, $ending))
          AND place <= CASE WHEN near THEN $neighbours ELSE $unrelated END
        GROUP BY fact_id, object, near, place
        ORDER BY near DESC, place
        """,
        {
            "relation": relation or "",
            "avoided": avoided,
            "seed": str(seed),
            "causal": causal,
            "ending": r"\[Y\]\s*\.?\s*$",
            "neighbours": neighbours,
            "unrelated": unrelated,
        },
    )
    return tuple(
        Asked(
            "neighbours" if row.near else "unrelated",
            Prompt(row.fact_id, row.template_id, row.text, row.object),
        )
        for row in rows.itertuples()
    )


def usable(subject: Subject, asked: Iterable[Asked]) -> tuple[tuple[Asked, ...], tuple[str, ...]]:
    """The prompts that this model can be asked, and why it cannot be asked the others."""
    kept, reasons = [], []
    for item in asked:
        try:
            subject.encode(item.prompt)
        except PromptError as error:
            reasons.append(str(error))
        else:
            kept.append(item)
    return tuple(kept), tuple(reasons)


# Which neurons ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Neurons found live: with their scores, and the attribution of each prompt with its paths."""

    prompts: tuple[Prompt, ...]
    neurons: tuple[KnowledgeNeuron, ...]
    attributions: tuple[Attribution, ...]

    @property
    def chosen(self) -> tuple[Neuron, ...]:
        return tuple(item.neuron for item in self.neurons)

    @property
    def n_unconverged(self) -> int:
        """(answer token, layer) paths whose integral is not certified."""
        return sum(int((~each.converged).sum()) for each in self.attributions)

    @property
    def n_paths(self) -> int:
        return sum(each.converged.size for each in self.attributions)


def find_neurons(subject: Subject, prompts: Sequence[Prompt], *, progress: Progress | None = None) -> Found:
    """The knowledge neurons of these prompts in the mode `default`; of a single prompt its coarse neurons."""
    from atlas.surgery.attribution import attribute

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(done / total, f"{done} of {total} prompts")

    # One prompt at a time: progress moves, and other visitors get their turn at the model in between.
    attributions = attribute(subject, prompts, batch_rows=1, keep_paths=True, progress=report)
    rule = MODES["default"]
    if len(prompts) == 1:
        rule = replace(rule, at_least=1)
    neurons = refine_scores([each.scores for each in attributions], rule)
    return Found(tuple(prompts), tuple(neurons), tuple(attributions))


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


def make_intervention(
    kind: str,
    neurons: Sequence[Neuron],
    *,
    factor: float = 2.0,
    value: str = "zero",
    old: str = "",
    new: str = "",
    remove: float = 1.0,
    add: float = 8.0,
) -> Intervention:
    """The intervention of that kind; options of other kinds are passed over."""
    from atlas.surgery.interventions import Amplify, Edit, Erase, Suppress

    match kind:
        case "suppress":
            return Suppress(tuple(neurons))
        case "amplify":
            return Amplify(tuple(neurons), factor)
        case "erase":
            return Erase(tuple(neurons), value)
        case "edit":
            if not old.strip() or not new.strip():
                raise PromptError("An edit needs the old answer and a new one. Type both.")
            return Edit(tuple(neurons), old.strip(), new.strip(), remove, add)
    raise AtlasError(f"No intervention is called '{kind}'. There are: {', '.join(KINDS)}.")


def matched_randomly(
    interventions: Sequence[Intervention], n_neurons: int, generator: np.random.Generator
) -> tuple[Intervention, ...]:
    """The same interventions on as many random other neurons of the same layers.

    A neuron that several interventions change is replaced by the same random one in each. Where a layer
    has not enough others, some are left out.
    """
    own = sorted({neuron for item in interventions for neuron in item.neurons})
    stand_in: dict[Neuron, Neuron] = {}
    for layer in sorted({neuron.layer for neuron in own}):
        here = [neuron for neuron in own if neuron.layer == layer]
        others = np.setdiff1d(np.arange(n_neurons), [neuron.neuron for neuron in here])
        drawn = generator.choice(others, size=min(len(here), len(others)), replace=False)
        stand_in |= {neuron: Neuron(layer, int(index)) for neuron, index in zip(here, drawn, strict=False)}
    return tuple(
        replace(item, neurons=tuple(stand_in[n] for n in item.neurons if n in stand_in))
        for item in interventions
    )


# The experiment --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """What is to be done: interventions, prompts, and the random control's seed and number of draws."""

    interventions: tuple[Intervention, ...]
    asked: tuple[Asked, ...]
    seed: int = 0
    draws: int = 5

    def __post_init__(self) -> None:
        if not self.asked:
            raise PromptError("There is no prompt to try this on. Choose a fact or type one.")
        if not any(item.neurons for item in self.interventions):
            raise AtlasError("There are no neurons to change. Find some, or keep at least one.")
        if not 1 <= self.draws <= 100:
            raise AtlasError(f"{self.draws} random draws cannot be made. Give 1 to 100.")


@dataclass(frozen=True)
class Trial:
    """One prompt: before, after, with each random draw; and the same for an edit's new answer."""

    group: str
    prompt: Prompt
    before: Prediction
    after: Prediction
    random: tuple[Prediction, ...]
    new_before: Prediction | None = None
    new_after: Prediction | None = None

    @property
    def random_probability(self) -> float:
        """The answer's probability with random neurons, mean over the draws."""
        return float(np.mean([each.probability for each in self.random]))

    @property
    def random_rank(self) -> float:
        """The answer's median rank over the random draws."""
        return float(np.median([each.rank for each in self.random]))


@dataclass(frozen=True)
class Outcome:
    """All trials of an experiment, the random neurons used, and whether the model is as it was."""

    experiment: Experiment
    trials: tuple[Trial, ...]
    random_neurons: tuple[tuple[Neuron, ...], ...]
    undo_is_exact: bool

    def of_group(self, group: str) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.group == group)


def run(subject: Subject, experiment: Experiment, *, progress: Progress | None = None) -> Outcome:
    """Do the experiment. The model is never written to, and is locked only during each forward pass."""
    from atlas.surgery.interventions import Edit

    prompts = [item.prompt for item in experiment.asked]
    interventions = experiment.interventions
    n_steps, done = 4 + experiment.draws, 0

    def report(message: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done / n_steps, message)
        done += 1

    def predict(change: Sequence[Intervention] | None, top_k: int = RANKED_ANSWERS) -> list[Prediction]:
        changes = None if change is None else [change] * len(prompts)
        return subject.predict(prompts, top_k=top_k, interventions=changes)

    report("The model as it is")
    before = predict(None)
    report("With the neurons changed")
    after = predict(interventions)

    random, random_neurons = [], []
    for draw in range(experiment.draws):
        report(f"With random neurons, draw {draw + 1} of {experiment.draws}")
        generator = np.random.default_rng([experiment.seed, draw])
        control = matched_randomly(interventions, subject.n_neurons, generator)
        random_neurons.append(tuple(sorted({neuron for item in control for neuron in item.neurons})))
        random.append(predict(control, top_k=1))

    report("The new answer")
    news = [item.new for item in interventions if isinstance(item, Edit)]
    places = [i for i, item in enumerate(experiment.asked) if item.group in ("asked", "paraphrases")]
    new_before, new_after = {}, {}
    if news and places:
        rivals = [replace(prompts[i], answer=news[-1]) for i in places]
        new_before = dict(zip(places, subject.predict(rivals, top_k=1), strict=True))
        changed = subject.predict(rivals, top_k=1, interventions=[interventions] * len(rivals))
        new_after = dict(zip(places, changed, strict=True))

    report("Undo")
    undo_is_exact = predict(None) == before
    if progress is not None:
        progress(1.0, "Done")
    trials = tuple(
        Trial(
            item.group,
            item.prompt,
            before[i],
            after[i],
            tuple(draw[i] for draw in random),
            new_before.get(i),
            new_after.get(i),
        )
        for i, item in enumerate(experiment.asked)
    )
    return Outcome(experiment, trials, tuple(random_neurons), undo_is_exact)


# As tables -------------------------------------------------------------------------------------------


def summary(outcome: Outcome) -> pd.DataFrame:
    """A row a group of prompts that has any, in the order of `GROUPS`.

    Columns: group, label, n_prompts, before, after, random (mean probabilities of the answer), change and
    random_change (mean after ÷ mean before − 1), rank_1_before, rank_1_after, rank_1_random (numbers of
    prompts whose answer has rank 1; of the draws, the mean number).
    """
    rows = []
    for group, label in GROUPS.items():
        trials = outcome.of_group(group)
        if not trials:
            continue
        before = float(np.mean([trial.before.probability for trial in trials]))
        after = float(np.mean([trial.after.probability for trial in trials]))
        random = float(np.mean([trial.random_probability for trial in trials]))
        rows.append(
            {
                "group": group,
                "label": label,
                "n_prompts": len(trials),
                "before": before,
                "after": after,
                "random": random,
                "change": after / before - 1 if before > 0 else np.nan,
                "random_change": random / before - 1 if before > 0 else np.nan,
                "rank_1_before": sum(trial.before.rank == 1 for trial in trials),
                "rank_1_after": sum(trial.after.rank == 1 for trial in trials),
                "rank_1_random": float(
                    sum(np.mean([each.rank == 1 for each in trial.random]) for trial in trials)
                ),
            }
        )
    return pd.DataFrame(rows)


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
    before: ▲3, ▼2, =, or ▲ and the least it gained when it was not among the first `RANKED_ANSWERS`).
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


def moved(before: int | None, after: int, *, n_ranked: int = RANKED_ANSWERS) -> str:
    """A change of rank as an arrow: ▲ towards rank 1, ▼ away from it, = where it was."""
    if before is None:
        return f"▲ >{n_ranked - after}"
    if before == after:
        return "="
    return f"▲ {before - after}" if after < before else f"▼ {after - before}"
