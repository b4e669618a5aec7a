"""The process behind a sandbox: DuckDB with the atlas's tables, confined.

    python -m atlas.store.sql_worker        # started by atlas.store.sql, which talks to it through two pipes

Untrusted SQL runs in its own process, because DuckDB alone does not enforce the limits: some functions
ignore interrupts and do not count their memory. A process can always be killed.

1. Load: copy the tables into memory, so that no file is needed afterwards. Those of a collection are too
   large for that; their files, and no others, can be opened, for reading only.
2. Lock down: no file system, no extensions, no Python variables, bounded memory, and no way to unlock.
3. Confine: the operating system lets the process open no file, write none, and take no more memory.
4. Parse: exactly one statement that reads (a SELECT, PIVOT, SHOW …), or EXPLAIN of one. It runs in a
   read-only transaction, because DuckDB counts `WITH x AS (DELETE … RETURNING *) SELECT …` as a SELECT.
5. Types: DuckDB writes as text what Arrow or Python would not carry exactly (dates, intervals, UUIDs …).
6. Answer: fetch one row more than allowed, to know whether rows were left out, count what is in them
   (`atlas.store.sql_size`), and send the rows back as an Arrow stream.

A message is a JSON object and some bytes, each preceded by its length.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

from atlas.store.sql_size import AnswerSize, Tally, TooLarge
from atlas.store.sql_types import distinct, with_exact_types, with_integers

try:
    import resource
except ImportError:  # Windows has no such limits; DuckDB's limits and killing the process remain.
    resource = None  # type: ignore[assignment]

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
_EXPLAIN = re.compile(
    r"\s*EXPLAIN\b(?:\s+ANALYZE\b)?(?:\s*\(\s*(?:ANALYZE|FORMAT)\b[^()]*\))?", re.IGNORECASE
)
# Some types make DuckDB and Arrow import modules: import them while files can still be opened.
_FIRST = """
SELECT 1::HUGEINT, 1.5::DECIMAL(9, 2), 'x'::BLOB, uuid(), TIME '10:00', TIMESTAMPTZ '2000-01-01',
       DATE '2000-01-01', INTERVAL 1 DAY, [{'a': 1.5}], MAP {'a': 1}, 'a'::ENUM ('a', 'b'),
       [1, 2]::INTEGER[2], 12::BIGNUM, NULL
"""
_LENGTHS = struct.Struct(">II")
# DuckDB makes 2048 rows at a time, Arrow copies this many of them: each may hold long lists.
_ROWS_AT_ONCE = 256

# Landlock's system calls have the same numbers on every processor. Its rights: all that change a file system
# (1: execute, 2: write, bits 4 to 12: remove and make), of later kernels also truncate.
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_WRITES, _LANDLOCK_TRUNCATE = 0b1_1111_1111_0011, 1 << 14
_NO_NEW_PRIVILEGES = 38

# Memory that DuckDB does not count: the vectors of a function, stacks, the rows being sent.
_LEAST_UNCOUNTED = 96_000_000
# The server of the pages has priority.
_NICENESS = 10
# Characters of an error: DuckDB quotes values and names of the query, which may have millions.
LONGEST_MESSAGE = 2_000


# Messages --------------------------------------------------------------------------------------------


def send(pipe: BinaryIO, message: Mapping[str, Any], body: bytes = b"") -> None:
    head = json.dumps(message).encode("utf-8")
    pipe.write(_LENGTHS.pack(len(head), len(body)) + head + body)
    pipe.flush()


def receive(pipe: BinaryIO, *, longest: int = 2**32) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None when the other side has closed the pipe or sends more than `longest` bytes."""
    lengths = pipe.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    n_head, n_body = _LENGTHS.unpack(lengths)
    if n_head + n_body > longest:
        return None
    head, body = pipe.read(n_head), pipe.read(n_body)
    return (json.loads(head), body) if len(head) == n_head and len(body) == n_body else None


class _WithoutPandas:
    """Keeps Arrow from importing pandas, which is not needed here and doubles time and memory."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "pandas":
            raise ImportError("pandas is not imported in this process.")


# The process -----------------------------------------------------------------------------------------


def main() -> None:
    """Serve one sandbox until its pipe is closed."""
    sys.meta_path.insert(0, _WithoutPandas())
    commands = sys.stdin.buffer
    # A library's prints must not mix with the messages.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    setup, _ = receive(commands) or ({}, b"")
    if not setup:
        return
    write_nothing()
    files = setup["files"]
    try:
        limit_data(setup["loading"])
        connection = connect(setup["loading"])
        (attach if files else load)(connection, setup["tables"], setup["views"])
        lock_down(connection, setup["memory"], setup["threads"], files)
        console = _Console(connection, setup["max_rows"], AnswerSize(**setup["size"]))
        console.answer(_FIRST, {})
    except (duckdb.OutOfMemoryException, MemoryError):
        needs = f"they take more than {setup['loading'] // 1_000_000:,} MB of memory when they are loaded"
        send(replies, {"failed": f"{needs}; in the app: atlas_memory_mb"})
        return
    except (duckdb.Error, OSError) as error:
        send(replies, {"failed": shortened(str(error).strip())})
        return
    confine(setup["memory"], n_files=len(files))
    send(replies, {"ready": True})
    while (received := receive(commands)) is not None:
        message, _ = received
        if "sql" in message:
            threading.Thread(target=_serve, args=(console, message, replies), daemon=True).start()
        else:
            console.interrupt()
    # The parent has ended, so nothing reads the answer.
    os._exit(0)


def connect(memory: int) -> duckdb.DuckDBPyConnection:
    """Step 1. `memory`: bytes that the tables may take while they are loaded, and no disk."""
    connection = duckdb.connect(":memory:")
    connection.execute(f"SET memory_limit = '{memory // 1_000_000}MB'")
    connection.execute("SET temp_directory = ''")
    return connection


def load(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, str], views: str) -> None:
    """Step 1. `tables`: name → the SQL that reads it; `views`: statements that make the derived ones.

    An attached database in memory can be compressed: a fifth of the memory, and faster queries.
    """
    connection.execute("SET allocator_background_threads = true")
    connection.execute("SET threads = 1")
    connection.execute("ATTACH ':memory:' AS loaded (COMPRESS)")
    for name, source in tables.items():
        connection.execute(f"CREATE TABLE loaded.{name} AS {source}")
        connection.execute("CHECKPOINT loaded")
        connection.execute(f"CREATE VIEW {name} AS FROM loaded.{name}")
    connection.execute(views)


def attach(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, str], views: str) -> None:
    """Step 1 for tables that stay in their files."""
    connection.execute("SET parquet_metadata_cache = true")
    for name, source in tables.items():
        connection.execute(f"CREATE VIEW {name} AS {source}")
    connection.execute(views)


def lock_down(
    connection: duckdb.DuckDBPyConnection, memory: int, threads: int, files: Sequence[str] = ()
) -> None:
    """Step 2. `memory`: bytes that queries may use on top of the loaded tables; `files`: may be read."""
    (loaded,) = connection.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall()[0]
    connection.execute(f"SET memory_limit = '{-(-(int(loaded) + int(memory)) // 1_000_000)}MB'")
    connection.execute(f"SET threads = {int(threads)}")
    if files:
        connection.execute("SET allowed_paths = ?", [list(files)])
    for statement in _LOCKDOWN:
        if not (files and "disabled_filesystems" in statement):
            connection.execute(statement)


def write_nothing() -> None:
    """Step 3, first part: forbid this process to write, make, remove or execute files.

    Uses Linux's Landlock, which threads inherit, so it is called before DuckDB starts any. A system without
    it relies on DuckDB's refusal to run anything but a SELECT.
    """
    with contextlib.suppress(OSError, AttributeError):
        system = ctypes.CDLL(None, use_errno=True)
        version = system.syscall(_LANDLOCK_CREATE, None, 0, 1)
        if version < 1:
            return
        handled = _LANDLOCK_WRITES | (_LANDLOCK_TRUNCATE if version >= 3 else 0)
        rules = system.syscall(_LANDLOCK_CREATE, ctypes.byref(ctypes.c_uint64(handled)), 8, 0)
        if rules >= 0:
            system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
            system.syscall(_LANDLOCK_RESTRICT, rules, 0)
            os.close(rules)


def limit_data(memory: int) -> None:
    """Step 1: what the operating system gives while tables are loaded; `confine` may still raise it."""
    if resource is not None and (taken := _data_bytes()) is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = taken + with_uncounted(memory)
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard == -1 else min(most, hard), hard))


def confine(memory: int, *, n_files: int = 0) -> None:
    """Step 3. Limits that the operating system enforces. `n_files`: number of files that may be read."""
    if resource is None:
        return
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    # A query may open the files of a table more than once.
    open_files = 64 + 4 * n_files if n_files else 0
    limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NOFILE": open_files}
    taken = _data_bytes()
    if taken is not None:
        limits["RLIMIT_DATA"] = taken + with_uncounted(memory)
    for name, most in limits.items():
        with contextlib.suppress(OSError, ValueError):
            number = getattr(resource, name)
            _, hard = resource.getrlimit(number)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(number, (most, most))


def with_uncounted(memory: int) -> int:
    """The bytes that the operating system gives where DuckDB counts up to `memory`."""
    return memory + max(_LEAST_UNCOUNTED, memory // 2)


def _data_bytes() -> int | None:
    """Private writable memory of this process, which RLIMIT_DATA bounds; None where Linux does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return None


def _serve(console: _Console, message: Mapping[str, Any], replies: BinaryIO) -> None:
    try:
        head, body = console.answer(message["sql"], message["parameters"])
    except (Refused, TooLarge) as error:
        head, body = {"refused": shortened(str(error))}, b""
    except Exception as error:
        head, body = _error_reply(error), b""
    send(replies, head, body)


def _error_reply(error: Exception) -> dict[str, Any]:
    """The reply to an error. While rows are read, Arrow passes on only the text of DuckDB's errors."""
    text = str(error).strip()
    if isinstance(error, duckdb.InterruptException) or text.startswith("INTERRUPT Error"):
        return {"stopped": True}
    if (
        isinstance(error, duckdb.OutOfMemoryException | MemoryError)
        or text.startswith("Out of Memory Error")
        or "bad_alloc" in text
    ):
        return {"memory": True}
    broken = isinstance(error, duckdb.FatalException | duckdb.InternalException)
    if broken or text.startswith(("FATAL Error", "INTERNAL Error")):
        return {"broken": True}
    return {"error": shortened(text) or type(error).__name__}


def shortened(text: str) -> str:
    """The beginning and the end of a long message; at its end DuckDB points into the query."""
    if len(text) <= LONGEST_MESSAGE:
        return text
    end = LONGEST_MESSAGE // 4
    return f"{text[: LONGEST_MESSAGE - end - 3]} … {text[-end:]}"


class Refused(Exception):
    """A query that is not run; the text says why."""


class _Console:
    """Runs one query at a time and lets another thread interrupt it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, max_rows: int, size: AnswerSize) -> None:
        self._connection = connection
        self._max_rows = max_rows
        self._size = size
        self._cursor: duckdb.DuckDBPyConnection | None = None

    def interrupt(self) -> None:
        # The query may have ended, and closed its cursor, in the meantime.
        cursor = self._cursor
        if cursor is not None:
            with contextlib.suppress(duckdb.Error):
                cursor.interrupt()

    def answer(self, sql: str, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        begun = time.perf_counter()
        cursor = self._cursor = self._connection.cursor()
        try:
            statement = parse_select(cursor, sql)
            # DuckDB ignores the case of $name, and refuses a value for a name that the query has not.
            given = {name.lower(): value for name, value in parameters.items()}
            wanted = [name for name in statement.named_parameters if name.lower() in given]
            values = {name: given[name.lower()] for name in wanted}
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            relation = cursor.sql(statement, params=values or None)
            rows, tally = self._fetched(with_exact_types(relation))
            truncated = rows.num_rows > self._max_rows
            rows = with_integers(cursor, rows.slice(0, self._max_rows), relation.types)
            rows = rows.rename_columns(distinct(relation.columns))
        finally:
            self._cursor = None
            cursor.close()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            # One piece a column: hundreds of small ones take more memory than what is in them.
            stream.write_table(rows.combine_chunks())
        body = sink.getvalue().to_pybytes()
        tally.check_bytes(len(body))
        return {"truncated": truncated, "seconds": time.perf_counter() - begun}, body

    def _fetched(self, relation: duckdb.DuckDBPyRelation) -> tuple[pa.Table, Tally]:
        # Step 6. A relation's reader streams; a cursor's would collect all rows first.
        reader = relation.to_arrow_reader(min(_ROWS_AT_ONCE, self._max_rows + 1))
        tally = Tally(self._size, reader.schema)
        batches, n_rows = [], 0
        for batch in reader:
            tally.add(batch)
            batches.append(batch)
            n_rows += batch.num_rows
            if n_rows > self._max_rows:
                break
        return pa.Table.from_batches(batches, reader.schema), tally


def parse_select(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """Step 4. The single statement in `sql`, which reads or explains one that does; else raises `Refused`."""
    statements = cursor.extract_statements(sql)
    if len(statements) == 1 and statements[0].type == duckdb.StatementType.SELECT:
        return statements[0]
    if len(statements) == 1:
        text = without_comments(sql).strip("; \n")
        explain = _EXPLAIN.match(text)
        body = text[explain.end() :] if explain else text
        if _reads(cursor, body):
            # Made from the text that was looked at.
            (statement,) = cursor.extract_statements(f"{explain[0]} {body}" if explain else body)
            return statement
    raise Refused(
        "Only a single SELECT (or EXPLAIN of one) may be run here. "
        "Other statements work in your own DuckDB: see atlas/views.sql."
    )


def _reads(cursor: duckdb.DuckDBPyConnection, text: str) -> bool:
    kinds = [each.type for each in cursor.extract_statements(text)]
    if kinds == [duckdb.StatementType.MULTI]:
        # A PIVOT whose columns depend on the rows makes several statements of any one that holds it. In
        # parentheses stands only what reads.
        with contextlib.suppress(duckdb.ParserException):
            return len(cursor.extract_statements(f"FROM (\n{text}\n)")) == 1
    return kinds == [duckdb.StatementType.SELECT]


def without_comments(sql: str) -> str:
    """The text with a line break in the place of each comment."""
    text, tokens = sql.encode(), duckdb.tokenize(sql)
    ends = [*(start for start, _ in tokens[1:]), len(text)]
    return b"".join(
        b"\n" if kind == duckdb.token_type.comment else text[start:end]
        for (start, kind), end in zip(tokens, ends, strict=True)
    ).decode()


if __name__ == "__main__":
    main()
