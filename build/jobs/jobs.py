"""A build's work with the model, in pieces that can be sent to another process, each good for one table.

    job = AttributeShard(prompts, held_out, attributed, options)
    prepared = job.prepare(subject)                  # with the tokenizer alone, while the model is busy
    table = job.run(worker, prepared, report)

1. `PrecisionSample`: how far scores in less than float32 are off float32's.
2. `AttributeShard`: scores and predictions of a shard's prompts.
3. `ReadOutShard`: what neurons promote.
4. `ActivationsShard`: on which of a shard's prompts neurons are most and least active.
5. `EvaluateShard`: what suppressing and amplifying does.

Nothing here imports torch before a job is run: who only hands jobs out needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from atlas.neuron import Neuron, Prompt
from build.jobs.activating import ActivatingPrompts
from build.plan import BuildOptions

if TYPE_CHECKING:
    from atlas.surgery.subject import Encoded, Subject
    from build.jobs.stages import ShardPrompts
    from build.jobs.trials import Trial
    from build.jobs.worker import Worker

Report = Callable[[int], None]

READOUT_TOKENS = 10
EVALUATION_VERSION = 4
"""Raised when stage 3 or 4 would give other rows than before, so that a resume makes them again."""


class Job(Protocol):
    """One piece of work; `size` counts what progress counts."""

    @property
    def size(self) -> int: ...

    def prepare(self, subject: Subject) -> Any:
        """What can be done beforehand, in another thread than the model's."""

    def run(self, worker: Worker, prepared: Any, report: Report) -> pa.Table:
        """The table; `report(n)` as units are done."""


@dataclass(frozen=True)
class PrecisionSample:
    """Prompts that are attributed twice, in the options' precision and in float32."""

    prompts: tuple[Prompt, ...]
    options: BuildOptions

    @property
    def size(self) -> int:
        return len(self.prompts)

    def prepare(self, subject: Subject) -> None:
        return None

    def run(self, worker: Worker, prepared: None, report: Report) -> pa.Table:
        from build.jobs import stages

        table = stages.precision_sample(worker.subject, self.prompts, self.options, batches=worker.batches)
        report(self.size)
        return table


@dataclass(frozen=True)
class AttributeShard:
    """Prompts of some facts, each fact's together, and which of them are held out or attributed."""

    prompts: tuple[Prompt, ...]
    held_out: tuple[bool, ...]
    attributed: tuple[bool, ...]
    options: BuildOptions

    @property
    def size(self) -> int:
        return len(self.prompts)

    def prepare(self, subject: Subject) -> ShardPrompts:
        from build.jobs import stages

        return stages.usable_prompts(subject, self)

    def run(self, worker: Worker, prepared: ShardPrompts, report: Report) -> pa.Table:
        from build.jobs import stages

        return stages.attribute_shard(
            worker.subject, prepared, self.options, batches=worker.batches, report=report
        )


@dataclass(frozen=True)
class ReadOutShard:
    """Neurons whose value vectors are read out."""

    neurons: tuple[Neuron, ...]

    @property
    def size(self) -> int:
        return len(self.neurons)

    def prepare(self, subject: Subject) -> None:
        return None

    def run(self, worker: Worker, prepared: None, report: Report) -> pa.Table:
        from build.jobs import stages

        table = stages.readout_shard(worker.subject, self.neurons, k=READOUT_TOKENS)
        report(self.size)
        return table


@dataclass(frozen=True, eq=False)
class ActivationsShard:
    """Prompts with their numbers, and the neurons: layers and neurons, (n_neurons,) each."""

    prompts: tuple[Prompt, ...]
    numbers: np.ndarray
    layers: np.ndarray
    neurons: np.ndarray

    @property
    def size(self) -> int:
        return len(self.prompts)

    def prepare(self, subject: Subject) -> list[Encoded]:
        return [subject.encode(prompt) for prompt in self.prompts]

    def run(self, worker: Worker, prepared: list[Encoded], report: Report) -> pa.Table:
        """What `ActivatingPrompts.merge` takes."""
        subject, batches = worker.subject, worker.batches
        activations = batches.run(lambda: subject.activations(prepared, batch_tokens=batches.tokens))
        kept = ActivatingPrompts(self.layers, self.neurons)
        kept.update(activations.numpy(), self.numbers)
        report(self.size)
        return kept.packed()


@dataclass(frozen=True)
class EvaluateShard:
    """Trials: neurons that are changed, and prompts that are asked."""

    trials: tuple[Trial, ...]
    size: int

    def prepare(self, subject: Subject) -> dict[Prompt, Encoded]:
        return {prompt: subject.encode(prompt) for prompt in {trial.prompt for trial in self.trials}}

    def run(self, worker: Worker, prepared: dict[Prompt, Encoded], report: Report) -> pa.Table:
        from build.jobs import trials

        table = trials.evaluate_shard(worker.subject, self.trials, batches=worker.batches, encoded=prepared)
        report(self.size)
        return table
