"""Trusted queries over an atlas's tables in DuckDB."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pandas as pd
import pyarrow as pa

from atlas.errors import QueryError, StoreError
from atlas.store.sql_types import are_exact, exact_table

Parameters = Sequence[Any] | Mapping[str, Any] | None


class Reader:
    """The base of an opened atlas and an opened collection: tables in DuckDB, and queries over them.

    reader.query("SELECT count(*) FROM facts WHERE known")
    reader.query_one("SELECT * FROM facts WHERE fact_id = ?", ["P36.france"])
    reader.close()

    `tables`: name → the SQL that reads it; `views`: statements that make the derived ones. Threads may share
    it: each query has its own cursor.
    """

    def __init__(self, path: Path, tables: Mapping[str, str], views: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection = duckdb.connect(":memory:")
        # Names in a query are tables of the atlas, never variables of the Python program.
        self._connection.execute("SET python_enable_replacements = false")
        self._connection.execute("SET autoinstall_known_extensions = false")
        # Views over views would read the same footers again and again.
        self._connection.execute("SET parquet_metadata_cache = true")
        try:
            for table, source in tables.items():
                self._connection.execute(f"CREATE VIEW {table} AS {source}")
            self._connection.execute(views)
        except duckdb.Error as error:
            self._connection.close()
            raise StoreError(f"{self.path} cannot be opened ({error}). Build it again.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def close(self) -> None:
        """Close the connection; a query after that raises."""
        self._connection.close()

    def query(self, sql: str, params: Parameters = None) -> pd.DataFrame:
        """The rows of a trusted query as a DataFrame; values are parameters (`?` or `$name`).

        Types that pandas would change (dates, times, maps …) are the text that DuckDB prints. Raises
        `QueryError` when DuckDB refuses the query. For untrusted SQL use `sandboxed`.
        """
        with self._executed(sql, params) as cursor:
            if are_exact([column[1] for column in cursor.description]):
                return cursor.df()
            cursor.abort()
            table = exact_table(cursor, cursor.sql(sql, params=params or None))
            decimals = [field.name for field in table.schema if pa.types.is_decimal(field.type)]
            return table.to_pandas().astype(dict.fromkeys(decimals, "float64"))  # as df() has them

    def query_one(self, sql: str, params: Parameters = None) -> dict[str, Any] | None:
        """The first row as a dict of plain Python values, or None."""
        with self._executed(sql, params) as cursor:
            row = cursor.fetchone()
            return None if row is None else dict(zip([d[0] for d in cursor.description], row, strict=True))

    def query_row(self, sql: str, params: Parameters = None) -> dict[str, Any]:
        """The first row of a query that always has one, such as a count."""
        row = self.query_one(sql, params)
        assert row is not None
        return row

    @contextmanager
    def _executed(self, sql: str, params: Parameters) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._lock:
            cursor = self._connection.cursor()
        try:
            yield cursor.execute(sql, params) if params else cursor.execute(sql)
        except duckdb.Error as error:
            raise QueryError(f"The query failed. {error}") from error
        finally:
            cursor.close()
