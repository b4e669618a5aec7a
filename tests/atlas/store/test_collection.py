"""Collections: rows equal the members', only needed files are read, and errors name a member."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas import queries
from atlas.__main__ import main
from atlas.errors import QueryError, StoreError
from atlas.store.collection import Collection
from atlas.store.manifest import MANIFEST_NAME
from atlas.store.schema import DERIVED_VIEWS, TABLES
from tests import ROOT
from tests.sample_atlas import OPTIONAL_TABLES, write_sample_atlas

IDS = ("large", "other", "small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three atlases: two of different facts and scores, one that lacks every table it may lack."""
    folder = tmp_path_factory.mktemp("collections") / "many [1]'s"
    write_sample_atlas(folder / "large", n_facts=90, atlas_id="large", seed=1)
    write_sample_atlas(folder / "other", atlas_id="other", seed=2)
    write_sample_atlas(folder / "small", n_facts=30, atlas_id="small", seed=3, leave_out=OPTIONAL_TABLES)
    return folder


@pytest.fixture(scope="module")
def many(folder):
    with Collection(folder) as opened:
        yield opened


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(folder, tmp_path / "many")


def rows(frame) -> list[str]:
    """Rows as text, for tables whose order says nothing: values of lists too, nulls alike."""
    return sorted(json.dumps(row, default=str) for row in json.loads(frame.to_json(orient="values")))


def plan(many: Collection, sql: str) -> str:
    return many.query(f"EXPLAIN {sql}").iloc[0, 1]


# Rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [*TABLES, *DERIVED_VIEWS])
def test_the_rows_of_each_member_are_its_own(many, table):
    for atlas_id in IDS:
        with many.atlas(atlas_id) as alone:
            own = alone.query(f"FROM {table}")
        found = many.query(f"FROM {table} WHERE atlas_id = $atlas", {"atlas": atlas_id})
        assert list(found.columns) == ["atlas_id", *own.columns]
        assert set(found.pop("atlas_id")) <= {atlas_id}
        assert rows(found) == rows(own), table
    total = many.query(f"SELECT atlas_id, count(*) AS n FROM {table} GROUP BY ALL")
    assert sum(total["n"]) == sum(
        len(many.query(f"FROM {table} WHERE atlas_id = '{atlas_id}'")) for atlas_id in IDS
    )


def test_a_fact_can_be_compared_over_models(many):
    found = many.query("SELECT atlas_id, n_neurons FROM facts WHERE fact_id = 'P36-00001' ORDER BY atlas_id")
    assert list(found["atlas_id"]) == list(IDS)
    for atlas_id, n_neurons in found.itertuples(index=False):
        with many.atlas(atlas_id) as alone:
            assert len(queries.neurons_of_fact(alone, "P36-00001")) == n_neurons


def test_shared_neurons_are_counted_within_each_model(many):
    """Compared as sets: facts of two models share no neurons, even with equal indices."""
    found = many.query("SELECT * FROM relation_overlap WHERE relation_a = 'P36' AND within")
    assert list(found["atlas_id"]) == list(IDS)
    pairs = many.query("SELECT * FROM knowledge_neurons WHERE relation_id = 'P36'")
    facts = many.query("SELECT * FROM facts WHERE relation_id = 'P36'")
    for atlas_id, mean in zip(found["atlas_id"], found["mean_shared"], strict=True):
        sets = {fact: set() for fact in facts[facts["atlas_id"] == atlas_id]["fact_id"]}
        for row in pairs[pairs["atlas_id"] == atlas_id].itertuples():
            sets[row.fact_id].add((row.layer, row.neuron))
        shared = [len(sets[a] & sets[b]) for a in sets for b in sets if a < b]
        assert mean == pytest.approx(sum(shared) / len(shared))


def test_a_copied_atlas_joins_and_keeps_its_id_in_any_folder(copied):
    (copied / "small").rename(copied / "it's another name")
    write_sample_atlas(copied / "small", n_facts=40, atlas_id="it's new", seed=4)
    with Collection(copied) as many:
        assert list(many.members) == ["it's new", "large", "other", "small"]
        counts = many.query("SELECT atlas_id, count(*) AS n FROM facts GROUP BY ALL ORDER BY ALL")
        assert dict(zip(counts["atlas_id"], counts["n"], strict=True)) == {
            "it's new": 40,
            "large": 90,
            "other": 60,
            "small": 30,
        }
        assert len(many.query("FROM facts WHERE atlas_id = ?", ["it's new"])) == 40
        assert "1/4" in plan(many, "FROM facts WHERE atlas_id = 'small'")


def test_a_folder_without_a_manifest_is_no_member(copied):
    (copied / "small" / MANIFEST_NAME).unlink()
    with Collection(copied) as many:
        assert list(many.members) == ["large", "other"]


def test_tables_can_be_listed(folder):
    with Collection(folder) as many:
        assert set(many.query("SHOW TABLES")["name"]) == {*TABLES, *DERIVED_VIEWS}
        assert list(many.query("DESCRIBE FACTS")["column_name"]) == ["atlas_id", *TABLES["facts"].names]


def test_threads_may_share_it(folder):
    with Collection(folder) as many:
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(len(many.query("FROM hub_neurons"))))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1


# Files -----------------------------------------------------------------------------------------------

OF_ONE = [
    *(f"FROM {table} WHERE atlas_id = 'other'" for table in (*TABLES, *DERIVED_VIEWS)),
    "FROM neuron_facts WHERE layer = 3 AND atlas_id = 'other'",
    "FROM relation_overlap WHERE within AND 'other' = atlas_id",
    "FROM facts WHERE atlas_id IN ('other', 'nobody')",
    "FROM facts WHERE atlas_id LIKE 'oth%'",
    "FROM knowledge_neurons JOIN facts USING (atlas_id, fact_id) WHERE atlas_id = 'other'",
]


@pytest.fixture
def spoilt(copied) -> Callable[[], None]:
    """A function that makes the files of all atlases but one unreadable, with unchanged sizes."""

    def spoil() -> None:
        for path in copied.glob("*/*.parquet"):
            if path.parent.name != "other":
                path.write_bytes(b"x" * path.stat().st_size)

    return spoil


def test_a_query_that_names_an_atlas_reads_its_files_only(copied, spoilt):
    with Collection(copied) as many:
        before = {sql: rows(many.query(sql)) for sql in OF_ONE}
    assert all(before.values())
    spoilt()
    with Collection(copied) as many:
        assert {sql: rows(many.query(sql)) for sql in OF_ONE} == before
        for table in TABLES:
            with pytest.raises(QueryError, match=r"(large|small)/\w+\.parquet"):
                many.query(f"SELECT count(DISTINCT row) FROM {table} AS row")


def test_the_sandbox_reads_its_files_only_too(copied, spoilt):
    spoilt()
    with Collection(copied) as many, many.sandboxed() as console:
        assert console.query("SELECT count(*) FROM facts WHERE atlas_id = 'other'").rows == ((60,),)
        with pytest.raises(QueryError, match=r"(large|small)/facts\.parquet"):
            console.query("SELECT count(DISTINCT subject) FROM facts")


# Errors ----------------------------------------------------------------------------------------------


def test_a_folder_of_no_atlases_is_no_collection(tmp_path, folder):
    with pytest.raises(StoreError, match="has no atlas"):
        Collection(tmp_path)
    with pytest.raises(StoreError, match="There is no folder"):
        Collection(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is an atlas, not a collection"):
        Collection(folder / "large")


def test_two_atlases_with_one_id_are_named(copied):
    shutil.copytree(copied / "large", copied / "twin")
    with pytest.raises(StoreError, match=r"large and \S*twin have the same atlas_id 'large'"):
        Collection(copied)


def test_another_schema_version_is_named(copied):
    path = copied / "other" / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 1}))
    with pytest.raises(StoreError, match=r"other/manifest\.json has schema version 1; this program reads"):
        Collection(copied)


def test_a_truncated_or_missing_file_is_named(copied):
    path = copied / "other" / "facts.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(StoreError, match=r"other/facts\.parquet is truncated"):
        Collection(copied)
    path.unlink()
    with pytest.raises(StoreError, match=r"other/facts\.parquet is missing"):
        Collection(copied)


def test_a_corrupt_file_is_named_when_it_is_read(copied):
    path = copied / "other" / "facts.parquet"
    path.write_bytes(b"x" * path.stat().st_size)
    with Collection(copied) as many, pytest.raises(QueryError, match=r"other/facts\.parquet"):
        many.query("SELECT count(DISTINCT subject) FROM facts")


def test_an_unknown_member_is_refused_with_the_known_ids(many):
    with pytest.raises(QueryError, match=r"has no atlas 'nobody'\. It has: large, other, small"):
        many.atlas("nobody")


# Command line ----------------------------------------------------------------------------------------


def test_the_command_line_asks_a_collection_in_the_sandbox(folder, capsys):
    sql = "SELECT atlas_id, count(*) AS facts FROM facts GROUP BY ALL ORDER BY ALL"
    assert main(["sql", "--collection", str(folder), sql, "--format", "csv"]) == 0
    assert capsys.readouterr().out == "atlas_id,facts\nlarge,90\nother,60\nsmall,30\n"
    assert main(["info", "--collection", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["atlas", "large", "other", "small", "3"]
    assert lines[-1].split()[2] == "180"
    assert main(["info", "--collection", str(folder / "large")]) == 2
    assert "is an atlas, not a collection" in capsys.readouterr().err


@pytest.fixture(scope="module")
def console(many):
    with many.sandboxed(seconds=5) as sandbox:
        yield sandbox


REFUSED = [
    "COPY facts TO '{file}'",
    "COPY (SELECT 1 AS a) TO '{folder}/new.parquet' (FORMAT parquet)",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM '{folder}/large/manifest.json'",
    "SELECT * FROM read_text('/proc/self/environ')",
    "ATTACH '{folder}/new.db'",
    "SET allowed_paths = ['/etc/passwd']",
    "SET enable_external_access = true",
    "WITH x AS (DELETE FROM facts RETURNING *) SELECT * FROM x",
    "SELECT * FROM query('COPY facts TO ''{file}''')",
    "INSTALL httpfs",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_the_sandbox_of_a_collection_reads_its_tables_and_nothing_else(console, folder, sql):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    place = str(folder).replace("'", "''")
    with pytest.raises(QueryError):
        console.query(sql.replace("{file}", f"{place}/large/facts.parquet").replace("{folder}", place))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert console.query("SELECT count(*), count(DISTINCT subject) FROM facts").rows[0][0] == 180


def test_the_sandbox_answers_as_the_collection_does(console, many):
    for table in (*TABLES, *DERIVED_VIEWS):
        sql = f"SELECT atlas_id, count(*) AS n FROM {table} GROUP BY ALL ORDER BY ALL"
        assert console.query(sql).frame.values.tolist() == many.query(sql).values.tolist()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Only Linux confines a process.")
def test_a_process_that_may_write_nothing_can_still_read(tmp_path):
    """Landlock alone; on a system without it nothing changes."""
    path = tmp_path / "some.txt"
    path.write_text("as it was")
    tried = (
        "import os, sys\n"
        "from atlas.store.sql_worker import write_nothing\n"
        "write_nothing()\n"
        "path = sys.argv[1]\n"
        "for change in (lambda: open(path, 'w'), lambda: os.truncate(path, 0), lambda: os.remove(path),\n"
        "               lambda: os.mkdir(path + '.d'), lambda: os.rename(path, path + '.x')):\n"
        "    try:\n"
        "        change()\n"
        "        print('done')\n"
        "    except OSError:\n"
        "        print('refused')\n"
        "print(open(path).read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", tried, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if done.stdout.startswith("done"):
        pytest.skip("This kernel has no Landlock.")
    assert done.stdout.splitlines() == ["refused"] * 5 + ["as it was"]
