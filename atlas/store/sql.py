"""A sandbox for untrusted SQL: it can read the atlas's tables and do nothing else.

    console = a.sandboxed(max_rows=1_000, seconds=5)
    answer = console.query("SELECT relation_id, count(*) FROM facts GROUP BY ALL")
    answer.frame, answer.truncated, answer.seconds

    query = console.start("SELECT … WHERE subject = $name", {"name": "France"})    # does not wait
    query.done, query.ahead, query.stop(), query.answer()

1. Start: a separate process loads the tables and confines itself (`atlas.store.sql_worker`).
2. Line: who has had the least time lately is served first. Sandboxes may share processes and their line
   (`atlas.store.sql_pool`).
3. Stop: a query is interrupted when its time is over, its caller stops it, or others go first. If it ignores
   that, the process is killed and a new one started. A query that crashes the process affects no other query.
4. Answer: rows come back as Arrow, never more than allowed.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa

from atlas.errors import QueryError
from atlas.neuron import check_text
from atlas.store.sql_pool import Pool, Process, Turn
from atlas.store.sql_size import AnswerSize

LONGEST_SQL = 20_000
LONGEST_VALUES = 20_000
MOST_ROWS = 1_000_000_000

_STOPPED = "The query was stopped."
_BROKEN = "The query crashed the database engine, which was started again. Rewrite the query."
_TOO_MUCH = (
    "The query needs more memory than its limit of {:,.0f} MB (in the app: sql_memory_mb). "
    "Select fewer rows, or aggregate earlier."
)
_CLOSED = "The SQL console was closed. Run the query again."

_MEMORY = re.compile(r"(\d+)\s*(MB|GB)", re.IGNORECASE)

# An interrupted query that goes on for longer than this is killed, sooner where others wait.
_GRACE_SECONDS, _SHORT_GRACE_SECONDS = 1.0, 0.3
_LOOK_SECONDS = 0.05

# pandas types that keep integers and booleans beside nulls.
_NULLABLE = {pa.bool_(): pd.BooleanDtype()} | {
    pa.type_for_alias(name.lower()): pd.api.types.pandas_dtype(name)
    for name in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
}


@dataclass(frozen=True)
class Answer:
    """The result of a query: at most `max_rows` rows, and whether there were more."""

    table: pa.Table
    truncated: bool
    seconds: float

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the query's order."""
        return tuple(self.table.column_names)

    @property
    def rows(self) -> tuple[tuple[Any, ...], ...]:
        """The rows as plain Python values."""
        return tuple(zip(*(column.to_pylist() for column in self.table.columns), strict=True))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows for pandas; lists are lists and structs dicts."""
        return frame_of(self.table)


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Rows for pandas: integers and booleans stay so beside nulls; lists are lists and structs dicts."""
    frame = table.to_pandas(types_mapper=_NULLABLE.get)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_nested(column.type):
            frame[name] = pd.Series(column.to_pylist(), dtype=object)
    return frame


class Sandbox:
    """A process over copies of the tables that answers SELECTs.

    with a.sandboxed() as console:
        console.query("SELECT count(*) FROM facts").frame

    Safe to share between threads. `memory` is what queries may use on top of the loaded tables; these may
    take `loading`, or `memory` where that is more. Tables too large to load stay on disk; `files` are then
    the only files that can be read. `check` is called with each query before it is run; what it raises
    refuses the query. `pool`: processes that it shares with others; it then starts one with its first query.
    Else it has one of its own, at once.
    """

    def __init__(
        self,
        tables: Mapping[str, str],
        views: str,
        *,
        files: Sequence[str] = (),
        check: Callable[[str], None] = lambda sql: None,
        max_rows: int = 10_000,
        size: AnswerSize | None = None,
        seconds: float = 10,
        memory: str = "512MB",
        loading: str = "4GB",
        threads: int = 2,
        pool: Pool | None = None,
    ) -> None:
        if not 1 <= max_rows <= MOST_ROWS or not 0 < seconds < math.inf:
            raise QueryError(
                f"Row and time limits must be positive, and rows at most {MOST_ROWS:,}; "
                f"got {max_rows} and {seconds:g}."
            )
        self._check = check
        self.max_rows = max_rows
        self.seconds = seconds
        self.memory = memory
        self._setup = {
            "tables": dict(tables),
            "views": views,
            "files": list(files),
            "max_rows": max_rows,
            "size": asdict(size or AnswerSize()),
            "memory": _bytes(memory),
            "loading": max(_bytes(loading), _bytes(memory)),
            "threads": threads,
        }
        self._closed = False
        self._queries: set[PendingQuery] = set()
        self._pool = pool or Pool()
        if pool is None:
            self._pool.give_back(self._pool.take(self, self._setup))

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """The id of its running process, or of one of them; None without one."""
        return next(iter(self._pool.process_ids(self)), None)

    def close(self) -> None:
        """End its processes. Running and waiting queries raise `QueryError`."""
        self._closed = True
        for query in list(self._queries):
            query.stop()
        self._pool.end(self)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """Run one SELECT (or EXPLAIN of one). Raises `QueryError` when refused, wrong or over a limit."""
        query = self.start(sql, parameters)
        try:
            return query.answer()
        finally:
            # Only an interrupted caller leaves before the answer is there.
            query.stop()

    def start(self, sql: str, parameters: Mapping[str, Any] | None = None) -> PendingQuery:
        """Put a query in the line, without waiting for its answer. `parameters`: values of `$name`s.

        Who asks (`atlas.line.asking`) has one place in the line: the query before is stopped.
        """
        values = dict(parameters or {})
        check_text("The query", sql, QueryError)
        if len(sql) > LONGEST_SQL:
            raise QueryError(
                f"The query has {len(sql):,} characters; the limit is {LONGEST_SQL:,}. Shorten it."
            )
        if sum(len(str(value)) for value in values.values()) > LONGEST_VALUES:
            raise QueryError(
                f"The values have more than {LONGEST_VALUES:,} characters together. Shorten them."
            )
        self._check(sql)
        return PendingQuery(self, self._pool, sql, values)

    # Step 2. Line ------------------------------------------------------------------------------------

    def answer_in_turn(self, query: PendingQuery) -> Answer:
        """Wait in line and run the query. Called in the thread of `query`."""
        self._queries.add(query)
        try:
            while True:
                if not query.is_stopped:
                    query.turn.wait()
                if (answer := self._answer(query)) is not None:
                    return answer
                query.started = None
                query.turn.put_back()
        finally:
            query.turn.leave()
            self._queries.discard(query)

    # Step 3. Stop ------------------------------------------------------------------------------------

    def _answer(self, query: PendingQuery) -> Answer | None:
        """The answer of a query that is served; None where it lets others go first."""
        reply = None
        for _ in range(2):
            self._raise_if_stopped(query)
            process = self._pool.take(self, self._setup)
            try:
                reply = self._reply(query, process)
            except _LetsOthersGoFirst:
                return None
            finally:
                self._pool.give_back(process, keep=not self._closed)
            # Earlier queries may have killed the process after their answer, or left it little memory.
            if not (process.served if reply is None else "memory" in reply[0] and process.served > 1):
                break
        self._raise_if_closed()
        if reply is None:
            raise QueryError(_BROKEN)
        return self._read(*reply)

    def _reply(self, query: PendingQuery, process: Process) -> tuple[dict[str, Any], bytes] | None:
        """The process's reply, within the limits; None when it died."""
        query.started = time.monotonic()
        process.send({"sql": query.sql, "parameters": query.parameters})
        why: Exception | None = None
        interrupted = 0.0
        while True:
            # One that ignores an interrupt is interrupted once for others, once for good.
            reason = None if isinstance(why, QueryError) else self._reason_to_stop(query)
            if reason is not None and (why is None or isinstance(reason, QueryError)):
                why, interrupted = reason, time.monotonic()
                process.send({"stop": True})
            if why is not None and self._is_to_be_killed(query, why, time.monotonic() - interrupted):
                process.is_broken = True
                raise why
            if (reply := process.receive(_LOOK_SECONDS)) is not None:
                process.served += 1
                # It may keep the memory, or be damaged.
                process.is_broken = "memory" in reply[0] or "broken" in reply[0]
                if why is not None and "stopped" in reply[0]:
                    raise why
                return reply
            if not process.alive:
                process.is_broken = True
                return None

    def _reason_to_stop(self, query: PendingQuery) -> Exception | None:
        if query.is_stopped:
            return QueryError(_STOPPED)
        if query.seconds >= self.seconds:
            return QueryError(
                f"The query was stopped after {self.seconds:g} seconds. Select fewer rows, or add conditions."
            )
        if query.turn.lets_others_go(query.seconds):
            return _LetsOthersGoFirst()
        return None

    def _is_to_be_killed(self, query: PendingQuery, why: Exception, ignored: float) -> bool:
        """Whether a query has ignored its interrupt for too long, in seconds."""
        if isinstance(why, _LetsOthersGoFirst) and not query.turn.is_to_end:
            return False  # loading tables again takes as long as it would have kept the process
        return ignored >= (_SHORT_GRACE_SECONDS if query.turn.others_wait else _GRACE_SECONDS)

    def _raise_if_stopped(self, query: PendingQuery) -> None:
        self._raise_if_closed()
        if query.is_stopped:
            raise QueryError(_STOPPED)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise QueryError(_CLOSED)

    def _read(self, head: Mapping[str, Any], body: bytes) -> Answer:
        # Step 4. Answer.
        if "stopped" in head:
            raise QueryError(_STOPPED)
        if "memory" in head:
            raise QueryError(_TOO_MUCH.format(_bytes(self.memory) / 1e6))
        if "broken" in head:
            raise QueryError(_BROKEN)
        if "refused" in head:
            raise QueryError(head["refused"])
        if "error" in head:
            raise QueryError(f"The query failed. {head['error']}")
        with pa.ipc.open_stream(body) as stream:
            return Answer(stream.read_all(), bool(head["truncated"]), float(head["seconds"]))


class _LetsOthersGoFirst(Exception):
    """A query is put back."""


def _bytes(memory: str) -> int:
    if not (size := _MEMORY.fullmatch(memory.strip())):
        raise QueryError(f"memory must be written like 512MB or 2GB, got '{memory}'.")
    return int(size[1]) * (1_000_000_000 if size[2].upper() == "GB" else 1_000_000)


class PendingQuery:
    """A query that waits in the line of a sandbox, runs, or is done. It starts at once, in its own thread.

    query = console.start("SELECT …")
    query.wait(0.5) or query.stop()
    query.answer()                               # waits; an Answer, or a QueryError
    """

    def __init__(self, console: Sandbox, pool: Pool, sql: str, parameters: Mapping[str, Any]) -> None:
        self.sql = sql
        self.parameters = dict(parameters)
        self.started: float | None = None
        self.is_stopped = False
        self._console = console
        self._answer: Future[Answer] = Future()
        self.turn = Turn(pool, self.stop)
        self.turn.line_up()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            self._answer.set_result(self._console.answer_in_turn(self))
        except BaseException as error:
            self._answer.set_exception(error)

    @property
    def done(self) -> bool:
        """Whether it is answered, refused or stopped."""
        return self._answer.done()

    @property
    def ahead(self) -> int:
        """Number of queries ahead of this one."""
        return self.turn.ahead

    @property
    def was_put_back(self) -> bool:
        """Whether it ran, let others go first, and starts again in its turn."""
        return self.turn.was_put_back and self.started is None

    @property
    def is_loading(self) -> bool:
        """Whether it is its turn, and a process loads the tables."""
        return self.started is None and self.turn.is_served

    @property
    def seconds(self) -> float:
        """How long it has been running; 0 while it waits in line."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it is done after at most `seconds`."""
        return bool(wait_for([self._answer], seconds).done)

    def stop(self) -> None:
        """Stop the query, waiting or running; one that is done stays done."""
        if not self.done:
            self.is_stopped = True
            self.turn.cancel()

    def answer(self) -> Answer:
        """Wait for the answer. Raises `QueryError` when it was refused, wrong, or stopped."""
        return self._answer.result()
