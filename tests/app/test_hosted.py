"""A host over real connections: a lost one finds its session, and none makes the host hold too much."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from app.shared import connections, limits
from app.shared.connections import BoundedConnections, _Conversation
from tests.app.pages import unmarked
from tests.app.sockets import Server, Visitor, serving

HOST = """
demo_mode = true
models = ["pocket-bert"]
connections = 4
visitors = 3
uploads = 2
session_characters = 100_000
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Iterator[Server]:
    file = tmp_path_factory.mktemp("host") / "host.toml"
    file.write_text(HOST, encoding="utf-8")
    with serving(script="app/hosted.py", limits=file) as server:
        yield server


def errors(visitor: Visitor) -> list[str]:
    return [unmarked(each) for each in visitor.errors]


# Sessions --------------------------------------------------------------------------------------------


def test_a_connection_that_is_lost_for_a_moment_finds_its_session(host):
    with Visitor(host) as visitor:
        visitor.open("fact", fact="P36:france")
        visitor.press(next(each for each in visitor.buttons if "to the tray" in each))
        assert "Empty the tray" in visitor.buttons
        session = visitor.session
        visitor.leave(at_once=True)
    with Visitor(host, session=session) as again:
        again.open("search")
        assert again.session == session
        assert "Empty the tray" in again.buttons


def test_a_host_serves_so_many_visitors_and_says_so_to_the_next(host):
    visitors = [Visitor(host) for _ in range(4)]
    try:
        for visitor in visitors:
            visitor.open("search")
        assert [errors(each) for each in visitors] == [
            *([], [], []),
            ["This host serves at most 3 visitors at once (visitors). Try again in a minute."],
        ]
        with pytest.raises(InvalidStatus, match="403"):
            Visitor(host)
    finally:
        for visitor in visitors:
            visitor.leave()


def test_a_url_that_is_too_long_stops_the_page_with_a_sentence(host):
    with Visitor(host) as visitor:
        visitor.open("search", q="x" * 100_001)
        assert "100,000 characters" in errors(visitor)[0]


def test_a_message_that_is_too_large_ends_its_connection(host):
    with Visitor(host) as visitor:
        visitor.open("sql")
        visitor.ask("sql", sql=random.Random(0).randbytes(1_500_000).hex())
        with pytest.raises(ConnectionClosedError, match="too big"):
            visitor.wait(lambda: not visitor.busy)


# Uploads ---------------------------------------------------------------------------------------------


def test_files_are_kept_of_so_many_visitors_and_one_of_each(host):
    with Visitor(host) as visitor:
        visitor.open("lab")
        before = host.memory().server
        assert {visitor.upload(b"x" * 1_000_000) for _ in range(100)} == {204}
    assert host.memory().server < before + 50


# Arrivals --------------------------------------------------------------------------------------------


def test_who_arrives_again_and_again_waits_and_nobody_else_does(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
    bounded = BoundedConnections(None)
    assert [bounded._arrive("one", 20) for _ in range(20)] == [0.0] * 20
    assert [bounded._arrive("one", 20) for _ in range(12)] == [*range(3, 31, 3), 33, 33]
    assert bounded._arrive("another", 20) == 0
    now[0] += 12
    assert bounded._arrive("one", 20) == 21
    now[0] += 120
    assert [bounded._arrive("one", 20) for _ in range(21)] == [0.0] * 20 + [3]


def test_a_connection_waits_before_the_app_hears_of_it(monkeypatch):
    monkeypatch.setattr(connections, "ARRIVES_EVERY_SECONDS", 0.02)
    monkeypatch.setattr(connections, "ARRIVES_WITHIN_SECONDS", 0.05)
    begun, closed = [], []

    async def app(scope, receive, send):
        begun.append(time.monotonic())

    async def send(message):
        closed.append(message["code"])

    async def come() -> None:
        bounded = BoundedConnections(app)
        scope = {"type": "websocket", "client": ("10.0.0.1", 1)}
        n = limits.current().arrivals + 3
        await asyncio.gather(*(bounded(scope, messages(0), send) for _ in range(n)))

    start = time.monotonic()
    asyncio.run(come())
    assert len(begun) == limits.current().arrivals + 2
    assert begun[-1] - start >= 0.04
    assert closed == [1013]


# A conversation --------------------------------------------------------------------------------------


def run(conversation_with, app) -> list[str]:
    """What happens while an app talks to a client."""
    happened: list[str] = []

    async def talk() -> None:
        receive, send = conversation_with(happened)
        await _Conversation(app(happened), receive, send).hold({"type": "websocket"})
        happened.append("over")

    asyncio.run(talk())
    return happened


def messages(n: int, then: dict | None = None):
    """An ASGI `receive` that gives n messages at once, then another one or nothing more."""
    left = [{"type": "websocket.receive"}] * n + ([then] if then else [])

    async def receive():
        if not left:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return left.pop(0)

    return receive


@pytest.mark.parametrize(
    ("n", "then", "code"), [(1000, None, 1008), (90, {"type": "websocket.disconnect", "code": 1005}, 1005)]
)
def test_what_one_who_floods_or_has_left_still_asked_for_is_not_done(n, then, code):
    def client(_):
        async def send(_):
            pass

        return messages(n, then), send

    def app(happened):
        async def call(_, receive, send):
            while (message := await receive())["type"] == "websocket.receive":
                happened.append("heard")
                await asyncio.sleep(0.02)
            happened.append(message["code"])

        return call

    happened = run(client, app)
    assert happened[-2:] == [code, "over"]
    assert len(happened) < 10


def test_a_client_is_heard_once_it_has_read(monkeypatch):
    monkeypatch.setattr(connections, "BETWEEN_MESSAGES_SECONDS", 0.0)

    def client(happened):
        receive = messages(1)

        async def send(_):
            for _ in range(5):
                await asyncio.sleep(0)
            happened.append("read")

        return receive, send

    def app(happened):
        async def call(_, receive, send):
            sender = asyncio.create_task(send({"type": "websocket.send"}))
            await asyncio.sleep(0)
            await receive()
            happened.append("heard")
            await sender

        return call

    assert run(client, app) == ["read", "heard", "over"]


def test_a_client_that_does_not_read_is_disconnected(monkeypatch):
    monkeypatch.setattr(connections, "READ_WITHIN_SECONDS", 0.01)

    def client(_):
        async def never(*_):
            await asyncio.Event().wait()

        return never, never

    def app(happened):
        async def call(_, receive, send):
            sender = asyncio.create_task(send({"type": "websocket.send"}))
            try:
                await receive()
            finally:
                happened.append("left")
                with pytest.raises(TimeoutError):
                    await sender

        return call

    assert run(client, app) == ["left", "over"]


def test_a_conversation_that_the_server_ends_is_not_kept_from_ending():
    async def talk() -> None:
        async def never(*_):
            await asyncio.Event().wait()

        task = asyncio.create_task(_Conversation(lambda *_: never(), never, never).hold({}))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(talk())
