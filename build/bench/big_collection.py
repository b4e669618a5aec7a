"""A made-up collection: 100 models asked the same 27,610 facts, 30,471,100 pairs, in minutes.

    folder = write_big_collection(tmp_path / "many", models=3, n_facts=300)    # the same shapes, smaller
    write_giant_atlas(folder, tmp_path / "giant")                              # all its pairs as one atlas
    python -m tests.big_collection FOLDER [--models 100] [--facts 27610] [--giant FOLDER]

For questions of speed and memory, as tests/big_atlas.py, whose facts and steps these are: facts, relations
and wordings are every model's; answers, pairs and scores are each model's own. Files are written by
`build.output.writer`, so their layout is a build's.

Every member has `relations`, `facts`, `prompts`, `knowledge_neurons` and `neurons`. The rest is left out
because no question over many models needs it: `attributions` (three million rows a model),
`activating_prompts` and what experiments measured. Only the first member, written by `write_big_atlas`, has
every table.

1. *Facts*, the same for all.
2. *Members*: each model's prompts and pairs, from its number as the seed.
3. *Giant*: the pairs of all members as those of one model, whose facts are (fact, member).

Chance comes from hashes: the rows are the same each time, whatever the number of threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from atlas.store.atlas import quoted_path
from atlas.store.manifest import MANIFEST_NAME, file_name, write_manifest
from atlas.store.schema import SORT_KEYS, TABLES
from build.output.writer import ROW_GROUP_ROWS, Output
from tests import big_atlas

N_MODELS = 100
MEMBER_TABLES = ("relations", "facts", "prompts", "knowledge_neurons", "neurons")
ID_WIDTH = 3

# Pairs as big_atlas draws them, but with scores drawn too, instead of added up from attributions.
_SCORED = """
    CREATE TABLE knowledge_neurons AS
    SELECT fact_id, relation_id, layer, neuron,
           (greatest(least(2, n), n // 2 + draw(n - n // 2 + 1, f, layer, neuron)) / n)::FLOAT AS share,
           (0.004 + 0.03 * chance(f, layer, neuron))::FLOAT AS mean_score,
           (0.006 + 0.1 * chance(f, neuron, layer))::FLOAT AS max_score
    FROM (SELECT * EXCLUDE n FROM pair) JOIN (SELECT *, (n_templates + 1) // 2 AS n FROM fact) USING (f)
"""
_FROM_BIG_ATLAS = ("fact", "prompt", "drawn", "pair", "relations", "facts", "prompts")
_STEPS = {
    **{name: big_atlas.STEPS[name] for name in _FROM_BIG_ATLAS},
    "knowledge_neurons": _SCORED,
    "neurons": big_atlas.STEPS["neurons"],
}


def member_id(number: int) -> str:
    """The id of a member, and its folder's name."""
    return f"made-up-{number:0{ID_WIDTH}}"


def write_big_collection(
    folder: Path, *, models: int = N_MODELS, n_facts: int = big_atlas.N_FACTS, complete: int = 1
) -> Path:
    """Write the members into `folder` (made if absent) and return it; those that are there are kept.

    The first `complete` of them have every table.
    """
    folder = Path(folder)
    for number in range(models):
        member = folder / member_id(number)
        if (member / MANIFEST_NAME).exists():
            continue
        if number < complete:
            big_atlas.write_big_atlas(member, n_facts=n_facts, atlas_id=member.name)
        else:
            _write_member(member, number, n_facts)
    return folder


def _write_member(folder: Path, number: int, n_facts: int) -> None:
    """Step 2."""
    n_pairs = round(n_facts * big_atlas.N_PAIRS / big_atlas.N_FACTS)
    n_prompts = round(n_facts * big_atlas.N_PROMPTS / big_atlas.N_FACTS)
    folder.mkdir(parents=True, exist_ok=True)
    output = Output(folder)
    with duckdb.connect(":memory:") as connection:
        sizes = big_atlas.sizes_of(n_facts, n_prompts)
        big_atlas.fill(connection, sizes, n_pairs, steps=_STEPS, seed=number)
        for table in MEMBER_TABLES:
            rows = connection.sql(_sorted(table, table)).to_arrow_table()
            output.write_sorted(table, [rows.cast(TABLES[table])])
    write_manifest(folder, big_atlas.manifest_of(folder, folder.name, model=f"made-up-model-{number}"))


def _sorted(table: str, source: str) -> str:
    columns = ", ".join(f'"{name}"' for name in TABLES[table].names)
    keys = ", ".join(f'"{key}"' for key in SORT_KEYS[table])
    return f"SELECT {columns} FROM {source} ORDER BY {keys}"


def write_giant_atlas(collection: Path, folder: Path) -> Path:
    """Step 3: `relations`, `facts`, `knowledge_neurons` and `neurons` of one model with all the facts."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    output = Output(folder)
    members = sorted(path.parent for path in Path(collection).glob(f"*/{MANIFEST_NAME}"))
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET temp_directory = {quoted_path(folder / 'spilled')}")
        for table in ("facts", "knowledge_neurons"):
            number = f"filename[-{len(file_name(table)) + 1 + ID_WIDTH}:][:{ID_WIDTH}]"
            files = ", ".join(quoted_path(member / file_name(table)) for member in members)
            connection.execute(
                f"""CREATE VIEW {table} AS
                SELECT * REPLACE (fact_id || '.' || {number} AS fact_id)
                FROM read_parquet([{files}], filename = true)"""
            )
        first = quoted_path(members[0] / file_name("relations"))
        connection.execute(
            f"""CREATE VIEW relations AS
            SELECT relation_id, label, (n_facts * {len(members)})::INTEGER AS n_facts, n_templates
            FROM read_parquet({first})"""
        )
        connection.execute(big_atlas.MACROS.format(seed=0))
        connection.execute(big_atlas.STEPS["neurons"])
        for table in ("relations", "facts", "knowledge_neurons", "neurons"):
            batches = connection.sql(_sorted(table, table)).to_arrow_reader(ROW_GROUP_ROWS)
            parts = (pa.Table.from_batches([batch]).cast(TABLES[table]) for batch in batches)
            output.write_sorted(table, parts)
    write_manifest(folder, big_atlas.manifest_of(folder, folder.name, model="made-up-giant"))
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.big_collection", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="where the members go, a folder each")
    parser.add_argument("--models", type=int, default=N_MODELS, help=f"members (default {N_MODELS})")
    parser.add_argument("--facts", type=int, default=big_atlas.N_FACTS, help="facts a member (default 27610)")
    parser.add_argument("--giant", type=Path, metavar="FOLDER", help="write all pairs as one atlas, too")
    options = parser.parse_args(arguments)
    if options.models < 1 or options.facts < 200:
        parser.error("give at least one model and 200 facts")
    print(write_big_collection(options.folder, models=options.models, n_facts=options.facts))
    if options.giant:
        print(write_giant_atlas(options.folder, options.giant))


if __name__ == "__main__":
    main()
