"""Hostile SQL: refused, stopped or cut within the limits; no file changes, and the next question is answered.

The sandbox is the one that the app and `python -m atlas sql` use, with small limits. Its process runs in an
empty folder, beside a copy of the atlas's files that every statement may try to reach as `{folder}`.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from atlas.errors import QueryError
from atlas.store.atlas import Atlas
from atlas.store.schema import TABLES
from atlas.store.sql_size import AnswerSize
from atlas.store.sql_worker import LONGEST_MESSAGE, with_uncounted
from tests.sample_atlas import write_sample_atlas

SECONDS = 0.5
MEMORY_MB = 128
# The limit, a second's grace for queries that ignore an interrupt, and slack for a busy machine.
SURELY_OVER = SECONDS + 1 + 8

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Only Linux tells of a process.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_sample_atlas(tmp_path_factory.mktemp("attacked") / "atlas")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """The folder the process runs in; any file it writes would be here."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def console(folder, elsewhere):
    before = os.getcwd()
    os.chdir(elsewhere)
    try:
        with Atlas(folder) as atlas, atlas.sandboxed(seconds=SECONDS, memory=f"{MEMORY_MB}MB") as sandbox:
            yield sandbox
    finally:
        os.chdir(before)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def unharmed(console, folder, elsewhere):
    """Afterwards every file is unchanged, and the same sandbox answers the next query."""
    files = contents(folder)
    assert len(files) == len(TABLES) + 1  # and the manifest
    yield
    assert contents(folder) == files
    assert list(elsewhere.iterdir()) == []
    assert console.query("SELECT count(*), count(DISTINCT subject) FROM facts").rows == ((60, 60),)
    assert console.query("SELECT count(*) FROM relations").rows == ((4,),)


WRITES = [
    "INSERT INTO facts SELECT * FROM facts",
    "UPDATE facts SET subject = 'x'",
    "DELETE FROM facts",
    "TRUNCATE facts",
    # Where the tables really are.
    "DELETE FROM loaded.facts",
    "WITH x AS (UPDATE loaded.facts SET subject = 'x' RETURNING *) SELECT * FROM x",
    "WITH x AS (INSERT INTO loaded.facts FROM loaded.facts RETURNING *) SELECT * FROM x",
    "DETACH loaded",
    "CHECKPOINT loaded",
    "USE loaded",
    "MERGE INTO facts USING relations ON false WHEN NOT MATCHED THEN INSERT VALUES (1)",
    "CREATE TABLE x AS SELECT 1",
    "CREATE OR REPLACE TABLE facts AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW facts AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE TEMP MACRO count(x) AS 0",
    "CREATE MACRO t() AS TABLE SELECT * FROM '/etc/passwd'",
    "CREATE FUNCTION f(x) AS x",
    "CREATE TYPE mood AS ENUM ('a')",
    "CREATE SEQUENCE s",
    "CREATE SCHEMA s",
    "CREATE INDEX i ON facts (fact_id)",
    "CREATE SECRET (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "CREATE PERSISTENT SECRET (TYPE http, BEARER_TOKEN 'x')",
    "DROP TABLE facts",
    "DROP VIEW hub_neurons",
    "ALTER TABLE facts DROP COLUMN subject",
    "COMMENT ON TABLE facts IS 'x'",
    "WITH x AS (DELETE FROM facts RETURNING *) SELECT * FROM x",
    "WITH x AS (INSERT INTO relations VALUES ('P0', 'x', 1, 1) RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE facts SET subject = 'x' RETURNING *) SELECT * FROM x",
    "WITH x AS MATERIALIZED (TRUNCATE facts) SELECT 1",
    "SELECT * FROM query('DELETE FROM facts')",
    "SELECT * FROM query('WITH x AS (DELETE FROM facts RETURNING *) SELECT * FROM x')",
    "FROM query('SELECT 1; DROP TABLE facts')",
]
STATEMENTS = [
    "ATTACH '{folder}/new.db'",
    "ATTACH ':memory:' AS other",
    "ATTACH '{folder}/facts.parquet' AS f (READ_ONLY)",
    "DETACH memory",
    "USE memory",
    "COPY facts TO '{folder}/facts.parquet' (FORMAT parquet)",
    "COPY facts TO 'x.csv'",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "COPY facts FROM '{folder}/facts.parquet'",
    "COPY FROM DATABASE memory TO other",
    "EXPORT DATABASE '{folder}/export'",
    "IMPORT DATABASE '{folder}'",
    "INSTALL httpfs",
    "FORCE INSTALL spatial FROM community",
    "LOAD httpfs",
    "LOAD '{folder}/x.duckdb_extension'",
    "UPDATE EXTENSIONS",
    "PRAGMA database_list",
    "PRAGMA enable_external_access",
    "PRAGMA memory_limit='100GB'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET memory_limit = '100GB'",
    "SET SESSION threads = 64",
    "SET VARIABLE x = 1",
    "SET search_path = 'pg_catalog'",
    "RESET memory_limit",
    "RESET lock_configuration",
    "CALL enable_logging()",
    "CALL pragma_version()",
    "CALL force_checkpoint()",
    "CHECKPOINT",
    "FORCE CHECKPOINT memory",
    "VACUUM",
    "ANALYZE",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "KILL 1",
    "SHUTDOWN",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE facts",
    "SELECT 1;; DELETE FROM facts;",
    "/* SELECT 1 */ DROP TABLE facts",
    "SELECT 1 /* ; */; -- \n DROP TABLE facts",
    "EXPLAIN COPY facts TO '{folder}/x.csv'",
    "EXPLAIN ANALYZE COPY facts TO '{folder}/x.csv'",
    "EXPLAIN ANALYZE DELETE FROM facts",
    "EXPLAIN ANALYZE WITH x AS (DELETE FROM facts RETURNING *) SELECT * FROM x",
    "EXPLAIN (ANALYZE, FORMAT json) DELETE FROM facts",
    "EXPLAIN EXPLAIN ANALYZE DELETE FROM facts",
    "EXPLAIN SELECT 1; DELETE FROM facts",
    "/* so */ EXPLAIN ANALYZE COPY facts TO '{folder}/x.csv'",
    "CREATE TABLE x AS PIVOT facts ON known USING count(*)",
    "EXPLAIN ANALYZE CREATE TABLE x AS PIVOT facts ON known USING count(*)",
    "COPY (PIVOT facts ON known USING count(*)) TO '{folder}/x.csv'",
    "SET VARIABLE x = (SELECT count(*) FROM (PIVOT facts ON known USING count(*)))",
    "PREPARE p AS PIVOT facts ON known USING count(*)",
    "INSERT INTO loaded.facts FROM (PIVOT facts ON known USING count(*))",
    "WITH x AS (DELETE FROM loaded.facts RETURNING *) PIVOT x ON known USING count(*)",
    "PIVOT facts ON known USING count(*); DELETE FROM loaded.facts",
    "EXPLAIN /* /* */ SELECT 1 -- */ DELETE FROM loaded.facts",
    "EXPLAIN (ANALYZE) /* SELECT */ DELETE FROM loaded.facts",
    "",
    " ; -- nothing",
]
READS = [
    "SELECT * FROM '{folder}/facts.parquet'",
    "SELECT * FROM '{folder}/*.parquet'",
    'SELECT * FROM "{folder}/facts.parquet"',
    "SELECT * FROM 'facts.parquet', '/etc/hosts'",
    "SELECT * FROM '~/.bashrc'",
    "SELECT * FROM 'https://localhost:1/x.parquet'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM read_parquet('{folder}/facts.parquet')",
    "SELECT * FROM parquet_scan(['{folder}/facts.parquet'])",
    "SELECT * FROM parquet_metadata('{folder}/facts.parquet')",
    "SELECT * FROM parquet_kv_metadata('{folder}/facts.parquet')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv('/dev/stdin')",
    "SELECT * FROM read_csv('http://localhost:1/x.csv')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT content FROM read_blob('{folder}/manifest.json')",
    "SELECT * FROM read_json('{folder}/manifest.json')",
    "SELECT * FROM read_json_objects('{folder}/manifest.json')",
    "SELECT * FROM read_duckdb('{folder}/x.db')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM glob('/**')",
    "SELECT * FROM query_table('{folder}/facts.parquet')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''/etc/passwd'')'))",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM sqlite_scan('{folder}/x.db', 't')",
    "SELECT * FROM read_xlsx('{folder}/x.xlsx')",
    "SELECT (SELECT content FROM read_text('/etc/hostname'))",
    "EXPLAIN ANALYZE SELECT * FROM read_text('/etc/passwd')",
    "SELECT getenv('HOME')",
    "SELECT * FROM secrets",
    "SELECT * FROM folder",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM python_map_function(1)",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{folder}/log'}})",
    "SELECT * FROM enable_profiling(save_location = '{folder}/profile.json')",
    "SELECT * FROM load_aws_credentials()",
    "SELECT * FROM postgres_scan('host=localhost', 'public', 't')",
    "SELECT nextval('s')",
]
RUNAWAYS = [
    # Endless recursion.
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t",
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION SELECT x + 1 FROM t) SELECT max(x) FROM t",
    "WITH RECURSIVE t(x) AS (SELECT 'x' UNION ALL SELECT x || x FROM t) SELECT max(length(x)) FROM t",
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT a.x FROM t a, t b, range(9)) SELECT sum(x) FROM t",
    # Cross joins.
    "SELECT count(*) FROM attributions a, attributions b, attributions c, attributions d, attributions e",
    "SELECT sum(a.score * b.score * c.score) FROM attributions a, attributions b, attributions c",
    "SELECT a.text FROM prompts a, prompts b, prompts c ORDER BY md5(a.text || b.text || c.text)",
    "SELECT count(DISTINCT a.text || b.text || c.text) FROM prompts a, prompts b, prompts c",
    "SELECT count(*) FROM facts a JOIN facts b ON levenshtein(a.subject, b.subject) >= 0, range(10000000) r",
    # Ranges and lists that never end.
    "SELECT sum(x) FROM range(1000000000000) AS t(x)",
    "SELECT sum(x) FROM generate_series(1, 9000000000000000000) AS t(x)",
    "SELECT sum(x) FROM (SELECT unnest(range(100000000000)) AS x)",
    "EXPLAIN ANALYZE SELECT sum(x) FROM range(1000000000000) AS t(x)",
    "SELECT count(*) FROM range(TIMESTAMP '0001-01-01', TIMESTAMP '9999-01-01', INTERVAL 1 MICROSECOND)",
    "SELECT len(range(10000000000))",
    "SELECT list_sum(list_transform(range(400000000), lambda x: x * 2))",
    "SELECT list_sort(range(300000000))",
    "SELECT list(x) FROM range(1000000000) AS t(x)",
    "SELECT histogram(x) FROM range(1000000000) AS t(x)",
    "SELECT x FROM range(10000000000) AS t(x) ORDER BY hash(x)",
    "SELECT sum(n * x) FROM (SELECT x, row_number() OVER (ORDER BY hash(x)) AS n FROM range(900000000) t(x))",
    "SELECT list_reduce(range(1, 100000000), lambda a, b: a + b)",
    # Long strings.
    "SELECT repeat('x', 100000000)",
    "SELECT length(repeat(repeat('x', 100000), 100000))",
    "SELECT string_agg(repeat('x', 100000), ',') FROM range(1000000)",
    "SELECT string_agg(repeat('x', 1000)) FROM range(100000)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT format('{{:>2000000000}}', 1)",
    "SELECT array_to_string(range(500000000), ',')",
    "SELECT replace(repeat('x', 10000000), 'x', repeat('y', 10000))",
    "SELECT to_json(range(300000000))",
    "SELECT bitstring('1', 2000000000)",
    "SELECT repeat('x', 1000000) FROM range(1000)",
    "SELECT list_resize([1], 2000000000)",
    # Functions that ignore an interrupt.
    "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))",
    "SELECT damerau_levenshtein(repeat('a', 100000), repeat('b', 100000))",
    "SELECT jaro_winkler_similarity(repeat('ab', 1000000), repeat('ba', 1000000))",
    "SELECT sum(regexp_matches(repeat('a', 999) || x, '(a?){{50}}(a*)*b')::INT) FROM range(900000000) t(x)",
    "SELECT regexp_replace(repeat('ab', 20000000), '(a|b)', repeat('c', 1000), 'g')",
    "SELECT sum(len(regexp_extract_all(repeat('a', 999) || x, '(a+|.)'))) FROM range(900000000) AS t(x)",
    "SELECT sleep_ms(100000)",
    "SELECT repeat('a', 10000000) LIKE '%' || repeat('_', 9000) || 'b%'",
    "SELECT strip_accents(repeat('é', 50000000))",
    "SELECT md5(repeat('x', 1000000000))",
    "SELECT json_structure('[' || repeat('[', 3000000) || ']')",
    # Some break the process, at once or a moment after they were stopped.
    "SELECT reservoir_quantile(x, 0.5, 1000000000) FROM range(1000000) AS t(x)",
    "SELECT ('[' || repeat('{{\"a\":[', 1000000))::JSON",
    # Texts that are hard to read or to plan.
    "SELECT " + "(" * 9_000 + "1" + ")" * 9_000,
    "SELECT " + "- " * 9_000 + "1",
    "SELECT " + "NOT " * 4_900 + "true",
    "SELECT " + "[" * 9_000 + "]" * 9_000,
    "SELECT * FROM " + "(SELECT * FROM " * 1_200 + "facts" + ")" * 1_200,
    "SELECT 1" + " UNION ALL SELECT 1" * 1_000 + " ORDER BY nope",
    "SELECT count(*) FROM " + ", ".join(f"facts AS f{n}" for n in range(1_000)),
    "SELECT " + ", ".join(["*"] * 4_000) + " FROM prompts, effects",
    "SELECT '" + "x" * 100_000_000 + "'",
    "SELECT 1 -- " + "x" * 100_000_000,
]
HOSTILE = [*WRITES, *STATEMENTS, *READS, *RUNAWAYS]
CUT = [
    "SELECT * FROM range(1000000000000)",
    "SELECT unnest(range(1000000))",
    "SELECT a.*, b.* FROM prompts a, prompts b, prompts c",
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT * FROM t LIMIT 100000",
]


def test_there_are_many_attacks():
    assert len(set(HOSTILE)) >= 150


@pytest.mark.parametrize("sql", HOSTILE, ids=lambda sql: sql[:60])
def test_hostile_sql_is_refused_or_stopped(sql, console, folder, unharmed):
    secrets = {"a": 1}
    assert secrets
    begun = time.monotonic()
    with pytest.raises(QueryError) as refused:
        console.query(sql.format(folder=folder) if "{" in sql else sql)
    assert time.monotonic() - begun < SURELY_OVER
    assert "root:" not in str(refused.value)
    assert len(str(refused.value)) < LONGEST_MESSAGE + 100


LONG = "repeat('x', 1000000)"
QUOTING = [
    f"SELECT error({LONG})",
    "SELECT error(repeat('é', 1000000))",
    f"SELECT CASE WHEN n_neurons >= 0 THEN error({LONG} || fact_id) END FROM facts",
    f"SELECT count(*) FROM facts WHERE error({LONG})::BOOL",
    "SELECT (SELECT error(string_agg(fact_id || subject, repeat('=', 20000))) FROM facts)",
    f"SELECT CAST({LONG} AS INTEGER)",
    f"SELECT CAST({LONG} AS DATE)",
    f"SELECT CAST({LONG} AS INTERVAL)",
    f"SELECT CAST({LONG} AS UUID)",
    f"SELECT CAST('[' || {LONG} || ']' AS INTEGER[])",
    f"SELECT CAST('{{\"a\":' || {LONG} AS JSON)",
    f"SELECT CAST({LONG} AS ENUM ('a'))",
    f"SELECT regexp_matches('a', '[' || {LONG})",
    f"SELECT strptime({LONG}, '%Y')",
    f"SELECT json_extract('{{}}', '$.[' || {LONG})",
    f"SELECT struct_extract({{'a': 1}}, {LONG})",
    f"SELECT union_extract(union_value(a := 1), {LONG})",
    f"SELECT date_part({LONG}, DATE '2000-01-01')",
    f"SELECT from_base64({LONG} || '!')",
    f"SELECT nextval({LONG})",
    f"SELECT * FROM query({LONG})",
    'SELECT "' + "x" * 19_000 + '" FROM facts',
    "SELECT * FROM facts WHERE " + "y" * 19_000 + " = 1",
    "SELECT 'a' ORDER BY 1 COLLATE " + "x" * 19_000,
    f"SELECT nope FROM (PIVOT (SELECT {LONG} || x AS k FROM range(3) AS t(x)) ON k USING count(*))",
]


@pytest.mark.parametrize("sql", QUOTING, ids=lambda sql: sql[:60])
def test_an_error_quotes_no_more_than_a_line_of_the_data(sql, console, unharmed):
    with pytest.raises(QueryError) as refused:
        console.query(sql)
    assert len(str(refused.value)) < LONGEST_MESSAGE + 100


def test_a_long_error_keeps_its_beginning_and_where_it_is_in_the_query(console):
    with pytest.raises(QueryError, match=r"(?s)Could not convert string 'xxx.* … xxx.*\^\^\^") as refused:
        console.query(f"SELECT CAST({LONG} AS INTEGER)")
    assert len(str(refused.value)) > LONGEST_MESSAGE


WIDE = "FROM (PIVOT (SELECT x, 'c' || x AS k FROM range(200) AS t(x)) ON k USING any_value(x))"
NAMED = WIDE.replace("'c'", "repeat('c', {n})").replace("range(200)", "range(9)")
BLOATED = {
    "SELECT list_resize([{'a': true}], 10000, {'a': true}) AS x FROM range(40)": "values (sql_values)",
    "SELECT list_resize([NULL], 100000, NULL) AS x": "values (sql_values)",
    "SELECT list_resize([[]], 100000, []) AS x": "values (sql_values)",
    "SELECT list_resize([{'a': {'b': {'c': {'d': NULL}}}}], 10000, {'a': NULL}) AS x": "values (sql_values)",
    "SELECT [x::UTINYINT FOR x IN range(200)]::UTINYINT[200] AS x FROM range(200)": "values (sql_values)",
    "SELECT list(list(known)) OVER () AS x FROM facts, range(9) GROUP BY fact_id": "values (sql_values)",
    "SELECT [range(30000)] AS x": "values (sql_values)",
    "SELECT * FROM (SELECT unnest({'a': 1, 'b': 2, 'c': 3, 'd': 4})), range(5000)": "values (sql_values)",
    f"SELECT * {WIDE}": "columns and fields (sql_columns)",
    f"SELECT t {WIDE} AS t": "columns and fields (sql_columns)",
    f"SELECT [{{'x': t}}] {WIDE} AS t": "columns and fields (sql_columns)",
    "SELECT " + "*, " * 20 + "1 FROM facts": "columns and fields (sql_columns)",
    "SELECT repeat('x', 100000) FROM range(40)": "larger than 1 MB (sql_megabytes)",
    "SELECT [repeat('x', 100000)] FROM range(40)": "larger than 1 MB (sql_megabytes)",
    f"SELECT * {NAMED.format(n=20_000)}": "more than 100,000 characters",
    f"SELECT [t] {NAMED.format(n=20_000)} AS t": "more than 100,000 characters",
    f"SELECT list_resize([t], 1000, t) {NAMED.format(n=1_000)} AS t": "repeated in every row",
    f"SELECT a.* {NAMED.format(n=1_000)} AS a, range(1000)": "repeated in every row",
}


@pytest.fixture(scope="module")
def small(folder):
    size = AnswerSize(columns=100, values=20_000, megabytes=1, prefix="sql_")
    with Atlas(folder) as atlas, atlas.sandboxed(seconds=20, size=size) as sandbox:
        yield sandbox


@pytest.mark.parametrize("sql", BLOATED, ids=lambda sql: sql[:60])
def test_an_answer_is_refused_by_what_is_in_its_rows(sql, small):
    before = small.process_id
    with pytest.raises(QueryError) as refused:
        small.query(sql)
    assert BLOATED[sql] in str(refused.value)
    assert small.process_id == before


def test_an_answer_within_every_limit_is_given(small):
    answer = small.query("SELECT list_resize([{'a': true}], 9, {'a': true}) AS x FROM range(1000)")
    assert answer.table.num_rows == 1000
    assert not answer.truncated


@pytest.mark.parametrize("sql", CUT, ids=lambda sql: sql[:60])
def test_endless_results_are_truncated(sql, console, unharmed):
    answer = console.query(sql)
    assert answer.truncated
    assert answer.table.num_rows == console.max_rows


def test_text_in_a_query_may_name_files_and_statements(console, unharmed):
    sql = "SELECT 'COPY facts TO x; DROP TABLE facts' AS a, '/etc/passwd' AS b -- ; DROP TABLE facts"
    assert console.query(sql).rows == (("COPY facts TO x; DROP TABLE facts", "/etc/passwd"),)


def test_parameters_are_never_run_as_sql(console, unharmed):
    evil = "x'; DROP TABLE facts; --"
    answer = console.query("SELECT $a AS a, count(*) AS n FROM facts WHERE subject = $a", {"a": evil})
    assert answer.rows == ((evil, 0),)
    with pytest.raises(QueryError):
        console.query("SELECT * FROM read_text($a)", {"a": "/etc/passwd"})
    with pytest.raises(QueryError):
        console.query("SELECT * FROM query($a)", {"a": "DROP TABLE facts"})


GREEDY = [
    "SELECT string_agg(repeat('x', 100000), ',') FROM range(1000000)",
    "SELECT list_sort(range(300000000))",
    "SELECT replace(repeat('x', 10000000), 'x', repeat('y', 10000))",
    "SELECT to_json(range(300000000))",
    "SELECT reservoir_quantile(x, 0.5, 1000000000) FROM range(1000000) AS t(x)",
    "SELECT repeat('x', 4000000) FROM range(100000)",
    "SELECT list_resize([{'a': 1, 'b': 'abc'}], 10000, {'a': 1, 'b': 'abc'}) AS x FROM range(50000)",
    "SELECT count(*) FROM (SELECT md5(x::VARCHAR) AS k, count(*) FROM range(9000000) AS t(x) GROUP BY 1)",
    "SELECT sum(n) FROM (SELECT rank() OVER (ORDER BY md5(x::VARCHAR)) AS n FROM range(9000000) AS t(x))",
    "SELECT len(string_split(repeat('a,', 9000000), ','))",
    "SELECT list_sum(list_transform(range(20000000), lambda x: x * 2))",
    "SELECT regexp_extract_all(repeat('ab', 9000000), '(a|b)')",
    "WITH RECURSIVE t(x) AS (SELECT repeat('x', 9999) UNION ALL SELECT x || x FROM t) SELECT max(x) FROM t",
    "SELECT error(repeat('*', 90000000))",
    "PIVOT (SELECT x % 9000 AS k, x % 900 AS g FROM range(1000000) AS t(x)) ON k USING count(*) GROUP BY g",
]


@LINUX
@pytest.mark.parametrize("sql", GREEDY, ids=lambda sql: sql[:60])
def test_the_operating_system_bounds_a_querys_memory(sql, console, unharmed):
    console.query("SELECT 1")
    status = Path(f"/proc/{console.process_id}/statm")
    page = os.sysconf("SC_PAGE_SIZE")
    before = int(status.read_text().split()[1]) * page
    taken, watching, over = [], threading.Event(), threading.Event()

    def watch():
        while not over.wait(0.002):
            try:
                taken.append(int(status.read_text().split()[1]) * page)
            except (OSError, IndexError):
                return
            watching.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert watching.wait(10)  # on a busy machine the process may end before the first look
    with pytest.raises(QueryError):
        console.query(sql)
    over.set()
    watcher.join()
    assert max(taken) - before < with_uncounted(MEMORY_MB * 1_000_000)


def test_many_attack_at_once_and_an_honest_visitor_is_answered(console, unharmed):
    attacks = [
        console.start("SELECT sum(x) FROM range(1000000000000) AS t(x)"),
        console.start("SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))"),
        console.start("SELECT reservoir_quantile(x, 0.5, 1000000000) FROM range(1000000) AS t(x)"),
        console.start("COPY facts TO 'x.csv'"),
    ]
    honest = console.start("SELECT count(*) FROM facts")
    assert honest.answer().rows == ((60,),)
    for attack in attacks:
        with pytest.raises(QueryError):
            attack.answer()
