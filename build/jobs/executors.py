"""Who does a build's jobs: this process, or the workers of a Ray cluster (`build.jobs.ray_executor`).

    with start_executor(machine, plan) as executor:
        for index, table in executor.run(jobs, advance=progress.advance, note=progress.note): ...

A job holds all that it needs and gives one table (`build.jobs.jobs`). The table does not depend on the
executor. In this process the next job is prepared (tokenised) while the model is busy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar

from build.jobs.jobs import Job
from build.jobs.machine import RAY, Advance, Machine, Note, SubjectFacts, WorkerSetup
from build.plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
_END = object()


class Executor(Protocol):
    """Does jobs, in whatever order it finishes them."""

    @property
    def facts(self) -> SubjectFacts: ...

    def run(
        self, jobs: Iterable[tuple[int, Job]], *, advance: Advance, note: Note
    ) -> Iterator[tuple[int, pa.Table]]:
        """(number, table) of each numbered job; `advance(n)` as units of them are done."""


def start_executor(machine: Machine, plan: Plan) -> AbstractContextManager[Executor]:
    """The executor that the machine names, with the plan's model loaded."""
    model = plan.located
    setup = WorkerSetup(
        model=model.name,
        dtype=plan.options.dtype,
        device=machine.device,
        threads=machine.threads,
        batch_rows=machine.batch_rows,
    )
    if machine.executor == RAY:
        from build.jobs.ray_executor import RayExecutor

        return RayExecutor(
            machine, setup, weights_sha256=model.weights_sha256, config_sha256=model.config_sha256
        )
    return nullcontext(InProcess(setup))


class InProcess:
    """The model in this process, one job after the other."""

    def __init__(self, setup: WorkerSetup) -> None:
        from build.jobs.worker import Worker

        self.worker = Worker.load(setup)

    @property
    def facts(self) -> SubjectFacts:
        return self.worker.facts

    def run(
        self, jobs: Iterable[tuple[int, Job]], *, advance: Advance, note: Note
    ) -> Iterator[tuple[int, pa.Table]]:
        worker = self.worker
        worker.batches.note = note
        prepared = ((index, job, job.prepare(worker.subject)) for index, job in jobs)
        for index, job, inputs in iterate_ahead(prepared):
            yield index, job.run(worker, inputs, advance)


def iterate_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each made in a background thread while the one before it is in use."""
    source = iter(items)
    with ThreadPoolExecutor(1, "ahead") as pool:
        following = pool.submit(next, source, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, source, _END)
            yield item
