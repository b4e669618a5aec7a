"""Builds on Ray: the same rows as one process, whatever happens to the workers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from atlas.errors import BuildError, ModelError, PromptError
from atlas.models import locate
from atlas.store.manifest import read_manifest
from build.jobs.executors import InProcess
from build.jobs.machine import Machine, WorkerSetup
from build.run import run_build
from tests.build.test_build import ROOT, assert_same_rows, options, register_tiny_dataset
from tests.ray_jobs import Broken, Deadly, Hungry, Number, Refused

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray (requirements-ray.txt)")

LIMIT, SHARD = 8, 1
BUILD = """
import sys
from tests.build.test_build import register_tiny_dataset
from build.__main__ import main
register_tiny_dataset()
sys.exit(main(sys.argv[1:]))
"""
CLUSTER = """
import logging, sys, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR,
         object_store_memory=2**27, _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
NO_PROGRESS = {"advance": lambda count: None, "note": lambda text: None}


@pytest.fixture(scope="module")
def reference(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas that one process of one thread makes."""
    import torch

    threads = torch.get_num_threads()
    register_tiny_dataset()
    out = tmp_path_factory.mktemp("reference") / "atlas"
    run_build(options(tiny_bert, shard_size=SHARD, limit=LIMIT), out=out, machine=Machine(threads=1))
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def start(tiny_bert: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """A function: output folder, more options → a build with two workers of a thread each, just begun."""
    begun: list[subprocess.Popen] = []

    def begin(out: Path, *more: str, workers: int = 2) -> subprocess.Popen:
        command = ["run", "--model", str(tiny_bert), "--dataset", "tiny", "--out", str(out)]
        command += ["--limit", str(LIMIT), "--shard-size", str(SHARD)]
        command += ["--executor", "ray", "--workers", str(workers), "--threads", "1", *more]
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, *command],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Shells start background jobs deaf to Ctrl+C, and what they start inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return clean | {"PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def shards(out: Path, stage: str) -> int:
    return len(list(out.glob(f"work/{stage}-*.parquet")))


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that hold a model."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::RayWorker"):
                found.append(child)
        except psutil.Error:
            continue
    return sorted(found, key=lambda child: child.pid)


def test_workers_that_are_killed_lose_nothing(start, reference, tmp_path):
    out = tmp_path / "out"
    process = start(out)
    killed = set()
    for stage, count in (("attribute", 1), ("evaluate", 2)):
        wait_until(lambda stage=stage, count=count: shards(out, stage) >= count, process)
        wait_until(lambda: [each for each in workers_of(process) if each.pid not in killed], process)
        victim = next(each for each in workers_of(process) if each.pid not in killed)
        killed.add(victim.pid)
        victim.kill()
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert_same_rows(reference, out)
    assert len(killed) == 2
    # Nothing of Ray's own is printed, and nothing is left behind.
    words = {re.split(": |;", line)[0] for line in errors.splitlines()}
    words -= {"Waiting for the cluster"}  # on a busy machine
    stages = {"attribute", "read out", "activations", "tokens", "lens", "evaluate"}
    assert words == {*stages, "A worker was lost"}
    assert said.startswith("tiny-tiny_bert is finished")
    assert {path.name for path in out.iterdir()} == {path.name for path in reference.iterdir()}
    assert read_manifest(out).device == "2 × cpu, 1 threads"


def test_ctrl_c_ends_the_cluster_and_the_build_goes_on_in_one_process(start, reference, tiny_bert, tmp_path):
    out = tmp_path / "out"
    process = start(out, workers=1)
    wait_until(lambda: shards(out, "attribute") >= 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) > 3
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Give the same command again to go on" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not list(out.rglob("*.partial"))
    begun = shards(out, "attribute")
    assert 2 <= begun < LIMIT + 1
    run_build(options(tiny_bert, shard_size=SHARD, limit=LIMIT), out=out, machine=Machine(threads=1))
    assert_same_rows(reference, out)


# --- a cluster that is there ---


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two cores that another process started."""
    # Short, because sockets lie in it.
    folder = tmp_path_factory.mktemp("ray")
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(folder)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process.stdout.readline().strip()
    process.communicate()


@pytest.fixture(scope="module")
def joined(cluster: str) -> Iterator[str]:
    """The cluster's address, with what this process must know to be let in."""
    before = dict(os.environ)
    os.environ.update(environment())
    yield cluster
    os.environ.clear()
    os.environ.update(before)


def machine(address: str, **more: object) -> Machine:
    return Machine(executor="ray", ray_address=address, threads=1, **more)


def setup(model: Path) -> WorkerSetup:
    return WorkerSetup(model=str(model), dtype="float32", device="cpu", threads=1, batch_rows=8)


def test_a_model_that_a_worker_cannot_load_is_one_sentence(joined, tiny_bert, tmp_path):
    from build.jobs.ray_executor import RayExecutor

    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read"):
        RayExecutor(machine(joined, workers=1), setup(folder), weights_sha256="")


def test_a_worker_with_other_weights_is_refused(joined, tiny_bert):
    from build.jobs.ray_executor import RayExecutor

    with pytest.raises(BuildError, match=r"other weights of .*than this machine.*all of them share"):
        RayExecutor(machine(joined, workers=1), setup(tiny_bert), weights_sha256="0" * 64)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "No Ray cluster answers at '127.0.0.1:1'"),
        ("ray://127.0.0.1:1", "No Ray cluster answers at 'ray://127.0.0.1:1'"),
        ("cluster", "'cluster' is not an address of a Ray cluster. Give HOST:PORT"),
        ("here:there", "'here:there' is not an address"),
    ],
)
def test_an_address_where_nobody_answers_is_one_sentence(address, sentence, tiny_bert):
    from build.jobs.ray_executor import RayExecutor

    with pytest.raises(BuildError, match=re.escape(sentence)):
        RayExecutor(machine(address), setup(tiny_bert), weights_sha256="")


@pytest.fixture(scope="module")
def executor(joined: str, tiny_bert: Path) -> Iterator[object]:
    from build.jobs.ray_executor import RayExecutor

    sha = locate(str(tiny_bert)).weights_sha256
    with RayExecutor(machine(joined, workers=2), setup(tiny_bert), weights_sha256=sha) as made:
        yield made


def numbers(executor: object, jobs: list, **options: object) -> list[dict]:
    found = executor.run(enumerate(jobs), **(NO_PROGRESS | options))
    return [row for index, table in found for row in [{"index": index} | table.to_pylist()[0]]]


def test_both_workers_do_their_part(executor):
    counted: list[int] = []
    found = numbers(executor, [Number(n, size=n) for n in range(12)], advance=counted.append)
    assert sorted((row["index"], row["number"]) for row in found) == [(n, n) for n in range(12)]
    assert sorted(counted) == list(range(12))
    wait = [row["process"] for row in numbers(executor, [Number(n) for n in range(40)])]
    assert len(set(wait)) == 2
    assert os.getpid() not in wait


def test_a_workers_errors_arrive_as_they_were_raised(executor):
    with pytest.raises(PromptError, match=r"^The prompt has no place for its answer. Give it one.$"):
        numbers(executor, [Number(0), Refused(1), Number(2)])
    with pytest.raises(ZeroDivisionError, match="a bug in a job"):
        numbers(executor, [Number(0), Broken(1)])
    assert [row["number"] for row in numbers(executor, [Number(7)])] == [7]  # nothing of the others'


def test_the_rows_do_not_depend_on_who_made_them(executor, reference, tiny_bert, tmp_path):
    """What one process and the cluster's workers return for a build's own jobs, table by table."""
    from atlas.neuron import Neuron
    from build.jobs.jobs import AttributeShard, ReadOutShard
    from build.plan import make_plan

    plan = make_plan(options(tiny_bert, shard_size=3, dtype="float32"))
    jobs = [ReadOutShard((Neuron(0, 1), Neuron(2, 7)))]
    for facts in plan.shards():
        asked = [each for fact in facts for each in plan.prompts_of(fact)]
        prompts, held_out = zip(*asked, strict=True)
        jobs.append(AttributeShard(prompts, held_out, tuple(not each for each in held_out), plan.options))
    there = dict(executor.run(enumerate(jobs), **NO_PROGRESS))
    here = dict(InProcess(setup(tiny_bert)).run(enumerate(jobs), **NO_PROGRESS))
    assert set(there) == set(here) == set(range(len(jobs)))
    for index, table in here.items():
        assert there[index].equals(table, check_metadata=True), index


def test_out_of_memory_halves_the_batches_of_that_worker(executor):
    # Not before the rows are compared: smaller batches round otherwise.
    notes: list[str] = []
    found = numbers(executor, [Hungry(n) for n in range(6)], note=notes.append)
    assert {row["rows"] for row in found} == {2}
    assert set(notes) <= {f"Out of memory: going on with batches of {rows}." for rows in (4, 2)}
    assert len(notes) in (2, 4)  # of one worker, or of both


def test_work_that_kills_every_worker_is_given_up(executor, tmp_path):
    jobs = [Deadly(0, file=str(tmp_path / "lines"), times=99)]
    with pytest.raises(BuildError, match=r"lost 3 times at the same work.*complete shards are kept"):
        numbers(executor, jobs)
    assert len((tmp_path / "lines").read_text().splitlines()) == 3
