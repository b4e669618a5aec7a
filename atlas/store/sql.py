"""A sandbox for untrusted SQL: it can read the atlas's tables and do nothing else.

    console = a.sandboxed(max_rows=1_000, seconds=5)
    answer = console.query("SELECT relation_id, count(*) FROM facts GROUP BY ALL")
    answer.frame, answer.truncated, answer.seconds

    query = console.start("SELECT … WHERE subject = $name", {"name": "France"})    # does not wait
    query.done, query.ahead, query.stop(), query.answer()

1. Start: a separate process loads the tables and confines itself (`atlas.store.sql_worker`).
2. Line: queries run one after the other, first come, first served (`atlas.line`).
3. Stop: a query is interrupted when its time is over or its caller stops it. If it ignores that, the process
   is killed and a new one started. A query that crashes the process affects no other query.
4. Answer: rows come back as Arrow, never more than allowed.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import pandas as pd
import pyarrow as pa

from atlas.errors import QueryError, StoreError
from atlas.line import FairLine, Place
from atlas.neuron import check_text
from atlas.store.sql_size import AnswerSize
from atlas.store.sql_worker import receive, send

LONGEST_SQL = 20_000
LONGEST_VALUES = 20_000
LONGEST_LINE = 16
MOST_ROWS = 1_000_000_000

_STOPPED = "The query was stopped."
_BROKEN = "The query crashed the database engine, which was started again. Rewrite the query."
_TOO_MUCH = "The query needs more memory than its limit. Select fewer rows, or aggregate earlier."
_CLOSED = "The SQL console was closed. Run the query again."

_MEMORY = re.compile(r"(\d+)\s*(MB|GB)", re.IGNORECASE)
# Bytes that a message from the process has besides the rows.
_LONGEST_HEAD = 1_000_000

# An interrupted query that goes on for longer than this is killed.
_GRACE_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_LOADING_SECONDS = 120.0
# An idle process ends to free its memory; starting another takes about a second.
_IDLE_SECONDS = 600.0

# The environment may hold secrets of the host: the process gets only what Python needs to start.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TZ", "LANG", "LC_ALL")

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
    refuses the query.
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
    ) -> None:
        if not 1 <= max_rows <= MOST_ROWS or not 0 < seconds < math.inf:
            raise QueryError(
                f"Row and time limits must be positive, and rows at most {MOST_ROWS:,}; "
                f"got {max_rows} and {seconds:g}."
            )
        self._check = check
        self.max_rows = max_rows
        self.seconds = seconds
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
        self._line = FairLine(LONGEST_LINE)
        self._guard = threading.Lock()
        self._closed = False
        self._idle_timer: threading.Timer | None = None
        self._process: _Process | None = _Process(self._setup)
        try:
            self._process.wait_until_ready()
        except StoreError:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """The id of the running process; None without one."""
        process = self._process
        return None if process is None else process.id

    def close(self) -> None:
        """End the process. Running and waiting queries raise `QueryError`."""
        self._closed = True
        self._line.cancel()
        self._end_process()

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """Run one SELECT (or EXPLAIN of one). Raises `QueryError` when refused, wrong or over a limit."""
        query = self.start(sql, parameters)
        try:
            return query.answer()
        finally:
            # Only an interrupted caller leaves before the answer is there.
            query.stop()

    def start(self, sql: str, parameters: Mapping[str, Any] | None = None) -> PendingQuery:
        """Put a query in the line, without waiting for its answer. `parameters`: values of `$name`s."""
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
        place = Place(self._line)
        if not place.join():
            raise QueryError(f"{len(self._line)} queries are waiting already. Try again in a moment.")
        return PendingQuery(self, place, sql, values)

    # Step 2. Line ------------------------------------------------------------------------------------

    def answer_in_turn(self, query: PendingQuery) -> Answer:
        """Wait in line and run the query. Called in the thread of `query`."""
        try:
            query.place.wait()
            return self._answer(query)
        finally:
            query.place.leave()
            if not len(self._line) and not self._closed:
                self._end_when_idle()

    # Step 3. Stop ------------------------------------------------------------------------------------

    def _answer(self, query: PendingQuery) -> Answer:
        if query.is_stopped:
            raise QueryError(_STOPPED)
        process = self._running_process()
        if (reply := self._reply(query, process)) is None and process.served:
            # The previous query may have killed the process after its answer.
            process = self._running_process()
            reply = self._reply(query, process)
        if reply is None:
            raise QueryError(_BROKEN)
        process.served += 1
        return self._read(*reply, by_caller=query.is_stopped)

    def _reply(self, query: PendingQuery, process: _Process) -> tuple[dict[str, Any], bytes] | None:
        """The process's reply, within the limits; None when it died."""
        query.started = time.monotonic()
        process.send({"sql": query.sql, "parameters": query.parameters})
        interrupted = None
        while True:
            now = time.monotonic()
            if interrupted is None and (now >= query.started + self.seconds or query.is_stopped):
                process.send({"stop": True})
                interrupted = now
            if interrupted is not None and now >= interrupted + _GRACE_SECONDS:
                self._start_again()
                raise QueryError(_STOPPED if query.is_stopped else self._timeout_message())
            if (reply := process.receive(_LOOK_SECONDS)) is not None:
                return reply
            if not process.alive:
                self._start_again()
                return None

    def _read(self, head: Mapping[str, Any], body: bytes, *, by_caller: bool) -> Answer:
        # Step 4. Answer.
        if "stopped" in head:
            raise QueryError(_STOPPED if by_caller else self._timeout_message())
        if "memory" in head or "broken" in head:
            # The process may keep the memory, or be damaged.
            self._start_again()
            raise QueryError(_TOO_MUCH if "memory" in head else _BROKEN)
        if "refused" in head:
            raise QueryError(head["refused"])
        if "error" in head:
            raise QueryError(f"The query failed. {head['error']}")
        with pa.ipc.open_stream(body) as stream:
            return Answer(stream.read_all(), bool(head["truncated"]), float(head["seconds"]))

    def _timeout_message(self) -> str:
        return f"The query was stopped after {self.seconds:g} seconds. Select fewer rows, or add conditions."

    # Step 1. Start -----------------------------------------------------------------------------------

    def _running_process(self) -> _Process:
        with self._guard:
            if self._closed:
                raise QueryError(_CLOSED)
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            if self._process is None or self._process.has_ended:
                self._process = _Process(self._setup)
            process = self._process
        try:
            process.wait_until_ready()
        except StoreError:
            self._end_process()
            raise
        return process

    def _start_again(self) -> None:
        """Replace the process now, so that the next query need not wait for the tables to load."""
        self._end_process()
        with self._guard:
            if not self._closed:
                self._process = _Process(self._setup)

    def _end_process(self) -> None:
        with self._guard:
            process, self._process = self._process, None
            if self._idle_timer is not None:
                self._idle_timer.cancel()
        if process is not None:
            process.end()

    def _end_when_idle(self) -> None:
        """End the process once it has been idle for a while."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = threading.Timer(_IDLE_SECONDS, self._end_idle)
        self._idle_timer.daemon = True
        self._idle_timer.start()

    def _end_idle(self) -> None:
        if not len(self._line):
            self._end_process()


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

    def __init__(self, console: Sandbox, place: Place, sql: str, parameters: Mapping[str, Any]) -> None:
        self.sql = sql
        self.parameters = dict(parameters)
        self.place = place
        self.started: float | None = None
        self.is_stopped = False
        self._console = console
        self._answer: Future[Answer] = Future()
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
        return self.place.ahead

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
            self.place.cancel()

    def answer(self) -> Answer:
        """Wait for the answer. Raises `QueryError` when it was refused, wrong, or stopped."""
        return self._answer.result()


class _Process:
    """The process of `atlas.store.sql_worker`, seen from the parent: send, receive, end."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *(os.path.abspath(each) for each in sys.path if each)])
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self.alive = True
        self.served = 0
        self._longest = _LONGEST_HEAD + 1_000_000 * setup["size"]["megabytes"]
        self._ready = False
        self._replies: queue.SimpleQueue = queue.SimpleQueue()
        # Without preexec_fn, which is not safe with threads: the process confines itself.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "atlas.store.sql_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Arrow's own allocator takes a gigabyte of addresses, which would count as memory.
            env={**kept, "PYTHONPATH": path, "ARROW_DEFAULT_MEMORY_POOL": "system"},
            # Ctrl-C in a terminal is meant for the parent.
            start_new_session=True,
        )
        self._commands = cast("BinaryIO", self._process.stdin)
        threading.Thread(target=self._read, daemon=True).start()
        self.send(setup)

    @property
    def id(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), cast("BinaryIO", self._process.stdout) as pipe:
            while (message := receive(pipe, longest=self._longest)) is not None:
                self._replies.put(message)
        self._replies.put(None)

    def wait_until_ready(self) -> None:
        """Raises `StoreError` when the tables cannot be read."""
        if self._ready:
            return
        reply = self.receive(_LOADING_SECONDS)
        if reply is None or "ready" not in reply[0]:
            why = reply[0].get("failed", "") if reply else "the process did not start"
            raise StoreError(f"The tables cannot be read ({why}). Build or copy the atlas again.")
        self._ready = True

    def send(self, message: Mapping[str, Any]) -> None:
        # A lost message shows as a missing reply.
        with contextlib.suppress(OSError, ValueError):
            send(self._commands, message)

    def receive(self, seconds: float) -> tuple[dict[str, Any], bytes] | None:
        """The next message; None when none came in time, or when the process is no longer `alive`."""
        if not self.alive:
            return None
        try:
            message = self._replies.get(timeout=seconds)
        except queue.Empty:
            return None
        if message is None:
            self.alive = False
        return message

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LOADING_SECONDS)
        with contextlib.suppress(OSError):
            self._commands.close()
