"""The command line of the atlas: list atlases, describe one, or query one in SQL.

    python -m atlas list
    python -m atlas info [--atlas ATLAS]
    python -m atlas sql "SELECT …" [--atlas ATLAS] [--format table|csv|json] [--limit N]
    python -m atlas sql "SELECT …" --collection DIR           many atlases as one; info takes it, too
    python -m atlas measure FACT [--atlas ATLAS] [--model MODEL]

Errors are one sentence on stderr and exit status 2. SQL runs in the sandbox of `atlas.store.sql`: it can read
the atlas's tables and views, and nothing else. Only `measure` loads a model and imports torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection as Container
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from atlas import __version__, cli, queries
from atlas.errors import AtlasError, QueryError
from atlas.queries.summary import atlas_summary
from atlas.rows import csv_text, json_text, tokens_of, value_text
from atlas.store.atlas import ENVIRONMENT_VARIABLE, Atlas, at_hand, open_atlas
from atlas.store.collection import Collection
from atlas.store.manifest import Manifest, file_name
from atlas.store.schema import DERIVED_VIEWS, TABLES, describe
from atlas.store.sql import Answer

_WIDEST = 60
_COMMENT = re.compile(r"--[^=\s]*\s")

app = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None)

AtlasOption = Annotated[
    str | None,
    Option(
        "--atlas",
        metavar="ATLAS",
        help="an id that `python -m atlas list` shows, or the folder of an atlas (default: the first in that "
        f"list, or what the environment variable {ENVIRONMENT_VARIABLE} names)",
    ),
]
CollectionOption = Annotated[
    str | None,
    Option(
        "--collection",
        metavar="DIR",
        help="a folder that holds folders of atlases: all of them as one, with a column atlas_id",
    ),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    # A query may begin with a comment, which is no option.
    given = [f" {each}" if _COMMENT.match(each) else each for each in given]
    return cli.run(app, given, prog="python -m atlas")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"knowledge-neuron-atlas {__version__}")
        raise typer.Exit


@app.callback()
def _atlas(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Look into atlases of knowledge neurons: which neurons an answer depends on.

    Three come with the project. No model is loaded.

    \b
    examples:
      python -m atlas list
      python -m atlas info --atlas starter-smollm2-135m
      python -m atlas sql "SELECT subject, object, n_neurons FROM facts LIMIT 5"

    `python -m atlas COMMAND --help` says more about each.
    """


def _lines(rows: Iterable[Sequence[str]], right: Container[int]) -> list[str]:
    """Rows of cells as lines: columns two spaces apart, those in `right` flush right."""
    columns = [
        [cell.rjust(width) if place in right else cell.ljust(width) for cell in column]
        for place, column in enumerate(zip(*rows, strict=True))
        for width in [max(map(len, column))]
    ]
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


# list and info ---------------------------------------------------------------------------------------


@app.command(name="list")
def list_atlases() -> None:
    """List the atlases that come with the project and those imported on this machine, with their sizes.

    \b
    examples:
      python -m atlas list
    """
    known = at_hand()
    if not known:
        print("No atlas comes with this installation. Build one with `python -m build run`.")
    width = max(map(len, known), default=0)
    for place, (atlas_id, folder) in enumerate(known.items()):
        with open_atlas(folder) as atlas:
            print(
                f"{atlas_id:<{width}}  {atlas.manifest.model.name} × {atlas.manifest.dataset.id}, "
                f"{atlas.manifest.rows('facts'):,} facts, {_size(atlas.manifest.n_bytes)}"
                f"{'  (default)' if place == 0 else ''}"
            )


@app.command()
def info(atlas: AtlasOption = None, collection: CollectionOption = None) -> None:
    """Print what an atlas was made from (model, data set, method), its tables, and its main numbers.

    For a collection, print its members.

    \b
    examples:
      python -m atlas info
      python -m atlas info --atlas out/mine
      python -m atlas info --collection out
    """
    with _opened(atlas, collection) as opened:
        if isinstance(opened, Collection):
            print(*_members(opened), sep="\n")
        else:
            for part in (_origin(opened), _tables(opened), _numbers(opened)):
                print(*part, sep="\n", end="\n\n")


def _origin(atlas: Atlas) -> list[str]:
    manifest = atlas.manifest
    model, dataset, method = manifest.model, manifest.dataset, manifest.method
    refinement = dict(method.refinement)
    if not refinement.get("target"):
        refinement = {k: v for k, v in refinement.items() if k not in ("step", "tries")}
    sizes = model.n_layers and model.n_neurons
    shape = sizes and f"{model.n_layers} layers × {model.n_neurons:,} neurons"
    speed = manifest.prompts_per_second
    made = [
        manifest.created,
        manifest.device,
        manifest.code_version and f"code {manifest.code_version}",
        manifest.seconds and _duration(manifest.seconds),
        speed and f"{speed:.3g} prompts a second",
    ]
    lines: list[tuple[str, list[Any]]] = [
        ("atlas", [manifest.atlas_id, atlas.path]),
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
                    # Booleans and the shares of single relations would make the line too long.
                    if value and not isinstance(value, bool | dict)
                ),
            ],
        ),
        ("held out", [method.held_out]),
        ("made", made),
        ("notes", [manifest.notes]),
    ]
    return [f"{name:<11} " + " · ".join(str(p) for p in parts if p) for name, parts in lines if any(parts)]


def _tables(atlas: Atlas) -> list[str]:
    lines = [f"{'table':<18} {'rows':>12} {'size':>9}"]
    for table in TABLES:
        record = atlas.manifest.files.get(file_name(table))
        if record is None or record.rows == 0:
            lines.append(f"{table:<18} {'–':>12} {'':>9}  not measured in this atlas")
        else:
            lines.append(f"{table:<18} {record.rows:>12,} {_size(record.bytes):>9}  {describe(table)}")
    lines.append(f"{'':<18} {'':>12} {_size(atlas.manifest.n_bytes):>9}")
    return lines


def _numbers(atlas: Atlas) -> list[str]:
    summary = atlas_summary(atlas)
    prompts = f"asked with {summary.n_prompts:,} prompts ({summary.n_held_out:,} held out)"
    lines = [
        f"{summary.n_facts:,} facts of {summary.n_relations} relations, "
        f"{prompts if summary.n_prompts else 'not asked'}"
    ]
    if summary.n_known is not None:
        lines.append(
            f"{summary.n_known:,} known to the model "
            f"({summary.n_known / summary.n_facts:.1%}: rank 1 on most prompts)"
        )
    if summary.mean_neurons is not None:
        lines.append(
            f"{summary.n_neurons:,} knowledge neurons; a fact has {summary.mean_neurons:.2f} on average "
            f"(median {summary.median_neurons:g}), "
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
        asked = "held-out prompts" if summary.n_held_out else "the prompts that found the neurons"
        width = max(10, *map(len, summary.effects["group"]))
        lines += ["", f"mean change of the answer's probability, known facts, {asked}:"]
        lines += [
            f"  {row.intervention:<9} {row.group:<{width}} {row.mean_relative_change:>+8.1%}   "
            f"({row.n_prompts:,} prompts)"
            for row in summary.effects.itertuples()
        ]
    return lines


def _members(collection: Collection) -> list[str]:
    members = [member.manifest for member in collection.members.values()]
    rows = [(each.atlas_id, each.model.name, each.dataset.id, *_counts([each])) for each in members]
    header = ("atlas", "model", "data set", "facts", "pairs", "size")
    return _lines([header, *rows, (f"{len(members)} atlases", "", "", *_counts(members))], right={3, 4, 5})


def _counts(members: Sequence[Manifest]) -> tuple[str, str, str]:
    facts, pairs = (sum(each.rows(table) for each in members) for table in ("facts", "knowledge_neurons"))
    return f"{facts:,}", f"{pairs:,}", _size(sum(each.n_bytes for each in members))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 100_000 else f"{n_bytes / 1e3:.1f} kB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# sql -------------------------------------------------------------------------------------------------


@app.command(
    epilog=f"Tables: {', '.join(TABLES)}.\n\nViews: {', '.join(DERIVED_VIEWS)}.\n\n"
    'DESCRIBE lists the columns of one. A null means "not measured", never zero.'
)
def sql(
    query: Annotated[str, Argument(metavar="SELECT", help="the query, or - to read it from standard input")],
    atlas: AtlasOption = None,
    collection: CollectionOption = None,
    format: Annotated[Literal["table", "csv", "json"], Option(help="how the rows are printed")] = "table",
    limit: Annotated[int, Option(metavar="N", help="print at most N rows")] = 1000,
    seconds: Annotated[float, Option(metavar="S", help="stop the query after S seconds")] = 30,
    memory: Annotated[str, Option(metavar="M", help="memory that a query may use")] = "1GB",
) -> None:
    """Run one SELECT (DuckDB's SQL) over an atlas's tables and views, and print its rows.

    The query runs in a separate process that can read nothing else.

    \b
    examples:
      python -m atlas sql "DESCRIBE facts"
      python -m atlas sql "SELECT * FROM hub_neurons LIMIT 3"
      python -m atlas sql --format csv "FROM relations" > relations.csv
      python -m atlas sql --collection out "FROM relations LIMIT 3"
    """
    text = cli.read_input() if query == "-" else query
    if not text.strip():
        raise QueryError('The query is empty. Write a SELECT, such as "SELECT * FROM relations".')
    with (
        _opened(atlas, collection) as opened,
        opened.sandboxed(max_rows=limit, seconds=seconds, memory=memory) as console,
    ):
        answer = console.query(text)
    if format == "table":
        _print_table(answer)
    elif format == "csv":
        print(csv_text(answer.columns, answer.rows), end="", file=cli.data_output())
    else:
        print(json_text(answer.columns, answer.rows), file=cli.data_output())
    if answer.truncated:
        sys.stdout.flush()
        cli.say(f"Only the first {limit:,} rows are shown; there are more. Give --limit.")


# measure ---------------------------------------------------------------------------------------------


@app.command()
def measure(
    fact: Annotated[str, Argument(metavar="FACT", help="the fact's id, such as P36:france")],
    atlas: AtlasOption = None,
    model: Annotated[
        str | None,
        Option(metavar="MODEL", help="a model's name, folder or hub id (default: the atlas's own model)"),
    ] = None,
    draws: Annotated[int, Option(metavar="N", min=1, help="draws of random neurons, the control")] = 3,
) -> None:
    """Ask a model about one fact now: probabilities, its neurons, and what suppressing them does.

    For atlases that did not measure them. The neurons found now are compared with the atlas's. Nothing is
    written.

    \b
    examples:
      python -m atlas measure P36:france
      python -m atlas measure P36:france --draws 10
    """
    with open_atlas(atlas) as opened:
        name = model or opened.manifest.model.name
        from tqdm import tqdm

        from atlas.experiments.measure import asked_of
        from atlas.experiments.measure import measure as measure_fact
        from atlas.surgery.subject import load_subject

        about = queries.fact(opened, fact)
        subject = load_subject(name)
        asked = asked_of(opened, fact, causal=subject.family.kind == "causal")
        # disable=None: no bar where stderr is no terminal.
        with tqdm(total=1.0, leave=False, disable=None, bar_format="{desc} {percentage:3.0f}% {bar}") as bar:

            def show(share: float, message: str) -> None:
                bar.set_description_str(message, refresh=False)
                bar.update(share - bar.n)

            measured = measure_fact(subject, asked, draws=draws, progress=show)
    print(f"{about['subject']} → {about['object']}, asked of {subject.name} now\n")
    rows = [
        (
            each.prompt.text,
            "held out" if each.group == "paraphrases" else "",
            f"{each.before.probability:.3f}",
            f"{each.before.rank:,}",
            each.before.top[0][0],
        )
        for each in measured.own
    ]
    print(*_lines([("prompt", "", "P(answer)", "rank", "likeliest"), *rows], right={2, 3}), sep="\n")
    found, stored = measured.found, measured.stored
    print(
        f"\n{'known' if measured.known else 'not known'}, mean probability {measured.mean_probability:.3f}; "
        f"{found.n_paths - found.n_unconverged:,} of {found.n_paths:,} integrals within tolerance"
    )
    print(
        f"{len(found.neurons)} neurons found now, {len(stored)} in the atlas, {len(measured.shared)} in both "
        f"(by chance {measured.chance:.2g})"
    )
    print(f"\nsuppressing the {len(measured.suppressed)} {'of the atlas' if stored else 'found now'}:\n")
    groups = [
        (
            each.group,
            f"{each.n_prompts}",
            f"{each.before:.3f}",
            f"{each.change:+.1%}",
            f"{each.random_change:+.1%}",
        )
        for each in measured.outcome.summary()
    ]
    heads = ("prompts", "n", "P(answer)", "its neurons", "random ones")
    print(*_lines([heads, *groups], right={1, 2, 3, 4}), sep="\n")


def _opened(atlas: str | None, collection: str | None) -> Atlas | Collection:
    if collection is None:
        return open_atlas(atlas)
    if atlas is not None:
        raise AtlasError("--atlas and --collection exclude each other. Give one of them.")
    return Collection(collection)


def _print_table(answer: Answer) -> None:
    if answer.columns == ("explain_key", "explain_value"):
        print("\n".join(text for _, text in answer.rows))
        return
    columns = [_cell(name) for name in answer.columns]
    cells = [[_cell(value) for value in row] for row in answer.rows]
    right = {place for place, column in enumerate(zip(*answer.rows, strict=True)) if _is_numeric(column)}
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    line = "─" if cli.as_printed("─") == "─" else "-"
    rule = [line * width for width in widths]
    print(*_lines([columns, rule, *cells], right), sep="\n")
    print(f"({len(cells):,} {'row' if len(cells) == 1 else 'rows'})")


def _is_numeric(column: Sequence[Any]) -> bool:
    return all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in column)


def _cell(value: Any) -> str:
    """One value in a table: short, on one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif (tokens := tokens_of(value)) is not None:
        text = ", ".join(token.strip() for token in tokens)
    else:
        text = value_text(value)
    text = " ".join(text.split())
    return cli.as_printed(text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…")


if __name__ == "__main__":
    sys.exit(main())
