"""Who does a build's jobs: this process, or the workers of a Ray cluster (`build.jobs.ray_executor`).

    with start(machine, setup) as executor:
        for index, table in executor.run(jobs, report=progress.advance, note=progress.note): ...

A job holds all that it needs and gives one table (`build.jobs.jobs`). Whoever does it, the table is the same:
only speed depends on the machine. In this process the next job is prepared (tokenised) while the model is
busy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from atlas.errors import BuildError
from build.plan import at_least_one, one_of

if TYPE_CHECKING:
    import pyarrow as pa

    from build.jobs.jobs import Job, Report

Item = TypeVar("Item")
Note = Callable[[str], None]

IN_PROCESS, RAY = EXECUTORS = ("in-process", "ray")
MOST_WORKERS = 8
_END = object()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a build is run; nothing here is meant to change a row."""

    device: str = "auto"
    threads: int | None = None
    batch_rows: int | None = None
    executor: str = IN_PROCESS
    workers: int | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        one_of("--executor", self.executor, EXECUTORS)
        for option, value in (
            ("--threads", self.threads),
            ("--batch-rows", self.batch_rows),
            ("--workers", self.workers),
        ):
            if value is not None:
                at_least_one(option, value)
        if self.executor == IN_PROCESS:
            for option, value in (("--workers", self.workers), ("--ray-address", self.ray_address)):
                if value is not None:
                    raise BuildError(
                        f"{option} is for the executor ray. Add --executor ray, or leave it out."
                    )
            return
        if self.device.startswith("cuda:"):
            raise BuildError(
                f"--device {self.device} names one GPU, and with --executor ray every worker takes one. Use "
                "--device cuda, and CUDA_VISIBLE_DEVICES to choose among them."
            )
        if find_spec("ray") is None:
            raise BuildError(
                "Ray is not installed. Install it with `pip install -r requirements-ray.txt`, or leave "
                "--executor out."
            )

    @property
    def kind(self) -> str:
        """'cpu' or 'cuda'. Raises `ModelError` for a GPU that is not at hand, unless others have it."""
        if self.executor == RAY and self.device != "auto":
            return "cuda" if self.device == "cuda" else "cpu"
        from atlas.surgery.subject import device_of

        return "cuda" if device_of(self.device).type == "cuda" else "cpu"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker must know to load the model."""

    model: str
    dtype: str
    device: str
    threads: int | None = None
    batch_rows: int | None = None


@dataclass(frozen=True)
class Share:
    """What each of the workers gets."""

    workers: int
    threads: int
    device: str

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"


def share(machine: Machine, cores: int, gpus: int) -> Share:
    """How workers share a cluster's cores and GPUs. Raises `BuildError` where there are too few.

    Two workers of one thread are faster than one of two, but each holds a model: `MOST_WORKERS` by default.
    """
    if machine.device == "cuda" or (machine.device == "auto" and gpus):
        workers = machine.workers or gpus
        if workers > gpus or not gpus:
            raise BuildError(
                f"Ray finds {gpus} GPUs, and every worker needs one. Use fewer --workers or --device cpu."
            )
        return Share(workers, machine.threads or max(1, min(4, cores // workers)), "cuda")
    threads = machine.threads or max(1, cores // (machine.workers or MOST_WORKERS))
    workers = machine.workers or max(1, cores // threads)
    if workers * threads > cores:
        raise BuildError(
            f"Ray finds {cores} CPU cores, too few for {workers} workers with {threads} threads each. Use "
            "fewer --workers or --threads."
        )
    return Share(workers, threads, machine.device if machine.device != "auto" else "cpu")


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


def start(machine: Machine, *, model: str, dtype: str, weights_sha256: str) -> Executor:
    """The executor that the machine names, its model loaded; these are the weights it must have."""
    setup = Setup(
        model=model,
        dtype=dtype,
        device=machine.device,
        threads=machine.threads,
        batch_rows=machine.batch_rows,
    )
    if machine.executor == RAY:
        from build.jobs.ray_executor import RayExecutor

        return RayExecutor(machine, setup, weights_sha256=weights_sha256)
    return InProcess(setup)


class InProcess:
    """The model in this process, one job after the other."""

    def __init__(self, setup: Setup) -> None:
        from build.jobs.worker import Worker

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


def cores() -> int:
    """CPU cores that this process may use: by its affinity, and by its container's quota."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(n, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit ("max")
        return n
