"""The name of an atlas's folder means nothing, wherever its Parquet files are read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import duckdb
import pytest

import atlas
from atlas.store.collection import Collection
from atlas.store.schema import TABLES
from build.output.check import check_atlas
from build.output.writer import read_parquet
from tests import ROOT
from tests.project.test_project import sources

# DuckDB and pyarrow take key=value for a column, and DuckDB expands wildcards.
NAMES = ("subject=x/run", "relation_id=P99", "layer=9", "known=false", "seed=1", "score=a b", "[run]*?")
SQL = "SELECT * FROM facts ORDER BY fact_id"


@pytest.fixture(params=NAMES)
def named(request, sample, tmp_path) -> Path:
    """A copy of the sample in a folder of that name."""
    return shutil.copytree(sample, tmp_path / request.param)


def test_an_atlas_reads_the_same_rows_from_a_folder_of_any_name(sample, named):
    with atlas.open(sample) as one, atlas.open(named) as other:
        for table in TABLES:
            sql = f"FROM {table} ORDER BY ALL"
            assert other.query(sql).equals(one.query(sql)), table
        with other.sandboxed() as console:
            assert console.query(SQL).frame.subject.tolist() == one.query(SQL).subject.tolist()


def test_a_collection_reads_the_same_rows_from_a_folder_of_any_name(sample, named):
    with atlas.open(sample) as one, Collection(named.parent) as many:
        assert many.query(SQL).drop(columns="atlas_id").equals(one.query(SQL))
        assert set(many.query("SELECT DISTINCT atlas_id FROM attributions").atlas_id) == {"sample"}
        with many.sandboxed() as console:
            assert console.query(SQL).frame.subject.tolist() == one.query(SQL).subject.tolist()


def test_a_duckdb_shell_reads_the_same_rows_from_a_folder_of_any_name(sample, named):
    shell = duckdb.connect()
    shell.execute("SET VARIABLE atlas = ?", [str(named)])
    for statement in shell.extract_statements((ROOT / "atlas" / "views.sql").read_text(encoding="utf-8")):
        shell.execute(statement)
    with atlas.open(sample) as one:
        for table in TABLES:
            sql = f"FROM {table} ORDER BY ALL"
            assert shell.execute(sql).df().equals(one.query(sql)), table


def test_the_builder_reads_the_same_rows_from_a_folder_of_any_name(sample, named):
    for table in TABLES:
        assert read_parquet(named / f"{table}.parquet").equals(read_parquet(sample / f"{table}.parquet"))
    there, here = check_atlas(named), check_atlas(sample)
    assert (there.problems, there.warnings) == (here.problems, here.warnings)


def test_parquet_is_read_through_the_two_functions_that_ignore_folders_names():
    readers = (
        r"read_parquet\(\[|\bread_parquet\(\{|pd\.read_parquet|pq\.read_table|pyarrow\.dataset|parquet_scan"
    )
    found = {
        str(path.relative_to(ROOT))
        for path in sources("atlas", "app", "build")
        if re.search(readers, path.read_text(encoding="utf-8"))
    }
    assert found == {"atlas/store/sources.py", "build/output/writer.py"}
