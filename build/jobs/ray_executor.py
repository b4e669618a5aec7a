"""A build's jobs on the workers of a Ray cluster: several GPUs or CPU cores, in this machine or in many.

    python -m build run … --executor ray                           # a cluster of this machine, for this build
    python -m build run … --executor ray --ray-address HOST:6379   # one that is there

1. *Connect* to the cluster at the address, or to one that is started here and ends with the build.
2. *Divide* the cluster: a worker has one GPU, where there are some, else `threads` CPU cores, and a model.
3. *Hand out* jobs. A worker has two: one is prepared, or its table travels, while the model computes the
   other. At the end, when no more jobs wait than there are workers, one each.
4. *Replace* a lost worker and hand out its jobs again, to any free worker. Ray could restart it and repeat
   its calls (`max_restarts`, `max_task_retries`), but a repeated call waits for the same worker, on a lost
   machine for ever; so both are 0.

A worker returns an `AtlasError` as a value, so that it arrives as it was raised. Ray is imported only here,
and this module only with --executor ray.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas import cli
from atlas.errors import AtlasError, BuildError
from atlas.models import same_model
from build.jobs.machine import Advance, Machine, Note, SubjectFacts, WorkerSetup, count_cores, divide

if TYPE_CHECKING:
    import pyarrow as pa

    from build.jobs.jobs import Job
    from build.jobs.worker import Worker

# Before Ray is imported: no usage statistics, and no second print of what workers print.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

LOST = (RayActorError, ObjectLostError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)
JOBS_A_WORKER = 2
MOST_LOSSES = 3
SECONDS_TO_CONNECT = 5.0
SECONDS_BEFORE_A_NOTE = 30.0
OBJECT_STORE_BYTES = 512 * 2**20  # tables on their way; Ray's own default is a third of the memory


@dataclass(frozen=True)
class Done:
    """A job's table, and the worker's notes meanwhile."""

    table: pa.Table
    notes: tuple[str, ...]


class RayWorker:
    """A worker's process: the model, in a thread of its own."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.setup = setup
        self.model_thread = ThreadPoolExecutor(1, "model")
        self.worker: Worker | None = None

    def load(self) -> SubjectFacts | AtlasError:
        """The model, once."""
        from build.jobs.worker import Worker

        try:
            self.worker = self.model_thread.submit(Worker.load, self.setup).result()
            return self.worker.facts
        except AtlasError as error:
            return error

    def do(self, job: Job) -> Done | AtlasError:
        """The job's table; called from two threads: one prepares while the model computes for the other."""
        try:
            inputs = job.prepare(self.worker.subject)
            return self.model_thread.submit(self._compute, job, inputs).result()
        except AtlasError as error:
            return error

    def _compute(self, job: Job, inputs: Any) -> Done:
        notes: list[str] = []
        self.worker.batches.note = notes.append
        table = job.run(self.worker, inputs, lambda count: None)
        return Done(table, tuple(notes))


@dataclass(frozen=True)
class _Task:
    """A job that waits or runs, and how often a worker was lost with it."""

    index: int
    job: Job
    losses: int = 0


@dataclass(eq=False)
class _Hand:
    """A worker as this process sees it."""

    actor: Any
    tasks: dict[Any, _Task] = field(default_factory=dict)


class RayExecutor:
    """Hands jobs to workers; the model is not loaded in this process."""

    def __init__(
        self, machine: Machine, setup: WorkerSetup, *, weights_sha256: str, config_sha256: str = ""
    ) -> None:
        self.weights_sha256, self.config_sha256 = weights_sha256, config_sha256
        self.folder: Path | None = None
        self.hands: list[_Hand] = []
        self.loaded: list[SubjectFacts] = []
        self.loading: dict[Any, _Hand] = {}
        self.losses_while_loading = 0
        # Steps 1 and 2: connect, divide.
        try:
            self._connect(machine)
            self.share = divide(machine, *self._resources())
            if Path(setup.model).expanduser().is_dir():  # a worker may be in another folder
                setup = replace(setup, model=str(Path(setup.model).expanduser().resolve()))
            self.setup = replace(setup, device=self.share.device, threads=self.share.threads)
            for _ in range(self.share.workers):
                self._start_worker()
            while not self.hands:
                list(self._ended(deque(), cli.say))
        except BaseException:
            self.close()
            raise

    # --- step 1: connect ---

    def _connect(self, machine: Machine) -> None:
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        address = machine.ray_address
        if address is None:
            # A token of this build's own; Ray would leave one in the home folder.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            # In /tmp, as Ray itself does: the names of the sockets in it may have about 100 letters.
            parent = "/tmp" if os.path.isdir("/tmp") else None
            self.folder = Path(tempfile.mkdtemp(prefix="kna-ray-", dir=parent))
            options |= {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": str(self.folder),
                # More workers or threads than cores are allowed, and slow.
                "num_cpus": max(count_cores(), (machine.workers or 1) * (machine.threads or 1)),
            }
        else:
            _use_token()
            _check_address(_local_address() if address == "auto" else address)
            # The project is in the same place on every machine of a cluster.
            project = str(Path(__file__).resolve().parents[2])
            options |= {"address": address, "runtime_env": {"env_vars": {"PYTHONPATH": project}}}
        try:
            ray.init(**options)
        except (OSError, ImportError, RuntimeError, ValueError, RayError) as error:
            reason = _first_line(error)
            raise BuildError(
                f"Ray cannot be started: {reason}. Leave --executor out."
                if address is None
                else f"The Ray cluster at '{address}' cannot be used: {reason}. If it needs a token, "
                "put it into RAY_AUTH_TOKEN; or leave --ray-address out."
            ) from None

    @staticmethod
    def _resources() -> tuple[int, int]:
        """CPU cores and GPUs of the cluster."""
        resources = ray.cluster_resources()
        return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))

    # --- step 2: divide ---

    def _start_worker(self) -> None:
        """Start one more worker, which loads the model."""
        options = {"num_gpus": 1, "num_cpus": 0} if self.share.gpu else {"num_cpus": self.share.threads}
        actor = (
            ray.remote(RayWorker)
            .options(max_concurrency=JOBS_A_WORKER, max_restarts=0, max_task_retries=0, **options)
            .remote(self.setup)
        )
        self.loading[actor.load.remote()] = _Hand(actor)

    @property
    def facts(self) -> SubjectFacts:
        """Those of the first worker, with the devices of all."""
        first = self.loaded[0]
        devices = " / ".join(sorted({facts.device for facts in self.loaded}))
        return replace(first, device=f"{self.share.workers} × {devices}")

    # --- step 3: hand out ---

    def run(
        self, jobs: Iterable[tuple[int, Job]], *, advance: Advance, note: Note
    ) -> Iterator[tuple[int, pa.Table]]:
        source = iter(jobs)
        waiting: deque[_Task] = deque()
        try:
            while True:
                self._hand_out(waiting, source)
                if not waiting and not any(hand.tasks for hand in self.hands):
                    return
                for task, done in self._ended(waiting, note):
                    for text in done.notes:
                        note(text)
                    advance(task.job.size)
                    yield task.index, done.table
        finally:
            for hand in self.hands:  # after an error, pending results are ignored
                hand.tasks.clear()

    def _hand_out(self, waiting: deque[_Task], source: Iterator[tuple[int, Job]]) -> None:
        self._draw(waiting, source)
        for depth in range(JOBS_A_WORKER):
            for hand in self.hands:
                if waiting and len(hand.tasks) == depth and (not depth or len(waiting) > self.share.workers):
                    task = waiting.popleft()
                    hand.tasks[hand.actor.do.remote(task.job)] = task
                    self._draw(waiting, source)

    def _draw(self, waiting: deque[_Task], source: Iterator[tuple[int, Job]]) -> None:
        """Make a few jobs ahead, which also shows when the last ones have come."""
        while len(waiting) <= self.share.workers and (following := next(source, None)):
            waiting.append(_Task(*following))

    def _ended(self, waiting: deque[_Task], note: Note) -> Iterator[tuple[_Task, Done]]:
        """Wait until calls end; yields the finished tasks, and handles loaded and lost workers."""
        calls = [*self.loading, *(call for hand in self.hands for call in hand.tasks)]
        patience = None if self.hands else SECONDS_BEFORE_A_NOTE
        ready, _ = ray.wait(calls, timeout=patience)
        if not ready:
            note(f"Waiting for the cluster: none of {self.share.workers} workers is ready yet.")
        for call in ready:
            hand = self.loading.pop(call, None)
            if hand is not None:
                self._loaded(hand, self._result(call))
                continue
            hand = next((each for each in self.hands if call in each.tasks), None)
            if hand is None:  # the other call of a worker that was lost
                continue
            done = self._result(call)
            if done is None:
                note("A worker was lost; another one does its work again.")
                self._replace(hand, waiting)
            else:
                yield hand.tasks.pop(call), done

    @staticmethod
    def _result(call: Any) -> Any:
        """A call's result, None when its worker was lost. Raises the `AtlasError` that it returned."""
        try:
            result = ray.get(call)
        except RayTaskError:
            raise  # a bug, with the worker's traceback
        except LOST:
            return None
        except RayError as error:
            raise BuildError(
                f"The Ray cluster failed: {_first_line(error)}. Give the same command again; "
                "complete shards are kept."
            ) from None
        if isinstance(result, AtlasError):
            raise result
        return result

    # --- step 4: replace ---

    def _loaded(self, hand: _Hand, facts: SubjectFacts | None) -> None:
        if facts is None:
            self.losses_while_loading += 1
            if self.losses_while_loading >= MOST_LOSSES:
                raise BuildError(
                    "Workers die while they load the model, most likely for lack of memory. Use fewer "
                    "--workers; complete shards are kept."
                )
            self._start_worker()
            return
        if not same_model(facts, self):
            raise BuildError(
                f"A worker has other weights of {self.setup.model}, or another config, than this machine. "
                "Give every machine the same model, or --model a folder that all of them share."
            )
        self.losses_while_loading = 0
        self.loaded.append(facts)
        self.hands.append(hand)

    def _replace(self, hand: _Hand, waiting: deque[_Task]) -> None:
        self.hands.remove(hand)
        with suppress(RayError):
            ray.kill(hand.actor)  # it may only have been out of reach
        for task in reversed(hand.tasks.values()):
            if task.losses + 1 >= MOST_LOSSES:
                raise BuildError(
                    f"A worker was lost {MOST_LOSSES} times at the same work, most likely for lack of "
                    "memory. Use fewer --workers or a smaller --batch-rows; complete shards are kept."
                )
            waiting.appendleft(replace(task, losses=task.losses + 1))
        self._start_worker()

    def close(self) -> None:
        """Let the workers go, and the cluster if it was started here."""
        ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _use_token() -> None:
    """Use the token that Ray finds on this machine, if any, as Ray's own commands do."""
    logging.getLogger("ray").setLevel(logging.ERROR)  # it would log the token's place at length
    with suppress(ImportError):  # Ray before 2.59
        from ray._private.authentication import authentication_token_setup as setup

        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _local_address() -> str:
    """The address of the cluster that `ray start` started on this machine."""
    from ray._private.services import canonicalize_bootstrap_address

    address = canonicalize_bootstrap_address("auto")
    if address is None:
        raise BuildError(
            "No Ray cluster was started on this machine. Start one with `ray start --head`, or leave "
            "--ray-address out."
        )
    return address


def _check_address(address: str) -> None:
    """Raises `BuildError` when no cluster answers: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise BuildError(
            f"'{address}' is not an address of a Ray cluster. Give HOST:PORT, ray://HOST:PORT or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise BuildError(
            f"No Ray cluster answers at '{address}' ({error}). Start one with `ray start --head`, or leave "
            "--ray-address out."
        ) from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
