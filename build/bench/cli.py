"""The command line of the benchmark: options are checked before torch is imported."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from atlas.errors import AtlasError, BuildError
from build.bench.comparison import SIDES, bench, only_side, report
from build.bench.shapes import SHAPES


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m build bench", description=__doc__.splitlines()[0])
    what = p.add_mutually_exclusive_group()
    what.add_argument("--shape", choices=SHAPES, default="bert-base", help="random weights of these sizes")
    what.add_argument("--model", help="a model's name or folder instead")
    p.add_argument("--prompts", type=int, default=8, help="how many prompts (default 8)")
    p.add_argument("--steps", type=int, default=20, help="points of the fixed rule (default 20)")
    p.add_argument("--tolerance", type=float, default=0.01, help="of the certified rule (default 0.01)")
    p.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch's threads (default 2)"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    p.add_argument("--no-memory", dest="memory", action="store_false", help="skip the memory measurements")
    p.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    return p


def check(options: argparse.Namespace) -> None:
    """Everything that can be refused before torch is imported."""
    if options.prompts < 1:
        raise BuildError(f"--prompts {options.prompts} leaves nothing to measure. Give 1 or more.")
    if options.steps < 2:
        raise BuildError(f"--steps {options.steps} is no path. Give 2 or more.")
    if not 0 < options.tolerance < 1:
        raise BuildError(f"--tolerance {options.tolerance:g} is absurd. Give one between 0 and 1.")
    if options.threads < 1:
        raise BuildError(f"--threads {options.threads} runs nothing. Give 1 or more.")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise BuildError(f"The folder of {options.json} does not exist. Make it first.")


def main(argv: list[str] | None = None) -> int:
    """`python -m build bench`: 0 when measured, 2 with a sentence when something was asked wrongly."""
    options = parser().parse_args(argv)
    try:
        check(options)
        if options.only:
            return only_side(options)
        result = bench(options, lambda line: print(line, file=sys.stderr, flush=True))
        if options.json is not None:
            options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    except AtlasError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or 'A file'} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    print(report(result))
    return 0
