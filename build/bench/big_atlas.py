"""A made-up atlas of the published size, in seconds: 27,610 facts, 304,711 pairs, three million scores.

    folder = write_big_atlas(tmp_path / "big")                        # BERT-base's 12 × 3,072 neurons
    folder = write_big_atlas(tmp_path / "less", n_facts=2_000)        # the same shapes, smaller

What the rows share with real ones: relations differ in size and wordings, neurons a fact spread from 1 to
60 (mean 11, median 8), a few hubs are in thousands of facts, later layers hold more, half of the wordings are
held out. `python -m build check` passes: the knowledge neurons follow from the scores.

1. *Facts* and their prompts.
2. *Pairs* of a fact and a neuron, as many as asked for.
3. *Scores* whose refinement is exactly those pairs: a fact's own neurons are coarse in enough of its
   prompts, any other neuron is stored for one of its prompts only.
4. *What follows*: everything that is counted from these.
5. *Experiments*: effects of all facts; the others' rows from tests/sample_evidence.py, of as many facts as an
   evaluation takes.

Chance comes from hashes of row numbers: the rows are the same each time, whatever the number of threads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from atlas.refinement import MODES
from atlas.store.manifest import (
    DatasetRecord,
    Manifest,
    MethodRecord,
    ModelRecord,
    record_files,
    write_manifest,
)
from atlas.store.schema import SORT_KEYS, TABLES
from atlas.store.sources import rows_of
from build.output.writer import ROW_GROUP_ROWS, Output

_N_LAYERS = 12
_N_NEURONS = 3_072
_N_RELATIONS = 39
PUBLISHED_FACTS = 27_610
PUBLISHED_PAIRS = 304_711
PUBLISHED_PROMPTS = 224_674

# Small tables that no page reads much of.
NOT_MADE = ("specificity", "synonymy", "grammar", "planted", "planted_summaries")

_SYLLABLES = "ba ber cor dan el fá gar hel ir jo kal lin mar nor ö pol quin rā sel tor ur vé wes xi yar zü"


# Chance is a number from 0 to 1, draw one of 0 … n-1; each the same for the same seed and arguments. Hashed
# twice: the hashes of (a, b, c) and (a, b, d) differ by the same bits whatever a and b are.
MACROS = f"""
    CREATE OR REPLACE MACRO mixed(a, b, c) AS hash(xor(hash(a, b, c), {{seed}}::UBIGINT));
    CREATE OR REPLACE MACRO chance(a, b, c) AS mixed(a, b, c) / 18446744073709551616.0;
    CREATE OR REPLACE MACRO draw(n, a, b, c) AS (mixed(a, b, c) % n)::INTEGER;
    CREATE OR REPLACE MACRO syllable(a, b, c) AS
        string_split('{_SYLLABLES}', ' ')[1 + draw({len(_SYLLABLES.split())}, a, b, c)];
    CREATE OR REPLACE MACRO word(a, b) AS
        upper(syllable(a, b, 1)[1:1]) || syllable(a, b, 1)[2:] || syllable(a, b, 2) || syllable(a, b, 3);
    CREATE OR REPLACE MACRO tokens(side, layer, neuron, sign) AS [
        {{{{'token': word(hash(layer, neuron, i), side), 'logit': (sign * (3 - i / 5))::FLOAT}}}}
        FOR i IN range(10)];
"""

# Table → how it is made. {facts}, {pairs}: how many; `sizes` is the table of `relation_sizes`.
TABLE_STEPS = {
    # 1. Facts and prompts.
    "fact": """
    CREATE TABLE fact AS
    SELECT f, r, n_templates, relation_id, label,
           relation_id || '-' || lpad(place::VARCHAR, 5, '0') AS fact_id,
           word(f, 'subject') || CASE WHEN f % 3 = 0 THEN ' ' || word(f, 'second') ELSE '' END AS subject,
           k, word(k, r % 5) AS object, chance(f, 'known', 0) < 0.45 AS easy, f % 20 = 19 AS silent
    FROM (
        SELECT *, floor((6 + 12 * (r % 13)) * chance(f, 'object', 0) ^ 2)::INTEGER AS k
        FROM (SELECT *, (row_number() OVER (ORDER BY r, place) - 1)::INTEGER AS f
              FROM (SELECT *, unnest(range(n_facts)) AS place FROM sizes))
    )
    """,
    "prompt": """
    CREATE TABLE prompt AS
    SELECT f, r, fact_id, j, relation_id || '.' || lpad(j::VARCHAR, 2, '0') AS template_id,
           j % 2 = 1 AS held_out,
           'In wording ' || j || ', the ' || label || ' of ' || subject || ' is [Y].' AS text,
           CASE WHEN first THEN 1 ELSE 2 + draw(900, f, j, 'place') END AS rank,
           (CASE WHEN first THEN 0.2 + 0.7 * p ELSE 0.15 * p * p END)::FLOAT AS probability,
           CASE WHEN first THEN object ELSE word(hash(f, j), 'top') END AS top_token,
           (CASE WHEN first THEN 0.2 + 0.7 * p ELSE 0.15 + 0.3 * p END)::FLOAT AS top_probability,
           object, silent, (n_templates + 1) // 2 AS n_discovery,
           (CASE WHEN j % 2 = 1 THEN NULL WHEN silent THEN -0.001
                 ELSE 0.005 + 0.1 * chance(f, j, 'largest') END)::FLOAT AS max_score
    FROM (SELECT *, chance(f, j, 'p') AS p,
                 chance(f, j, 'rank') < CASE WHEN easy THEN 0.85 ELSE 0.15 END AS first
          FROM (SELECT *, unnest(range(n_templates))::INTEGER AS j FROM fact))
    """,
    # 2. Pairs. A draw is a hub, one of the relation's neurons, one of its answer's, or any.
    "drawn": """
    CREATE TABLE drawn AS
    WITH draws AS (
        SELECT f, r, k, i, chance(f, i, 'kind') AS u, chance(f, i, 'which') AS v
        FROM (SELECT *, unnest(range(70)) AS i FROM fact WHERE NOT silent)
    ), hashed AS (
        SELECT f, i, CASE WHEN u < 0.15 THEN hash('hub', floor(12 * v * v))
                          WHEN u < 0.55 THEN hash(r, floor(90 * v * v))
                          WHEN u < 0.70 THEN hash(r, k, floor(12 * v))
                          ELSE hash(f, i, 'own') END AS h
        FROM draws
    ), found AS (
        SELECT f, floor(12 * sqrt(chance(h, 'layer', 0)))::SMALLINT AS layer,
               (h % 3072)::INTEGER AS neuron, min(i) AS i
        FROM hashed GROUP BY ALL
    )
    SELECT f, layer, neuron, (row_number() OVER (PARTITION BY f ORDER BY i))::INTEGER AS n,
           least(60, 1 + floor(-10.8 * ln(1 - chance(f, 'many', 0)))) AS wanted
    FROM found
    """,
    "pair": """
    CREATE TABLE pair AS
    SELECT f, layer, neuron, n FROM drawn ORDER BY n > wanted, n > 1, hash(f, n), f, n LIMIT {pairs}
    """,
    # 3. Scores: a fact's first neuron has the largest of every prompt, its others are coarse in enough.
    "score": """
    CREATE TABLE score AS
    WITH attributed AS (
        SELECT f, fact_id, template_id, j // 2 AS place, n_discovery, max_score FROM prompt
        WHERE NOT held_out AND NOT silent
    ), own AS (
        SELECT a.f, fact_id, template_id, layer, neuron, true AS own, max_score, CASE
                   WHEN n = 1 THEN 1.0
                   WHEN (place + draw(n_discovery, a.f, n, 'turn')) % n_discovery
                        < needed + draw(n_discovery - needed + 1, a.f, n, 'spare')
                   THEN 0.21 + 0.75 * chance(a.f, n, place) ^ 3
                   WHEN chance(a.f, n, place) < 0.6 THEN 0.101 + 0.088 * chance(n, a.f, place) END AS relative
        FROM (SELECT *, greatest(2, (n_discovery + 1) // 2) AS needed FROM attributed) AS a
        JOIN pair ON pair.f = a.f
    ), other AS (
        SELECT DISTINCT ON (f, template_id, layer, neuron) f, fact_id, template_id,
               draw(12, f, i, place)::SMALLINT AS layer,
               (16 * draw(192, place, f, i) + place)::INTEGER AS neuron, false AS own, max_score,
               CASE WHEN chance(i, f, place) < 0.9 THEN 0.101 + 0.088 * chance(f, place, i)
                    ELSE 0.21 + 0.4 * chance(f, place, i) END AS relative
        FROM (SELECT *, unnest(range(12 + draw(17, f, place, 'others'))) AS i FROM attributed)
        ORDER BY f, template_id, layer, neuron, i
    )
    SELECT f, fact_id, template_id, layer, neuron, own, relative, (relative * max_score)::FLOAT AS score
    FROM (FROM own WHERE relative IS NOT NULL
          UNION ALL BY NAME FROM other ANTI JOIN pair USING (f, layer, neuron))
    """,
    # 4. What follows.
    "relations": """
    CREATE TABLE relations AS
    SELECT relation_id, label, n_facts::INTEGER AS n_facts, n_templates::INTEGER AS n_templates FROM sizes
    """,
    "templates": """
    CREATE TABLE templates AS
    SELECT relation_id, relation_id || '.' || lpad(j::VARCHAR, 2, '0') AS template_id,
           'In wording ' || j || ', the ' || label || ' of [X] is [Y].' AS text, j % 2 = 1 AS held_out
    FROM (SELECT *, unnest(range(n_templates)) AS j FROM sizes)
    """,
    "facts": """
    CREATE TABLE facts AS
    SELECT fact_id, relation_id, subject, object, n_templates::INTEGER AS n_prompts,
           coalesce(n_neurons, 0)::INTEGER AS n_neurons, 2 * n_first > n_templates AS known,
           mean_probability::FLOAT AS mean_probability, false AS contested, false AS guessable,
           1::SMALLINT AS n_answer_tokens
    FROM fact JOIN (SELECT f, count(*) FILTER (rank = 1) AS n_first, avg(probability) AS mean_probability
                    FROM prompt GROUP BY f) USING (f)
    LEFT JOIN (SELECT f, count(*) AS n_neurons FROM pair GROUP BY f) USING (f)
    """,
    "prompts": """
    CREATE TABLE prompts AS
    SELECT fact_id, template_id, text, held_out, probability, rank, top_token, top_probability,
           (CASE WHEN NOT held_out THEN 0.009 * chance(f, j, 'gap') END)::FLOAT AS max_gap,
           CASE WHEN NOT held_out THEN 60 END AS n_points, CASE WHEN NOT held_out THEN true END AS converged,
           1::SMALLINT AS n_answer_tokens, max_score,
           (CASE WHEN NOT held_out THEN 12 END)::SMALLINT AS n_layers,
           CASE WHEN NOT held_out THEN 0 END AS n_unconverged
    FROM prompt
    """,
    "attributions": """
    CREATE VIEW attributions AS SELECT fact_id, template_id, layer, neuron, score FROM score
    """,
    "knowledge_neurons": """
    CREATE TABLE knowledge_neurons AS
    SELECT fact_id, relation_id, layer, neuron,
           (count(*) FILTER (relative >= 0.2) / any_value((n_templates + 1) // 2))::FLOAT AS share,
           avg(score::DOUBLE)::FLOAT AS mean_score, max(score) AS max_score
    FROM score JOIN fact USING (f, fact_id) WHERE own GROUP BY fact_id, relation_id, layer, neuron
    """,
    "neurons": """
    CREATE TABLE neurons AS
    SELECT layer, neuron, count(*)::INTEGER AS n_facts, count(DISTINCT relation_id)::INTEGER AS n_relations,
           (1 + chance(layer, neuron, 'norm'))::FLOAT AS value_norm,
           tokens('up', layer, neuron, 1.0) AS promoted, tokens('down', layer, neuron, -1.0) AS suppressed
    FROM knowledge_neurons GROUP BY layer, neuron
    """,
    "activating_prompts": """
    CREATE TABLE activating_prompts AS
    SELECT layer, neuron, side, (1 + i)::SMALLINT AS rank, fact_id,
           relation_id || '.' || lpad(draw(n_templates, layer, neuron, i)::VARCHAR, 2, '0') AS template_id,
           (CASE WHEN side = 'top' THEN 4.0 - i / 10 ELSE i / 10 - 0.2 END)::FLOAT AS activation
    FROM (SELECT *, draw({facts}, layer, neuron, side || i) AS f
          FROM (SELECT layer, neuron, unnest(range(5)) AS i FROM neurons)
          CROSS JOIN (VALUES ('top'), ('bottom')) AS sides(side))
    JOIN fact USING (f)
    """,
    # Unrelated prompts are those of the next relation's first fact.
    "effects": """
    CREATE TABLE effects AS
    WITH others AS (
        SELECT (r + {relations} - 1) % {relations} AS r, j, fact_id, template_id, object, probability, rank
        FROM prompt WHERE held_out AND f IN (SELECT min(f) FROM fact GROUP BY r)
    ), asked AS (
        SELECT f, j, fact_id, fact_id AS prompt_fact_id, template_id, held_out, probability, rank,
               unnest(['own', 'random', 'matched', 'baseline']) AS kind
        FROM prompt
        UNION ALL
        SELECT p.f, p.j, p.fact_id, o.fact_id, o.template_id, true, o.probability, o.rank, 'unrelated'
        FROM prompt AS p JOIN others AS o ON o.r = p.r AND o.j = p.j
        WHERE p.held_out AND o.object <> p.object
    )
    SELECT fact_id, prompt_fact_id, template_id, intervention, kind AS "group", held_out, n_neurons,
           probability AS p_before, rank AS rank_before,
           least(1, probability * factor * (0.9 + 0.2 * chance(f, j, intervention || kind)))::FLOAT
               AS p_after,
           rank + CASE WHEN factor < 0.5 THEN draw(40, f, j, 'fall') ELSE 0 END AS rank_after,
           (rank = 1) <> (rank_after = 1) AS top_changed, active::FLOAT AS activity,
           NULL::FLOAT AS change
    FROM asked JOIN facts USING (fact_id)
    JOIN (VALUES ('suppress', 'own', 0.35, 2.0), ('suppress', 'random', 1.0, 0.2),
                 ('suppress', 'matched', 0.95, 1.6), ('suppress', 'baseline', 0.85, 3.0),
                 ('suppress', 'unrelated', 0.95, 2.0),
                 ('amplify', 'own', 1.4, 2.0), ('amplify', 'random', 1.0, 0.2),
                 ('amplify', 'matched', 1.05, 1.6),
                 ('amplify', 'baseline', 1.1, 3.0), ('amplify', 'unrelated', 1.02, 2.0))
         AS trial(intervention, kind, factor, active) USING (kind)
    WHERE n_neurons > 0
    """,
    "control_neurons": f"""
    CREATE TABLE control_neurons AS
    SELECT fact_id, kind AS "group", 1::SMALLINT AS draw, layer,
           ((neuron + shift) % {_N_NEURONS})::INTEGER AS neuron
    FROM knowledge_neurons
    CROSS JOIN (VALUES ('random', 7), ('matched', 1), ('baseline', 3)) AS controls(kind, shift)
    """,
    "effect_summaries": """
    CREATE TABLE effect_summaries AS
    WITH rows AS (
        SELECT f.relation_id, intervention, "group", e.fact_id, e.p_before, e.p_after, e.top_changed,
               e.activity, CASE WHEN held_out THEN 'held-out' ELSE 'discovery' END AS templates,
               unnest(['all', CASE WHEN asked.known THEN 'known' ELSE 'unknown' END]) AS facts
        FROM effects AS e JOIN facts AS f USING (fact_id)
        JOIN facts AS asked ON asked.fact_id = e.prompt_fact_id
    ), by_relation AS (
        SELECT relation_id, intervention, "group", templates, facts, 1 AS n_relations,
               count(DISTINCT fact_id) AS n_facts, count(*) AS n_prompts, avg(p_before) AS mean_before,
               avg(p_after) AS mean_after, avg(p_after - p_before) / avg(p_before) AS paper_change,
               avg((p_after - p_before) / p_before) FILTER (p_before > 0) AS replication_change,
               avg(top_changed::INTEGER) AS top_changed, avg(activity / 2.0) AS activity
        FROM rows GROUP BY relation_id, intervention, "group", templates, facts
    ), every AS (
        FROM by_relation
        UNION ALL
        SELECT 'all', intervention, "group", templates, facts, count(*), sum(n_facts), sum(n_prompts),
               avg(COLUMNS('mean_|_change|top_|activity'))
        FROM by_relation GROUP BY intervention, "group", templates, facts
    )
    SELECT * REPLACE (n_facts::INTEGER AS n_facts, n_prompts::INTEGER AS n_prompts),
           paper_change - wide AS paper_low, paper_change + wide AS paper_high,
           replication_change - wide AS replication_low, replication_change + wide AS replication_high
    FROM (SELECT *, 0.1 / sqrt(n_facts) AS wide FROM every)
    """,
}


def write_big_atlas(
    folder: Path, *, n_facts: int = PUBLISHED_FACTS, atlas_id: str = "big", leave_out: Collection[str] = ()
) -> Path:
    """Write an atlas into `folder` (made if absent) and return it; pairs and prompts are in proportion.

    `leave_out` names tables that are not written, as in an atlas that could not measure them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = [name for name in TABLES if name not in {*leave_out, *NOT_MADE}]
    with duckdb.connect(":memory:") as connection:
        fill_tables(connection, n_facts)
        experiments = experiment_tables(connection)
        write_tables(connection, folder, [name for name in tables if name not in experiments])
    for name in tables:
        if name in experiments:
            Output(folder).write_table(name, experiments[name])
    write_manifest(folder, big_manifest(folder, atlas_id))
    return folder


def relation_sizes(n_facts: int, n_prompts: int) -> list[tuple[int, str, int, int]]:
    """Of each relation: number, id, facts, templates; they add up to what is asked for."""
    n = _N_RELATIONS
    templates = [4 + (7 * r) % 9 for r in range(n)]
    weights = [0.4 + (17 * r % n) / n for r in range(n)]
    facts = [max(2, int(n_facts * weight / sum(weights))) for weight in weights]
    facts[0] += n_facts - sum(facts)
    for step in range(max(templates) - min(templates), 0, -1):
        for giver in range(n):
            for taker in range(n):
                missing = n_prompts - sum(f * t for f, t in zip(facts, templates, strict=True))
                if missing and templates[taker] - templates[giver] == (step if missing > 0 else -step):
                    moved = min(abs(missing) // step, facts[giver] // 2)
                    facts[giver] -= moved
                    facts[taker] += moved
    return [(r, f"P{101 + r}", facts[r], templates[r]) for r in range(n)]


def fill_tables(
    connection: duckdb.DuckDBPyConnection,
    n_facts: int,
    *,
    steps: Mapping[str, str] = TABLE_STEPS,
    seed: int = 0,
) -> None:
    """Make the tables of `steps`, `fact` first: facts do not depend on the seed, the rest does."""
    sizes = relation_sizes(n_facts, round(n_facts * PUBLISHED_PROMPTS / PUBLISHED_FACTS))
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(MACROS.format(seed=0))
    connection.execute(
        "CREATE TABLE counted (r INTEGER, relation_id VARCHAR, n_facts INTEGER, n_templates INTEGER)"
    )
    connection.executemany("INSERT INTO counted VALUES (?, ?, ?, ?)", sizes)
    connection.execute("CREATE TABLE sizes AS SELECT *, lower(word(r, 'label')) AS label FROM counted")
    n_pairs = round(n_facts * PUBLISHED_PAIRS / PUBLISHED_FACTS)
    for table, step in steps.items():
        connection.execute(step.format(pairs=n_pairs, facts=n_facts, relations=len(sizes)))
        if table == "fact":
            connection.execute(MACROS.format(seed=seed))


def experiment_tables(connection: duckdb.DuckDBPyConnection) -> dict[str, list[dict]]:
    """Step 5, but for the effects."""
    from tests.sample_evidence import evidence_tables, sampled  # in a checkout, as all of this room

    facts = connection.sql("FROM facts ORDER BY fact_id").to_arrow_table().to_pylist()
    asked = connection.sql(
        "FROM prompts WHERE fact_id IN (SELECT unnest(?)) ORDER BY fact_id, template_id",
        params=[[fact["fact_id"] for fact in sampled(facts)]],
    )
    prompts = defaultdict(list)
    for row in asked.to_arrow_table().to_pylist():
        prompts[row["fact_id"]].append(row)
    pairs = connection.execute(
        "SELECT fact_id, relation_id, layer, neuron FROM knowledge_neurons ORDER BY ALL"
    ).fetchall()
    return evidence_tables(facts, prompts, pairs, n_layers=_N_LAYERS, seed=0)


def write_tables(connection: duckdb.DuckDBPyConnection, folder: Path, tables: Iterable[str]) -> None:
    """Write tables of the connection in the order and the row groups of a build."""
    for table in tables:
        columns, keys = (
            ", ".join(f'"{name}"' for name in names) for names in (TABLES[table].names, SORT_KEYS[table])
        )
        made = rows_of(table, f"FROM {table}")
        rows = connection.sql(f"SELECT {columns} FROM ({made}) ORDER BY {keys}")
        parts = (
            pa.Table.from_batches([batch]).cast(TABLES[table])
            for batch in rows.to_arrow_reader(ROW_GROUP_ROWS)
        )
        Output(folder).write_sorted(table, parts)


def big_manifest(folder: Path, atlas_id: str, *, model: str = "made-up-model") -> Manifest:
    return Manifest(
        atlas_id=atlas_id,
        model=ModelRecord(
            name=model,
            revision="1",
            weights_sha256="0" * 64,
            activation_function="gelu",
            family="bert",
            dtype="float32",
            n_layers=_N_LAYERS,
            n_neurons=_N_NEURONS,
        ),
        dataset=DatasetRecord(id="made-up", revision="1", hash="0" * 64, licence="CC0-1.0"),
        method=MethodRecord(
            name="integrated_gradients",
            rule="certified",
            tolerance=0.01,
            max_points=513,
            refinement=MODES["default"].to_dict(),
            stored_fraction=0.1,
            held_out="every second template",
            seed=0,
        ),
        files=record_files(folder),
        code_version="0.1.0",
        created="2026-01-01",
        notes="Made-up rows, to measure speed with.",
    )
