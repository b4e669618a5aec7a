"""What Ray costs: a build by one process, by two workers of a Ray cluster, and what two could do at best.

1. *Sides.* One process with two threads. Two processes of one thread at the same time, each of which makes
   the whole build: half their time is the least that two workers of one thread could take, with the machine
   as busy as it is then. Ray, two workers of one thread, in a cluster of its own.
2. *Turns.* Every side once a round, in an order that rotates; figures are medians over rounds, and ratios
   medians of the rounds' ratios.
3. *Clocks.* `stages`: from the first prompt to the last effect, as the manifest has it. `whole`: the command
   from start to end; `rest`, the difference, is imports, the model, the cluster, refining and writing tables.
   The overhead is Ray's `stages` over half of the two processes'.
4. *Rows.* Ray's tables are compared with those of a process of one thread, and must be equal.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from atlas.errors import BuildError
from atlas.store.manifest import file_name, read_manifest
from atlas.store.schema import TABLES
from build.bench.figures import markdown_table, write_json
from build.bench.machine import CHECKOUT, Say, run_in_turn
from build.output.writer import read_parquet

MODEL_STAGES = ("attribute", "read out", "activations", "evaluate")
CLOCKS = ("stages", "rest", "whole")
ONE, TWO, RAY = (
    "one process, two threads",
    "two processes, one thread, each all",
    "Ray, two workers, one thread",
)
OPTIONS = {
    ONE: "--threads 2",
    TWO: "--threads 1",
    RAY: "--executor ray --workers 2 --threads 1",
}

Turn = dict[str, float]  # clock → seconds of one side


def time_builds(side: str, what: Sequence[str], folder: Path) -> Turn:
    """Build into `folder / "0"` and, for two processes, `folder / "1"`; the seconds of the slower."""
    outs = [folder / str(number) for number in range(2 if side == TWO else 1)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "build", "run", *what, "--device", "cpu", *OPTIONS[side].split()]
    options = {"cwd": CHECKOUT, "env": environment, "stdout": subprocess.DEVNULL}
    options |= {"stderr": subprocess.PIPE, "text": True}
    started = time.monotonic()
    running = [subprocess.Popen([*command, "--out", str(out)], **options) for out in outs]
    turns = []
    for process, out in zip(running, outs, strict=True):
        _, errors = process.communicate()
        if process.returncode:
            raise BuildError(f"{side}: the build failed. {errors.strip()}")
        seconds = read_manifest(out).method.options["stage_seconds"]
        stages, whole = sum(seconds[name] for name in MODEL_STAGES), time.monotonic() - started
        turns.append({"stages": stages, "rest": whole - stages, "whole": whole})
    return turns[-1]


def check_same_rows(one: Path, other: Path) -> None:
    """Raises `BuildError` when a table differs."""
    for name in map(file_name, TABLES):
        if (one / name).exists() and not read_parquet(one / name).equals(read_parquet(other / name)):
            raise BuildError(f"Ray's {name} differs from one process's.")


def time_round(what: Sequence[str], turn: int, say: Say) -> dict[str, Turn]:
    """Side → its seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {side: Path(scratch) / str(index) for index, side in enumerate(OPTIONS)}
        for folder in folders.values():
            folder.mkdir()
        builds = {side: partial(time_builds, side, what, folder) for side, folder in folders.items()}
        found = run_in_turn(builds, turn, say)
        check_same_rows(folders[TWO] / "0", folders[RAY] / "0")
    return {side: seconds for side, (_, seconds) in found.items()}


def compare_stages(rounds: Sequence[dict[str, Turn]]) -> dict[str, float]:
    """Seconds by side and clock, Ray's overhead, and how many times as fast as one process it is."""

    def median(value) -> float:
        return statistics.median(map(value, rounds))

    found = {
        f"{side}: {clock}": median(lambda each, side=side, clock=clock: each[side][clock])
        for side in OPTIONS
        for clock in CLOCKS
    }
    found["ideal: stages"] = median(lambda each: each[TWO]["stages"] / 2)
    found["overhead"] = median(lambda each: 2 * each[RAY]["stages"] / each[TWO]["stages"] - 1)
    for clock in ("stages", "whole"):
        name = f"times as fast as one process, {clock}"
        found[name] = median(lambda each, clock=clock: each[ONE][clock] / each[RAY][clock])
    return found


def compare_executors(what: Sequence[str], n_rounds: int, json: Path | None, say: Say) -> None:
    """Time every round, print the table and keep it as JSON. what: options of `python -m build run`."""
    rounds = [time_round(what, turn, say) for turn in range(n_rounds)]
    found = compare_stages(rounds)
    rows = [(side, *(f"{found[f'{side}: {clock}']:.1f} s" for clock in CLOCKS)) for side in OPTIONS]
    rows.append(("half of the two processes: the ideal", f"{found['ideal: stages']:.1f} s", "", ""))
    print(markdown_table(("", *CLOCKS), rows))
    print(
        f"\nOverhead of Ray over the ideal: {found['overhead']:.1%}. Times as fast as one process with two "
        f"threads: {found['times as fast as one process, stages']:.2f} (stages), "
        f"{found['times as fast as one process, whole']:.2f} (whole). Rows are equal."
    )
    write_json(json, {"what": what, "figures": found, "rounds": rounds})
