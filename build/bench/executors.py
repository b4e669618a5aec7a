"""What Ray costs: a build by one process, by two workers of a Ray cluster, and what two could do at best.

    python -m tests.bench_executors                         # pocket-bert, 1,500 starter facts, three rounds
    python -m tests.bench_executors --limit 100 --rounds 1 --json figures.json

1. *Sides.* One process with two threads. Two processes of one thread at the same time, each of which makes
   the whole build: half their time is the least that two workers of one thread could take, with the machine
   as busy as it is then. Ray, two workers of one thread, in a cluster of its own.
2. *Turns.* Every side once a round, in an order that rotates, so that a machine that slows down slows all of
   them; figures are medians over rounds, and ratios medians of the rounds' ratios.
3. *Clocks.* `stages`: from the first prompt to the last effect, as the manifest has it. `whole`: the command
   from start to end; `rest`, the difference, is imports, the model, the cluster, refining and writing tables.
   The overhead is Ray's `stages` over half of the two processes'.
4. *Rows.* Ray's tables are compared with those of a process of one thread, and must be equal.

No test, because a time depends on the machine and on what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from atlas.store.manifest import file_name, read_manifest
from atlas.store.schema import TABLES
from tests import ROOT

MODEL_STAGES = ("attribute", "read out", "activations", "evaluate")
ONE, TWO, RAY = (
    "one process, two threads",
    "two processes, one thread, each all",
    "Ray, two workers, one thread",
)
OPTIONS = {
    ONE: ["--threads", "2"],
    TWO: ["--threads", "1"],
    RAY: ["--executor", "ray", "--workers", "2", "--threads", "1"],
}


@dataclass(frozen=True)
class Turn:
    """One side once, in seconds; of two processes, those of the slower."""

    stages: float
    whole: float

    @property
    def rest(self) -> float:
        return self.whole - self.stages


def take_turn(side: str, what: Sequence[str], folder: Path) -> Turn:
    """Build it, into `folder / "0"` and, for two processes, `folder / "1"`."""
    outs = [folder / str(number) for number in range(2 if side == TWO else 1)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    started = time.monotonic()
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "build",
                "run",
                *what,
                "--device",
                "cpu",
                *OPTIONS[side],
                "--out",
                str(out),
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for out in outs
    ]
    turns = []
    for process, out in zip(running, outs, strict=True):
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors)
        seconds = read_manifest(out).method.options["stage_seconds"]
        turns.append(Turn(sum(seconds[name] for name in MODEL_STAGES), time.monotonic() - started))
    return max(turns, key=lambda turn: turn.whole)


def assert_same_rows(one: Path, other: Path) -> None:
    for name in map(file_name, TABLES):
        if (one / name).exists() and not pq.read_table(one / name).equals(pq.read_table(other / name)):
            raise SystemExit(f"Ray's {name} has other rows than one process's.")


def measure(what: Sequence[str], rounds: int) -> list[dict[str, Turn]]:
    """Side → its turn, of every round."""
    result = []
    for number in range(rounds):
        turns: dict[str, Turn] = {}
        with tempfile.TemporaryDirectory() as scratch:
            folders = {side: Path(scratch) / str(index) for index, side in enumerate(OPTIONS)}
            for side in [*OPTIONS][number % 3 :] + [*OPTIONS][: number % 3]:
                folders[side].mkdir()
                turns[side] = take_turn(side, what, folders[side])
                seconds = f"{turns[side].stages:.1f} s, whole {turns[side].whole:.1f} s"
                print(f"round {number + 1}: {side}: {seconds}", file=sys.stderr, flush=True)
            assert_same_rows(folders[TWO] / "0", folders[RAY] / "0")
        result.append(turns)
    return result


def figures(rounds: Sequence[dict[str, Turn]]) -> dict[str, float]:
    """Seconds by side and clock, Ray's overhead, and how many times as fast as one process it is."""
    found = {
        f"{side}: {clock}": statistics.median(getattr(turns[side], clock) for turns in rounds)
        for side in OPTIONS
        for clock in ("stages", "rest", "whole")
    }
    ideal = [turns[TWO].stages / 2 for turns in rounds]
    ray = [turns[RAY].stages for turns in rounds]
    found["ideal: stages"] = statistics.median(ideal)
    found["overhead"] = statistics.median(a / b - 1 for a, b in zip(ray, ideal, strict=True))
    found["times as fast as one process, stages"] = statistics.median(
        turns[ONE].stages / turns[RAY].stages for turns in rounds
    )
    found["times as fast as one process, whole"] = statistics.median(
        turns[ONE].whole / turns[RAY].whole for turns in rounds
    )
    return found


def table(found: dict[str, float]) -> str:
    """The figures as Markdown."""
    lines = ["| | stages | rest | whole |", "|---|---|---|---|"]
    for side in OPTIONS:
        cells = (f"{found[f'{side}: {clock}']:.1f} s" for clock in ("stages", "rest", "whole"))
        lines.append(f"| {side} | {' | '.join(cells)} |")
    lines.append(f"| half of the two processes: the ideal | {found['ideal: stages']:.1f} s | | |")
    lines += [
        "",
        f"Overhead of Ray over the ideal: {found['overhead']:.1%}. Times as fast as one process with two "
        f"threads: {found['times as fast as one process, stages']:.2f} (stages), "
        f"{found['times as fast as one process, whole']:.2f} (whole). Rows are equal.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_executors", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--model", default="pocket-bert")
    parser.add_argument("--dataset", default="starter")
    parser.add_argument("--limit", type=int, default=1500, help="facts (default: 1500)")
    parser.add_argument("--shard-size", type=int, default=25, help="facts a shard (default: 25)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(argv)
    what = ["--model", options.model, "--dataset", options.dataset]
    what += ["--limit", str(options.limit), "--shard-size", str(options.shard_size)]
    rounds = measure(what, options.rounds)
    found = figures(rounds)
    print(table(found))
    if options.json is not None:
        turns = [{side: [turn.stages, turn.whole] for side, turn in each.items()} for each in rounds]
        options.json.write_text(json.dumps({"what": what, "figures": found, "rounds": turns}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
