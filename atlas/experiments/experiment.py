"""Experiments and their results as plain values.

    experiment = Experiment((Suppress(neurons),), prompts, model="pocket-bert")
    outcome = run(subject, experiment)                      # atlas.experiments.run
    compare_results(outcome.results, earlier).holds               # the same up to rounding?

Needs no torch. `atlas.experiments.documents` turns them into JSON and links.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, with_config

from atlas.errors import AtlasError, DocumentError, PromptError
from atlas.experiments.reading import REMEDY, STRICT, PlainText, has_control
from atlas.interventions import MAX_INTERVENTIONS, MAX_NEURONS, Edit, Intervention, Patch
from atlas.neuron import ExperimentPrompt, Neuron

# Limits of a file; the app has lower ones for visitors.
MAX_PROMPTS = 300
MAX_TEXT = 2000
MAX_DRAWS = 100
MAX_SEED = 2**63 - 1
MAX_NAME = 300
MAX_NEURON_NAME = 24
MAX_TOP = 1000
MAX_RANK = 10_000_000


def _parse_neuron(value: Any) -> Neuron:
    if isinstance(value, str) and len(value) <= MAX_NEURON_NAME:
        with suppress(AtlasError):
            return Neuron.parse(value)
    raise ValueError("must name a neuron, like L9.N2141")


# Fields of files, with their bounds.
Name = Annotated[PlainText, Field(max_length=MAX_NAME)]
PromptText = Annotated[PlainText, Field(max_length=MAX_TEXT)]
Neurons = Annotated[
    tuple[Annotated[Neuron, BeforeValidator(_parse_neuron)], ...], Field(max_length=MAX_NEURONS)
]
Rank = Annotated[StrictInt, Field(ge=1, le=MAX_RANK)]
Ranks = Annotated[tuple[Rank, ...], Field(max_length=MAX_DRAWS)]
# Rounding may lift a probability a little above 1.
Probability = Annotated[StrictFloat, Field(ge=0, le=1.001)]
Probabilities = Annotated[tuple[Probability, ...], Field(max_length=MAX_DRAWS)]


@dataclass(frozen=True)
class Experiment:
    """Interventions in order, prompts, and the random control's seed and draws.

    `model`, `weights_sha256` and `config_sha256`: the model used; `atlas_id` and `fact_id`: the source of
    its prompts; empty where unknown.
    """

    interventions: tuple[Intervention, ...]
    prompts: tuple[ExperimentPrompt, ...]
    seed: int = 0
    draws: int = 5
    model: str = ""
    weights_sha256: str = ""
    atlas_id: str = ""
    fact_id: str = ""
    config_sha256: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "interventions", tuple(self.interventions))
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not self.prompts:
            raise PromptError("The experiment has no prompts. Choose a fact or type one.")
        if len(self.prompts) > MAX_PROMPTS:
            raise PromptError(f"There are {len(self.prompts)} prompts. Give at most {MAX_PROMPTS}.")
        texts = [(item.prompt.text, item.prompt.answer) for item in self.prompts]
        texts += [(item.from_prompt, "") for item in self.interventions if isinstance(item, Patch)]
        for text, answer in texts:
            if len(text) > MAX_TEXT or len(answer) > MAX_TEXT:
                raise PromptError(
                    f"The prompt '{text[:60]}…' or its answer has more than {MAX_TEXT} characters. "
                    "Shorten it."
                )
            if has_control(text + answer):
                raise PromptError(
                    f"The prompt {text[:60]!r} or its answer contains control characters. Remove them."
                )
        if not self.neurons:
            raise AtlasError("The experiment changes no neurons. Choose at least one.")
        if len(self.interventions) > MAX_INTERVENTIONS or len(self.neurons) > MAX_NEURONS:
            raise AtlasError(
                f"There are {len(self.interventions)} interventions on {len(self.neurons):,} neurons. "
                f"Give at most {MAX_INTERVENTIONS} and {MAX_NEURONS:,}."
            )
        if not 1 <= self.draws <= MAX_DRAWS:
            raise AtlasError(f"draws must be between 1 and {MAX_DRAWS}, got {self.draws}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise AtlasError(f"seed must be between 0 and 2^63 - 1, got {self.seed}.")

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        """Every neuron that is changed, once."""
        return tuple(sorted({neuron for item in self.interventions for neuron in item.neurons}))

    @property
    def new_answer(self) -> str:
        """The answer that the last edit writes; empty without an edit."""
        return next((item.new for item in reversed(self.interventions) if isinstance(item, Edit)), "")


# Results ---------------------------------------------------------------------------------------------


@with_config(STRICT)
@dataclass(frozen=True)
class FiledPrediction:
    """A prediction as files keep it: the answer's probability and rank, and the likeliest tokens."""

    probability: Probability
    rank: Rank
    top: Annotated[tuple[tuple[PromptText, Probability], ...], Field(max_length=MAX_TOP)]


@with_config(STRICT)
@dataclass(frozen=True)
class PromptResults:
    """One prompt's results: before, after, with each random draw; and the same for an edit's new answer.

    new_random is empty, too, in results of version 1, which did not measure it.
    """

    before: FiledPrediction
    after: FiledPrediction
    random: Probabilities
    random_ranks: Ranks
    new_before: FiledPrediction | None = None
    new_after: FiledPrediction | None = None
    new_random: Probabilities = ()
    new_random_ranks: Ranks = ()

    def __post_init__(self) -> None:
        if (self.new_before is None) != (self.new_after is None):
            raise ValueError("must have both new_before and new_after, or neither")
        if self.new_before is None and (self.new_random or self.new_random_ranks):
            raise ValueError("must not have new_random without new_before")
        for name in ("random", "new_random"):
            if len(getattr(self, name)) != len(getattr(self, f"{name}_ranks")):
                raise ValueError(f"must have as many entries in {name} as in {name}_ranks")

    def probabilities(self) -> Iterator[tuple[str, float]]:
        """Every probability with its name, in a fixed order."""
        for name in ("before", "after", "new_before", "new_after"):
            prediction = getattr(self, name)
            if prediction is not None:
                yield name, prediction.probability
        for draw, value in enumerate(self.random, 1):
            yield f"random draw {draw}", value
        for draw, value in enumerate(self.new_random, 1):
            yield f"new answer, random draw {draw}", value


@with_config(STRICT)
@dataclass(frozen=True)
class ExperimentResults:
    """Results prompt by prompt, in the experiment's order; small enough for a file."""

    prompts: Annotated[tuple[PromptResults, ...], Field(max_length=MAX_PROMPTS)]
    random_neurons: Annotated[tuple[Neurons, ...], Field(max_length=MAX_DRAWS)]
    undo_is_exact: StrictBool
    device: Name = ""
    dtype: Name = ""


@dataclass(frozen=True)
class Agreement:
    """How far two results of the same experiment differ.

    largest: the largest difference of a probability; prompt, what: where that is.
    """

    n_values: int
    n_apart: int
    largest: float
    prompt: int
    what: str

    @property
    def holds(self) -> bool:
        """Whether all values agree within the tolerance."""
        return self.n_apart == 0


def compare_results(
    one: ExperimentResults, two: ExperimentResults, *, relative: float = 1e-3, absolute: float = 1e-6
) -> Agreement:
    """Compare two results, up to the rounding that differs between processors.

    Raises `DocumentError` for results of different experiments.
    """
    n_values = n_apart = place = 0
    largest, what = -1.0, ""
    if len(one.prompts) != len(two.prompts):
        raise DocumentError(f"The results have {len(one.prompts)} and {len(two.prompts)} prompts. {REMEDY}")
    for number, (left, right) in enumerate(zip(one.prompts, two.prompts, strict=True)):
        if not (left.new_random and right.new_random):  # one of them may be of version 1
            left, right = (replace(each, new_random=(), new_random_ranks=()) for each in (left, right))
        ours, theirs = list(left.probabilities()), list(right.probabilities())
        if [name for name, _ in ours] != [name for name, _ in theirs]:
            raise DocumentError(f"The results of prompt {number + 1} have different fields. {REMEDY}")
        for (name, a), (_, b) in zip(ours, theirs, strict=True):
            n_values += 1
            n_apart += abs(a - b) > absolute + relative * max(a, b)
            if abs(a - b) > largest:
                largest, place, what = abs(a - b), number, name
    return Agreement(n_values, n_apart, max(largest, 0.0), place, what)
