"""SQL from people is untrusted: a connection that can read the atlas's tables and do nothing else.

    console = a.sandboxed(max_rows=1_000, seconds=5)
    answer = console.query("SELECT relation_id, count(*) FROM facts GROUP BY ALL")
    answer.frame, answer.truncated, answer.seconds

1. Load: the tables are copied into memory, so no file is needed any more.
2. Lock: no file system, no extensions, no Python variables, bounded memory, and no way to unlock.
3. Read: exactly one statement of type SELECT; EXPLAIN only by wrapping such a one. It runs in a
   read-only transaction, because DuckDB counts `WITH x AS (DELETE … RETURNING *) SELECT …` as a SELECT.
4. Limit: a cursor per query, interrupted when its time is over; one row more than allowed is fetched,
   to see whether rows were left out.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pandas as pd

from atlas.errors import QueryError, StoreError

_LOCKDOWN = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET temp_directory = ''",
    "SET secret_directory = ''",
    "SET disabled_filesystems = 'LocalFileSystem'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_EXPLAIN = re.compile(r"\s*EXPLAIN\b(?P<analyze>\s+ANALYZE\b)?", re.IGNORECASE)
_MEMORY = re.compile(r"(\d+)\s*(MB|GB)", re.IGNORECASE)

# The parser takes seconds and a gigabyte for a hundred thousand nested parentheses.
_LONGEST_SQL = 20_000

# A few functions run to their end inside one step, where DuckDB cannot be interrupted.
_GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class Answer:
    """What a query gave: at most `max_rows` rows, and whether there were more."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    seconds: float

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(list(self.rows), columns=list(self.columns))


class Sandbox:
    """A locked connection over copies of the tables.

    with a.sandboxed() as console:
        console.query("SELECT count(*) FROM facts").frame

    Safe to share between threads. `memory` is what queries may use on top of the loaded tables.
    """

    def __init__(
        self,
        tables: Mapping[str, str],
        views: str,
        *,
        max_rows: int = 10_000,
        seconds: float = 10,
        memory: str = "512MB",
        threads: int = 2,
    ) -> None:
        if max_rows < 1 or seconds <= 0:
            raise QueryError("A query needs at least one row and some time. Give positive limits.")
        if not (size := _MEMORY.fullmatch(memory.strip())):
            raise QueryError(f"'{memory}' is no amount of memory. Write it like 512MB or 2GB.")
        self.max_rows = max_rows
        self.seconds = seconds
        self._lock = threading.Lock()
        self._connection = duckdb.connect(":memory:")
        # Step 1. Load.
        try:
            for name, source in tables.items():
                self._connection.execute(f"CREATE TABLE {name} AS {source}")
            self._connection.execute(views)
        except duckdb.Error as error:
            self._connection.close()
            raise StoreError(
                f"The tables cannot be read ({error}). Build or copy the atlas again."
            ) from error
        # Step 2. Lock.
        loaded = self._connection.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchone()[0]
        allowed = int(size[1]) * (1000 if size[2].upper() == "GB" else 1) + -(-int(loaded) // 1_000_000)
        self._connection.execute(f"SET memory_limit = '{allowed}MB'")
        self._connection.execute(f"SET threads = {int(threads)}")
        for statement in _LOCKDOWN:
            self._connection.execute(statement)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        # A query that could not be interrupted in time still has its cursor; it goes when that ends.
        with contextlib.suppress(duckdb.Error):
            self._connection.close()

    def query(self, sql: str) -> Answer:
        """Run one SELECT (or EXPLAIN of one). Raises `QueryError` when refused, wrong or over a limit."""
        started = time.perf_counter()
        with self._lock:
            cursor = self._connection.cursor()
        statement = self._checked(cursor, sql)
        outcome: list[Any] = []
        worker = threading.Thread(target=self._work, args=(cursor, statement, outcome), daemon=True)
        interrupt = threading.Timer(self.seconds, _interrupt, [cursor])
        interrupt.daemon = True
        worker.start()
        interrupt.start()
        worker.join(self.seconds + _GRACE_SECONDS)
        interrupt.cancel()
        interrupt.join()
        if not outcome or isinstance(outcome[0], duckdb.InterruptException):
            raise QueryError(
                f"The query was stopped after {self.seconds:g} seconds. Ask for less, or add conditions."
            )
        if isinstance(outcome[0], duckdb.OutOfMemoryException):
            raise QueryError(
                "The query needs more memory than it may use. Ask for less, or aggregate earlier."
            )
        if isinstance(outcome[0], duckdb.Error):
            raise QueryError(_sentence(outcome[0]))
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        columns, rows = outcome[0]
        return Answer(
            columns=_distinct(columns),
            rows=tuple(rows[: self.max_rows]),
            truncated=len(rows) > self.max_rows,
            seconds=time.perf_counter() - started,
        )

    def _checked(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
        # Step 3. Read: one statement, of type SELECT.
        if len(sql) > _LONGEST_SQL:
            raise QueryError(
                f"The query has {len(sql):,} characters and may have {_LONGEST_SQL:,}. Write a shorter one."
            )
        explain = _EXPLAIN.match(sql)
        body = sql[explain.end() :] if explain else sql
        try:
            statements = cursor.extract_statements(body)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError(
                    "Only a single SELECT (or EXPLAIN of one) may be run here. "
                    "Other statements work in your own DuckDB: see atlas/views.sql."
                )
            if not explain:
                return statements[0]
            prefix = "EXPLAIN ANALYZE " if explain["analyze"] else "EXPLAIN "
            (wrapped,) = cursor.extract_statements(prefix + statements[0].query)
            return wrapped
        except duckdb.Error as error:
            raise QueryError(_sentence(error)) from error

    def _work(
        self, cursor: duckdb.DuckDBPyConnection, statement: duckdb.Statement, outcome: list[Any]
    ) -> None:
        # Step 4. Limit. Runs in a thread of its own, so that the caller's wait is bounded in any case.
        try:
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            cursor.execute(statement)
            rows = cursor.fetchmany(self.max_rows + 1)
            outcome.append(([column[0] for column in cursor.description], rows))
        except duckdb.Error as error:
            # Without its traceback, which would hold on to this frame, and so to the cursor, in a circle.
            outcome.append(error.with_traceback(None))
        except BaseException as error:
            outcome.append(error)
        finally:
            cursor.close()


def _interrupt(cursor: duckdb.DuckDBPyConnection) -> None:
    # The query may have ended, and closed its cursor, while the timer was going off.
    with contextlib.suppress(duckdb.Error):
        cursor.interrupt()


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Column names with a number where one is used twice."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        result.append(f"{name}_{count}" if count else name)
    return tuple(result)


def _sentence(error: Exception) -> str:
    text = str(error).strip()
    return f"The query failed. {text}"
