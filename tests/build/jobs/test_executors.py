"""Who does a build's jobs: how workers share a machine, and that one thing goes on while another is made."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.errors import BuildError
from build.jobs.executors import iterate_ahead
from build.jobs.machine import Machine, Share, count_cores, divide
from build.output import writer
from build.output.writer import Output
from tests import ROOT

RUN = ("run", "--model", "pocket-bert", "--dataset", "starter", "--out")


@pytest.mark.parametrize(
    ("given", "cpu", "gpus", "shared"),
    [
        ({}, 2, 0, Share(2, 1, "cpu")),
        ({}, 64, 0, Share(8, 8, "cpu")),
        ({"threads": 2}, 16, 0, Share(8, 2, "cpu")),
        ({"threads": 5}, 2, 0, None),
        ({"workers": 3}, 16, 0, Share(3, 5, "cpu")),
        ({"workers": 4, "threads": 1}, 2, 0, None),
        ({}, 32, 4, Share(4, 4, "cuda")),
        ({}, 4, 8, Share(8, 1, "cuda")),
        ({"workers": 2, "threads": 6, "device": "cuda"}, 32, 4, Share(2, 6, "cuda")),
        ({"device": "cpu"}, 8, 4, Share(8, 1, "cpu")),
        ({"device": "cuda"}, 8, 0, None),
        ({"workers": 5}, 64, 4, None),
    ],
)
def test_workers_share_cores_or_have_a_gpu_each(given, cpu, gpus, shared):
    machine = Machine(executor="ray", **given)
    if shared is None:
        with pytest.raises(BuildError, match=r"^Ray finds \d .* Use fewer --workers or --"):
            divide(machine, cpu, gpus)
    else:
        assert divide(machine, cpu, gpus) == shared


def test_no_more_cores_are_counted_than_this_process_may_use():
    assert 1 <= count_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--executor", "spark"], "--executor cannot be 'spark'. Choose one of: in-process, ray."),
        (["--workers", "2"], "--workers needs --executor ray. Add it, or leave --workers out."),
        (["--ray-address", "auto"], "--ray-address needs --executor ray"),
        (["--executor", "ray", "--workers", "0"], "--workers must be 1 or more, got 0."),
        (["--executor", "ray", "--device", "cuda:1"], "names one GPU"),
    ],
)
def test_a_bad_option_is_one_sentence_before_torch_and_ray(tmp_path, arguments, sentence):
    code = (
        "import sys; from build.__main__ import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'ray'} & set(sys.modules); sys.exit(status)"
    )
    refused(code, tmp_path, arguments, sentence)


def test_without_ray_there_is_a_remedy(tmp_path):
    code = (
        "import sys; sys.modules['ray'] = None; from build.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    refused(code, tmp_path, ["--executor", "ray"], "`pip install -r requirements-ray.txt`")


def refused(code: str, folder: Path, arguments: list[str], sentence: str) -> None:
    """One sentence on stderr, exit status 2, and nothing was written."""
    out = folder / "never-made"
    result = subprocess.run(
        [sys.executable, "-c", code, *RUN, str(out), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not out.exists()


# --- one thing while another is made ---


def test_the_next_item_is_made_while_this_one_is_in_use():
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in iterate_ahead(items()):
        if number + 1 < len(made):
            assert made[number + 1].wait(10)  # it is made although nobody has asked for it
        assert not any(event.is_set() for event in made[number + 2 :])  # and no more than that


def test_what_goes_wrong_while_an_item_is_made_is_raised_in_its_turn():
    def items() -> Iterator[int]:
        yield 0
        raise ZeroDivisionError("in the background")

    found = iterate_ahead(items())
    assert next(found) == 0
    with pytest.raises(ZeroDivisionError, match="in the background"):
        next(found)


def test_leaving_early_ends_the_background():
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    source = items()
    for number in iterate_ahead(source):
        if number == 2:
            break
    source.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    output = Output(tmp_path / "out")
    output.claim({"model": "a"})
    yield output
    output.close()


def test_a_shard_is_written_while_the_next_one_is_made(output, monkeypatch):
    go_on, original = threading.Event(), writer.Output.write_shard

    def slow(self: Output, *arguments: object) -> None:
        assert go_on.wait(10)
        original(self, *arguments)

    monkeypatch.setattr(writer.Output, "write_shard", slow)
    with output.background() as write:
        write("attribute", 0, pa.table({"a": [1]}))  # returns, although nothing can be written yet
        assert not output.has_shard("attribute", 0)
        go_on.set()
        write("attribute", 1, pa.table({"a": [2]}))
        assert output.has_shard("attribute", 0)
    assert output.has_shard("attribute", 1)
    assert pq.read_table(output.shard_path("attribute", 1)).to_pylist() == [{"a": 2}]


def test_a_shard_that_was_made_is_written_also_when_the_build_is_interrupted(output):
    def interrupted() -> None:
        with output.background() as write:
            write("attribute", 0, pa.table({"a": [1]}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert output.has_shard("attribute", 0)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_shard_that_cannot_be_written_stops_the_build_with_a_sentence(output, shards):
    def write_all() -> None:
        with output.background() as write:
            for index in range(shards):
                write("attribute", index, pa.table({"a": list(range(1000))}))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        with pytest.raises(BuildError, match=r"disk is full.*complete shards are kept"):
            write_all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not output.has_shard("attribute", 0)
