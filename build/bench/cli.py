"""The command line of the benchmarks: options are checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from atlas.cli import run, say
from build.arguments import spread_options
from build.bench.options import BenchOptions, Json
from build.bench.sample import SAMPLES, allocate, load_population

benchmarks = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Count = Annotated[int, Option(min=1)]
Folder = Annotated[Path | None, Option(exists=True, file_okay=False, metavar="FOLDER")]


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m build bench`: 0 when measured, 2 with a sentence when something was asked wrongly."""
    return run(benchmarks, arguments, prog="python -m build bench")


@benchmarks.callback(invoke_without_command=True)
@spread_options
def _attribution(context: typer.Context, options: BenchOptions) -> None:
    """Time attribution on this machine: against the plain loop, against the machine's own rate, for all of
    PARAREL, and as it grows. The commands below time the rest."""
    if context.invoked_subcommand:
        return
    population = None
    if "projection" in options.parts:
        population = load_population(options.source, causal=options.causal)
        # As few as the sample will surely have: refused before torch is imported.
        allocate(population, options.sample or min(SAMPLES.values()))
    from build.bench.parts import time_parts

    time_parts(options, population, say)


@benchmarks.command("compat")
def _compat(
    models: Annotated[
        list[str], Option(metavar="NAME …", help="names of models, folders, hub ids or shapes")
    ] = ("bert-base", "gpt2", "smollm2-135m", "pocket-bert"),
    more: Annotated[list[str] | None, Argument(hidden=True)] = None,
    prompts: Annotated[int, Option(min=1, help="of the fact")] = 7,
    rounds: Count = 3,
    threads: Count = 2,
    json: Json = None,
) -> None:
    """Time the drop-in beside a plain loop."""
    from build.bench import compat

    compat.compare_drop_in([*models, *(more or ())], prompts, rounds, threads, json, say)


@benchmarks.command("executors")
def _executors(
    model: str = "pocket-bert",
    dataset: str = "starter",
    limit: Annotated[int, Option(min=1, help="facts")] = 1500,
    shard_size: Annotated[int, Option(min=1, help="facts a shard")] = 25,
    rounds: Count = 3,
    json: Json = None,
) -> None:
    """Time a build with Ray."""
    from build.bench import executors

    what = ["--model", model, "--dataset", dataset, "--limit", str(limit), "--shard-size", str(shard_size)]
    executors.compare_executors(what, rounds, json, say)


@benchmarks.command("precision")
def _precision(
    models: Annotated[str, Option(help="shapes, names of models or folders")] = "bert-base,gpt2,pocket-bert",
    prompts: Count = 8,
    json: Json = None,
) -> None:
    """Measure the cost of rounded matrix products."""
    from build.bench import precision

    precision.measure_rounding(models.split(","), prompts, json)


@benchmarks.command("app")
def _app(
    atlas: Folder = None,
    visits: Annotated[int, Option(min=1, help="visits of each kind of page")] = 20,
    json: Json = None,
) -> None:
    """Time the app's pages.

    Of a made-up atlas, unless --atlas names another.
    """
    from build.bench import app

    app.time_pages(atlas, visits, json)


@benchmarks.command("lab")
def _lab(
    models: Annotated[
        list[str], Option("--model", metavar="NAME", help="pocket-bert or smollm2-135m; may be repeated")
    ] = ("pocket-bert",),
    neurons: Annotated[
        list[int] | None,
        Option(min=1, max=6144, metavar="N", help="only experiments of so many neurons; may be repeated"),
    ] = None,
    rounds: Count = 20,
    json: Json = None,
) -> None:
    """Time the Lab's steps.

    As a visitor waits for them, or experiments alone as they grow with their neurons.
    """
    if neurons:
        from build.bench import lab

        lab.time_experiments(neurons, rounds, json)
        return
    from build.bench import lab_steps

    lab_steps.time_steps(models, rounds, json)


@benchmarks.command("load")
def _load(
    visitors: Annotated[int, Option(min=0, help="honest visitors")] = 16,
    hostile: Annotated[int, Option(min=0, help="hostile visitors")] = 0,
    seconds: Annotated[int, Option(min=1)] = 60,
    attack: Annotated[
        list[str] | None, Option(metavar="NAME", help="only this attack; may be repeated")
    ] = None,
    checkout: Folder = None,
    seed: int = 0,
    json: Json = None,
) -> None:
    """Time the hosted app under load.

    Of honest visitors, beside hostile ones, who take turns in all attacks. --checkout names another copy of
    the project whose app is served.
    """
    from build.bench import load

    load.time_visitors(visitors, hostile, seconds, attack or (), checkout, seed, json)


@benchmarks.command("reading")
def _reading(
    collection: Annotated[
        Path, Argument(exists=True, file_okay=False, help="a folder that big-collection wrote")
    ],
    giant: Folder = None,
    layouts: Annotated[
        Path | None, Option(metavar="FOLDER", help="only compare layouts, written here")
    ] = None,
    repeats: Annotated[int, Option(min=1, help="processes a question")] = 5,
    json: Json = None,
) -> None:
    """Time queries over many atlases."""
    from build.bench import reading

    reading.time_questions(collection.resolve(), giant, layouts, repeats, json)


@benchmarks.command("big-collection")
def _big_collection(
    folder: Annotated[Path, Argument(help="where the members go, a folder each")],
    models: Annotated[int, Option(min=1, help="members")] = 100,
    facts: Annotated[int, Option(min=200, help="facts a member")] = 27_610,
    giant: Annotated[Path | None, Option(metavar="FOLDER", help="write all pairs as one atlas, too")] = None,
) -> None:
    """Write a made-up collection of atlases."""
    from build.bench.big_collection import write_big_collection, write_giant_atlas

    print(write_big_collection(folder, models=models, n_facts=facts))
    if giant:
        print(write_giant_atlas(folder, giant))
