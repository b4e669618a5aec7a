"""The builder's command line: `python -m build plan | run | check | …`.

Options are checked before torch is imported. What a person got wrong is one sentence on stderr and exit
status 2; Ctrl-C says how to go on and exits with 130.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from atlas.errors import AtlasError, BuildError
from build import plan as planning
from build.arguments import make_parser
from build.output.writer import writing
from build.plan import BuildOptions

EXIT_OTHERWISE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


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
    from build.jobs.executors import Machine
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
    from build.output.check import check_atlas

    reports = [check_atlas(folder) for folder in arguments.folders]
    for report in reports:
        print(report, file=sys.stdout if report.passed else sys.stderr)
    return 0 if all(report.passed for report in reports) else EXIT_BAD_INPUT


def _import_published(arguments: argparse.Namespace) -> int:
    for option, folder in (("--source", arguments.source), ("--pararel", arguments.pararel)):
        if folder is not None and not folder.expanduser().is_dir():
            raise BuildError(f"There is no folder {folder}. Give {option} a folder with the published files.")
    from build.sources.published import import_published

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
    from build.sources.pocket_bert import train

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
        from build.sources.geonames import regenerate
    except ImportError as error:
        raise BuildError(f"{error}. Install what requirements-dev.txt lists.") from None

    with writing(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
        counts = regenerate(arguments.out)
    for relation_id, count in counts.items():
        print(f"{relation_id:<8} {count:,} facts")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from build.evidence.evaluate import EvaluateOptions, evaluate

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
    from build.replay import replay

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
        status = _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
        return status
    except AtlasError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # The reader (`head`, say) has enough; without this Python complains once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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
