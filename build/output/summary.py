"""What a finished atlas shows, in a few lines.

    print(describe_atlas(Path("out/my-atlas")))

Means over the held-out prompts of known facts (all prompts where none is held out), each prompt's change
relative to its own probability; a prompt that rises from almost nothing weighs much in the mean, so the
median stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from atlas.queries.evidence import NEURON_GROUPS
from atlas.store.manifest import Manifest, check_files, file_name, read_manifest
from atlas.store.sources import parquet, rows_of
from build.plan import duration


def describe_atlas(folder: Path) -> str:
    """The summary of the atlas in a folder."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    with open_tables(folder, manifest) as connection:
        lines = [
            f"{manifest.atlas_id} is finished: {folder}",
            *_lines(
                connection,
                measured_prompts="prompts" in manifest.tables,
                measured_effects="effects" in manifest.tables,
            ),
        ]
    left_out = manifest.method.options.get("prompts_left_out", 0)
    if left_out:
        lines.append(
            f"left out    {left_out:,} prompts ({manifest.method.options['facts_left_out']:,} facts whole): "
            f"{manifest.method.options['why_left_out'][0]}"
        )
    precision = manifest.method.options.get("precision")
    if precision:
        lines.append(
            f"precision   {manifest.model.dtype}: scores of {precision['prompts']} sampled prompts within "
            f"{precision['largest_difference']:.2%} of float32's"
        )
    if manifest.seconds:
        lines.append(
            f"time        {duration(manifest.seconds)}, {manifest.prompts_per_second:,} prompts a second "
            f"({manifest.device})"
        )
    return "\n".join(lines)


@contextmanager
def open_tables(folder: Path, manifest: Manifest) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with a view of each table."""
    with duckdb.connect(":memory:") as connection:
        for table in manifest.tables:
            reading = f"FROM {parquet(folder / file_name(table))}"
            connection.execute(f"CREATE VIEW {table} AS {rows_of(table, reading)}")
        yield connection


def _lines(
    connection: duckdb.DuckDBPyConnection, *, measured_prompts: bool, measured_effects: bool
) -> list[str]:
    facts, asked, known, mean, none = connection.execute("""
        SELECT count(*), count(known), count(*) FILTER (known), avg(n_neurons),
               count(*) FILTER (n_neurons = 0)
        FROM facts
    """).fetchall()[0]
    knows = f"of which the model knows {known:,} ({known / max(asked, 1):.0%}"
    knows += ")" if asked == facts else f" of {asked:,} that were asked)"
    lines = [
        f"facts       {facts:,}, {knows if asked else 'not measured which of them the model knows'}",
        f"neurons     {mean:.1f} a fact; {none:,} facts have none",
    ]
    share = converged_share(connection) if measured_prompts else None
    if share is not None:
        lines.append(f"converged   {share:.2%} of the (answer token, layer) paths")
    if not measured_effects:
        return [*lines, "effects     not measured"]
    effects = connection.execute(
        """
        SELECT intervention, "group", avg(relative), median(relative), count(*)
        FROM (SELECT *, coalesce(change, p_after / nullif(p_before, 0) - 1) AS relative FROM effects) AS e
        JOIN facts AS own ON own.fact_id = e.fact_id
        LEFT JOIN facts AS asked ON asked.fact_id = e.prompt_fact_id
        WHERE own.known AND coalesce(asked.known, change IS NOT NULL) AND relative IS NOT NULL
          AND e.held_out = (SELECT bool_or(held_out) FROM effects)
        GROUP BY intervention, "group"
        ORDER BY intervention DESC, list_position($groups, "group")
    """,
        {"groups": list(NEURON_GROUPS)},
    ).fetchall()
    if not effects:
        lines.append("effects     not measured on known facts")
    lines += [
        f"{intervention:<11} {group:<10} {average:+8.1%} mean {middle:+8.1%} median ({count:,} prompts)"
        for intervention, group, average, middle, count in effects
    ]
    return lines


def converged_share(connection: duckdb.DuckDBPyConnection) -> float | None:
    """Share of the (answer token, layer) paths that met the tolerance; None where nothing was attributed."""
    return connection.execute("""
        SELECT 1 - sum(n_unconverged) / nullif(sum(n_layers * n_answer_tokens), 0)
        FROM prompts WHERE n_layers IS NOT NULL
    """).fetchall()[0][0]
