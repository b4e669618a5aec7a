"""What came out of an experiment: prompt by prompt, and by group.

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

from atlas.experiments.experiment import Experiment, Measured, Results, Said
from atlas.experiments.reading import has_control
from atlas.neuron import GROUPS, Neuron, Prompt

if TYPE_CHECKING:
    from atlas.surgery.subject import Prediction

FILED_ANSWERS = 10


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
        """The same of an edit's new answer; None where it was not asked for."""
        return _mean_probability(self.new_random) if self.new_random else None

    @property
    def new_random_rank(self) -> float | None:
        """The new answer's median rank over the random draws; None where it was not asked for."""
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
        """The same with random neurons."""
        return self.random / self.before - 1 if self.before > 0 else float("nan")


@dataclass(frozen=True)
class Outcome:
    """All trials of an experiment, the random neurons used, and whether the model is as it was.

    `experiment` names the model that it was done with.
    """

    experiment: Experiment
    trials: tuple[Trial, ...]
    random_neurons: tuple[tuple[Neuron, ...], ...]
    undo_is_exact: bool
    device: str = ""
    dtype: str = ""

    def of_group(self, group: str) -> tuple[Trial, ...]:
        """The trials of one of `GROUPS`, in the order of the experiment."""
        return tuple(trial for trial in self.trials if trial.group == group)

    def summary(self) -> tuple[GroupSummary, ...]:
        """One entry a group that has prompts, in the order of `GROUPS`."""
        return tuple(
            _summary(group, [(trial.before, trial.after, trial.random) for trial in trials])
            for group in GROUPS
            if (trials := self.of_group(group))
        )

    def new_summary(self) -> tuple[GroupSummary, ...]:
        """The same of the answer that an edit writes, for the groups it was asked for in; else empty."""
        asked_for = [trial for trial in self.trials if trial.new_before is not None]
        return tuple(
            _summary(group, said)
            for group in GROUPS
            if (said := [(t.new_before, t.new_after, t.new_random) for t in asked_for if t.group == group])
        )

    @property
    def results(self) -> Results:
        """The outcome without its experiment and the long lists of answers: what a file keeps."""
        return Results(
            prompts=tuple(_measured(trial) for trial in self.trials),
            random_neurons=self.random_neurons,
            undo_is_exact=self.undo_is_exact,
            device=self.device,
            dtype=self.dtype,
        )


def _summary(
    group: str, said: Sequence[tuple[Prediction, Prediction, tuple[Prediction, ...]]]
) -> GroupSummary:
    """`said`: of each prompt one answer before, after, and with each random draw."""
    before, after, random = zip(*said, strict=True)
    return GroupSummary(
        group=group,
        n_prompts=len(said),
        before=_mean_probability(before),
        after=_mean_probability(after),
        random=float(np.mean([_mean_probability(draws) for draws in random])),
        rank_1_before=sum(each.rank == 1 for each in before),
        rank_1_after=sum(each.rank == 1 for each in after),
        rank_1_random=float(sum(np.mean([each.rank == 1 for each in draws]) for draws in random)),
    )


def _measured(trial: Trial) -> Measured:
    return Measured(
        before=_said(trial.before),
        after=_said(trial.after),
        random=tuple(each.probability for each in trial.random),
        random_ranks=tuple(each.rank for each in trial.random),
        new_before=None if trial.new_before is None else _said(trial.new_before),
        new_after=None if trial.new_after is None else _said(trial.new_after),
        new_random=tuple(each.probability for each in trial.new_random),
        new_random_ranks=tuple(each.rank for each in trial.new_random),
    )


def _said(prediction: Prediction) -> Said:
    # Byte-level vocabularies have tokens that are control characters, which no file takes.
    top = prediction.top[:FILED_ANSWERS]
    named = tuple((repr(token) if has_control(token) else token, p) for token, p in top)
    return Said(prediction.probability, prediction.rank, named)
