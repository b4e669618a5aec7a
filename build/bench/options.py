"""The options of the attribution benchmark, checked before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from typer import BadParameter, Option

from atlas.errors import BuildError
from build.bench.shapes import SHAPES
from build.plan import model_shape

PARTS = ("compare", "floor", "projection", "scaling")
THREADS = min(2, os.cpu_count() or 1)
AXES = ("prompts", "layers", "length", "batch")
EVERY_AXIS = ",".join(AXES)


def _some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def chosen(text: str) -> tuple[str, ...]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names or ["nothing"]:
            if name not in known:
                raise BadParameter(f"'{name}' is none of {', '.join(known)}.")
        return tuple(name for name in known if name in names)

    return chosen


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(size) for size in text.split(",")}))
    except ValueError:
        raise BadParameter(f"'{text}' is not a list of sizes. Give numbers such as 8,16,32.") from None
    if len(sizes) < 2 or sizes[0] < 1:
        raise BadParameter(f"'{text}' has too few sizes. Give at least two, each 1 or more.")
    return sizes


def file_in_a_folder(path: Path | None) -> Path | None:
    """The path of a file to write, if its folder exists."""
    if path is not None and not path.resolve().parent.is_dir():
        raise BadParameter(f"The folder of {path} does not exist. Create it first.")
    return path


Sizes = Annotated[
    tuple[int, ...] | None, Option(metavar="8,16", parser=_sizes, help="scaling: sizes to measure")
]
Json = Annotated[
    Path | None,
    Option("--json", metavar="FILE", callback=file_in_a_folder, help="also write the figures there"),
]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, on which model and device; None is decided by the device."""

    shape: Annotated[
        Literal[tuple(SHAPES)] | None, Option(help="random weights of these sizes; by default bert-base")
    ] = None
    model: Annotated[str | None, Option(help="a model's name or folder instead")] = None
    parts: Annotated[
        tuple[str, ...], Option(metavar="A,B", parser=_some_of(PARTS), help=f"some of {', '.join(PARTS)}")
    ] = "compare,floor"
    device: Annotated[Literal["auto", "cpu", "cuda"], Option(help="where to compute")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "tf32", "bfloat16"],
        Option(help="auto: float32 on a processor, tf32 on a GPU"),
    ] = "auto"
    threads: Annotated[int, Option(min=1, help="torch's threads")] = THREADS
    tolerance: Annotated[float, Option(help="of the certified rule")] = 0.01
    json: Json = None
    prompts: Annotated[int, Option(min=1, help="compare: how many prompts")] = 8
    at_once: Annotated[
        int | None, Option(min=1, help="compare: prompts in one call; by default --prompts, on a GPU 1024")
    ] = None
    steps: Annotated[int, Option(min=2, help="compare: points of the fixed rule")] = 20
    memory: Annotated[bool, Option("--memory/--no-memory", help="compare: measure the memory")] = True
    floor_prompts: Annotated[
        int | None, Option(min=1, help="floor: prompts in one call; by default 64, on a GPU 2048")
    ] = None
    repeats: Annotated[int, Option(min=1, help="floor: timed calls")] = 3
    source: Annotated[
        Path | None,
        Option(exists=True, file_okay=False, help="projection: PARAREL's data folder; else it is fetched"),
    ] = None
    sample: Annotated[
        int | None, Option(min=1, help="projection: prompts of the sample; by default 2000, on a GPU 20000")
    ] = None
    groups: Annotated[int, Option(min=2, help="projection: number of calls for the sample")] = 20
    batch_rows: Annotated[int | None, Option(min=1, help="projection: answer tokens at once")] = None
    axes: Annotated[
        tuple[str, ...], Option(metavar="A,B", parser=_some_of(AXES), help="scaling: the axes to measure")
    ] = EVERY_AXIS
    scaling_prompts: Sizes = None
    scaling_layers: Sizes = None
    scaling_lengths: Sizes = None
    scaling_batches: Sizes = None

    def __post_init__(self) -> None:
        if self.shape and self.model:
            raise BuildError("--shape and --model cannot be combined. Give one of them.")
        if not 0 < self.tolerance < 1:
            raise BuildError(f"--tolerance must be between 0 and 1, got {self.tolerance:g}.")

    @property
    def subject(self) -> str:
        """The name of the shape or the model."""
        return self.model or self.shape or "bert-base"

    @property
    def causal(self) -> bool:
        """Whether the subject reads from left to right; known without torch."""
        if self.subject in SHAPES:
            return SHAPES[self.subject][0] != "bert"
        return model_shape(self.subject, allow_download=True).causal
