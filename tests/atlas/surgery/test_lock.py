"""The fair lock is reentrant, serves who has had least, is lent between batches, and is always released."""

import contextlib
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable

import pytest

from atlas.line import Place, asking
from atlas.surgery.lock import FairLock


class Stopped(BaseException):
    """The exception of a stopped script; it is not an `Exception`."""


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.001)


@contextlib.contextmanager
def held(lock: FairLock):
    """The lock in the hands of another thread."""
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(20)
    try:
        yield release
    finally:
        release.set()
        thread.join()


@contextlib.contextmanager
def threads(*targets: Callable[[], None]):
    started = [threading.Thread(target=target) for target in targets]
    for thread in started:
        thread.start()
    try:
        yield started
    finally:
        for thread in started:
            thread.join(60)
            assert not thread.is_alive()


def test_a_thread_can_take_the_lock_again_and_frees_it_with_the_last_release():
    lock = FairLock()
    with lock:
        assert lock.acquire(blocking=False)
        lock.release()
        assert lock.busy
        free = []
        with threads(lambda: free.append(lock.acquire(blocking=False))):
            pass
        assert free == [False]
    assert not lock.busy


def test_only_the_holder_can_release():
    lock = FairLock()
    with pytest.raises(RuntimeError, match="that it holds"):
        lock.release()
    with held(lock), pytest.raises(RuntimeError, match="that it holds"):
        lock.release()
    assert not lock.busy


def test_threads_are_served_in_order():
    lock = FairLock()
    served = []

    def visit(name: int) -> None:
        with lock:
            served.append(name)

    with contextlib.ExitStack() as stack:
        release = stack.enter_context(held(lock))
        for name in range(12):
            stack.enter_context(threads(lambda name=name: visit(name)))
            until(lambda name=name: lock.waiting == name + 1)
        release.set()
        until(lambda: len(served) == 12)
    assert served == list(range(12))
    assert lock.waiting == 0


def test_a_thread_that_takes_the_lock_again_goes_to_the_end_of_the_line():
    lock = FairLock()
    served = []

    def visit(name: str, other: str) -> None:
        for _ in range(20):
            with lock:
                served.append(name)
                until(lambda: lock.waiting == 1 or served.count(other) == 20)

    with threads(lambda: visit("a", "b"), lambda: visit("b", "a")):
        pass
    assert all(one != two for one, two in itertools.pairwise(served))


def test_waiting_threads_are_told_how_many_are_ahead():
    lock = FairLock()
    told: dict[str, list[int]] = {"first": [], "second": []}

    def visit(name: str) -> None:
        with lock.turn(told[name].append):
            pass

    with held(lock) as release, contextlib.ExitStack() as stack:
        stack.enter_context(threads(lambda: visit("first")))
        until(lambda: bool(told["first"]))
        assert lock.waiting == 1
        stack.enter_context(threads(lambda: visit("second")))
        until(lambda: len(told["second"]) > 1 and len(told["first"]) > 1)  # again and again
        assert lock.waiting == 2
        assert set(told["first"]) == {1}
        assert set(told["second"]) == {2}
        release.set()
    assert lock.waiting == 0


def test_on_wait_is_not_called_without_a_line():
    lock = FairLock()
    told = []
    with lock.turn(told.append), lock.turn(told.append):
        pass
    assert told == []


@pytest.mark.parametrize("calls", [1, 2])
def test_a_thread_that_stops_waiting_leaves_the_line(calls):
    lock = FairLock()
    served, left = [], []

    def impatient() -> None:
        told = []

        def stop(ahead: int) -> None:
            told.append(ahead)
            if len(told) == calls:
                raise Stopped

        try:
            with lock.turn(stop):
                served.append("impatient")
        except Stopped:
            left.append(True)

    def patient() -> None:
        with lock:
            served.append("patient")

    with held(lock) as release, threads(impatient):
        until(lambda: lock.waiting == 1 or bool(left))
        with threads(patient):
            until(lambda: bool(left) and lock.waiting == 1)
            release.set()
    assert served == ["patient"]
    assert not lock.busy


def test_the_lock_is_free_after_an_exception_in_its_block():
    lock = FairLock()
    with pytest.raises(Stopped), lock.turn(), lock:
        raise Stopped
    assert not lock.busy


def test_waiting_ends_with_its_timeout():
    lock = FairLock()
    with held(lock):
        start = time.monotonic()
        assert not lock.acquire(timeout=0.05)
        assert time.monotonic() - start >= 0.05
        assert not lock.acquire(blocking=False)
        assert lock.waiting == 0
    assert lock.acquire(timeout=0.05)
    lock.release()


def test_a_timeout_ends_a_wait_with_on_wait():
    lock = FairLock()
    told = []
    with held(lock):
        assert not lock.acquire(timeout=0.5, on_wait=told.append)
    assert len(told) > 1
    assert lock.waiting == 0


# Giving way ------------------------------------------------------------------------------------------


def lent(lock: FairLock, *, newcomer: str, between=None) -> list[str]:
    """Who held the lock in two batches of a turn of "old hand", who has had it for long."""
    served: list[str] = []
    lock._line.times.add("old hand", 60)

    def work() -> None:
        with asking(newcomer), lock:
            served.append(newcomer)

    with asking("old hand"), lock.turn(between=between):
        served.append("old hand")
        with threads(work):
            until(lambda: lock.waiting == 1)
            with lock.turn():
                lock.give_way()
            served.append("old hand")
            lock.give_way()
        return served


def test_a_turn_is_lent_to_who_has_had_less_also_from_inside_another_turn():
    assert lent(FairLock(), newcomer="new") == ["old hand", "new", "old hand"]


def test_one_asker_does_not_overtake_itself():
    lock = FairLock()
    lock._line.times.add("old hand", 60)
    with asking("old hand"), lock.turn():
        other = Place(lock._line)
        other.join()
        lock.give_way()
        assert not other.served
        other.cancel()


def test_a_lock_that_is_kept_is_not_lent():
    lock = FairLock()
    lock._line.times.add("old hand", 60)
    with asking("old hand"), lock.turn(), lock:
        newcomer = Place(lock._line)
        newcomer.join()
        lock.give_way()
        assert not newcomer.served
        newcomer.cancel()
    with asking("old hand"), lock:
        lock.give_way()
    lock.give_way()  # nor is one that is not held
    assert not lock.busy


def test_who_waits_to_get_the_lock_back_can_be_stopped():
    lock = FairLock()
    lock._line.times.add("old hand", 60)
    release, done = threading.Event(), threading.Event()

    def work() -> None:
        with asking("new"), lock:
            release.wait(60)
        done.set()

    def stop(ahead: int) -> None:
        raise Stopped

    with threads(work) as (newcomer,):
        until(lambda: lock.busy)
        release.set()
        assert done.wait(20)
    release.clear()
    with contextlib.suppress(Stopped), asking("old hand"), lock.turn(stop), lock.turn():
        newcomer = threading.Thread(target=work)
        newcomer.start()
        until(lambda: lock.waiting == 1)
        lock.give_way()
        pytest.fail("it was not stopped")
    assert lock.busy
    release.set()
    newcomer.join(20)
    assert not lock.busy


def test_between_two_batches_a_turn_can_be_stopped():
    lock = FairLock()

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped), lock.turn(between=stop), lock.turn():
        lock.give_way()
    assert not lock.busy


def test_one_thread_holds_the_lock_at_a_time():
    lock = FairLock()
    inside, done = [], []

    def visit(seed: int) -> None:
        random_ = random.Random(seed)

        def stop(ahead: int) -> None:
            if random_.random() < 0.3:
                raise Stopped

        for _ in range(200):
            try:
                if random_.random() < 0.3:
                    if not lock.acquire(timeout=random_.random() / 1000):
                        continue
                    lock.release()
                    continue
                with lock.turn(stop):
                    assert not inside
                    inside.append(seed)
                    if random_.random() < 0.5:
                        time.sleep(0)
                    with lock:
                        assert inside == [seed]
                    inside.pop()
                    if random_.random() < 0.2:
                        raise Stopped
            except Stopped:
                pass
        done.append(seed)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with threads(*(lambda seed=seed: visit(seed) for seed in range(16))):
            pass
    finally:
        sys.setswitchinterval(interval)
    assert len(done) == 16
    assert not inside
    assert not lock.busy
    assert lock.waiting == 0
