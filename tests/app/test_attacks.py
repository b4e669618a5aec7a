"""One visitor cannot take the server down, or hold the others up: a demo's server under attack.

A real server with `limits_demo.toml`, and visitors over WebSockets. What is asserted is what is promised:
megabytes, who is answered before whom, that nothing runs on for visitors who have left.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import pytest

from app.shared import limits
from tests.app.pages import DEMO, unmarked
from tests.app.sockets import Server, Visitor, serving

attacks = pytest.importorskip("build.bench.attacks")
load = pytest.importorskip("build.bench.load")
ConnectionClosed = pytest.importorskip("websockets.exceptions").ConnectionClosed

ATLAS = {"atlas": attacks.ATLAS}
ENDLESS = attacks.ENDLESS
FACT = "P38:austria"
STOPPED = "The query was stopped after"
SLOW = 60.0  # seconds that a busy machine may take for what takes one


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log.txt"


@pytest.fixture(scope="module")
def server(sample: Path, log: Path) -> Iterator[Server]:
    """A public host with three atlases; pages, a query and an experiment have been shown once."""
    with serving(sample, script="app/hosted.py", limits=DEMO, log=log) as running:
        with Visitor(running) as first:
            for page in attacks.PAGES:
                first.open(page, **ATLAS)
            first.open("sql", **ATLAS, sql="SELECT 1 AS one")
            run_experiment(first)
        yield running


@pytest.fixture
def visitor(server: Server) -> Iterator[Visitor]:
    with Visitor(server) as found:
        yield found


@pytest.fixture(scope="module")
def persistent(server: Server) -> Iterator[Visitor]:
    """One who tries many things in one session: a host lets an address open few of them."""
    with Visitor(server) as found:
        yield found


@pytest.fixture(scope="module")
def allowed() -> limits.Limits:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(limits.LIMITS_VARIABLE, str(DEMO))
        return limits.current()


def run_experiment(visitor: Visitor) -> bytes:
    """Run the fact's experiment by the Lab's button; returns its numbers."""
    visitor.open("lab", **ATLAS, fact=FACT)
    visitor.press(next(label for label in visitor.buttons if label.startswith("Run ")))
    assert visitor.errors == []
    found = load.lab_numbers(visitor)
    assert found
    return found


def named_limit(error: str) -> str | None:
    """The limit that a refusal names."""
    names = {each.name for each in fields(limits.Limits)}
    return next((name for name in re.findall(r"\w+", unmarked(error)) if name in names), None)


@contextmanager
def highest(server: Server) -> Iterator[list[float]]:
    """The most megabytes (RSS) that the server holds during the block, as a list of one."""
    most, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            most[0] = max(most[0], server.rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


@contextmanager
def attacked(server: Server, name: str, times: int) -> Iterator[list]:
    """So many attackers, who attack without a pause during the block."""
    attackers, over = [attacks.Attacker(server, seed) for seed in range(times)], threading.Event()
    threads = [threading.Thread(target=each.keep_on, args=(name, over)) for each in attackers]
    for thread in threads:
        thread.start()
    try:
        yield attackers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def becomes(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds before the seconds have passed."""
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def grown_for_good(server: Server, before: float, most: float, seconds: float) -> float:
    """The megabytes (RSS) that the server has more than before, once these are few or the time is over."""
    becomes(lambda: server.rss - before <= most, seconds)
    return server.rss - before


def unsettled(visitors: list[Visitor]) -> list[Visitor]:
    """Those whose pages still wait for something."""
    for each in visitors:
        with suppress(TimeoutError):
            each.wait(lambda each=each: each.settled, 0.1)
    return [each for each in visitors if not each.settled]


def idle(server: Server) -> bool:
    """Whether the server and its processes compute nothing: under a tenth of a core for two seconds."""
    before = server.cpu()
    time.sleep(2)
    return server.cpu() - before < 0.2


# What a query may cost -------------------------------------------------------------------------------

VALUES = {
    "structs": "SELECT list_resize([{'a':true}],10000,{'a':true}) x FROM range(5000)",
    "flags": "SELECT list_resize([true],100000,true) x FROM range(2000)",
    "nulls": "SELECT list_resize([NULL::BOOLEAN],100000,NULL) x FROM range(2000)",
    "empty lists": "SELECT list_resize([[]::INTEGER[]],20000,[]) x FROM range(4000)",
    "lists of lists": "SELECT [list_resize([[true]],5000,[true])] x FROM range(4000)",
    "maps": "SELECT list_resize([MAP{1:true}],5000,MAP{1:true}) x FROM range(4000)",
    "structs of structs": "SELECT list_resize([{'a':{'b':{'c':true}}}],5000,NULL) x FROM range(5000)",
    "unions": "SELECT list_resize([union_value(a := true)],10000,NULL) x FROM range(4000)",
    "arrays": "SELECT list_resize([true],30000,true)::BOOLEAN[30000] x FROM range(3000)",
    "bytes": "SELECT list_resize([1::TINYINT],10000,1::TINYINT) x FROM range(3000)",
    "columns": f"SELECT {','.join(f'i c{k}' for k in range(380))} FROM range(5000) t(i)",
    "decimals": f"SELECT {','.join(f'i::DECIMAL(38,2) c{k}' for k in range(150))} FROM range(5000) t(i)",
    "JSON": "SELECT ('[' || repeat('{},', 5000) || '1]')::JSON x FROM range(1500)",
}


def growth_by(sql: str, server: Server, visitor: Visitor) -> float:
    """The most megabytes (RSS) that the server grows by while it answers a query."""
    before = server.rss
    with highest(server) as most:
        visitor.open("sql", **ATLAS, sql=sql)
    return most[0] - before


@pytest.mark.parametrize("sql", VALUES.values(), ids=VALUES)
def test_no_query_makes_the_server_grow(server, visitor, sql):
    assert growth_by(sql, server, visitor) <= 100
    assert visitor.tables or all(map(named_limit, visitor.errors))


LONG_MESSAGES = {
    "error": "SELECT error(repeat('*', 9000000))",
    "of two bytes a letter": "SELECT error(repeat('é', 4000000))",
    "lines": "SELECT error(repeat('line' || chr(10), 2000000))",
    "cast": "SELECT repeat('x', 9000000)::INTEGER",
    "date": "SELECT strptime(repeat('x', 9000000), '%Y')",
    "pattern": "SELECT regexp_matches('a', repeat('(', 9000000))",
    "JSON": "SELECT (repeat('[', 9000000))::JSON",
    "enum": "SELECT repeat('x', 9000000)::ENUM('a', 'b')",
    "interval": "SELECT repeat('1 day ', 1500000)::INTERVAL + 1",
}


@pytest.mark.parametrize("sql", LONG_MESSAGES.values(), ids=LONG_MESSAGES)
def test_a_long_message_is_cut_before_it_reaches_the_server(server, visitor, sql):
    assert growth_by(sql, server, visitor) <= 50
    assert sum(map(len, visitor.texts("alert", "code"))) < 2 * len(sql) + 5000


def test_answers_go_with_those_who_asked_for_them(server, allowed):
    before = server.rss

    def come_and_go(seed: int) -> None:
        attacker = attacks.Attacker(server, seed)
        for _ in range(10):
            attacks.ask_for_large_answers(attacker)

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grown_for_good(server, before, 50, allowed.gone_seconds + SLOW) <= 50


def test_files_go_with_those_who_handed_them_in(server, allowed):
    before = server.rss
    with Visitor(server) as visitor:
        visitor.open("lab", **ATLAS)
        assert {visitor.upload(b"x" * 1_000_000) for _ in range(100)} <= {204, 400, 413, 429}
    assert grown_for_good(server, before, 50, allowed.gone_seconds + SLOW) <= 50


def test_no_visitor_keeps_megabytes_in_the_state_of_a_widget(server):
    before = server.rss
    with ExitStack() as leaving, highest(server) as most:
        for _ in range(5):
            each = leaving.enter_context(Visitor(server))
            with suppress(ConnectionClosed):
                each.set("$$ID-none-None", string_value="x" * 20_000_000)
                each.wait(lambda each=each: each.settled)
    assert most[0] - before <= 100


# Whose turn it is ------------------------------------------------------------------------------------


def test_a_query_is_answered_while_five_others_run_without_end(server, visitor):
    visitor.open("sql", **ATLAS)
    with ExitStack() as leaving:
        attackers = [leaving.enter_context(Visitor(server)) for _ in range(5)]
        for number, each in enumerate(attackers):
            each.ask("sql", **ATLAS, sql=f"{ENDLESS} -- {number}")
        for each in attackers:
            each.wait(lambda each=each: each.settled or (bool(each.shown("button")) and not each.busy))
        visitor.open("sql", **ATLAS, sql="SELECT 6 * 7 AS answer")
        assert visitor.errors == []
        assert len(visitor.tables) == 1
        assert len(unsettled(attackers)) >= 2
        for each in attackers:
            each.wait(lambda each=each: each.settled)
            (error,) = each.errors
            assert STOPPED in unmarked(error)


@pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere this machine has one address of its own")
def test_a_page_is_drawn_before_the_many_of_another_address(server):
    with ExitStack() as leaving:
        many = [leaving.enter_context(Visitor(server.seen_from(1))) for _ in range(40)]
        one = leaving.enter_context(Visitor(server.seen_from(2)))
        for each in many:
            each.ask("relation", **ATLAS, relation="P36")
        many[0].wait(lambda: many[0].settled)
        one.open("relation", **ATLAS, relation="P36")
        assert len(unsettled(many)) >= 10
        for each in many:
            each.wait(lambda each=each: each.settled)


@pytest.mark.parametrize("visits", [5, 20])
def test_queries_end_with_their_sessions(server, visits):
    for number in range(visits):
        with Visitor(server) as leaving:
            leaving.ask("sql", **ATLAS, sql=f"{ENDLESS} -- {number} of {visits}")
            with pytest.raises(TimeoutError):
                leaving.wait(lambda leaving=leaving: leaving.settled, 0.3)
            leaving.leave(at_once=True)
    assert becomes(lambda: idle(server), 10)


def test_a_query_goes_on_when_other_atlases_are_asked(server):
    with ExitStack() as leaving:
        first = leaving.enter_context(Visitor(server))
        first.ask("sql", **ATLAS, sql=ENDLESS)
        first.wait(lambda: "Stop" in first.buttons)
        for atlas in ("starter-smollm2-135m", "sample"):
            other = leaving.enter_context(Visitor(server))
            other.open("sql", atlas=atlas, sql="SELECT count(*) AS n FROM facts")
            assert other.errors == []
            assert len(other.tables) == 1
        first.wait(lambda: first.settled)
        (error,) = first.errors
        assert STOPPED in unmarked(error)


def test_a_visitor_runs_one_page_at_a_time_however_fast_it_asks(server, visitor):
    visitor.open("fact", **ATLAS, fact="P36:france")
    threads = server.process.num_threads()
    # One who floods is cut off, maybe while still sending.
    with suppress(ConnectionClosed, OSError):
        for _ in range(1000):
            visitor.send_again()
    with Visitor(server) as other:
        other.open("fact", **ATLAS, fact="P36:france")
        assert other.errors == []
    assert server.process.num_threads() - threads <= 20


# The Lab ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heavy_link(allowed) -> str:
    """The value of `x` for as large an experiment as the limits allow."""
    return attacks.heavy_link(allowed.experiment_size // (2 * 116 * 11))


def test_a_link_that_asks_for_too_much_work_is_refused(visitor):
    visitor.open("lab", **ATLAS, x=attacks.heavy_link(1980), run="1")
    (error,) = visitor.errors
    assert named_limit(error)


@pytest.mark.parametrize("heavy", [1, 4])
def test_an_experiment_is_run_beside_heavy_ones_and_none_sees_anothers_changes(server, visitor, heavy):
    alone = run_experiment(visitor)
    with attacked(server, "lab-links", heavy) as attackers:
        assert run_experiment(visitor) == alone
        assert run_experiment(visitor) == alone
    assert sum(attacker.goes for attacker in attackers) >= heavy


@pytest.mark.parametrize("attack", ["lab-changes", "lab-sentences", "own-texts", "lists", "searches"])
def test_an_experiment_gives_the_same_numbers_beside_those_who_try_every_field(server, visitor, attack):
    alone = run_experiment(visitor)
    with attacked(server, attack, 2) as attackers:
        assert run_experiment(visitor) == alone
    assert sum(attacker.goes for attacker in attackers) >= 1
    errors = [error for attacker in attackers for error in attacker.answers]
    assert not [error for error in errors if "app has encountered an error" in error or "Exception" in error]


def unescaped(visitor: Visitor) -> list[str]:
    """Texts of the page in which the markup of a hostile text is markup."""
    shown = visitor.texts("markdown", "alert", "heading", "toast")
    return [each for each in shown if re.search(r"(?<!\\)(<img|\[x\\?\]|\$\\|:red\[no)", each)]


CHANGES = (
    *("suppress", "amplify:3", "amplify:-2", "erase:zero", "erase:unk", "edit:Rome", "edit:Berlin"),
    *("set:0.5", "set:-2", "patch:The capital of Italy is [Y].", "patch:The capital of Japan is [Y]."),
)


def changed_by(visitor: Visitor, change: str) -> bytes:
    """The numbers of a fact's experiment with the change of a short link."""
    visitor.open("lab", **ATLAS, fact=FACT, change=change, run="1")
    assert visitor.errors == []
    return load.lab_numbers(visitor)


def test_sixteen_visitors_each_see_their_own_change_of_every_kind_and_no_other(server, visitor):
    alone = {change: changed_by(visitor, change) for change in CHANGES}
    assert all(alone.values())
    assert len(set(alone.values())) == len(CHANGES)
    found: list[tuple[str, bytes]] = []

    def visit(place: int) -> None:
        with Visitor(server.seen_from(100 + place)) as other:
            for step in range(2):
                change = CHANGES[(place + 5 * step) % len(CHANGES)]
                found.append((change, changed_by(other, change)))

    threads = [threading.Thread(target=visit, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 32
    assert [change for change, numbers in found if numbers != alone[change]] == []


@pytest.mark.parametrize("change", attacks.HOSTILE_CHANGES, ids=lambda change: change[:30])
def test_a_short_link_of_any_text_gets_an_experiment_or_a_sentence(persistent, allowed, change):
    persistent.open("lab", **ATLAS, fact=FACT, change=change, run="1")
    assert all(
        each.startswith("The ") or "Correct the link" in each for each in map(unmarked, persistent.errors)
    )
    assert max(map(len, persistent.errors), default=0) < 10 * allowed.prompt_length
    assert "Find them live" in persistent.buttons
    assert not unescaped(persistent)


@pytest.mark.parametrize("answer", ["", *attacks.HOSTILE_TEXTS], ids=lambda text: text[:20])
@pytest.mark.parametrize("text", attacks.HOSTILE_TEXTS, ids=lambda text: text[:20])
def test_a_sentence_of_any_text_gets_an_answer_or_a_sentence(persistent, allowed, text, answer):
    persistent.open("lab", **ATLAS, prompts=text, answer=answer, change="set:0.5", run="1")
    assert len(persistent.errors) <= 1
    assert all(each.startswith(("The ", "There are ")) for each in map(unmarked, persistent.errors))
    assert max(map(len, persistent.errors), default=0) < 10 * allowed.prompt_length
    assert not unescaped(persistent)


@pytest.mark.parametrize("number", [1e300, float("nan"), float("inf"), -1e4])
def test_a_number_that_only_a_program_sends_is_no_error(visitor, number):
    visitor.open("lab", **ATLAS, fact=FACT)
    box = next(each for each in visitor.shown("number_input") if each.label == "Activation")
    visitor.set(box.id, double_value=number)
    visitor.wait(lambda: visitor.settled)
    visitor.press("Set")
    assert visitor.errors == []
    assert load.lab_numbers(visitor)


@pytest.mark.parametrize("how", ["leave", "cancel"])
def test_an_experiment_stops_when_its_visitor_leaves_or_cancels(server, visitor, heavy_link, how):
    visitor.ask("lab", **ATLAS, x=heavy_link, run="1")
    visitor.wait(lambda: "Cancel" in visitor.buttons)
    time.sleep(1)
    if how == "leave":
        visitor.leave(at_once=True)
    else:
        visitor.click("Cancel")
    assert becomes(lambda: idle(server), 10)


# All of them -----------------------------------------------------------------------------------------


def test_honest_visitors_meet_no_errors_beside_each_other(server):
    waits = load.Waits()

    def visit(seed: int) -> None:
        with Visitor(server) as visitor:
            for step in load.Guest(visitor, waits, seed).steps():
                step()

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(waits.errors) == {}
    assert len(waits.seconds[load.EXPERIMENT]) == len(waits.seconds[load.QUERY]) == 8
    assert {len(found) for found in waits.numbers.values()} == {1}


SHELL = "SELECT e'\\';\n.shell echo pwned\n' AS x"


def test_the_text_for_the_shell_holds_no_command_of_a_visitor(visitor):
    visitor.open("sql", **ATLAS, sql=SHELL)
    dotted = [line for text in visitor.texts("code") for line in text.splitlines() if line.startswith(".")]
    assert set(dotted) <= {".read atlas/views.sql"}


def test_no_page_ended_in_an_exception(server, log):
    with Visitor(server) as visitor:
        visitor.open("fact", **ATLAS, fact="P36:france")
        assert visitor.errors == []
    # Streamlit also writes a traceback about each connection that it has refused.
    assert "Uncaught app exception" not in log.read_text(encoding="utf-8")
