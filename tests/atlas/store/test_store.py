"""Opening an atlas: refusals and their messages, the views, and the sandbox."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import atlas
from atlas.errors import QueryError, StoreError
from atlas.store.atlas import Atlas, at_hand, bundled, resolve
from atlas.store.manifest import (
    file_name,
    read_manifest,
    record_file,
    record_files,
    verify,
    write_manifest,
)
from atlas.store.schema import LATER_COLUMNS, TABLES
from build.output.check import check_atlas
from tests import ROOT
from tests.sample_atlas import OPTIONAL_TABLES, replace_table, sample_tables, write_sample_atlas

DERIVED = ("relation_neurons", "relation_overlap", "hub_neurons", "layer_histogram", "neuron_facts")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")


@pytest.fixture(scope="module")
def opened(sample):
    with atlas.open(sample) as a:
        yield a


@pytest.fixture
def copy(sample, tmp_path):
    return Path(shutil.copytree(sample, tmp_path / "copy"))


# Queries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455"),
        ("'101'::BIT", "101"),
        ("DATE '0044-03-15 (BC)'", "0044-03-15 (BC)"),
        ("DATE 'infinity'", "infinity"),
        ("TIMETZ '10:00:00+02'", "10:00:00+02"),
        ("INTERVAL 1 MONTH", "1 month"),
        ("MAP {'a': TIME '24:00:00'}", "{a='24:00:00'}"),
        ("[TIME '24:00:00']", ["24:00:00"]),
        ("{'sum': sum($one), 'day': DATE '2026-01-02'}", {"sum": 1, "day": "2026-01-02"}),
        ("sum($one * 9007199254740993)", 9007199254740993),
        ("1.5::DECIMAL(9, 2)", 1.5),
    ],
)
def test_a_query_returns_what_duckdb_prints(value, printed, opened):
    frame = opened.query(f"SELECT {value} AS x, 0.5::DECIMAL(2, 1) AS half, $one AS one", {"one": 1})
    (found,) = frame["x"].tolist()
    assert (found if isinstance(found, str | dict | int | float) else list(found)) == printed
    assert frame["half"].tolist() == [0.5]
    assert frame["half"].dtype == "float64"


def test_columns_of_a_query_that_share_a_name_are_numbered(opened):
    frame = opened.query("SELECT 1 AS x, sum(2) AS x, DATE '2026-01-02' AS x")
    assert frame.to_dict("records") == [{"x": 1, "x_1": 2, "x_2": "2026-01-02"}]


# The manifest ----------------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was_written(sample, tmp_path):
    manifest = read_manifest(sample)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.model.n_layers == 4
    assert manifest.method.stored_fraction == 0.1
    assert manifest.files["facts.parquet"].rows == 60
    assert manifest.tables == tuple(TABLES)
    assert json.loads((sample / "manifest.json").read_text()) == manifest.to_dict()
    assert record_file(sample / "facts.parquet") == manifest.files["facts.parquet"]


def test_a_manifest_is_replaced_whole_or_not_at_all(copy, monkeypatch):
    before = (copy / "manifest.json").read_bytes()
    manifest = read_manifest(copy)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_manifest(copy, replace(manifest, notes="changed"))
    assert (copy / "manifest.json").read_bytes() == before
    assert not list(copy.glob(".*"))


def test_an_unknown_key_in_the_manifest_is_ignored(copy):
    path = copy / "manifest.json"
    plain = json.loads(path.read_text())
    plain["colour"] = "red"
    plain["model"]["colour"] = "red"
    path.write_text(json.dumps(plain))
    assert read_manifest(copy).atlas_id == "sample"


def test_the_sample_verifies_and_is_the_same_every_time(sample, tmp_path):
    again = write_sample_atlas(tmp_path / "again")
    assert verify(sample).files == verify(again).files


# Refusals --------------------------------------------------------------------------------------------


def _break_nothing_there(folder):
    shutil.rmtree(folder)


def _break_no_manifest(folder):
    (folder / "manifest.json").unlink()


def _break_manifest_half(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:100])


def _break_manifest_version(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 99'))


def _break_manifest_foreign(folder):
    (folder / "manifest.json").write_text('{"name": "an app"}')


def _break_manifest_incomplete(folder):
    (folder / "manifest.json").write_text('{"schema_version": 2, "atlas_id": "x"}')


def _break_manifest_wrong_type(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"n_layers": 4', '"n_layers": "four"'))


def _break_manifest_list(folder):
    (folder / "manifest.json").write_text("[1, 2]")


def _break_missing_file(folder):
    (folder / "prompts.parquet").unlink()


def _break_truncated(folder):
    path = folder / "facts.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def _rewrite_record(folder, name):
    manifest = read_manifest(folder)
    data = (folder / name).read_bytes()
    record = replace(manifest.files[name], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    write_manifest(folder, replace(manifest, files={**manifest.files, name: record}))


def _break_truncated_with_a_matching_manifest(folder):
    _break_truncated(folder)
    _rewrite_record(folder, "facts.parquet")


def _break_not_parquet(folder):
    (folder / "facts.parquet").write_text("subject,object\nFrance,Paris\n" * 100)
    _rewrite_record(folder, "facts.parquet")


def _break_foreign_parquet(folder):
    pq.write_table(pa.table({"price": [1.0, 2.0]}), folder / "facts.parquet")
    _rewrite_record(folder, "facts.parquet")


def _break_column_type(folder):
    table = pq.read_table(folder / "facts.parquet")
    place = table.column_names.index("n_neurons")
    wide = table.set_column(place, "n_neurons", table["n_neurons"].cast(pa.int64()))
    pq.write_table(wide, folder / "facts.parquet")
    _rewrite_record(folder, "facts.parquet")


def _break_rows(folder):
    pq.write_table(pq.read_table(folder / "facts.parquet").slice(0, 10), folder / "facts.parquet")
    _rewrite_record(folder, "facts.parquet")


def _break_required_table(folder):
    manifest = read_manifest(folder)
    files = {name: record for name, record in manifest.files.items() if name != "facts.parquet"}
    write_manifest(folder, replace(manifest, files=files))


def _break_file_outside(folder):
    manifest = read_manifest(folder)
    record = manifest.files["facts.parquet"]
    write_manifest(folder, replace(manifest, files={**manifest.files, "../facts.parquet": record}))


BROKEN = {
    _break_nothing_there: "There is no folder",
    _break_no_manifest: r"has no manifest\.json, so it is not a finished atlas",
    _break_manifest_half: "cannot be read",
    _break_manifest_version: "has schema version 99; this program reads versions 2 and 3",
    _break_manifest_foreign: "has no schema version",
    _break_manifest_incomplete: r"manifest\.json's model is missing\. Build or copy",
    _break_manifest_wrong_type: r"manifest\.json's model\.n_layers must be a whole number, got \"four\"",
    _break_manifest_list: "has no schema version",
    _break_missing_file: r"prompts\.parquet is missing",
    _break_truncated: r"facts\.parquet is truncated: it has .* bytes and should have",
    _break_truncated_with_a_matching_manifest: r"facts\.parquet is not a Parquet file",
    _break_not_parquet: r"facts\.parquet is not a Parquet file",
    _break_foreign_parquet: r"facts\.parquet is not a table of an atlas: the column fact_id is missing",
    _break_column_type: "the column n_neurons has type int64 and should have int32",
    _break_rows: r"facts\.parquet has 10 rows and should have 60",
    _break_required_table: r"lacks facts\.parquet",
    _break_file_outside: r"lists \.\./facts\.parquet, which is not a table",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda f: f.__name__.removeprefix("_break_"))
def test_a_broken_atlas_is_refused_with_the_reason(damage, copy):
    damage(copy)
    with pytest.raises(StoreError, match=BROKEN[damage]):
        verify(copy)
    with pytest.raises(StoreError, match=BROKEN[damage]):
        Atlas(copy)


# Which atlas -----------------------------------------------------------------------------------------


def test_an_imported_atlas_has_an_id_and_comes_after_the_bundled_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS_CACHE", str(tmp_path))
    assert at_hand() == bundled()
    folder = write_sample_atlas(tmp_path / "atlases" / "mine")
    write_sample_atlas(tmp_path / "atlases" / "starter-pocket-bert")
    (tmp_path / "atlases" / "unfinished").mkdir()
    assert list(at_hand()) == [*bundled(), "mine"]
    assert resolve("mine") == folder
    assert resolve("starter-pocket-bert") == bundled()["starter-pocket-bert"]


def test_an_atlas_is_found_by_folder_by_id_and_by_default(sample, tmp_path, monkeypatch):
    monkeypatch.delenv("KNOWLEDGE_NEURON_ATLAS", raising=False)
    monkeypatch.setattr("atlas.store.atlas.DATA", tmp_path)
    with pytest.raises(StoreError, match="No atlas comes with this installation"):
        resolve()
    for name in ("another", "starter-pocket-bert", "starter-smollm2-135m"):
        shutil.copytree(sample, tmp_path / name)
        (tmp_path / "unfinished").mkdir(exist_ok=True)
    assert list(bundled()) == ["starter-pocket-bert", "starter-smollm2-135m", "another"]
    assert resolve() == tmp_path / "starter-pocket-bert"
    assert resolve("another") == tmp_path / "another"
    assert resolve(str(sample)) == sample
    shutil.rmtree(tmp_path / "starter-pocket-bert")
    assert resolve() == tmp_path / "starter-smollm2-135m"
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS", "another")
    assert resolve() == tmp_path / "another"
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS", str(sample))
    assert resolve() == sample
    with pytest.raises(StoreError, match="'nowhere' is neither a folder nor the id of an atlas"):
        resolve("nowhere")


@pytest.mark.parametrize("name", ["it's", "a [b] c", "star*", "what?", 'quo"te', "Übung", "-- x; DROP"])
def test_any_folder_name_works(name, sample, tmp_path):
    shutil.copytree(sample, tmp_path / name)
    with atlas.open(tmp_path / name) as a:
        assert a.query("SELECT count(*) AS n FROM facts")["n"].item() == 60


def test_wildcards_in_a_folder_name_reach_no_other_folder(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "star*")
    shutil.copytree(sample, tmp_path / "start")
    with atlas.open(tmp_path / "star*") as a:
        assert a.query("SELECT count(*) AS n FROM facts")["n"].item() == 60


# Queries and views -----------------------------------------------------------------------------------


def test_every_table_reads_as_it_was_written(opened):
    for table, rows in sample_tables(60).items():
        found = opened.query(f"SELECT * FROM {table}")
        assert list(found.columns) == TABLES[table].names
        assert len(found) == len(rows)
        assert opened.measured(table)


def test_values_go_in_as_parameters(opened):
    evil = "x' OR true; DROP TABLE facts; --"
    assert opened.query("SELECT * FROM facts WHERE subject = ?", [evil]).empty
    row = opened.query_one("SELECT label FROM relations WHERE relation_id = $r", {"r": "P36"})
    assert row == {"label": "capital"}
    assert opened.query_one("SELECT label FROM relations WHERE relation_id = $r", {"r": evil}) is None


def test_python_variables_are_no_tables(opened):
    secrets = pd.DataFrame({"a": [1]})
    assert len(secrets) == 1
    with pytest.raises(QueryError, match="secrets does not exist"):
        opened.query("SELECT * FROM secrets")


def test_a_wrong_query_says_what_is_wrong(opened):
    with pytest.raises(QueryError, match="nope"):
        opened.query("SELECT nope FROM facts")


def test_threads_may_share_an_atlas(opened):
    expected = opened.query("SELECT count(*) AS n FROM attributions")["n"].item()

    def ask(index):
        opened.prepare("prepared_once", "SELECT * FROM facts")
        assert opened.query("SELECT count(*) AS n FROM prepared_once")["n"].item() == 60
        return opened.query("SELECT count(*) + ? AS n FROM attributions", [index])["n"].item() - index

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(64))) == {expected}


def test_an_atlas_of_schema_2_opens_and_what_it_lacks_is_null(copy):
    for table, columns in LATER_COLUMNS.items():
        path = copy / file_name(table)
        pq.write_table(pq.read_table(path).drop_columns([*columns]), path)
    (copy / "templates.parquet").unlink()
    write_manifest(copy, replace(read_manifest(copy), files=record_files(copy), schema_version=2))
    assert verify(copy).schema_version == 2
    assert check_atlas(copy).passed
    shell = _shell(copy)
    with atlas.open(copy) as a, a.sandboxed() as console:
        for table, columns in LATER_COLUMNS.items():
            found = a.query(f"SELECT * FROM {table}")
            assert list(found.columns) == TABLES[table].names == [name for name, _ in shell[table][:-1]]
            assert len(found)
            for column in columns:
                assert found[column].isna().all()
                assert console.query(f"SELECT count({column}) FROM {table}").rows == ((0,),)
        assert a.query("SELECT * FROM templates").empty
        assert len(a.query("SELECT * FROM fact_prompts")) == a.manifest.rows("prompts")


def test_absent_tables_read_as_empty_with_their_columns(tmp_path):
    folder = write_sample_atlas(tmp_path / "published", leave_out=OPTIONAL_TABLES)
    with atlas.open(folder) as a, a.sandboxed() as console:
        for table in OPTIONAL_TABLES:
            assert not a.measured(table)
            found = a.query(f"SELECT * FROM {table}")
            assert found.empty
            assert list(found.columns) == TABLES[table].names
            assert console.query(f"SELECT * FROM {table}").rows == ()
        for view in DERIVED:
            assert len(a.query(f"SELECT * FROM {view}"))


def test_prompts_that_are_not_stored_are_made_from_templates(copy):
    stored = pq.read_table(copy / "prompts.parquet").to_pandas()
    fact_id = stored["fact_id"].iloc[0]
    mine = stored["fact_id"] == fact_id
    facts = pq.read_table(copy / "facts.parquet").to_pandas()
    facts.loc[facts["fact_id"] == fact_id, "n_prompts"] = 0
    replace_table(copy, "prompts", pa.Table.from_pandas(stored[~mine], preserve_index=False))
    replace_table(copy, "facts", pa.Table.from_pandas(facts, preserve_index=False))
    with atlas.open(copy) as a:
        found = a.query("SELECT * FROM fact_prompts ORDER BY fact_id, template_id")
    made = found[found["fact_id"] == fact_id]
    assert list(found["text"]) == list(stored["text"])
    assert list(made["held_out"]) == list(stored["held_out"][mine])
    assert made.drop(columns=["fact_id", "template_id", "text", "held_out"]).isna().all(axis=None)
    others = found[found["fact_id"] != fact_id].reset_index(drop=True)
    assert others["probability"].equals(stored["probability"][~mine].reset_index(drop=True))


def test_relation_overlap_is_the_mean_over_all_pairs_of_facts(opened):
    facts = opened.query("SELECT fact_id, relation_id FROM facts")
    neurons = {fact_id: set() for fact_id in facts["fact_id"]}
    for row in opened.query("SELECT fact_id, layer, neuron FROM knowledge_neurons").itertuples():
        neurons[row.fact_id].add((row.layer, row.neuron))
    shared = {}
    pairs = list(facts.itertuples(index=False))
    for i, a in enumerate(pairs):
        for b in pairs[:i]:
            count = len(neurons[a.fact_id] & neurons[b.fact_id])
            for key in {(a.relation_id, b.relation_id), (b.relation_id, a.relation_id)}:
                shared.setdefault(key, []).append(count)
    found = opened.query("SELECT * FROM relation_overlap")
    assert len(found) == len(shared) == 16
    for row in found.itertuples():
        counts = shared[row.relation_a, row.relation_b]
        assert row.n_pairs == len(counts)
        assert row.mean_shared == pytest.approx(sum(counts) / len(counts))
        assert row.within == (row.relation_a == row.relation_b)


def test_the_other_views_count_what_they_say(opened):
    rows = opened.query("SELECT * FROM knowledge_neurons")
    relation = opened.query("SELECT * FROM relation_neurons WHERE relation_id = 'P36'")
    mine = rows[rows["relation_id"] == "P36"].groupby(["layer", "neuron"]).size()
    assert {(r.layer, r.neuron): r.n_facts for r in relation.itertuples()} == mine.to_dict()
    assert relation["relation_share"].to_list() == pytest.approx((relation["n_facts"] / 15).to_list())
    hubs = opened.query("SELECT * FROM hub_neurons")
    counts = rows.groupby(["layer", "neuron"])["relation_id"].nunique()
    assert {(r.layer, r.neuron): r.n_relations for r in hubs.itertuples()} == counts[counts > 1].to_dict()
    assert hubs["n_relations"].is_monotonic_decreasing
    layers = opened.query("SELECT * FROM layer_histogram")
    assert layers["n_pairs"].sum() == len(rows)
    assert layers["pair_share"].sum() == pytest.approx(1)
    assert len(opened.query("SELECT * FROM neuron_facts")) == len(rows)


# views.sql in a DuckDB shell -------------------------------------------------------------------------


def _shell(folder, before=""):
    """Run all statements of the file, as `duckdb -init views.sql` does in `folder`."""
    code = (
        "import duckdb, sys\n"
        "c = duckdb.connect()\n"
        f"c.execute({before!r}) if {before!r} else None\n"
        f"for s in c.extract_statements(open({str(ROOT / 'atlas' / 'views.sql')!r}).read()): c.execute(s)\n"
        "import json\n"
        'views = c.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()\n'
        "print(json.dumps({n: [[d[0], str(d[1])] for d in c.execute(f'SELECT * FROM {n}').description]"
        " + [len(c.fetchall())] for n, in views}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_the_shell_sees_the_same_tables_and_views(sample, opened):
    found = _shell(sample)
    assert set(found) == {*TABLES, *DERIVED, "fact_prompts"}
    for name, (*columns, rows) in found.items():
        frame = opened.query(f"SELECT * FROM {name}")
        assert [column for column, _ in columns] == list(frame.columns)
        assert rows == len(frame)


def test_the_shell_has_absent_tables_with_the_schema_s_columns(tmp_path):
    folder = write_sample_atlas(tmp_path / "it's", leave_out=OPTIONAL_TABLES)
    shell = _shell(folder)
    with atlas.open(folder) as a:
        for table in OPTIONAL_TABLES:
            described = duckdb.connect().execute(f"DESCRIBE {a.source(table)}").fetchall()
            *columns, rows = shell[table]
            assert rows == 0
            assert [(name, kind) for name, kind, *_ in described] == [(n, k) for n, k in columns]


def test_the_shell_takes_the_bundled_atlas_or_the_one_named(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "atlas" / "data" / "starter-pocket-bert")
    assert _shell(tmp_path)["facts"][-1] == 60
    large = write_sample_atlas(tmp_path / "larger", n_facts=80)
    assert _shell(tmp_path, f"SET VARIABLE atlas = '{large}'")["facts"][-1] == 80


def test_the_shell_says_when_there_is_no_atlas(tmp_path):
    assert "There is no atlas here" in _shell(tmp_path)


# The sandbox -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def console(opened):
    with opened.sandboxed(seconds=5) as sandbox:
        yield sandbox


def _digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


REFUSED = [
    "COPY facts TO '{folder}/facts.parquet' (FORMAT parquet)",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "COPY facts FROM '{folder}/facts.parquet'",
    "ATTACH '{folder}/new.db'",
    "ATTACH ':memory:' AS other",
    "EXPORT DATABASE '{folder}/export'",
    "IMPORT DATABASE '{folder}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{folder}/x.duckdb_extension'",
    "PRAGMA database_list",
    "PRAGMA enable_external_access",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET memory_limit",
    "SET VARIABLE x = 1",
    "CALL enable_logging()",
    "CALL pragma_version()",
    "USE memory",
    "CREATE TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW facts AS SELECT 1",
    "CREATE TEMP MACRO f() AS 1",
    "CREATE SECRET (TYPE s3)",
    "DROP TABLE facts",
    "ALTER TABLE facts DROP COLUMN subject",
    "INSERT INTO facts SELECT * FROM facts",
    "UPDATE facts SET subject = 'x'",
    "DELETE FROM facts",
    "TRUNCATE facts",
    "BEGIN",
    "COMMIT",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE facts",
    "SELECT 1;; DELETE FROM facts;",
    "EXPLAIN COPY facts TO '{folder}/x.csv'",
    "EXPLAIN ANALYZE COPY facts TO '{folder}/x.csv'",
    "explain analyze delete from facts",
    "EXPLAIN EXPLAIN SELECT 1",
    "EXPLAIN SELECT 1; DELETE FROM facts",
    "/* so */ EXPLAIN ANALYZE COPY facts TO '{folder}/x.csv'",
    "-- so\nEXPLAIN ANALYZE DELETE FROM facts",
    "",
    "   ;  ",
    "SELECT",
    "SELEC 1",
    "SELECT nope FROM facts",
    # Statements of type SELECT that want more than the tables.
    "WITH x AS (DELETE FROM facts RETURNING *) SELECT * FROM x",
    "WITH x AS (INSERT INTO relations VALUES ('P0', 'x', 1, 1) RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE facts SET subject = 'x' RETURNING *) SELECT * FROM x",
    "WITH x AS (COPY facts TO '{folder}/x.csv') SELECT 1",
    "EXPLAIN ANALYZE WITH x AS (DELETE FROM facts RETURNING *) SELECT * FROM x",
    "SELECT * FROM query('DELETE FROM facts')",
    "SELECT * FROM query('WITH x AS (DELETE FROM facts RETURNING *) SELECT * FROM x')",
    "SELECT * FROM '{folder}/facts.parquet'",
    "SELECT * FROM read_parquet('{folder}/facts.parquet')",
    "SELECT * FROM parquet_metadata('{folder}/facts.parquet')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv('http://localhost:1/x.csv')",
    "SELECT * FROM 'https://localhost:1/x.parquet'",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('{folder}/manifest.json')",
    "SELECT * FROM read_json('{folder}/manifest.json')",
    "SELECT * FROM read_duckdb('{folder}/x.db')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM facts, '/etc/hosts'",
    "SELECT getenv('HOME')",
    "SELECT * FROM secrets",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{folder}/log'}})",
    "SELECT * FROM enable_profiling(save_location = '{folder}/profile.json')",
    "SELECT " + "(" * 50_000 + "1" + ")" * 50_000,
    "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
]


@pytest.mark.parametrize("sql", REFUSED, ids=lambda sql: sql[:50])
def test_hostile_sql_is_refused_and_changes_nothing(sql, console, sample):
    secrets = pd.DataFrame({"a": [1]})
    assert len(secrets) == 1
    files = _digest(sample)
    with pytest.raises(QueryError):
        console.query(sql.format(folder=sample))
    assert _digest(sample) == files
    assert console.query("SELECT count(*), count(DISTINCT subject) FROM facts").rows == ((60, 60),)
    assert console.query("SELECT count(*) FROM relations").rows == ((4,),)


def test_truncation_is_visible(opened):
    with opened.sandboxed(max_rows=10) as console:
        cut = console.query("SELECT * FROM range(11)")
        assert len(cut.rows) == len(cut.frame) == 10
        assert cut.truncated
        assert not console.query("SELECT * FROM range(10)").truncated


def test_column_names_used_twice_stay_apart(console):
    answer = console.query("SELECT 1 AS x, 2 AS x, 3 AS x")
    assert answer.columns == ("x", "x_1", "x_2")
    assert answer.frame.iloc[0].to_list() == [1, 2, 3]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t",
        "SELECT count(*) FROM attributions a, attributions b, attributions c, attributions d",
        "SELECT sum(x) FROM range(1000000000000) AS t(x)",
        "EXPLAIN ANALYZE SELECT sum(x) FROM range(1000000000000) AS t(x)",
    ],
)
def test_an_endless_query_is_stopped_and_the_next_one_answered(sql, opened):
    with opened.sandboxed(seconds=0.5) as console:
        started = time.perf_counter()
        with pytest.raises(QueryError, match=r"stopped after 0\.5 seconds"):
            console.query(sql)
        assert time.perf_counter() - started < 4
        assert console.query("SELECT count(*) FROM facts").rows == ((60,),)


def test_a_query_that_cannot_be_interrupted_is_killed(opened):
    threads = set(threading.enumerate())
    with opened.sandboxed(seconds=0.3) as console:
        started = time.perf_counter()
        with pytest.raises(QueryError, match=r"stopped after 0\.3 seconds"):
            console.query("SELECT levenshtein(repeat('a', 40000), repeat('b', 40000))")
        assert time.perf_counter() - started < 4
        assert console.query("SELECT count(*) FROM facts").rows == ((60,),)
    # It ends by itself, long before this; then nothing of it is left.
    for thread in set(threading.enumerate()) - threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_query_for_too_much_memory_is_refused(opened):
    with opened.sandboxed(memory="16MB", seconds=20) as console:
        with pytest.raises(QueryError, match="more memory"):
            console.query("SELECT string_agg(repeat('x', 1000)) FROM range(1000000)")
        assert console.query("SELECT count(*) FROM facts").rows == ((60,),)


def test_visitors_may_share_a_console(console):
    def ask(index):
        return console.query(f"SELECT count(*) + {index} FROM attributions").rows[0][0] - index

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(32)))) == 1


def test_one_visitor_s_endless_query_does_not_stop_another_s(opened):
    with opened.sandboxed(seconds=1) as console:
        failed = []

        def endless():
            try:
                console.query("SELECT sum(x) FROM range(1000000000000) AS t(x)")
            except QueryError as error:
                failed.append(error)

        thread = threading.Thread(target=endless)
        thread.start()
        assert console.query("SELECT count(*) FROM facts").rows == ((60,),)
        thread.join()
        assert len(failed) == 1


@pytest.mark.parametrize(
    "limits", [{"max_rows": 0}, {"max_rows": -5}, {"seconds": 0}, {"memory": "lots"}, {"memory": "1; DROP"}]
)
def test_invalid_limits_are_refused(limits, opened):
    with pytest.raises(QueryError):
        opened.sandboxed(**limits)
