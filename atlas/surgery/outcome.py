"""What came out of an experiment: prompt by prompt, and by group.

outcome.of_group("paraphrases")[0].after.top_token
outcome.summary()[0].change, outcome.summary()[0].random_change
outcome.results                                        # what `atlas.documents.to_json` keeps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.experiment import Experiment, Measured, Results, Said
from atlas.neuron import GROUPS, Neuron, Prompt
from atlas.reading import has_control

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

    @property
    def random_probability(self) -> float:
        """The answer's probability with random neurons, mean over the draws."""
        return float(np.mean([each.probability for each in self.random]))

    @property
    def random_rank(self) -> float:
        """The answer's median rank over the random draws."""
        return float(np.median([each.rank for each in self.random]))


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
        return tuple(trial for trial in self.trials if trial.group == group)

    def summary(self) -> tuple[GroupSummary, ...]:
        """One entry a group that has prompts, in the order of `GROUPS`."""
        return tuple(_summary(group, trials) for group in GROUPS if (trials := self.of_group(group)))

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


def _summary(group: str, trials: Sequence[Trial]) -> GroupSummary:
    return GroupSummary(
        group=group,
        n_prompts=len(trials),
        before=float(np.mean([trial.before.probability for trial in trials])),
        after=float(np.mean([trial.after.probability for trial in trials])),
        random=float(np.mean([trial.random_probability for trial in trials])),
        rank_1_before=sum(trial.before.rank == 1 for trial in trials),
        rank_1_after=sum(trial.after.rank == 1 for trial in trials),
        rank_1_random=float(sum(np.mean([each.rank == 1 for each in trial.random]) for trial in trials)),
    )


def _measured(trial: Trial) -> Measured:
    return Measured(
        before=_said(trial.before),
        after=_said(trial.after),
        random=tuple(each.probability for each in trial.random),
        random_ranks=tuple(each.rank for each in trial.random),
        new_before=None if trial.new_before is None else _said(trial.new_before),
        new_after=None if trial.new_after is None else _said(trial.new_after),
    )


def _said(prediction: Prediction) -> Said:
    # Byte-level vocabularies have tokens that are control characters, which no file takes.
    top = prediction.top[:FILED_ANSWERS]
    named = tuple((repr(token) if has_control(token) else token, p) for token, p in top)
    return Said(prediction.probability, prediction.rank, named)
