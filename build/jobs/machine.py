"""What a build runs on, as values: device, threads, workers, and how workers divide a cluster. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Option

from atlas.errors import BuildError
from atlas.models.device import check_device, device_of
from build.plan import at_least_one, check_choice

Note = Callable[[str], None]
"""Takes a line to print beside the progress."""
Advance = Callable[[int], None]
"""Takes the number of units, such as prompts, that are done since the last call."""

IN_PROCESS, RAY = EXECUTORS = ("in-process", "ray")
MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a build is run; nothing here changes a row."""

    device: Annotated[str, Option(help="cpu, cuda, cuda:1, mps")] = "auto"
    threads: Annotated[
        int | None,
        Option(help="CPU threads, with ray of each worker; all cores by default"),
    ] = None
    batch_rows: Annotated[
        int | None,
        Option(help="answer tokens attributed at once; by device by default"),
    ] = None
    executor: Annotated[
        str,
        Option(help="in-process, or ray: workers with a GPU or some CPU cores each"),
    ] = IN_PROCESS
    workers: Annotated[int | None, Option(help="with ray: how many; by default as many as fit")] = None
    ray_address: Annotated[
        str | None,
        Option(
            help="a running Ray cluster: HOST:PORT, ray://HOST:PORT, or auto for this machine's; by default "
            "one is started for the build and ends with it",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_device(self.device)
        check_choice("--executor", self.executor, EXECUTORS)
        at_least_one("--threads", self.threads)
        at_least_one("--batch-rows", self.batch_rows)
        at_least_one("--workers", self.workers)
        if self.executor == IN_PROCESS:
            for option, value in (("--workers", self.workers), ("--ray-address", self.ray_address)):
                if value is not None:
                    raise BuildError(f"{option} needs --executor ray. Add it, or leave {option} out.")
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
        """'cpu' or 'cuda'. Raises `ModelError` for a GPU that neither this machine nor Ray's workers have."""
        if self.executor == RAY and self.device != "auto":
            return "cuda" if self.device == "cuda" else "cpu"
        return "cuda" if device_of(self.device).type == "cuda" else "cpu"


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker needs to load the model."""

    model: str
    dtype: str
    device: str
    threads: int | None = None
    batch_rows: int | None = None


@dataclass(frozen=True)
class Share:
    """What each worker gets."""

    workers: int
    threads: int
    device: str

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"


def divide(machine: Machine, cores: int, gpus: int) -> Share:
    """How workers divide a cluster's cores and GPUs. Raises `BuildError` where there are too few.

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
    """What the manifest records of the model that did the jobs, and its device."""

    weights_sha256: str
    config_sha256: str
    family: str
    activation_function: str
    n_layers: int
    n_neurons: int
    device: str


def count_cores() -> int:
    """CPU cores that this process may use: by its affinity, and by its container's quota."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(n, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit ("max")
        return n
