"""The command line of the benchmarks: options are checked before torch is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import typer

from atlas.cli import run
from atlas.errors import BuildError
from build.bench.sample import SAMPLES, allocate, load_population
from build.bench.shapes import SHAPES
from build.plan import model_shape

PARTS = ("compare", "floor", "projection", "scaling")
AXES = ("prompts", "layers", "length", "batch")

benchmarks = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m build bench`: 0 when measured, 2 with a sentence when something was asked wrongly."""
    return run(benchmarks, arguments, prog="python -m build bench")


def _say(line: str) -> None:
    """How far it is, on stderr."""
    print(line, file=sys.stderr, flush=True)


# --- what options may be ---


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def chosen(text: str) -> tuple[str, ...]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names or ["nothing"]:
            if name not in known:
                raise typer.BadParameter(f"'{name}' is none of {', '.join(known)}.")
        return tuple(name for name in known if name in names)

    return chosen


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        sizes = tuple(sorted({int(size) for size in text.split(",")}))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of sizes. Write numbers such as 8,16,32.") from None
    if len(sizes) < 2 or sizes[0] < 1:
        raise typer.BadParameter(f"'{text}' shows no growth. Give two sizes or more, each 1 or more.")
    return sizes


def _tolerance(tolerance: float) -> float:
    if not 0 < tolerance < 1:
        raise typer.BadParameter(f"tolerance must be between 0 and 1, got {tolerance:g}.")
    return tolerance


def _in_a_folder(path: Path | None) -> Path | None:
    if path is not None and not path.resolve().parent.is_dir():
        raise typer.BadParameter(f"The folder of {path} does not exist. Make it first.")
    return path


Count = Annotated[int, typer.Option(min=1)]
Sizes = Annotated[
    str | None,
    typer.Option(metavar="8,16", callback=_sizes, help="sizes to measure", rich_help_panel="scaling"),
]
Folder = Annotated[Path | None, typer.Option(exists=True, file_okay=False, metavar="FOLDER")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", callback=_in_a_folder, help="also write the figures there"),
]


def _option(panel: str, help: str, *names: str, **checks: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **checks)


# --- attribution ---


@benchmarks.callback(invoke_without_command=True)
def attribution(
    context: typer.Context,
    shape: Annotated[
        Literal[tuple(SHAPES)] | None,
        typer.Option(help="random weights of these sizes (default bert-base)"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="a model's name or folder instead")] = None,
    parts: Annotated[
        str, typer.Option(metavar="A,B", callback=_names(PARTS), help=f"of {', '.join(PARTS)}")
    ] = "compare,floor",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option()] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "tf32", "bfloat16"],
        typer.Option(help="auto: float32 on a processor, tf32 on a GPU"),
    ] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="torch's threads")] = min(2, os.cpu_count() or 1),
    tolerance: Annotated[float, typer.Option(callback=_tolerance, help="of the certified rule")] = 0.01,
    json: Json = None,
    prompts: Annotated[int, _option("compare", "how many prompts", min=1)] = 8,
    at_once: Annotated[
        int | None, _option("compare", "prompts in one call (default --prompts, on a GPU 1024)", min=1)
    ] = None,
    steps: Annotated[int, _option("compare", "points of the fixed rule", min=2)] = 20,
    memory: Annotated[bool, _option("compare", "measure the memory, too", "--memory/--no-memory")] = True,
    floor_prompts: Annotated[
        int | None, _option("floor", "in one call (default 64, on a GPU 2048)", min=1)
    ] = None,
    repeats: Annotated[int, _option("floor", "timed calls", min=1)] = 3,
    source: Annotated[
        Path | None,
        _option("projection", "PARAREL's data folder (default: fetch it)", exists=True, file_okay=False),
    ] = None,
    sample: Annotated[
        int | None, _option("projection", "prompts of the sample (default 2000, on a GPU 20000)", min=1)
    ] = None,
    groups: Annotated[int, _option("projection", "calls it is dealt into", min=2)] = 20,
    batch_rows: Annotated[
        int | None, _option("projection", "answer tokens at once (default: by device)", min=1)
    ] = None,
    axes: Annotated[
        str, _option("scaling", "which of them grow", metavar="A,B", callback=_names(AXES))
    ] = ",".join(AXES),
    scaling_prompts: Sizes = None,
    scaling_layers: Sizes = None,
    scaling_lengths: Sizes = None,
    scaling_batches: Sizes = None,
) -> None:
    """Time attribution on this machine: against the plain loop, against the machine's own rate, for all of
    PARAREL, and as it grows. The commands below time the rest."""
    if context.invoked_subcommand:
        return
    if shape and model:
        raise BuildError("--shape and --model exclude each other. Give one of them.")
    options = SimpleNamespace(**context.params)
    options.shape = shape or "bert-base"
    population = None
    if "projection" in parts:
        population = load_population(source, causal=_is_causal(options))
        # As few as the sample will surely have: refused before torch is imported.
        allocate(population, options.sample or min(SAMPLES.values()))
    from build.bench.parts import time_parts

    time_parts(options, population, _say)


def _is_causal(options: SimpleNamespace) -> bool:
    """Whether the subject reads from left to right; known without torch."""
    if options.model is None:
        return SHAPES[options.shape][0] != "bert"
    return model_shape(options.model, allow_download=True).causal


# --- the other benchmarks ---


@benchmarks.command()
def compat(
    models: Annotated[
        list[str], typer.Option(metavar="NAME …", help="of the project, folders, hub ids or shapes")
    ] = ("bert-base", "gpt2", "smollm2-135m", "pocket-bert"),
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    prompts: Annotated[int, typer.Option(min=1, help="of the fact")] = 7,
    rounds: Count = 3,
    threads: Count = 2,
    json: Json = None,
) -> None:
    """What a script for the original gains: `get_refined_neurons` beside a plain loop."""
    from build.bench import compat

    compat.compare_drop_in([*models, *(more or ())], prompts, rounds, threads, json, _say)


@benchmarks.command()
def executors(
    model: str = "pocket-bert",
    dataset: str = "starter",
    limit: Annotated[int, typer.Option(min=1, help="facts")] = 1500,
    shard_size: Annotated[int, typer.Option(min=1, help="facts a shard")] = 25,
    rounds: Count = 3,
    json: Json = None,
) -> None:
    """What Ray costs: a build by one process, by two workers of Ray, and what two could do at best."""
    from build.bench import executors

    what = ["--model", model, "--dataset", dataset, "--limit", str(limit), "--shard-size", str(shard_size)]
    executors.compare_executors(what, rounds, json, _say)


@benchmarks.command()
def precision(
    models: Annotated[str, typer.Option(help="shapes or models")] = "bert-base,gpt2,pocket-bert",
    prompts: Count = 8,
    json: Json = None,
) -> None:
    """What rounded matrix products cost: tf32's and bfloat16's rounding, imitated on a processor."""
    from build.bench import precision

    precision.measure_rounding(models.split(","), prompts, json)


@benchmarks.command()
def app(
    atlas: Folder = None,
    visits: Annotated[int, typer.Option(min=1, help="visits of each kind of page")] = 20,
    json: Json = None,
) -> None:
    """How long the server takes to draw each browsing page of an atlas (made anew if none is given), and the
    memory it holds."""
    from build.bench import app

    app.time_pages(atlas, visits, json)


@benchmarks.command()
def reading(
    collection: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="a folder that big-collection wrote")
    ],
    giant: Folder = None,
    layouts: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="only compare layouts, written here")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="processes a question")] = 5,
    json: Json = None,
) -> None:
    """How long questions to 30 million pairs take, cold and warm, and what layout is best."""
    from build.bench import reading

    reading.time_questions(collection.resolve(), giant, layouts, repeats, json)


@benchmarks.command()
def big_collection(
    folder: Annotated[Path, typer.Argument(help="where the members go, a folder each")],
    models: Annotated[int, typer.Option(min=1, help="members")] = 100,
    facts: Annotated[int, typer.Option(min=200, help="facts a member")] = 27_610,
    giant: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="write all pairs as one atlas, too")
    ] = None,
) -> None:
    """Write a made-up collection: 100 models asked the same facts, 30 million pairs."""
    from build.bench.big_collection import write_big_collection, write_giant_atlas

    print(write_big_collection(folder, models=models, n_facts=facts))
    if giant:
        print(write_giant_atlas(folder, giant))
