"""The command line of the benchmark: options are checked before torch is imported."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from atlas.errors import AtlasError, BuildError
from build.bench import comparison, floor, projection, scaling
from build.bench.parts import PARTS, measure
from build.bench.shapes import SHAPES
from build.plan import DTYPES, at_least_one

DEFAULT_PARTS = "compare,floor"
COUNTS = ("prompts", "at_once", "threads", "repeats", "floor_prompts", "sample", "groups", "batch_rows")


class _Parser(argparse.ArgumentParser):
    """What was asked wrongly is one sentence, like everything else that is refused."""

    def error(self, message: str) -> NoReturn:
        raise BuildError(f"{message[:1].upper()}{message[1:].rstrip('.')}. See python -m build bench --help.")


def parser() -> argparse.ArgumentParser:
    p = _Parser(
        prog="python -m build bench",
        description="Time attribution on this machine: against the plain loop, against the machine's own "
        "rate, for all of PARAREL, and as it grows.",
    )
    what = p.add_mutually_exclusive_group()
    what.add_argument("--shape", choices=SHAPES, default="bert-base", help="random weights of these sizes")
    what.add_argument("--model", help="a model's name or folder instead")
    p.add_argument(
        "--parts",
        default=DEFAULT_PARTS,
        metavar="A,B",
        help=f"of {', '.join(PARTS)} (default {DEFAULT_PARTS})",
    )
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default auto)")
    p.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="auto: float32 on a processor, tf32 on a GPU"
    )
    p.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch's threads (default 2)"
    )
    p.add_argument("--tolerance", type=float, default=0.01, help="of the certified rule (default 0.01)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")

    g = p.add_argument_group("compare")
    g.add_argument("--prompts", type=int, default=8, help="how many prompts (default 8)")
    g.add_argument(
        "--at-once", type=int, metavar="N", help="prompts in one call (default --prompts, on a GPU 1024)"
    )
    g.add_argument("--steps", type=int, default=20, help="points of the fixed rule (default 20)")
    g.add_argument("--no-memory", dest="memory", action="store_false", help="skip the memory measurements")

    g = p.add_argument_group("floor")
    g.add_argument("--floor-prompts", type=int, metavar="N", help="in one call (default 64, on a GPU 2048)")
    g.add_argument("--repeats", type=int, default=3, metavar="N", help="timed calls (default 3)")

    g = p.add_argument_group("projection")
    g.add_argument("--source", type=Path, metavar="DIR", help="PARAREL's data folder (default: fetch it)")
    g.add_argument(
        "--sample", type=int, metavar="N", help="prompts of the sample (default 2000, on a GPU 20000)"
    )
    g.add_argument(
        "--groups",
        type=int,
        default=projection.GROUPS,
        metavar="N",
        help="calls it is dealt into (default 20)",
    )
    g.add_argument("--batch-rows", type=int, metavar="N", help="answer tokens at once (default: by device)")

    g = p.add_argument_group("scaling")
    g.add_argument("--axes", default=",".join(scaling.AXES), metavar="A,B", help="(default: all four)")
    for axis in ("prompts", "layers", "lengths", "batches"):
        g.add_argument(f"--scaling-{axis}", metavar="8,16", help="sizes to measure")

    p.add_argument("--only", choices=comparison.SIDES, help=argparse.SUPPRESS)
    p.add_argument("--point", help=argparse.SUPPRESS)
    return p


def check(options: argparse.Namespace) -> None:
    """Everything that can be refused before torch is imported; lists become tuples."""
    options.parts = _names("--parts", options.parts, PARTS)
    options.axes = _names("--axes", options.axes, scaling.AXES)
    for axis in ("prompts", "layers", "lengths", "batches"):
        name = f"scaling_{axis}"
        setattr(options, name, _sizes(f"--scaling-{axis}", getattr(options, name)))
    for name in COUNTS:
        if getattr(options, name) is not None:
            at_least_one(f"--{name.replace('_', '-')}", getattr(options, name))
    if options.steps < 2:
        raise BuildError(f"--steps {options.steps} is no path. Give 2 or more.")
    if not 0 < options.tolerance < 1:
        raise BuildError(f"--tolerance {options.tolerance:g} is absurd. Give one between 0 and 1.")
    if options.groups < 2:
        raise BuildError("--groups 1 leaves nothing to estimate an error from. Give 2 or more.")
    if options.source is not None and not options.source.is_dir():
        raise BuildError(f"There is no folder {options.source}. Give --source PARAREL's data folder.")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise BuildError(f"The folder of {options.json} does not exist. Make it first.")


def _names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or ["nothing"]:
        if name not in known:
            raise BuildError(f"{option} cannot be '{name}'. Choose some of: {', '.join(known)}.")
    return tuple(name for name in known if name in names)


def _sizes(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        sizes = tuple(sorted({int(size) for size in text.split(",")}))
    except ValueError:
        raise BuildError(f"{option} '{text}' is no list of sizes. Write numbers such as 8,16,32.") from None
    if len(sizes) < 2 or sizes[0] < 1:
        raise BuildError(f"{option} '{text}' shows no growth. Give two sizes or more, each 1 or more.")
    return sizes


def report(results: dict[str, Any]) -> str:
    """Every part as people read it, below what it was measured on."""
    subject, here = results["subject"], results["machine"]
    on = here["cpu"] if here["device"] == "cpu" else f"{here['device']} (CUDA {here['cuda']}); {here['cpu']}"
    blocks = [
        f"{subject['name']}: {subject['n_parameters'] / 1e6:.1f} M parameters, {subject['n_layers']} layers\n"
        f"{on}, {here['cores']} cores, {here['threads']} threads, torch {here['torch']}, {here['dtype']}"
    ]
    for name, module in (("compare", comparison), ("projection", projection), ("scaling", scaling)):
        if name in results:
            blocks.append(module.report(results[name]))
    if "floor" in results:
        blocks.insert(2 if "compare" in results else 1, floor.report(results["floor"], here["dtype"]))
    return "\n\n".join(blocks)


def main(argv: list[str] | None = None) -> int:
    """`python -m build bench`: 0 when measured, 2 with a sentence when something was asked wrongly."""
    try:
        options = parser().parse_args(argv)
        check(options)
        if options.only:
            comparison.only_side(options)
            return 0
        if options.point:
            scaling.only_point(options)
            return 0
        results = measure(options, lambda line: print(line, file=sys.stderr, flush=True))
        if options.json is not None:
            given = {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()}
            parts = {name: asdict(part) if is_dataclass(part) else part for name, part in results.items()}
            plain = {"options": given, **parts}
            options.json.write_text(json.dumps(plain, indent=2) + "\n")
    except AtlasError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or 'A file'} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    print(report(results))
    return 0
