"""Run an experiment: the effect of interventions on prompts, with random controls.

    found = find_neurons(subject, prompts)
    experiment = Experiment((Suppress(found.chosen),), choose_prompts(atlas, fact_id))
    outcome = run(subject, experiment, progress=show)
    outcome.summary(), outcome.undo_is_exact, to_json(outcome.experiment, outcome.results)
    doses = dose_response(subject, experiment)

1. *Before.* Every prompt on the unchanged model.
2. *After.* The same prompts with the interventions in force.
3. *Random.* The same with as many random neurons of the same layers, several draws.
4. *New answer* (edits). Before and after for the answer that the edit writes; with random neurons in step 3.
5. *Undo.* Every prompt once more on the unchanged model: bit for bit equal to step 1.

Between batches the model is given up to those who wait and have had much less of it; ``progress(share,
message)`` is called before each step, while it waits and between batches. It may raise to stop the run:
nothing needs to be undone, since weights are never written and hooks live only inside a forward pass. Dai et
al. (ACL 2022), sections 4.5 and 5.
`atlas.experiments.controls` chooses the prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from atlas.attribution.attribution import Attribution, attribute
from atlas.errors import AtlasError, PromptError
from atlas.experiments.controls import random_match
from atlas.experiments.documents import from_json, from_link, to_json, to_link  # noqa: F401
from atlas.experiments.experiment import MAX_PROMPTS, MAX_TEXT, Experiment
from atlas.experiments.outcome import FILED_ANSWERS, Outcome, PromptOutcome
from atlas.interventions import Amplify, Intervention
from atlas.line import TELL_EVERY_SECONDS
from atlas.models.known import OnProgress
from atlas.neuron import PROMPT_GROUPS, ExperimentPrompt, Neuron, Prompt
from atlas.refinement import MODES, KnowledgeNeuron, Refinement, refine_scores
from atlas.surgery.interventions import check_interventions
from atlas.surgery.subject import Prediction, Subject

# The number of likeliest answers kept of each prompt, to show changes of rank.
RANKED_ANSWERS = 100
OWN_GROUPS = ("asked", "paraphrases")
PROMPTS_AT_ONCE = 4
TOKENS_TIMES_WEIGHTS = 5e10
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
MAX_FACTORS = 50


class Steps:
    """Progress over steps, in each of which the model is used in turn with others."""

    def __init__(self, subject: Subject, n_steps: int, progress: OnProgress | None) -> None:
        self._subject, self._n_steps, self._done = subject, n_steps, 0
        self._progress = progress
        self._told_at = 0.0

    @contextmanager
    def step(self, message: str, *, counts: int = 1) -> Iterator[None]:
        """One step, or several at once: wait for the model, hold its lock except between batches."""

        def wait(ahead: int) -> None:
            self.report(in_line(ahead))
            self._told_at = 0.0  # the work itself is reported again as soon as it goes on

        def work() -> None:
            if time.monotonic() >= self._told_at + TELL_EVERY_SECONDS:
                self.report(message)

        self.report(message)
        told = self._progress is not None
        with self._subject.lock.turn(wait if told else None, work if told else None):
            yield
        self._done += counts

    def report(self, message: str) -> None:
        """Tell `progress` the share of steps done, from 0 to 1, with this message."""
        if self._progress is not None:
            self._progress(min(self._done / self._n_steps, 1.0), message)
            self._told_at = time.monotonic()


def in_line(ahead: int) -> str:
    """What to tell who waits."""
    return f"Waiting in line behind {'one other' if ahead == 1 else f'{ahead} others'}"


def batch_tokens(subject: Subject) -> int:
    """Tokens of a batch that a CPU of two cores computes in about half a second: a run stops between two."""
    return int(min(2048, max(64, TOKENS_TIMES_WEIGHTS / subject.model.num_parameters())))


# Which prompts ---------------------------------------------------------------------------------------


def parse_prompts(
    subject: Subject,
    text: str,
    answer: str,
    *,
    max_prompts: int = MAX_PROMPTS,
    max_length: int = MAX_TEXT,
) -> tuple[Prompt, ...]:
    """Prompts from typed text, one on each line; `PromptError` when a line or the answer cannot be used."""
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise PromptError("There are no prompts. Type one on each line, with [Y] in place of the answer.")
    if len(lines) > max_prompts:
        raise PromptError(f"There are {len(lines)} prompts. Give at most {max_prompts}.")
    for line in lines:
        if len(line) > max_length:
            raise PromptError(
                f"The prompt '{line[:60]}…' has {len(line)} characters. Give at most {max_length}."
            )
    if not answer.strip():
        raise PromptError("The answer is empty. Type the word that replaces [Y].")
    prompts = tuple(subject.prompt(line, answer.strip()) for line in lines)
    for prompt in prompts:
        subject.encode(prompt)
    return prompts


def usable(
    subject: Subject, prompts: Iterable[ExperimentPrompt]
) -> tuple[tuple[ExperimentPrompt, ...], tuple[str, ...]]:
    """The prompts that this model can read, and an error message for each of the others."""
    kept, reasons = [], []
    for item in prompts:
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
    negatives: tuple[Prompt, ...] = ()
    negative_attributions: tuple[Attribution, ...] = ()

    @property
    def chosen(self) -> tuple[Neuron, ...]:
        """The neurons, without their scores."""
        return tuple(item.neuron for item in self.neurons)

    @property
    def n_unconverged(self) -> int:
        """Number of (answer token, layer) paths whose integral is not certified."""
        return sum(int((~each.converged).sum()) for each in self.attributions)

    @property
    def n_paths(self) -> int:
        """Number of (answer token, layer) paths that were integrated."""
        return sum(each.converged.size for each in self.attributions)


def find_neurons(
    subject: Subject,
    prompts: Sequence[Prompt],
    *,
    negatives: Sequence[Prompt] = (),
    rule: Refinement = MODES["default"],
    progress: OnProgress | None = None,
    on_part: Callable[[Found], None] | None = None,
) -> Found:
    """The knowledge neurons of these prompts; of a single prompt its coarse neurons.

    negatives: negative examples, prompts of other facts with the same wording. A neuron that is coarse in as
    large a share of them is left out (`atlas.refinement`, step 4). on_part: called after the first prompt and
    each batch but the last with what the prompts so far give, the negatives last; it may raise to stop.
    """
    if not prompts:
        raise PromptError("There are no prompts to find neurons on. Choose a fact or type one.")
    if set(prompts) & set(negatives):
        raise PromptError("A prompt is also a negative example. Remove it from one of the two lists.")
    everything = (*prompts, *negatives)
    for prompt in everything:
        subject.encode(prompt)
    steps = Steps(subject, len(everything), progress)
    attributions: list[Attribution] = []

    def found() -> Found:
        own, others = attributions[: len(prompts)], attributions[len(prompts) :]
        return Found(
            tuple(prompts[: len(own)]),
            refined_live(own, rule, negatives=others),
            tuple(own),
            tuple(negatives[: len(others)]),
            tuple(others),
        )

    # The first prompt alone, so that there is soon something to tell; then several at once, which takes a
    # third less time a prompt. In between, others get their turn at the model.
    n = PROMPTS_AT_ONCE
    rest = [each[i : i + n] for each in (prompts[1:], negatives) for i in range(0, len(each), n)]
    for batch in (prompts[:1], *rest):
        first, last = len(attributions) + 1, len(attributions) + len(batch)
        which = f"Prompt {first}" if first == last else f"Prompts {first} to {last}"
        with steps.step(f"{which} of {len(everything)}", counts=len(batch)):
            attributions += attribute(subject, batch, batch_rows=n, keep_paths=True)
        if on_part is not None and last < len(everything):
            on_part(found())
    steps.report("Done")
    return found()


def refined_live(
    attributions: Sequence[Attribution], rule: Refinement, *, negatives: Sequence[Attribution] = ()
) -> tuple[KnowledgeNeuron, ...]:
    """The neurons of attributed prompts by any rule; of a single prompt its coarse neurons."""
    rule = replace(rule, at_least=min(rule.at_least, len(attributions)))
    return tuple(
        refine_scores(
            [each.scores for each in attributions], rule, negatives=[each.scores for each in negatives]
        )
    )


def with_random_neurons(
    interventions: Sequence[Intervention], n_neurons: int, generator: np.random.Generator
) -> tuple[Intervention, ...]:
    """The same interventions on as many random other neurons of the same layers.

    A neuron that several interventions change is replaced by the same random one in each. Where a layer has
    too few others, some are left out.
    """
    stand_in = random_match(_neurons_of(interventions), n_neurons, generator)
    return tuple(
        replace(item, neurons=tuple(stand_in[n] for n in item.neurons if n in stand_in))
        for item in interventions
    )


# The experiment --------------------------------------------------------------------------------------


def run(subject: Subject, experiment: Experiment, *, progress: OnProgress | None = None) -> Outcome:
    """Run the experiment. Weights are never written; others use the model between its batches."""
    interventions = check_interventions(subject, experiment.interventions)
    prompts = [subject.encode(item.prompt) for item in experiment.prompts]
    steps = Steps(subject, 4 + experiment.draws, progress)
    ask = partial(subject.predict, batch_tokens=batch_tokens(subject))

    def predict(change: Sequence[Intervention] | None) -> list[Prediction]:
        changes = None if change is None else [change] * len(prompts)
        return ask(prompts, top_k=RANKED_ANSWERS, interventions=changes)

    # Step 1: before.
    with steps.step("The unchanged model"):
        before = predict(None)
    # Step 2: after.
    with steps.step("With the neurons changed"):
        after = predict(interventions)
    # Step 3: random; several draws at once, since batches are of one length and rarely full.
    new_answer = experiment.new_answer
    places = (
        [i for i, item in enumerate(experiment.prompts) if item.group in OWN_GROUPS] if new_answer else []
    )
    rivals = [subject.encode(replace(prompts[i].prompt, answer=new_answer)) for i in places]
    controls, asked = random_controls(subject, experiment, interventions), [*prompts, *rivals]
    at_once = max(1, 4 * batch_tokens(subject) // sum(len(each.input_ids) for each in asked))
    draws: list[list[Prediction]] = []
    for first in range(0, len(controls), at_once):
        some = controls[first : first + at_once]
        message = f"With random neurons, draw {first + len(some)} of {len(controls)}"
        with steps.step(message, counts=len(some)):
            changes = [control for control in some for _ in asked]
            found = ask(asked * len(some), top_k=1, interventions=changes)
        draws += [found[start : start + len(asked)] for start in range(0, len(found), len(asked))]
    # Step 4: the new answer.
    with steps.step("The new answer"):
        new_before = ask(rivals, top_k=FILED_ANSWERS)
        new_after = ask(rivals, top_k=FILED_ANSWERS, interventions=[interventions] * len(rivals))
    # Step 5: undo.
    with steps.step("Undo"):
        undo_is_exact = predict(None) == before
    steps.report("Done")
    new = {
        place: (new_before[i], new_after[i], tuple(draw[len(prompts) + i] for draw in draws))
        for i, place in enumerate(places)
    }
    return Outcome(
        experiment=replace(
            experiment,
            model=subject.name,
            weights_sha256=subject.weights_sha256,
            config_sha256=subject.config_sha256,
        ),
        prompts=tuple(
            PromptOutcome(
                item.group,
                item.prompt,
                before[i],
                after[i],
                tuple(draw[i] for draw in draws),
                *new.get(i, (None, None, ())),
            )
            for i, item in enumerate(experiment.prompts)
        ),
        random_neurons=tuple(_neurons_of(control) for control in controls),
        undo_is_exact=undo_is_exact,
        device=str(subject.device),
        dtype=subject.dtype,
    )


def random_controls(
    subject: Subject, experiment: Experiment, interventions: Sequence[Intervention]
) -> list[tuple[Intervention, ...]]:
    """The interventions on random neurons, one entry a draw; drawn by the seed and the neurons alone."""
    return [
        with_random_neurons(interventions, subject.n_neurons, np.random.default_rng([experiment.seed, draw]))
        for draw in range(experiment.draws)
    ]


def _neurons_of(interventions: Sequence[Intervention]) -> tuple[Neuron, ...]:
    return tuple(sorted({neuron for item in interventions for neuron in item.neurons}))


# Dose and response -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dose:
    """A group of prompts with the neurons' activations multiplied by `factor`.

    probability: mean of the answer's; random: the same with each draw of random neurons (of the groups
    `asked` and `paraphrases`; empty for others); rank_1: number of prompts whose answer has rank 1.
    """

    factor: float
    group: str
    n_prompts: int
    probability: float
    rank_1: int
    random: tuple[float, ...]


def dose_response(
    subject: Subject,
    experiment: Experiment,
    factors: Sequence[float] = FACTORS,
    *,
    progress: OnProgress | None = None,
) -> tuple[Dose, ...]:
    """The answers' probabilities over the factor by which the experiment's neurons are multiplied.

    All neurons of the experiment's interventions are amplified by each factor in turn, for any kind of
    intervention: 0 suppresses them, 1 changes nothing. The random neurons are those that `run` draws. By
    factor, then by group in the order of `PROMPT_GROUPS`.
    """
    factors = tuple(sorted({float(factor) for factor in factors}))
    if not 1 <= len(factors) <= MAX_FACTORS:
        raise AtlasError(f"There are {len(factors)} factors. Give 1 to {MAX_FACTORS}.")
    neurons = experiment.neurons
    curve = [check_interventions(subject, (Amplify(neurons, factor),)) for factor in factors]
    ask = partial(subject.predict, top_k=1, batch_tokens=batch_tokens(subject))
    stand_ins = [_neurons_of(control) for control in random_controls(subject, experiment, curve[0])]
    prompts = [item.prompt for item in experiment.prompts]
    own = [item.prompt for item in experiment.prompts if item.group in OWN_GROUPS]
    n_steps = len(factors) * (1 + (len(stand_ins) if own else 0))
    steps = Steps(subject, n_steps, progress)
    doses: list[Dose] = []
    for factor, change in zip(factors, curve, strict=True):
        with steps.step(f"Factor {factor:g}"):
            predictions = ask(prompts, interventions=[change] * len(prompts))
        random: list[dict[str, float]] = []
        for draw, stand_in in enumerate(stand_ins if own else (), 1):
            with steps.step(f"Factor {factor:g}, random draw {draw} of {len(stand_ins)}"):
                control = (Amplify(stand_in, factor),)
                answers = ask(own, interventions=[control] * len(own))
            random.append(_means(experiment.prompts, answers))
        for group, mean in _means(experiment.prompts, predictions, PROMPT_GROUPS).items():
            places = [i for i, item in enumerate(experiment.prompts) if item.group == group]
            doses.append(
                Dose(
                    factor=factor,
                    group=group,
                    n_prompts=len(places),
                    probability=mean,
                    rank_1=sum(predictions[i].rank == 1 for i in places),
                    random=tuple(means[group] for means in random if group in means),
                )
            )
    steps.report("Done")
    return tuple(doses)


def _means(
    prompts: Sequence[ExperimentPrompt],
    predictions: Sequence[Prediction],
    groups: Iterable[str] = OWN_GROUPS,
) -> dict[str, float]:
    """Group → mean probability; `predictions` of the prompts of these groups alone, in their order."""
    names = [item.group for item in prompts if item.group in groups]
    return {
        group: float(
            np.mean([p.probability for name, p in zip(names, predictions, strict=True) if name == group])
        )
        for group in PROMPT_GROUPS
        if group in names
    }
