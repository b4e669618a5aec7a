"""A fair lock: askers who have had much of the model wait for those who have had little (`atlas.line`).

    with subject.lock: ...                          # reentrant, as threading.RLock
    with subject.lock.turn(on_wait, between):       # on_wait(ahead) while it waits
        for batch in batches:
            subject.lock.give_way()                 # calls between(); who has had much less goes first
            with subject.lock: ...
    subject.lock.waiting                            # how many wait now

`threading.RLock` serves the thread that the system wakes first, so a visitor can wait long behind later ones.
Long work gives way between its batches, and stops there: `on_wait` and `between` may raise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from atlas.line import FairLine, OnWait, Place


class FairLock:
    """Reentrant, and lent between the batches of a turn. See the module."""

    def __init__(self) -> None:
        self._line = FairLine()
        self._owner: int | None = None
        self._place: Place | None = None
        self._depth = 0
        # How many of these acquisitions are no turns, and keep the lock from giving way.
        self._kept = 0
        self._turn: tuple[OnWait | None, Callable[[], None] | None] | None = None

    @property
    def waiting(self) -> int:
        """Number of threads that wait; the one being served is not among them."""
        return self._line.waiting

    @property
    def busy(self) -> bool:
        """Whether a thread is being served."""
        return len(self._line) > 0

    def acquire(self, blocking: bool = True, timeout: float = -1, *, on_wait: OnWait | None = None) -> bool:
        """Take the lock in turn; returns whether it was taken.

        While it waits, ``on_wait(n)`` is called at once and several times a second with the number of threads
        ahead, the one being served included. It may raise; then the place in line is given up.
        """
        me = threading.get_ident()
        if self._owner == me:  # no other thread can change that
            self._depth += 1
            self._kept += 1
            return True
        if not blocking:
            timeout, on_wait = 0, None
        place = Place(self._line)
        try:
            place.join()
            if place.wait(None if timeout < 0 else timeout, on_wait):
                self._owner, self._place, self._depth, self._kept = me, place, 1, 1
                return True
        except BaseException:
            if self._owner == me:  # an exception from outside may arrive after the lock was taken
                self._owner = None
            place.leave()
            raise
        place.leave()
        return False

    def release(self) -> None:
        """Release the lock once; after as many releases as acquisitions, the next in line gets it.

        Raises `RuntimeError` in a thread that does not hold it.
        """
        if not self._is_held:
            raise RuntimeError("A thread can only release a lock that it holds.")
        self._depth -= 1
        self._kept -= 1
        if self._depth == 0:
            self._hand_on()

    @property
    def _is_held(self) -> bool:
        return self._owner == threading.get_ident() and self._place is not None

    def _hand_on(self) -> None:
        place, self._owner, self._place, self._turn = self._place, None, None, None
        if place is not None:
            place.leave()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    @contextmanager
    def turn(
        self, on_wait: OnWait | None = None, between: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Hold the lock for a block, except where `give_way` lends it; `on_wait` as in `acquire`.

        between: called by `give_way`. Of nested turns, the outermost one's functions are called.
        """
        self.acquire(on_wait=on_wait)
        self._kept -= 1
        if self._depth == 1:
            self._turn = on_wait, between
        try:
            yield
        finally:
            if self._is_held:  # not where it was stopped while it gave way
                self._kept += 1
                self.release()

    def give_way(self) -> None:
        """Between two batches of a `turn`: call its `between`, and let those who have had much less go first.

        Does nothing where the thread holds the lock by `with lock`, too, or not at all.
        """
        if not self._is_held or self._kept or self._turn is None:
            return
        (on_wait, between), depth = turn, _ = self._turn, self._depth
        if between is not None:
            between()
        if self._place is not None and self._place.is_due_to_give_way:
            self._hand_on()
            self.acquire(on_wait=on_wait)
            self._turn, self._depth, self._kept = turn, depth, 0
