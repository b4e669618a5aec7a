"""A fair lock: threads get it in the order in which they request it (`atlas.line`).

    with subject.lock: ...                                # reentrant, as threading.RLock
    with subject.lock.turn(lambda ahead: show(ahead)): ...  # told how many are ahead while it waits
    subject.lock.waiting                                  # how many wait now

`threading.RLock` serves the thread that the system wakes first, so a visitor can wait long behind later ones.
Here a release passes the lock to the first in line.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from atlas.line import FairLine, OnWait, Place


class FairLock:
    """Reentrant, first come first served; see the module."""

    def __init__(self) -> None:
        self._line = FairLine()
        self._owner: int | None = None
        self._place: Place | None = None
        self._depth = 0

    @property
    def waiting(self) -> int:
        """Number of threads that wait; the one being served is not among them."""
        return max(len(self._line) - 1, 0)

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
            return True
        if not blocking:
            timeout, on_wait = 0, None
        place = Place(self._line)
        try:
            place.join()
            if place.wait(None if timeout < 0 else timeout, on_wait):
                self._owner, self._place, self._depth = me, place, 1
                return True
        except BaseException:
            if self._owner == me:  # an exception from outside may arrive after the lock was taken
                self._owner = None
            place.leave()
            raise
        place.leave()
        return False

    def release(self) -> None:
        """Release the lock once; after as many releases as acquisitions, the first in line gets it.

        Raises `RuntimeError` in a thread that does not hold it.
        """
        if self._owner != threading.get_ident() or self._place is None:
            raise RuntimeError("A thread can only release a lock that it holds.")
        self._depth -= 1
        if self._depth == 0:
            place, self._owner, self._place = self._place, None, None
            place.leave()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    @contextmanager
    def turn(self, on_wait: OnWait | None = None) -> Iterator[None]:
        """Hold the lock for a block; `on_wait` as in `acquire`."""
        self.acquire(on_wait=on_wait)
        try:
            yield
        finally:
            self.release()
