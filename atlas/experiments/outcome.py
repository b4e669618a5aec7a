"""The outcome of an experiment, prompt by prompt and by group.

outcome.of_group("paraphrases")[0].after.top_token
outcome.summary()[0].change, outcome.summary()[0].random_change
outcome.new_summary()[0].after, outcome.new_summary()[0].random   # of the answer that an edit writes
outcome.results                                        # what `atlas.experiments.documents.to_json` keeps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.experiments.experiment import Experiment, ExperimentResults, FiledPrediction, PromptResults
from atlas.experiments.reading import has_control
from atlas.neuron import PROMPT_GROUPS, Neuron, Prompt

if TYPE_CHECKING:
    from atlas.surgery.loaded import Prediction

FILED_ANSWERS = 10


@dataclass(frozen=True)
class PromptOutcome:
    """One prompt's predictions before, after, with each random draw; also for an edit's new answer."""

    group: str
    prompt: Prompt
    before: Prediction
    after: Prediction
    random: tuple[Prediction, ...]
    new_before: Prediction | None = None
    new_after: Prediction | None = None
    new_random: tuple[Prediction, ...] = ()

    @property
    def random_probability(self) -> float:
        """The answer's probability with random neurons, mean over the draws."""
        return _mean_probability(self.random)

    @property
    def random_rank(self) -> float:
        """The answer's median rank over the random draws."""
        return _median_rank(self.random)

    @property
    def new_random_probability(self) -> float | None:
        """`random_probability` of an edit's new answer; None where it was not measured."""
        return _mean_probability(self.new_random) if self.new_random else None

    @property
    def new_random_rank(self) -> float | None:
        """The new answer's median rank over the random draws; None where it was not measured."""
        return _median_rank(self.new_random) if self.new_random else None


def _mean_probability(draws: Sequence[Prediction]) -> float:
    return float(np.mean([each.probability for each in draws]))


def _median_rank(draws: Sequence[Prediction]) -> float:
    return float(np.median([each.rank for each in draws]))


@dataclass(frozen=True)
class GroupSummary:
    """A group of prompts: mean probabilities of the answer, and how many prompts have it at rank 1.

    random, rank_1_random: means over the draws.
    """

    group: str
    n_prompts: int
    before: float
    after: float
    random: float
    rank_1_before: int
    rank_1_after: int
    rank_1_random: float

    @property
    def change(self) -> float:
        """Mean after ÷ mean before − 1."""
        return self.after / self.before - 1 if self.before > 0 else float("nan")

    @property
    def random_change(self) -> float:
        """`change` with random neurons."""
        return self.random / self.before - 1 if self.before > 0 else float("nan")


@dataclass(frozen=True)
class Outcome:
    """Every prompt of an experiment, the random neurons used, and whether the model is unchanged.

    `experiment` names the model used.
    """

    experiment: Experiment
    prompts: tuple[PromptOutcome, ...]
    random_neurons: tuple[tuple[Neuron, ...], ...]
    undo_is_exact: bool
    device: str = ""
    dtype: str = ""

    def of_group(self, group: str) -> tuple[PromptOutcome, ...]:
        """The prompts of one of `PROMPT_GROUPS`, in the order of the experiment."""
        return tuple(each for each in self.prompts if each.group == group)

    def summary(self) -> tuple[GroupSummary, ...]:
        """One entry for each group with prompts, in the order of `PROMPT_GROUPS`."""
        return _summarize([(each.group, each.before, each.after, each.random) for each in self.prompts])

    def new_summary(self) -> tuple[GroupSummary, ...]:
        """`summary` for an edit's new answer, of the groups where it was measured."""
        return _summarize(
            [
                (each.group, each.new_before, each.new_after, each.new_random)
                for each in self.prompts
                if each.new_before is not None and each.new_after is not None
            ]
        )

    @property
    def results(self) -> ExperimentResults:
        """The results that a file keeps: without the experiment and the long lists of answers."""
        return ExperimentResults(
            prompts=tuple(_to_results(each) for each in self.prompts),
            random_neurons=self.random_neurons,
            undo_is_exact=self.undo_is_exact,
            device=self.device,
            dtype=self.dtype,
        )


def _summarize(
    prompts: Sequence[tuple[str, Prediction, Prediction, tuple[Prediction, ...]]],
) -> tuple[GroupSummary, ...]:
    """One summary a group, from each prompt's group and its predictions before, after, and with each draw."""
    summaries = []
    for group in PROMPT_GROUPS:
        own = [predictions for name, *predictions in prompts if name == group]
        if not own:
            continue
        before, after, random = zip(*own, strict=True)
        summaries.append(
            GroupSummary(
                group=group,
                n_prompts=len(own),
                before=_mean_probability(before),
                after=_mean_probability(after),
                random=float(np.mean([_mean_probability(draws) for draws in random])),
                rank_1_before=sum(each.rank == 1 for each in before),
                rank_1_after=sum(each.rank == 1 for each in after),
                rank_1_random=float(sum(np.mean([each.rank == 1 for each in draws]) for draws in random)),
            )
        )
    return tuple(summaries)


def _to_results(prompt: PromptOutcome) -> PromptResults:
    return PromptResults(
        before=_to_filed(prompt.before),
        after=_to_filed(prompt.after),
        random=tuple(each.probability for each in prompt.random),
        random_ranks=tuple(each.rank for each in prompt.random),
        new_before=None if prompt.new_before is None else _to_filed(prompt.new_before),
        new_after=None if prompt.new_after is None else _to_filed(prompt.new_after),
        new_random=tuple(each.probability for each in prompt.new_random),
        new_random_ranks=tuple(each.rank for each in prompt.new_random),
    )


def _to_filed(prediction: Prediction) -> FiledPrediction:
    # Byte-level vocabularies have tokens that are control characters, which no file takes.
    top = tuple(
        (repr(token) if has_control(token) else token, p) for token, p in prediction.top[:FILED_ANSWERS]
    )
    return FiledPrediction(prediction.probability, prediction.rank, top)
