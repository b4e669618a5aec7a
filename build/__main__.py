"""The builder's command line: `python -m build plan | run | check | …`.

Options are checked before torch is imported. What a person got wrong is one sentence on stderr and exit
status 2; Ctrl-C says how to go on and exits with 130.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import atlas.datasets
import atlas.models
from atlas.errors import AtlasError, BuildError
from build import plan as planning
from build.evidence import ALIASES, STUDIES
from build.plan import BuildOptions
from build.writer import writing

MODELS = Path(atlas.models.__file__).parent
REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "api"
FACTS = Path(atlas.datasets.__file__).parent / "starter_facts" / "facts"
EXIT_OTHERWISE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
HELP_COLUMN = 21


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Options that `plan` and `run` share."""
    group = parser.add_argument_group("what to build")
    group.add_argument("--model", required=True, help="pocket-bert, smollm2-135m, a folder, or a hub id")
    group.add_argument("--dataset", required=True, help="starter, pararel or counterfact")
    group.add_argument("--source", type=Path, metavar="PATH", help="folder or file of the data set")
    group.add_argument("--relations", metavar="P36,P37", help="only these relations")
    group.add_argument("--limit", type=int, metavar="N", help="at most N facts, spread over the relations")
    group.add_argument(
        "--attribute",
        default="discovery",
        help="attribute the discovery prompts only, or all prompts (default: discovery)",
    )
    group.add_argument(
        "--mode", default="default", help="refinement: default, paper or replication (default: default)"
    )
    group.add_argument(
        "--negatives",
        type=int,
        default=0,
        metavar="N",
        help="leave out neurons that stand out as often where N other facts are asked for (default: 0)",
    )
    group.add_argument(
        "--rule",
        default="certified",
        help="quadrature: certified, or the fixed sums left, right, endpoints (default: certified)",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="largest error of the certified rule, as a share of the largest score (default: 0.01)",
    )
    group.add_argument("--steps", type=int, default=20, help="points of a fixed rule (default: 20)")
    group.add_argument(
        "--dtype",
        default="auto",
        help="precision of the attribution's matrix products: float32, tf32 or bfloat16 (default: tf32 on a "
        "GPU, else float32); its error is measured on a sample",
    )
    group.add_argument("--seed", type=int, default=0, help="for the random controls (default: 0)")
    group.add_argument(
        "--shard-size",
        type=int,
        metavar="N",
        help="facts a shard: what a resume repeats at most (default: 25, on a GPU 200)",
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build",
        description="Make knowledge neuron atlases offline.",
        epilog="An interrupted run goes on when the same command is given again.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="say what a run would do: prompts, rows, disk, time")
    _add_what(plan)

    run = commands.add_parser(
        "run",
        help="make an atlas: attribute, refine, read out, evaluate",
        description="Make an atlas in --out. Interrupted at any moment, the same command goes on.",
    )
    _add_what(run)
    where = run.add_argument_group("where and how")
    where.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the atlas")
    where.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto)")
    where.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads, with ray of each worker (default: all cores)"
    )
    where.add_argument(
        "--batch-rows", type=int, metavar="N", help="answer tokens attributed at once (default: by device)"
    )
    where.add_argument(
        "--executor",
        default="in-process",
        help="in-process, or ray: several workers, one a GPU or a few CPU cores (default: in-process)",
    )
    where.add_argument("--workers", type=int, metavar="N", help="with ray (default: as many as fit)")
    where.add_argument(
        "--ray-address",
        metavar="ADDR",
        help="a Ray cluster that is there: HOST:PORT, ray://HOST:PORT, or auto for this machine's (default: "
        "one that is started for the build and ends with it)",
    )
    where.add_argument("--fresh", action="store_true", help="start over, also over a finished atlas")

    check = commands.add_parser("check", help="check manifests, hashes, schema, certificates")
    check.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of atlases")

    published = commands.add_parser(
        "import-published",
        help="make an atlas of the replication's published neurons",
        description="Make an atlas of bert-base-uncased over PARAREL from the neurons that EleutherAI's "
        "replication published. What no folder is given for is fetched once and checked.",
    )
    published.add_argument(
        "--source", type=Path, metavar="DIR", help="folder with the replication's eight JSON files"
    )
    published.add_argument("--pararel", type=Path, metavar="DIR", help="PARAREL's data folder")
    published.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the atlas")
    published.add_argument("--fresh", action="store_true", help="replace the atlas in --out")
    published.add_argument("--progress", action="store_true", help="say on stderr how far it is, in lines")

    evaluate = commands.add_parser(
        "evaluate",
        help="run the paper's experiments, and controls, on an atlas",
        description="Run experiments on a finished atlas; each adds a table to it. Interrupted, the\n"
        "same command goes on.",
        epilog=_experiments(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="folder of the atlas")
    evaluate.add_argument(
        "--experiments",
        default="all",
        metavar="A,B",
        help="some of those below, with commas between (default: all)",
    )
    evaluate.add_argument("--model", help="a folder or a name (default: the one the atlas names)")
    evaluate.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="facts that an experiment takes, update and erase of each relation; 0 for all (default: by "
        "experiment)",
    )
    evaluate.add_argument("--seed", type=int, default=0, help="for all that is random (default: 0)")
    evaluate.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto)")
    evaluate.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    evaluate.add_argument("--fresh", action="store_true", help="measure again what was measured")

    figures = commands.add_parser(
        "figures",
        help="draw charts and a report, beside what was published",
        description="Write report.html, report.md and charts (SVG, PNG, interactive HTML) of what was "
        "measured, beside the paper's and the replication's numbers. Several atlases become columns of "
        "one report.",
    )
    figures.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of atlases")
    figures.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")

    again = commands.add_parser(
        "experiment",
        help="do an experiment of the Lab again, from its JSON",
        description="Do an experiment again. Exit status 1 where its results do not come out again.",
    )
    again.add_argument("file", type=Path, metavar="FILE", help="an experiment's JSON, as the Lab gives it")
    again.add_argument("--model", help="a folder or a name (default: the one that the file names)")
    again.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto)")
    again.add_argument("--json", type=Path, metavar="OUT", help="write the experiment with its new results")
    again.add_argument(
        "--any-weights", action="store_true", help="go on with other weights than it was made with"
    )

    train = commands.add_parser("train-pocket-bert", help="train the small BERT that comes with the project")
    train.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=MODELS / "pocket_bert",
        help="folder to save it to (default: the one that comes with the project)",
    )
    train.add_argument("--seed", type=int, default=0, help="(default: 0)")
    train.add_argument("--epochs", type=int, metavar="N", help="passes over the facts")

    fetch = commands.add_parser("fetch-model", help="fetch a model into the cache and check its hash")
    fetch.add_argument("name", metavar="NAME", help="smollm2-135m, or a hub id")

    geonames = commands.add_parser("geonames", help="make the starter facts' GeoNames part again")
    geonames.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=FACTS,
        help="folder of the CSV files (default: the project's own)",
    )

    reference = commands.add_parser("reference", help="make the API reference again, from the docstrings")
    reference.add_argument(
        "--out", type=Path, metavar="DIR", default=REFERENCE, help="folder of the pages (default: docs/api)"
    )

    commands.add_parser("bench", help="measure attribution against the plain loop", add_help=False)
    return parser


def _experiments() -> str:
    """Every experiment with what it measures, and the other names, as the end of a help text."""
    rows = {study.name: study.sentence for study in STUDIES.values()}
    rows |= {name: f"the same as {', '.join(names)}" for name, names in ALIASES.items() if name != "all"}
    lines = ["experiments:"]
    for name, sentence in rows.items():
        first, *more = textwrap.wrap(sentence, 79 - HELP_COLUMN)
        lines += [f"  {name:<{HELP_COLUMN - 2}}{first}", *(" " * HELP_COLUMN + line for line in more)]
    return "\n".join(lines)


def _options(arguments: argparse.Namespace) -> BuildOptions:
    relations = None
    if arguments.relations is not None:
        relations = tuple(name.strip() for name in arguments.relations.split(",") if name.strip())
        if not relations:
            raise BuildError("--relations names no relation. Write ids such as P36,P37.")
    return BuildOptions(
        model=arguments.model,
        dataset=arguments.dataset,
        source=arguments.source,
        relations=relations,
        limit=arguments.limit,
        attribute=arguments.attribute,
        mode=arguments.mode,
        negatives=arguments.negatives,
        rule=arguments.rule,
        tolerance=arguments.tolerance,
        steps=arguments.steps,
        dtype=arguments.dtype,
        seed=arguments.seed,
        shard_size=arguments.shard_size,
    )


def _plan(arguments: argparse.Namespace) -> int:
    print(planning.describe(planning.make_plan(_options(arguments))))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from build.executors import Machine
    from build.run import run_build

    options = _options(arguments)
    machine = Machine(
        device=arguments.device,
        threads=arguments.threads,
        batch_rows=arguments.batch_rows,
        executor=arguments.executor,
        workers=arguments.workers,
        ray_address=arguments.ray_address,
    )
    print(run_build(options, out=arguments.out, machine=machine, fresh=arguments.fresh))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from build.check import check_atlas

    reports = [check_atlas(folder) for folder in arguments.folders]
    for report in reports:
        print(report, file=sys.stdout if report.passed else sys.stderr)
    return 0 if all(report.passed for report in reports) else EXIT_BAD_INPUT


def _import_published(arguments: argparse.Namespace) -> int:
    for option, folder in (("--source", arguments.source), ("--pararel", arguments.pararel)):
        if folder is not None and not folder.expanduser().is_dir():
            raise BuildError(f"There is no folder {folder}. Give {option} a folder with the published files.")
    from build.published import import_published

    summary = import_published(
        arguments.source,
        arguments.pararel,
        out=arguments.out,
        fresh=arguments.fresh,
        progress=_print_progress() if arguments.progress else None,
    )
    print(summary)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    if arguments.epochs is not None:
        planning.at_least_one("--epochs", arguments.epochs)
    if arguments.seed < 0:
        raise BuildError(f"A seed of {arguments.seed} is negative. Give 0 or more.")
    from build.pocket_bert import train

    with writing(arguments.out):
        print(train(arguments.out, seed=arguments.seed, epochs=arguments.epochs, progress=_print_progress()))
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from atlas.models import fetch_model

    located = fetch_model(arguments.name, _print_progress())
    print(f"{located.name} is in {located.folder} (weights sha256 {located.weights_sha256[:12]}…).")
    return 0


def _geonames(arguments: argparse.Namespace) -> int:
    try:
        from build.geonames import regenerate
    except ImportError as error:
        raise BuildError(f"{error}. Install what requirements-dev.txt lists.") from None

    with writing(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
        counts = regenerate(arguments.out)
    for relation_id, count in counts.items():
        print(f"{relation_id:<8} {count:,} facts")
    return 0


def _reference(arguments: argparse.Namespace) -> int:
    try:
        from build.reference import write
    except ImportError as error:
        raise BuildError(f"{error}. Install what requirements-dev.txt lists.") from None

    with writing(arguments.out):
        print(f"{len(write(arguments.out))} pages: {arguments.out}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from build.evaluate import EvaluateOptions, evaluate

    options = EvaluateOptions(
        experiments=arguments.experiments,
        model=arguments.model,
        sample=arguments.sample,
        seed=arguments.seed,
        device=arguments.device,
        threads=arguments.threads,
    )
    print(evaluate(arguments.folder, options, fresh=arguments.fresh))
    return 0


def _figures(arguments: argparse.Namespace) -> int:
    from build.report import make_report

    print(make_report(arguments.folders, arguments.out))
    return 0


def _experiment(arguments: argparse.Namespace) -> int:
    from build.experiment import replay

    result = replay(
        arguments.file,
        model=arguments.model,
        device=arguments.device,
        json_file=arguments.json,
        any_weights=arguments.any_weights,
        progress=_print_progress(),
    )
    print(result)
    return 0 if result.passed else EXIT_OTHERWISE


def _print_progress() -> Callable[[float, str], None]:
    """A reporter that prints a line when the message or the tenth of the way changes."""
    last: tuple[str, int] | None = None

    def report(fraction: float, message: str) -> None:
        nonlocal last
        now = (message.split(",")[0], int(fraction * 10))
        if now != last:
            print(f"{message} ({fraction:.0%})", file=sys.stderr, flush=True)
            last = now

    return report


_COMMANDS = {
    "plan": _plan,
    "run": _run,
    "check": _check,
    "import-published": _import_published,
    "train-pocket-bert": _train,
    "fetch-model": _fetch,
    "geonames": _geonames,
    "reference": _reference,
    "evaluate": _evaluate,
    "figures": _figures,
    "experiment": _experiment,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["bench"]:
            from build import bench

            return bench.main(argv[1:]) or 0
        arguments = make_parser().parse_args(argv)
        return _COMMANDS[arguments.command](arguments)
    except AtlasError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return _interrupted(argv)
    except RuntimeError as error:
        # DuckDB reports a Ctrl-C during a query as an error of its own.
        if "interrupted" not in str(error).lower():
            raise
        return _interrupted(argv)


def _interrupted(argv: list[str]) -> int:
    resumable = argv[:1] in (["run"], ["evaluate"])
    print(
        "\nInterrupted. Give the same command again to go on; complete shards are kept."
        if resumable
        else "\nInterrupted.",
        file=sys.stderr,
    )
    return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
