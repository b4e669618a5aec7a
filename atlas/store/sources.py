"""The SQL that reads an atlas: a file or no rows as a table, and the views over the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from atlas.store.schema import LATER_COLUMNS, TABLES

VIEWS_FILE = Path(__file__).parents[1] / "views.sql"

_PART_TWO = "-- Part 2:"
_OF_A_COLLECTION = re.compile(r"/\*\+ (.*?) \*/")

_SQL_TYPES = {
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "float": "FLOAT",
}


def derived_views(*, of_a_collection: bool = False) -> str:
    """The statements of `views.sql` that do not depend on where the tables come from.

    Those of a collection include the text in `/*+ … */`, which keeps atlases apart.
    """
    views = VIEWS_FILE.read_text(encoding="utf-8").partition(_PART_TWO)[2].partition("\n")[2]
    return _OF_A_COLLECTION.sub(r"\1", views) if of_a_collection else views


def no_rows(table: str) -> str:
    """The SQL of a table that is not on disk: its columns and no rows."""
    columns = ", ".join(f'NULL::{sql_type(f.type)} AS "{f.name}"' for f in TABLES[table])
    return f"SELECT {columns} WHERE false"


def parquet(*files: Path, **options: str) -> str:
    """The SQL call that reads Parquet files; `options` are more of DuckDB's, as SQL.

    The folders above mean nothing: by default DuckDB takes one called `subject=x` for a column.
    """
    options = {"hive_partitioning": "false", **options}
    named = (f"{name} = {value}" for name, value in options.items())
    return f"read_parquet([{', '.join(map(quoted_path, files))}], {', '.join(named)})"


def rows_of(table: str, reading: str) -> str:
    """The SQL of a table whose file `reading` reads: with the columns that the file may lack."""
    return f"{reading} UNION ALL BY NAME {no_rows(table)}" if table in LATER_COLUMNS else reading


def quoted_path(path: Path) -> str:
    """A path as a SQL string that names this file only: wildcards and quotes are escaped."""
    return sql_string(glob_of(path))


def glob_of(path: Path) -> str:
    """A path as a pattern that DuckDB expands to this file only, whatever its name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))


def sql_string(text: str) -> str:
    """A text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def sql_type(kind: pa.DataType) -> str:
    """The DuckDB type of a column's pyarrow type."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"STRUCT({', '.join(f'{each.name} {sql_type(each.type)}' for each in kind)})"
    return _SQL_TYPES[str(kind)]
