"""Sandboxes that share processes: whose turn it is, who is put back, and which process makes room."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.errors import QueryError, StoreError
from atlas.line import asking
from atlas.store import sql_pool
from atlas.store.atlas import Atlas
from atlas.store.sql import PendingQuery, Sandbox
from atlas.store.sql_pool import Pool
from tests.sample_atlas import write_sample_atlas

ENDLESS = "SELECT sum(x) FROM range(1000000000000) AS t(x)"
DEAF = "SELECT levenshtein(repeat('a', 500000), repeat('b', 500000))"
COUNT = "SELECT count(*) FROM facts"
# Nothing here takes so long on a busy machine; the attackers' queries may run for longer.
SOON, SECONDS = 60, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")


@pytest.fixture
def pool():
    return Pool(2)


@pytest.fixture
def sandbox(folder, pool):
    """Makes sandboxes of that pool; closes them."""
    made = []

    def make() -> Sandbox:
        with Atlas(folder) as atlas:
            made.append(atlas.sandboxed(seconds=SECONDS, pool=pool))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def console(sandbox) -> Sandbox:
    return sandbox()


def ask(who: str, console: Sandbox, sql: str) -> PendingQuery:
    with asking(who):
        return console.start(sql)


def answer(who: str, console: Sandbox, sql: str = COUNT) -> tuple:
    asked = ask(who, console, sql)
    assert asked.wait(SOON)
    return asked.answer().rows


def until(what: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < SOON
        time.sleep(0.01)


@pytest.mark.parametrize("hostile", [ENDLESS, DEAF])
def test_a_short_query_is_answered_while_five_others_run_for_minutes(hostile, console):
    others = [ask(f"attacker {n}", console, hostile) for n in range(5)]
    until(lambda: any(each.seconds > 0.5 for each in others))
    for _ in range(3):
        assert answer("visitor", console) == ((60,),)
        assert not any(each.done for each in others)


def test_a_long_query_is_put_back_and_answered_in_its_turn(console, monkeypatch):
    monkeypatch.setattr(sql_pool, "SHORT_SECONDS", 0.1)
    long = ask("attacker", console, ENDLESS)
    until(lambda: long.seconds > 0.5)
    asked = ask("visitor", console, "SELECT count(*) FROM range(500000000) AS t(x) WHERE hash(x) % 2 = 3")
    until(lambda: asked.seconds > 0.2)
    assert answer("other", console) == ((60,),)
    assert asked.was_put_back
    assert (asked.seconds, asked.ahead) == (0, 1)
    long.stop()
    assert asked.wait(SOON)
    assert asked.answer().rows == ((0,),)
    assert asked.ahead == 0


def test_one_who_runs_on_is_not_put_back_while_nobody_waits(console):
    asked = [ask(f"visitor {n}", console, ENDLESS) for n in range(2)]
    until(lambda: all(each.seconds > 2 * sql_pool.SHORT_SECONDS for each in asked))
    assert not any(each.was_put_back for each in asked)


def test_a_visitor_has_one_place(console, pool):
    first, second = (ask("visitor", console, ENDLESS) for _ in range(2))
    assert first.wait(SOON)
    with pytest.raises(QueryError, match="stopped"):
        first.answer()
    assert answer("visitor", console) == ((60,),)
    assert second.wait(SOON)
    with pytest.raises(QueryError, match="stopped"):
        second.answer()
    assert len(pool.line) == 0


def test_those_who_left_hold_nobody_up(console, pool):
    others = [ask(f"attacker {n}", console, ENDLESS if n % 2 else DEAF) for n in range(20)]
    for each in others:
        each.stop()
    assert answer("visitor", console) == ((60,),)
    assert all(each.wait(SOON) for each in others)
    assert len(pool.line) == len(pool.long_line) == 0


def test_a_crowd_locks_nobody_out(console):
    crowd = [ask(f"attacker {n}", console, ENDLESS) for n in range(100)]
    late = ask("visitor", console, COUNT)
    assert not late.done
    for each in crowd:
        each.stop()
    assert late.wait(SOON)
    assert late.answer().rows == ((60,),)


def test_a_third_atlas_ends_no_process_that_works(sandbox, pool):
    one, other, third = (sandbox() for _ in range(3))
    running = [ask(f"visitor {n}", each, ENDLESS) for n, each in enumerate((one, other))]
    until(lambda: all(each.seconds > 0 for each in running))
    kept = one.process_id, other.process_id
    for number in range(3):
        assert answer(f"late {number}", third) == ((60,),)
    assert {one.process_id, other.process_id} & set(kept)
    assert not any(each.done for each in running)


def test_an_idle_process_makes_room_for_another_atlas(sandbox, pool):
    consoles = [sandbox() for _ in range(4)]
    for each in consoles:
        assert answer("visitor", each) == ((60,),)
    assert [each.process_id is None for each in consoles] == [True, False, False, False]


def test_there_are_never_more_processes_than_allowed(sandbox, pool):
    consoles = [sandbox() for _ in range(3)]
    seen, over = [], threading.Event()

    def watch():
        while not over.wait(0.005):
            seen.append(sum(len(pool.process_ids(each)) for each in consoles))

    watcher = threading.Thread(target=watch)
    watcher.start()
    hostile = [ask(f"attacker {n}", consoles[n], DEAF if n % 2 else ENDLESS) for n in range(3)]
    for number in range(3):
        assert answer("visitor", consoles[number % 3]) == ((60,),)
    over.set()
    watcher.join()
    assert 2 <= max(seen) <= 3
    assert not any(each.done for each in hostile)


def test_one_that_loads_its_tables_holds_nobody_up(console, pool):
    assert answer("visitor", console) == ((60,),)
    endless = {"facts": "SELECT sum(x) AS n FROM range(1000000000000) AS t(x)"}
    loading = Sandbox(endless, "", pool=pool)
    try:
        asked = ask("other", loading, COUNT)
        until(lambda: asked.is_loading)
        for _ in range(3):
            assert answer("visitor", console) == ((60,),)
        assert asked.is_loading
    finally:
        loading.close()
    assert asked.wait(SOON)
    with pytest.raises((QueryError, StoreError)):
        asked.answer()


def test_tables_that_cannot_be_read_are_said_and_leave_no_place(console, pool):
    wrong = Sandbox({"facts": "SELECT * FROM nowhere"}, "", pool=pool)
    for _ in range(3):
        asked = ask("other", wrong, COUNT)
        assert asked.wait(SOON)
        with pytest.raises(StoreError, match="cannot be read"):
            asked.answer()
    assert wrong.process_id is None
    assert answer("visitor", console) == ((60,),)


def test_closing_one_sandbox_ends_only_its_queries(sandbox):
    one, other = sandbox(), sandbox()
    asked, kept = ask("one", one, ENDLESS), ask("other", other, ENDLESS)
    until(lambda: kept.seconds > 0 and asked.seconds > 0)
    one.close()
    assert asked.wait(SOON)
    with pytest.raises(QueryError, match="closed"):
        asked.answer()
    assert one.process_id is None
    assert not kept.done


def test_a_process_that_is_killed_while_idle_is_replaced(console):
    assert answer("visitor", console) == ((60,),)
    os.kill(console.process_id, signal.SIGKILL)
    assert answer("visitor", console) == ((60,),)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_a_query_that_finds_little_memory_left_in_its_process_is_asked_again(console):
    """What earlier queries keep is not the fault of the one that comes next."""
    import resource

    assert answer("visitor", console) == ((60,),)
    used = console.process_id
    status = Path(f"/proc/{used}/status").read_text()
    taken = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    resource.prlimit(used, resource.RLIMIT_DATA, ((taken + 4_000) * 1024,) * 2)
    sql = "SELECT count(*) FROM (SELECT unnest(range(1000000)) AS i)"
    assert answer("visitor", console, sql) == ((1_000_000,),)
    assert console.process_id != used


def test_idle_processes_end(console, pool, monkeypatch):
    monkeypatch.setattr(sql_pool, "IDLE_SECONDS", 0.2)
    assert answer("visitor", console) == ((60,),)
    until(lambda: console.process_id is None)
    assert answer("visitor", console) == ((60,),)


def test_a_spare_process_ends_soon_and_the_last_of_its_atlas_stays(console, pool, monkeypatch):
    monkeypatch.setattr(sql_pool, "SPARE_SECONDS", 0.2)
    asked = [ask(f"visitor {n}", console, ENDLESS) for n in range(2)]
    until(lambda: all(each.seconds > 0 for each in asked))
    for each in asked:
        each.stop()
    assert all(each.wait(SOON) for each in asked)
    until(lambda: len(pool.process_ids(console)) == 1)
    time.sleep(0.5)
    assert len(pool.process_ids(console)) == 1


def test_of_two_atlases_the_one_asked_last_keeps_its_process(sandbox, monkeypatch):
    monkeypatch.setattr(sql_pool, "SPARE_SECONDS", 0.5)
    first, last = sandbox(), sandbox()
    assert answer("visitor", first) == ((60,),)
    time.sleep(1)  # the only one of all stays
    assert first.process_id is not None
    # However often the other is asked.
    until(lambda: answer("visitor", last) == ((60,),) and first.process_id is None)
    time.sleep(0.5)
    assert last.process_id is not None


@pytest.mark.parametrize("n_processes", [0, -1])
def test_a_pool_has_a_process(n_processes):
    with pytest.raises(QueryError, match="n_processes must be at least 1"):
        Pool(n_processes)
