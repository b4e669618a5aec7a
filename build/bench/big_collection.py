"""A made-up collection: 100 models asked the same 27,610 facts, 30,471,100 pairs, in minutes.

    folder = write_big_collection(tmp_path / "many", models=3, n_facts=300)    # the same shapes, smaller
    write_giant_atlas(folder, tmp_path / "giant")                              # all its pairs as one atlas

Facts and steps are those of `build.bench.big_atlas`: facts, relations and wordings are every model's;
answers, pairs and scores are each model's own.

Every member has `relations`, `facts`, `prompts`, `knowledge_neurons` and `neurons`. The rest is left out
because no question over many models needs it: `attributions` (three million rows a model),
`activating_prompts` and what experiments measured. Only the first member, written by `write_big_atlas`, has
every table.

1. *Facts*, the same for all.
2. *Members*: each model's prompts and pairs, from its number as the seed.
3. *Giant*: the pairs of all members as those of one model, whose facts are (fact, member).
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from atlas.store.manifest import MANIFEST_NAME, file_name, write_manifest
from atlas.store.sources import parquet, quoted_path
from build.bench import big_atlas

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
_MEMBER_STEPS = ("fact", "prompt", "drawn", "pair", "relations", "facts", "prompts", "knowledge_neurons")
_STEPS = {name: big_atlas.TABLE_STEPS[name] for name in (*_MEMBER_STEPS, "neurons")} | {
    "knowledge_neurons": _SCORED
}


def member_id(number: int) -> str:
    """The id of a member, and its folder's name."""
    return f"made-up-{number:0{ID_WIDTH}}"


def write_big_collection(
    folder: Path, *, models: int = N_MODELS, n_facts: int = big_atlas.PUBLISHED_FACTS, complete: int = 1
) -> Path:
    """Write the members into `folder` (made if absent) and return it; those that are there are kept.

    The first `complete` of them have every table.
    """
    for number in range(models):
        member = folder / member_id(number)
        if (member / MANIFEST_NAME).exists():
            continue
        if number < complete:
            big_atlas.write_big_atlas(member, n_facts=n_facts, atlas_id=member.name)
            continue
        member.mkdir(parents=True, exist_ok=True)
        with duckdb.connect(":memory:") as connection:
            big_atlas.fill_tables(connection, n_facts, steps=_STEPS, seed=number)
            big_atlas.write_tables(connection, member, MEMBER_TABLES)
        model = f"made-up-model-{number}"
        write_manifest(member, big_atlas.big_manifest(member, member.name, model=model))
    return folder


def write_giant_atlas(collection: Path, folder: Path) -> Path:
    """Step 3: `relations`, `facts`, `knowledge_neurons` and `neurons` of one model with all the facts."""
    folder.mkdir(parents=True, exist_ok=True)
    members = sorted(path.parent for path in collection.glob(f"*/{MANIFEST_NAME}"))
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET temp_directory = {quoted_path(folder / 'spilled')}")
        for table in ("facts", "knowledge_neurons"):
            number = f"filename[-{len(file_name(table)) + 1 + ID_WIDTH}:][:{ID_WIDTH}]"
            files = (member / file_name(table) for member in members)
            connection.execute(
                f"""CREATE VIEW {table} AS
                SELECT * REPLACE (fact_id || '.' || {number} AS fact_id)
                FROM {parquet(*files, filename="true")}"""
            )
        connection.execute(
            f"""CREATE VIEW relations AS
            SELECT relation_id, label, (n_facts * {len(members)})::INTEGER AS n_facts, n_templates
            FROM {parquet(members[0] / file_name("relations"))}"""
        )
        connection.execute(big_atlas.MACROS.format(seed=0))
        connection.execute(big_atlas.TABLE_STEPS["neurons"])
        big_atlas.write_tables(connection, folder, ("relations", "facts", "knowledge_neurons", "neurons"))
    write_manifest(folder, big_atlas.big_manifest(folder, folder.name, model="made-up-giant"))
    return folder
