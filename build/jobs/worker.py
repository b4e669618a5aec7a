"""A loaded model, and the batches that fit beside it in memory.

    worker = Worker.load(setup)
    table = job.run(worker, job.prepare(worker.subject), advance)

When memory runs out, `Batches` halves what goes through the model at once and repeats the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch

from atlas.attribution import attribution
from atlas.errors import BuildError
from build.jobs.machine import SubjectFacts, WorkerSetup, count_cores

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

Result = TypeVar("Result")

PREDICT_TOKENS = 2048


@dataclass
class Batches:
    """How much goes through the model at once: `rows` answer tokens to attribute, `tokens` to predict.

    `run` halves both when memory runs out, for the rest of the build.
    """

    rows: int
    tokens: int = PREDICT_TOKENS
    note: Callable[[str], None] = field(default=lambda text: None, repr=False)

    @classmethod
    def for_subject(cls, subject: Subject, rows: int | None) -> Batches:
        return cls(rows or attribution.ITEMS_AT_ONCE.get(subject.device.type, 8))

    def run(self, work: Callable[[], Result]) -> Result:
        """`work()`, again with half the batch each time memory runs out."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
            # Outside the handler, so that the traceback no longer holds the tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.rows <= 1 and self.tokens <= 64:
                raise BuildError(
                    "There is too little memory for a single prompt. Use --device cpu or a smaller model; "
                    "complete shards are kept."
                )
            self.rows, self.tokens = max(1, self.rows // 2), max(64, self.tokens // 2)
            self.note(f"Out of memory: going on with batches of {self.rows}.")


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return "not enough memory" in str(error) or "out of memory" in str(error).lower()


@dataclass
class Worker:
    """A loaded subject and the batches that fit beside it."""

    subject: Subject
    batches: Batches

    @classmethod
    def load(cls, setup: WorkerSetup) -> Worker:
        """Load the model of the setup. Raises `AtlasError` where it cannot be loaded."""
        from atlas.surgery.subject import load_subject

        use_threads(setup.threads)
        subject = load_subject(setup.model, device=setup.device, dtype=setup.dtype)
        return cls(subject, Batches.for_subject(subject, setup.batch_rows))

    @property
    def facts(self) -> SubjectFacts:
        """What the manifest records of the subject."""
        return SubjectFacts(
            weights_sha256=self.subject.weights_sha256,
            config_sha256=self.subject.config_sha256,
            family=self.subject.family.name,
            activation_function=self.subject.activation_function,
            n_layers=self.subject.n_layers,
            n_neurons=self.subject.n_neurons,
            device=self.device_name,
        )

    @property
    def device_name(self) -> str:
        """The device in words, such as 'cpu, 2 threads' or 'NVIDIA H100'."""
        if self.subject.device.type == "cuda":
            return torch.cuda.get_device_name(self.subject.device)
        return f"{self.subject.device.type}, {torch.get_num_threads()} threads"


def use_threads(threads: int | None) -> None:
    """Set torch's CPU threads; None: every core that this process may use, unless OMP_NUM_THREADS is set.

    torch alone would count every core of the machine, whatever a container's limits are.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(count_cores())
