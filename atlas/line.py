"""A fair line: first come, first served.

    line = FairLine(longest=16)
    place = Place(line)
    place.join() or refuse()        # does not wait; False where the line is full
    place.ahead                     # how many are served before it; 0: it is served now
    place.wait(5)                   # True once it is served; False after 5 seconds or when cancelled
    place.leave()                   # served or not: the next one moves up

The first place is the one that is served. `atlas.surgery.lock` lines up threads for a model,
`atlas.store.sql` queries for a process. Standard library only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

# The interval of `on_wait`, which tells a waiting thread its place and may stop it.
TELL_EVERY_SECONDS = 0.2

OnWait = Callable[[int], None]


class FairLine:
    """Places in the order in which they joined; at most `longest`, the one being served included."""

    def __init__(self, longest: int | None = None) -> None:
        self.longest = longest
        self._guard = threading.Lock()
        self._places: deque[Place] = deque()

    def __len__(self) -> int:
        """Number of places, the one being served included."""
        return len(self._places)

    def cancel(self) -> None:
        """Cancel every place that still waits; the one being served stays."""
        with self._guard:
            waiting = list(self._places)[1:]
        for place in waiting:
            place.cancel()


class Place:
    """One place in a line; safe to use from several threads."""

    def __init__(self, line: FairLine) -> None:
        self._line = line
        # Set when the place is served or given up: both end the wait.
        self._moved = threading.Event()

    def join(self) -> bool:
        """Go to the end of the line. False where the line is full; does not wait."""
        with self._line._guard:
            places = self._line._places
            if self._line.longest is not None and len(places) >= self._line.longest:
                return False
            places.append(self)
            if len(places) == 1:
                self._moved.set()
            return True

    @property
    def served(self) -> bool:
        """Whether this is the first place in the line."""
        places = self._line._places
        with self._line._guard:
            return bool(places) and places[0] is self

    @property
    def ahead(self) -> int:
        """Number of places before this one; 0 where it is served, or no longer in the line."""
        with self._line._guard:
            return self._line._places.index(self) if self in self._line._places else 0

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
            places = self._line._places
            if places and places[0] is self:
                return False
            self._remove()
            return True

    def leave(self) -> None:
        """Give the place up, served or not; the next one in line is served. May be called twice."""
        with self._line._guard:
            self._remove()

    def _remove(self) -> None:
        places = self._line._places
        if self in places:
            places.remove(self)
            if places:
                places[0]._moved.set()
        self._moved.set()
