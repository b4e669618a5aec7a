"""What a change of some neurons does to some prompts, and its controls.

    found = find_neurons(subject, prompts)
    experiment = Experiment((Suppress(found.chosen),), asked)
    outcome = run(subject, experiment)
    outcome.of_group("paraphrases")[0].after.probability, outcome.undo_is_exact

1. *Before.* Every prompt as the model is.
2. *After.* The same prompts with the interventions in force.
3. *Random.* The same with as many random neurons of the same layers, several draws.
4. *New answer* (edits). Before and after for the answer that the edit writes.
5. *Undo.* Every prompt once more as the model is: equal to the first time in every bit.

Dai et al. (ACL 2022), sections 4.2 and 5. Which prompts are asked is `atlas.controls`' part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from atlas.errors import PromptError
from atlas.experiment import MAX_PROMPTS, MAX_TEXT, Experiment
from atlas.interventions import Edit, Intervention, make_intervention
from atlas.neuron import Asked, Neuron, Prompt
from atlas.refinement import MODES, KnowledgeNeuron, refine_scores
from atlas.surgery.attribution import Attribution, attribute
from atlas.surgery.subject import Prediction, Subject

__all__ = [
    "RANKED_ANSWERS",
    "Experiment",
    "Found",
    "Outcome",
    "Trial",
    "find_neurons",
    "make_intervention",
    "matched_randomly",
    "run",
    "typed_prompts",
    "usable",
]

# The likeliest answers that are kept of each prompt, so that changes of rank can be told.
RANKED_ANSWERS = 100

Progress = Callable[[float, str], None]


# Which prompts ---------------------------------------------------------------------------------------


def typed_prompts(
    subject: Subject,
    text: str,
    answer: str,
    *,
    max_prompts: int = MAX_PROMPTS,
    max_length: int = MAX_TEXT,
) -> tuple[Prompt, ...]:
    """Prompts as people type them, one a line; `AtlasError` when a line or the answer cannot be used."""
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise PromptError("There is no prompt yet. Type one a line, with [Y] where the answer goes.")
    if len(lines) > max_prompts:
        raise PromptError(f"There are {len(lines)} prompts. Give at most {max_prompts}.")
    for line in lines:
        if len(line) > max_length:
            raise PromptError(
                f"The prompt '{line[:60]}…' has {len(line)} characters. Give at most {max_length}."
            )
    if not answer.strip():
        raise PromptError("There is no answer yet. Type the word that should fill the gap.")
    prompts = tuple(subject.prompt(line, answer.strip()) for line in lines)
    for prompt in prompts:
        subject.encode(prompt)
    return prompts


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
