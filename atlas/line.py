"""A fair line: who has had much time lately waits for those who have had little; else who came first.

    line = FairLine(at_once=1, longest=200)
    with asking("visitor 7"):       # whose time it is; without it every place is somebody else's
        place = Place(line)
    place.join() or refuse()        # does not wait; False where the line is full
    place.ahead                     # how many are served before it; 0: it is served now
    place.wait(5)                   # True once it is served; False after 5 seconds or when cancelled
    place.is_due_to_give_way        # somebody waits who has had much less: leave, join again
    place.leave()                   # served or not: the next one moves up

Up to two seconds are little, and each doubling is a level more. So a visitor with little time used is served
soon, however long the others' work is and however often they come back; and equals do not cut each other's
work into slices, which would let all of them wait for the last. `atlas.surgery.lock` lines up threads for a
model, `atlas.store.sql` queries for processes. Standard library only.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# The interval of `on_wait`, which tells a waiting thread its place and may stop it.
TELL_EVERY_SECONDS = 0.5
# Time used counts half after so many seconds.
HALF_LIFE_SECONDS = 15.0
# Who has had less than this is served in the order of coming.
LITTLE_SECONDS = 2.0

OnWait = Callable[[int], None]

_asker: ContextVar[Hashable | None] = ContextVar("asker", default=None)


@contextmanager
def asking(who: Hashable) -> Iterator[None]:
    """Places made in this block, in this thread, belong to `who`."""
    token = _asker.set(who)
    try:
        yield
    finally:
        _asker.reset(token)


class TimesUsed:
    """The seconds that each asker was served, where a second counts half after `HALF_LIFE_SECONDS`."""

    def __init__(self) -> None:
        self._used: dict[Hashable, tuple[float, float]] = {}

    def of(self, who: Hashable) -> float:
        """The seconds of one asker, as of now."""
        seconds, at = self._used.get(who, (0.0, 0.0))
        return seconds * 0.5 ** ((time.monotonic() - at) / HALF_LIFE_SECONDS) if seconds else 0.0

    def add(self, who: Hashable, seconds: float) -> None:
        """Count seconds to an asker; those who have had none lately are forgotten."""
        self._used[who] = self.of(who) + seconds, time.monotonic()
        if len(self._used) > 1000:
            self._used = {each: used for each, used in self._used.items() if self.of(each) > 0.001}


class FairLine:
    """Places in the order in which they will be served.

    at_once: how many are served at the same time; longest: places at most, those being served included;
    times: the askers' times, to share them with another line.
    """

    def __init__(
        self, longest: int | None = None, *, at_once: int = 1, times: TimesUsed | None = None
    ) -> None:
        self.longest = longest
        self.at_once = at_once
        self.times = times or TimesUsed()
        self._guard = threading.Lock()
        self._served: list[Place] = []
        self._waiting: list[Place] = []

    def __len__(self) -> int:
        """Number of places, those being served included."""
        return len(self._served) + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Number of places that are not served yet."""
        return len(self._waiting)

    def cancel(self) -> None:
        """Cancel every place that still waits; those being served stay."""
        with self._guard:
            waiting = list(self._waiting)
        for place in waiting:
            place.cancel()

    def _time_of(self, place: Place) -> float:
        """The time that the place's owner has had, what is running included."""
        now = time.monotonic()
        running = sum(now - each.since for each in self._served if each.owner == place.owner)
        return self.times.of(place.owner) + running

    def _level_of(self, place: Place) -> int:
        used = self._time_of(place)
        return 0 if used < LITTLE_SECONDS else 1 + int(math.log2(used / LITTLE_SECONDS))

    def _in_order(self) -> list[Place]:
        return sorted(self._waiting, key=self._level_of)  # stable: of equals, who came first

    def _serve(self) -> None:
        while self._waiting and len(self._served) < self.at_once:
            place = self._in_order()[0]
            self._waiting.remove(place)
            self._served.append(place)
            place.since = time.monotonic()
            place._moved.set()


class Place:
    """One place in a line; safe to use from several threads."""

    def __init__(self, line: FairLine) -> None:
        self._line = line
        who = _asker.get()
        self.owner: Hashable = self if who is None else who
        self.since = 0.0  # when it began to be served
        # Set when the place is served or given up: both end the wait.
        self._moved = threading.Event()

    def join(self) -> bool:
        """Go into the line, also again after `leave`. False where the line is full; does not wait."""
        line = self._line
        with line._guard:
            if line.longest is not None and len(line) >= line.longest:
                return False
            self._moved.clear()
            line._waiting.append(self)
            line._serve()
            return True

    @property
    def served(self) -> bool:
        """Whether this place is being served."""
        with self._line._guard:
            return self in self._line._served

    @property
    def ahead(self) -> int:
        """Number of places before this one; 0 where it is served, or no longer in the line."""
        line = self._line
        with line._guard:
            order = line._in_order()
            return len(line._served) + order.index(self) if self in order else 0

    @property
    def is_due_to_give_way(self) -> bool:
        """Whether this place is served and somebody waits who has had much less time."""
        line = self._line
        with line._guard:
            if self not in line._served or not line._waiting:
                return False
            return line._level_of(self) > min(map(line._level_of, line._waiting))

    def has_had_more(self, seconds: float) -> bool:
        """Whether this place is served and somebody waits who has had less time by more than so much."""
        line = self._line
        with line._guard:
            if self not in line._served or not line._waiting:
                return False
            least = min(map(line._time_of, line._waiting))
            return line._time_of(self) > least + seconds

    def wait(self, timeout: float | None = None, on_wait: OnWait | None = None) -> bool:
        """Wait to be served; False after `timeout` seconds, or where the place was given up.

        ``on_wait(ahead)`` is called at once and every `TELL_EVERY_SECONDS`; it may raise.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._moved.is_set():
            if on_wait is not None and (ahead := self.ahead):
                on_wait(ahead)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            tell = None if on_wait is None else TELL_EVERY_SECONDS
            self._moved.wait(min((each for each in (left, tell) if each is not None), default=None))
        return self.served

    def cancel(self) -> bool:
        """Give the place up unless it is being served; whether it is out of the line. Ends its `wait`."""
        with self._line._guard:
            if self in self._line._served:
                return False
            self._remove()
            return True

    def leave(self) -> None:
        """Give the place up, served or not; the next one in line is served. May be called twice."""
        with self._line._guard:
            self._remove()

    def _remove(self) -> None:
        line = self._line
        if self in line._served:
            line._served.remove(self)
            line.times.add(self.owner, time.monotonic() - self.since)
        elif self in line._waiting:
            line._waiting.remove(self)
        line._serve()
        self._moved.set()
