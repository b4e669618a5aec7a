"""Who does a build's jobs: this process, or the workers of a Ray cluster (`build.ray_executor`).

    with start(machine, setup) as executor:
        for index, table in executor.run(jobs, report=progress.advance, note=progress.note): ...

A job holds all that it needs and gives one table (`build.jobs`). Whoever does it, the table is the same: only
speed depends on the machine. In this process the next job is prepared (tokenised) while the model is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from build.plan import at_least_one

if TYPE_CHECKING:
    import pyarrow as pa

    from build.jobs import Job, Report

Item = TypeVar("Item")
Note = Callable[[str], None]
_END = object()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a build is run; nothing here is meant to change a row."""

    device: str = "auto"
    threads: int | None = None
    batch_rows: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None:
            at_least_one("--threads", self.threads)
        if self.batch_rows is not None:
            at_least_one("--batch-rows", self.batch_rows)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker must know to load the model."""

    model: str
    dtype: str
    device: str
    threads: int | None = None
    batch_rows: int | None = None


@dataclass(frozen=True)
class SubjectFacts:
    """What is recorded of the model that did the jobs, and where it lay."""

    weights_sha256: str
    family: str
    activation_function: str
    n_layers: int
    n_neurons: int
    device: str


class Executor(Protocol):
    """Does jobs, in whatever order it finishes them."""

    @property
    def facts(self) -> SubjectFacts: ...

    def run(
        self, jobs: Iterable[tuple[int, Job]], *, report: Report, note: Note
    ) -> Iterator[tuple[int, pa.Table]]:
        """(number, table) of each numbered job; `report(n)` as units of them are done."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exception: object) -> None: ...


def start(machine: Machine, *, model: str, dtype: str) -> Executor:
    """The executor that the machine names, its model loaded."""
    setup = Setup(
        model=model,
        dtype=dtype,
        device=machine.device,
        threads=machine.threads,
        batch_rows=machine.batch_rows,
    )
    return InProcess(setup)


class InProcess:
    """The model in this process, one job after the other."""

    def __init__(self, setup: Setup) -> None:
        from build.worker import Worker

        self.worker = Worker.load(setup)

    @property
    def facts(self) -> SubjectFacts:
        return self.worker.facts

    def run(
        self, jobs: Iterable[tuple[int, Job]], *, report: Report, note: Note
    ) -> Iterator[tuple[int, pa.Table]]:
        worker = self.worker
        worker.batches.note = note
        for index, job, prepared in ahead((i, job, job.prepare(worker.subject)) for i, job in jobs):
            yield index, job.run(worker, prepared, report)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each made in a background thread while the one before it is in use."""
    source = iter(items)
    with ThreadPoolExecutor(1, "ahead") as pool:
        following = pool.submit(next, source, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, source, _END)
            yield item
