"""A lock with a line: whoever came first is served first, and everybody can see how long the line is.

    with subject.lock: ...                                # reentrant, as threading.RLock
    with subject.lock.turn(lambda ahead: show(ahead)): ...  # told how many are ahead while it waits
    subject.lock.waiting                                  # how many wait now

`threading.RLock` serves whomever the system wakes first, so that one visitor can wait for long behind
others who came later. Here a release hands the lock on to the first in line.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# How often a waiting thread is told its place, and so can be stopped.
EVERY_SECONDS = 0.2

OnWait = Callable[[int], None]


@dataclass(eq=False)
class _Place:
    """A thread's place in the line."""

    thread: int
    called: threading.Event = field(default_factory=threading.Event)


class FairLock:
    """Reentrant, first come first served; see the module."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._line: deque[_Place] = deque()
        self._owner: int | None = None
        self._depth = 0

    @property
    def waiting(self) -> int:
        """How many threads stand in line now; the one being served is not among them."""
        return len(self._line)

    @property
    def busy(self) -> bool:
        """Whether a thread is being served."""
        return self._owner is not None

    def acquire(self, blocking: bool = True, timeout: float = -1, *, on_wait: OnWait | None = None) -> bool:
        """Take the lock, after those who came earlier; whether it was taken.

        While it has to wait, ``on_wait(n)`` is called at once and every `EVERY_SECONDS` with the number of
        threads that are ahead, the one being served included. It may raise: then the place is given up.
        """
        me = threading.get_ident()
        if self._owner == me:  # nobody but this thread can change that
            self._depth += 1
            return True
        place = None
        try:
            with self._guard:
                if self._owner is None:
                    self._owner, self._depth = me, 1
                    return True
                if not blocking:
                    return False
                place = _Place(me)
                self._line.append(place)
            return self._wait(place, timeout, on_wait)
        except BaseException:
            self._leave(me, place)
            raise

    def _wait(self, place: _Place, timeout: float, on_wait: OnWait | None) -> bool:
        deadline = None if timeout < 0 else time.monotonic() + timeout
        while not place.called.is_set():
            if on_wait is not None and (ahead := self._ahead_of(place)):
                on_wait(ahead)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return self._give_up(place)
            steps = [each for each in (left, None if on_wait is None else EVERY_SECONDS) if each is not None]
            place.called.wait(min(steps, default=None))
        return True

    def _ahead_of(self, place: _Place) -> int:
        with self._guard:
            return self._line.index(place) + 1 if place in self._line else 0

    def _give_up(self, place: _Place) -> bool:
        """Out of time: True where the lock was handed over at the last moment after all."""
        with self._guard:
            if place.called.is_set():
                return True
            self._line.remove(place)
            return False

    def _leave(self, me: int, place: _Place | None) -> None:
        """Stopped on the way in: what was taken is handed on, the place in line is given up."""
        with self._guard:
            if self._owner == me:
                self._hand_on()
            elif place is not None and place in self._line:
                self._line.remove(place)

    def release(self) -> None:
        """Give it back, once as often as it was taken; the first in line then has it.

        Raises `RuntimeError` in a thread that does not hold it.
        """
        if self._owner != threading.get_ident():
            raise RuntimeError("A thread can only release a lock that it holds.")
        if self._depth > 1:
            self._depth -= 1
            return
        with self._guard:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._line:
            first = self._line.popleft()
            self._owner, self._depth = first.thread, 1
            first.called.set()
        else:
            self._owner, self._depth = None, 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    @contextmanager
    def turn(self, on_wait: OnWait | None = None) -> Iterator[None]:
        """Hold the lock for a block, told while waiting how many are ahead."""
        self.acquire(on_wait=on_wait)
        try:
            yield
        finally:
            self.release()
