"""The command line of the atlas: ask it in SQL, or ask what it is.

    python -m atlas list
    python -m atlas info [--atlas ATLAS]
    python -m atlas sql "SELECT …" [--atlas ATLAS] [--format table|csv|json] [--limit N]
    python -m atlas sql "SELECT …" --collection DIR           many atlases as one; info takes it, too

Errors are one sentence on stderr and exit status 2. SQL runs in the sandbox of `atlas.store.sql`: it can read
the atlas's tables and views, and nothing else. No model is loaded, no torch is imported.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from atlas import __version__
from atlas.errors import AtlasError, QueryError
from atlas.help import explain
from atlas.queries.facts import atlas_summary
from atlas.store.atlas import ENVIRONMENT_VARIABLE, Atlas, at_hand, open_atlas
from atlas.store.collection import Collection
from atlas.store.manifest import file_name
from atlas.store.schema import DERIVED_VIEWS, TABLES, describe
from atlas.store.sql import Answer

_WIDEST = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except AtlasError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`head`, say) has enough; without this Python complains once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m atlas")
    explain(
        parser,
        "Look into atlases of knowledge neurons: which neurons of a language model carry which fact. "
        "Two come with the project. No model is loaded.",
        "python -m atlas list",
        "python -m atlas info --atlas starter-smollm2-135m",
        'python -m atlas sql "SELECT subject, object, n_neurons FROM facts LIMIT 5"',
        more="`python -m atlas COMMAND --help` says more about each.",
    )
    parser.add_argument("--version", action="version", version=f"knowledge-neuron-atlas {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    where = argparse.ArgumentParser(add_help=False)
    either = where.add_mutually_exclusive_group()
    either.add_argument(
        "--atlas",
        metavar="ATLAS",
        help="an id that `python -m atlas list` shows, or the folder of an atlas (default: the first in that "
        f"list, or what the environment variable {ENVIRONMENT_VARIABLE} names)",
    )
    either.add_argument(
        "--collection",
        metavar="DIR",
        help="a folder that holds folders of atlases: all of them as one, with a column atlas_id",
    )

    listing = commands.add_parser("list", help="the atlases that are here")
    explain(
        listing,
        "List the atlases that come with the project and those imported on this machine, with their sizes.",
        "python -m atlas list",
    )
    listing.set_defaults(run=_list)

    info = commands.add_parser("info", parents=[where], help="what an atlas was made from, and what it holds")
    explain(
        info,
        "Print what an atlas was made from (model, data set, method), its tables, and its main numbers. "
        "Of a collection, its members.",
        "python -m atlas info",
        "python -m atlas info --atlas out/mine",
        "python -m atlas info --collection out",
    )
    info.set_defaults(run=_info)

    sql = commands.add_parser("sql", parents=[where], help="run one SELECT over its tables")
    explain(
        sql,
        "Run one SELECT (DuckDB's SQL) over an atlas's tables and views, and print its rows. "
        "The query runs in a process of its own that can read nothing else.",
        'python -m atlas sql "DESCRIBE facts"',
        'python -m atlas sql "SELECT * FROM hub_neurons LIMIT 3"',
        'python -m atlas sql --format csv "FROM relations" > relations.csv',
        'python -m atlas sql --collection out "SELECT atlas_id, label FROM relations"',
        more=f"Tables: {', '.join(TABLES)}.\nViews: {', '.join(DERIVED_VIEWS)}.\n"
        'DESCRIBE lists the columns of one. A null says "not measured", never zero.',
    )
    sql.add_argument("query", metavar="SELECT", help="the query, or - to read it from standard input")
    sql.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    sql.add_argument("--limit", type=int, default=1000, metavar="N", help="print at most N rows (1000)")
    sql.add_argument(
        "--seconds", type=float, default=30, metavar="S", help="stop the query after S seconds (30)"
    )
    sql.add_argument("--memory", default="1GB", metavar="M", help="memory a query may use (1GB)")
    sql.set_defaults(run=_sql)
    return parser


# sql -------------------------------------------------------------------------------------------------


def _sql(options: argparse.Namespace) -> None:
    query = sys.stdin.read() if options.query == "-" else options.query
    if not query.strip():
        raise QueryError('The query is empty. Write a SELECT, such as "SELECT * FROM relations".')
    opened = Collection(options.collection) if options.collection else open_atlas(options.atlas)
    with (
        opened as atlas,
        atlas.sandboxed(max_rows=options.limit, seconds=options.seconds, memory=options.memory) as console,
    ):
        answer = console.query(query)
    {"table": _print_table, "csv": _print_csv, "json": _print_json}[options.format](answer)
    if answer.truncated:
        sys.stdout.flush()
        print(
            f"Only the first {options.limit:,} rows are shown; there are more. Give --limit.",
            file=sys.stderr,
        )


def _print_table(answer: Answer) -> None:
    if answer.columns == ("explain_key", "explain_value"):
        print("\n".join(text for _, text in answer.rows))
        return
    cells = [[_cell(value) for value in row] for row in answer.rows]
    widths = [
        max([len(name), *(len(row[place]) for row in cells)]) for place, name in enumerate(answer.columns)
    ]
    right = [
        bool(answer.rows)
        and all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            for value in (row[place] for row in answer.rows)
        )
        for place in range(len(answer.columns))
    ]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    print(line(answer.columns))
    print("  ".join("─" * width for width in widths))
    for row in cells:
        print(line(row))
    print(f"({len(cells):,} {'row' if len(cells) == 1 else 'rows'})")


def _cell(value: Any) -> str:
    """One value in a table: short, on one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, list) and value and isinstance(value[0], dict) and "token" in value[0]:
        text = ", ".join(str(each["token"]).strip() for each in value)
    elif isinstance(value, list | dict):
        text = json.dumps(_plain(value), ensure_ascii=False)
    else:
        text = str(value)
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    for row in answer.rows:
        writer.writerow(
            [
                json.dumps(_plain(v), ensure_ascii=False)
                if isinstance(v, list | dict)
                else ""
                if v is None
                else v
                for v in row
            ]
        )


def _print_json(answer: Answer) -> None:
    rows = [dict(zip(answer.columns, map(_plain, row), strict=True)) for row in answer.rows]
    # One row a line: readable, and still one JSON document.
    print(
        "["
        + ",".join("\n  " + json.dumps(row, ensure_ascii=False) for row in rows)
        + ("\n]" if rows else "]")
    )


def _plain(value: Any) -> Any:
    """A value that JSON has: no NaN, no dates, no decimals."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if value is None or isinstance(value, str | int | bool) else str(value)


# info and list ---------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> None:
    if options.collection:
        with Collection(options.collection) as collection:
            print("\n".join(_members(collection)))
        return
    with open_atlas(options.atlas) as atlas:
        for part in (_origin(atlas), _tables(atlas), _numbers(atlas)):
            print("\n".join(part), end="\n\n")


def _origin(atlas: Atlas) -> list[str]:
    manifest = atlas.manifest
    model, dataset, method = manifest.model, manifest.dataset, manifest.method
    refinement = dict(method.refinement)
    if not refinement.get("target"):
        refinement = {k: v for k, v in refinement.items() if k not in ("step", "tries")}
    shape = (
        f"{model.n_layers} layers × {model.n_neurons:,} neurons"
        if model.n_layers and model.n_neurons
        else None
    )
    made = [manifest.created, manifest.device, manifest.code_version and f"code {manifest.code_version}"]
    if manifest.seconds:
        made.append(f"{_duration(manifest.seconds)}")
    if manifest.prompts_per_second:
        made.append(f"{manifest.prompts_per_second:.3g} prompts a second")
    lines = [
        ("atlas", [manifest.atlas_id, str(atlas.path)]),
        ("model", [model.name, model.family, shape, model.activation_function, model.dtype]),
        ("weights", [model.revision, model.weights_sha256 and f"sha256 {model.weights_sha256[:12]}…"]),
        ("data set", [dataset.id, dataset.revision, dataset.licence]),
        (
            "method",
            [
                method.name,
                method.rule,
                method.tolerance and f"tolerance {method.tolerance:g}",
                method.max_points and f"at most {method.max_points} points",
            ],
        ),
        (
            "refinement",
            [
                refinement.pop("mode", None),
                *(
                    f"{key} {_cell(value)}"
                    for key, value in refinement.items()
                    # Switches, and the shares of single relations, would drown the rest.
                    if value and not isinstance(value, bool | dict)
                ),
            ],
        ),
        ("held out", [method.held_out]),
        ("made", made),
        ("notes", [manifest.notes]),
    ]
    return [
        f"{name:<11} " + " · ".join(str(part) for part in parts if part)
        for name, parts in lines
        if any(parts)
    ]


def _tables(atlas: Atlas) -> list[str]:
    lines = [f"{'table':<18} {'rows':>12} {'size':>9}"]
    for table in TABLES:
        record = atlas.manifest.files.get(file_name(table))
        if record is None or record.rows == 0:
            lines.append(f"{table:<18} {'–':>12} {'':>9}  not measured in this atlas")
        else:
            lines.append(f"{table:<18} {record.rows:>12,} {_size(record.bytes):>9}  {describe(table)}")
    total = sum(record.bytes for record in atlas.manifest.files.values())
    lines.append(f"{'':<18} {'':>12} {_size(total):>9}")
    return lines


def _numbers(atlas: Atlas) -> list[str]:
    summary = atlas_summary(atlas)
    lines = [
        f"{summary.n_facts:,} facts of {summary.n_relations} relations, "
        f"asked with {summary.n_prompts:,} prompts ({summary.n_held_out:,} held out)"
    ]
    if summary.n_known is not None:
        lines.append(
            f"{summary.n_known:,} known to the model "
            f"({summary.n_known / summary.n_facts:.1%}: rank 1 on most prompts)"
        )
    if summary.mean_neurons is not None:
        lines.append(
            f"{summary.n_neurons:,} knowledge neurons; a fact has {summary.mean_neurons:.2f} on average, "
            f"{summary.median_neurons:g} in the middle, "
            f"and {summary.n_facts - summary.n_with_neurons:,} have none"
        )
    if summary.within is not None and summary.across is not None:
        lines.append(
            f"two facts share {summary.within:.2f} neurons within a relation, "
            f"{summary.across:.2f} across relations"
        )
    if summary.converged_share is not None:
        lines.append(f"{summary.converged_share:.2%} of the integrals met their tolerance")
    if len(summary.effects):
        lines += ["", "mean change of the answer's probability, known facts, held-out prompts:"]
        lines += [
            f"  {row.intervention:<9} {row.group:<10} {row.mean_relative_change:>+8.1%}   "
            f"({row.n_prompts:,} prompts)"
            for row in summary.effects.itertuples()
        ]
    return lines


def _members(collection: Collection) -> list[str]:
    members = collection.members.values()
    widths = [
        max(len(name), *(len(text(each)) for each in members))
        for name, text in (
            ("atlas", lambda each: each.atlas_id),
            ("model", lambda each: each.manifest.model.name),
            ("data set", lambda each: each.manifest.dataset.id),
        )
    ]

    def line(atlas_id: str, model: str, dataset: str, facts: str, pairs: str, size: str) -> str:
        names = "  ".join(f"{text:<{w}}" for text, w in zip((atlas_id, model, dataset), widths, strict=True))
        return f"{names}  {facts:>10}  {pairs:>12}  {size:>9}"

    lines = [line("atlas", "model", "data set", "facts", "pairs", "size")]
    lines += [
        line(
            each.atlas_id,
            each.manifest.model.name,
            each.manifest.dataset.id,
            f"{each.rows('facts'):,}",
            f"{each.rows('knowledge_neurons'):,}",
            _size(each.n_bytes),
        )
        for each in members
    ]
    facts, pairs = (sum(each.rows(table) for each in members) for table in ("facts", "knowledge_neurons"))
    size = _size(sum(each.n_bytes for each in members))
    lines.append(line(f"{len(members)} atlases", "", "", f"{facts:,}", f"{pairs:,}", size))
    return lines


def _list(options: argparse.Namespace) -> None:
    known = at_hand()
    if not known:
        print("No atlas comes with this installation. Build one with `python -m build run`.")
    for place, (atlas_id, folder) in enumerate(known.items()):
        with open_atlas(folder) as atlas:
            files = atlas.manifest.files
            size = _size(sum(record.bytes for record in files.values()))
            print(
                f"{atlas_id:<24} {atlas.manifest.model.name} × {atlas.manifest.dataset.id}, "
                f"{files[file_name('facts')].rows:,} facts, {size}{'  (default)' if place == 0 else ''}"
            )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 100_000 else f"{n_bytes / 1e3:.1f} kB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(main())
