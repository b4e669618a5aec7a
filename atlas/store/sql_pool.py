"""The processes that run untrusted SQL, and the line for them; several sandboxes may share one pool.

    pool = Pool(2)
    one, other = a.sandboxed(pool=pool), b.sandboxed(pool=pool)

1. Line: who has had the least time lately is served first (`atlas.line`). Each asker has one place: a new
   query stops the one before.
2. Short and long: a query may use any process for its first second. All but one process may be kept by
   queries that run on. Others run on while nobody waits; then they are put back, and start again in their
   turn. So one process serves short queries, however many long ones there are. A short one is put back, too,
   where its asker has had a second more than one who waits.
3. Processes: each holds the tables of one sandbox. An idle one makes room for another sandbox's, and ends
   after a while; a busy one is never ended.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from atlas.errors import QueryError, StoreError
from atlas.line import FairLine, Place, TimesUsed
from atlas.store.sql_worker import receive, send

LONGEST_LINE = 200
# What a query may use without a long place.
SHORT_SECONDS = 1.0
# What it runs at least before it is put back for others.
SHORTEST_TURN_SECONDS = 0.25
LOADING_SECONDS = 120.0
# An idle process ends to free its memory, sooner where another was used later; starting one takes a second.
IDLE_SECONDS = 600.0
SPARE_SECONDS = 15.0

# Bytes that a message from the process has besides the rows.
_LONGEST_HEAD = 1_000_000
# The environment may hold secrets of the host: the process gets only what Python needs to start.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TZ", "LANG", "LC_ALL")


class Pool:
    """At most `n_processes` that work, of any sandboxes, and a spare one; safe to share between threads."""

    def __init__(self, n_processes: int = 1) -> None:
        if n_processes < 1:
            raise QueryError(f"n_processes must be at least 1, got {n_processes}.")
        times = TimesUsed()
        self.line = FairLine(LONGEST_LINE, at_once=n_processes, times=times)
        self.long_line = FairLine(at_once=max(1, n_processes - 1), times=times)
        # A spare one is loaded while others work, in the place of one that may have to be killed.
        self._most = n_processes + (n_processes > 1)
        self._guard = threading.Lock()
        self._busy: list[Process] = []
        self._idle: list[Process] = []  # the one used longest ago first
        self._turns: dict[Hashable, Turn] = {}

    def take(self, key: object, setup: Mapping[str, Any]) -> Process:
        """A process with the tables of `setup`, for a query that is being served; give it back.

        key: the sandbox whose it is. Raises `StoreError` when the tables cannot be read.
        """
        with self._guard:
            self._drop(each for each in self._idle if each.has_ended)
            own = [each for each in self._idle if each.key is key]
            if own:
                process = next((each for each in reversed(own) if each.is_loaded), own[-1])
                self._idle.remove(process)
                process.is_needed()
            else:
                while len(self._idle) + len(self._busy) >= self._most:
                    self._drop([self._least_needed()])
                process = Process(key, setup)
            self._busy.append(process)
            if self.line.waiting and not self._idle and len(self._busy) < self._most:
                self._keep(Process(key, setup))
        try:
            process.wait_until_ready()
        except StoreError:
            self.give_back(process, keep=False)
            raise
        return process

    def give_back(self, process: Process, *, keep: bool = True) -> None:
        """Keep a process for the next query; put another one in the place of a broken one."""
        if process.is_broken or not keep:
            process.end()
        with self._guard:
            if process not in self._busy:  # its sandbox was closed
                return
            self._busy.remove(process)
            if process.has_ended and keep:
                # Now, so that the next query need not wait for the tables to load.
                process = Process(process.key, process.setup)
            if keep:
                self._keep(process)

    def process_ids(self, key: object) -> list[int]:
        """The ids of the running processes of one sandbox."""
        with self._guard:
            return [each.id for each in (*self._busy, *self._idle) if each.key is key]

    def end(self, key: object) -> None:
        """End all processes of one sandbox, also busy ones."""
        with self._guard:
            ended = [each for each in (*self._busy, *self._idle) if each.key is key]
            self._busy = [each for each in self._busy if each not in ended]
            self._drop(ended)

    def _keep(self, process: Process) -> None:
        self._idle.append(process)
        process.idle_since = time.monotonic()
        process.end_after(min(SPARE_SECONDS, IDLE_SECONDS), self._end_idle)

    def _end_idle(self, process: Process) -> None:
        """End it, or look again later: another may be used last by then."""
        with self._guard:
            if process not in self._idle:
                return
            last = process is self._idle[-1] and not self._is_spare(process)
            if last and time.monotonic() - process.idle_since < IDLE_SECONDS:
                process.end_after(min(SPARE_SECONDS, IDLE_SECONDS), self._end_idle)
            else:
                self._drop([process])

    def _is_spare(self, process: Process) -> bool:
        return sum(each.key is process.key for each in (*self._idle, *self._busy)) > 1

    def _least_needed(self) -> Process:
        """The idle process used longest ago, of those whose sandbox has another one if there are any."""
        return next(filter(self._is_spare, self._idle), self._idle[0])

    def _drop(self, processes: Iterable[Process]) -> None:
        for process in list(processes):
            if process in self._idle:
                self._idle.remove(process)
            process.end()


class Turn:
    """What a query has in the lines of a pool. Made by who asks: `atlas.line.asking` says who that is.

    turn.line_up()                               # QueryError where the line is full
    turn.wait()                                  # until it is served, or cancelled
    if turn.lets_others_go(seconds):             # that it has run
        turn.put_back()                          # and wait again
    turn.leave()
    """

    def __init__(self, pool: Pool, stop: Callable[[], None]) -> None:
        self._pool = pool
        self._stop = stop
        self._place = Place(pool.line)
        self._long_place = Place(pool.long_line)
        self._is_long = False
        self.was_put_back = False

    # Step 1. Line ------------------------------------------------------------------------------------

    def line_up(self) -> None:
        """Go into the line, in place of the asker's last query."""
        pool, owner = self._pool, self._place.owner
        with pool._guard:
            last = pool._turns.get(owner)
            pool._turns[owner] = self
        if last is not None:
            last._stop()
        try:
            self._join()
        except QueryError:
            self.leave()
            raise

    def _join(self) -> None:
        if not self._place.join():
            raise QueryError(f"{len(self._pool.line)} queries are waiting already. Try again in a moment.")

    @property
    def ahead(self) -> int:
        """Number of queries that are served before this one."""
        return 0 if self._place.served else self._place.ahead or self._long_place.ahead

    @property
    def is_served(self) -> bool:
        """Whether it may use a process now."""
        return self._place.served

    def wait(self) -> None:
        """Wait until it is served or cancelled."""
        self._place.wait()

    def cancel(self) -> None:
        """End the wait; a query that is served goes on."""
        self._place.cancel()
        self._long_place.cancel()

    def leave(self) -> None:
        """Give up both places."""
        self._place.leave()
        self._long_place.leave()
        with self._pool._guard:
            if self._pool._turns.get(self._place.owner) is self:
                del self._pool._turns[self._place.owner]

    # Step 2. Short and long --------------------------------------------------------------------------

    def lets_others_go(self, seconds: float) -> bool:
        """Whether a query that has run for so long is to be put back."""
        if self._long_place.served:
            return False
        if seconds < SHORT_SECONDS:
            return seconds >= SHORTEST_TURN_SECONDS and self.is_to_end
        if not self._is_long:
            self._is_long = self._long_place.join()
        return self.others_wait and not self._long_place.served

    @property
    def is_to_end(self) -> bool:
        """Whether the asker has had much more than one who waits."""
        return self._place.has_had_more(SHORT_SECONDS)

    @property
    def others_wait(self) -> bool:
        """Whether another query waits for a process."""
        return self._pool.line.waiting > 0

    def put_back(self) -> None:
        """Let others go first, a long query until there is a long place; it then starts again."""
        self.was_put_back = True
        self._place.leave()
        if self._is_long:
            self._long_place.wait()
        self._join()


class Process:
    """The process of `atlas.store.sql_worker`, seen from the parent: send, receive, end."""

    def __init__(self, key: object, setup: Mapping[str, Any]) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *(os.path.abspath(each) for each in sys.path if each)])
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self.key = key
        self.setup = setup
        self.alive = True
        self.is_broken = False
        self.served = 0
        self.idle_since = 0.0
        self._idle_timer: threading.Timer | None = None
        self._longest = _LONGEST_HEAD + 1_000_000 * setup["size"]["megabytes"]
        self.is_loaded = self._is_ready = False
        self._replies: queue.SimpleQueue = queue.SimpleQueue()
        # Without preexec_fn, which is not safe with threads: the process confines itself.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "atlas.store.sql_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Arrow's own allocator takes a gigabyte of addresses; these and threads' stacks count as memory.
            env={
                **kept,
                "PYTHONPATH": path,
                "ARROW_DEFAULT_MEMORY_POOL": "system",
                "OMP_NUM_THREADS": "1",
            },
            # Ctrl-C in a terminal is meant for the parent.
            start_new_session=True,
        )
        self._commands = cast("BinaryIO", self._process.stdin)
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def id(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is no longer running."""
        return self._process.poll() is not None

    def _read(self) -> None:
        self.send(self.setup)
        with contextlib.suppress(OSError, ValueError), cast("BinaryIO", self._process.stdout) as pipe:
            while (message := receive(pipe, longest=self._longest)) is not None:
                self.is_loaded = True
                self._replies.put(message)
        self._replies.put(None)

    def wait_until_ready(self) -> None:
        """Raises `StoreError` when the tables cannot be read."""
        if self._is_ready:
            return
        reply = self.receive(LOADING_SECONDS)
        if reply is None or "ready" not in reply[0]:
            why = reply[0].get("failed", "") if reply else "the process did not start"
            raise StoreError(f"The tables cannot be read ({why}). Build or copy the atlas again.")
        self._is_ready = True

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; a process that has ended gets none."""
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

    def end_after(self, seconds: float, end: Callable[[Process], None]) -> None:
        """Call `end` with this process after so long, unless it is needed before."""
        self._idle_timer = threading.Timer(seconds, end, [self])
        self._idle_timer.daemon = True
        self._idle_timer.start()

    def is_needed(self) -> None:
        """Take back `end_after`."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()

    def end(self) -> None:
        """Kill it and wait until it has ended."""
        self.is_needed()
        with contextlib.suppress(OSError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LOADING_SECONDS)
        with contextlib.suppress(OSError):
            self._commands.close()
