"""What the connections of visitors may make a host hold: ASGI middleware of `app/hosted.py`.

1. *Number.* At most `connections` WebSockets at once. Of one network address `arrivals` are accepted at once,
   then one every three seconds: each new session costs a page.
2. *Speed.* What a browser asks for is heard once it has read what it asked for before, and at most 20 times a
   second. Who reads nothing for a minute, or has 100 messages waiting, is disconnected. Otherwise answers
   pile up for one who never reads. What one who has left still asked for is not done.
3. *Uploads.* One at a time and one file kept for a visitor, and `uploads` files for all: the oldest goes.

The size of a message is bounded by the server, before all of it has come (`Dockerfile`).
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import runtime

from app.shared import limits
from app.shared.limits import LimitsError

READ_WITHIN_SECONDS = 60.0
UPLOAD_WITHIN_SECONDS = 30.0
BETWEEN_MESSAGES_SECONDS = 0.05
WAITING_MESSAGES = 100

ARRIVES_EVERY_SECONDS, ARRIVES_WITHIN_SECONDS = 3.0, 30.0

_UPLOAD = re.compile(r"/_stcore/upload_file/([^/]+)/[^/]+/?\Z")


class BoundedConnections:
    """The app, with what its connections may make it hold."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._n_open = 0
        self._arrivals: dict[str, float] = {}  # address → when its last arrival is accepted
        self._uploading: set[str] = set()
        self._uploaded: list[str] = []  # sessions, the oldest upload first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "PUT" and (to := _UPLOAD.search(scope["path"])):
            await self._upload(to[1], scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # WebSockets

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait = 0.0
        with suppress(LimitsError):  # the page says what is wrong
            allowed = limits.current()
            if self._n_open < allowed.connections:
                wait = self._arrive((scope.get("client") or ("",))[0], allowed.arrivals)
            if self._n_open >= allowed.connections or wait > ARRIVES_WITHIN_SECONDS:
                await send({"type": "websocket.close", "code": 1013})  # try again later
                return
        self._n_open += 1
        try:
            await asyncio.sleep(wait)
            await _Conversation(self.app, receive, send).hold(scope)
        finally:
            self._n_open -= 1

    def _arrive(self, address: str, at_once: int) -> float:
        """Seconds that a new connection of this address waits; over 30 it is not counted as one."""
        now = time.monotonic()
        earliest = now - at_once * ARRIVES_EVERY_SECONDS
        if len(self._arrivals) > 1000:
            self._arrivals = {each: at for each, at in self._arrivals.items() if at > earliest}
        at = max(self._arrivals.get(address, earliest), earliest) + ARRIVES_EVERY_SECONDS
        if at - now <= ARRIVES_WITHIN_SECONDS:
            self._arrivals[address] = at
        return max(0.0, at - now)

    # Uploads

    async def _upload(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        most = limits.current().uploads
        served = runtime.get_instance()
        if session in self._uploading or len(self._uploading) >= most:
            refusal = f"This host takes one file at a time, and {most} of all visitors (uploads). Try again."
            await PlainTextResponse(refusal, 429)(scope, receive, send)
            return
        if not served.is_active_session(session):
            await PlainTextResponse("There is no such session. Load the page again.", 400)(
                scope, receive, send
            )
            return
        kept = served.uploaded_file_mgr
        self._uploading.add(session)
        try:
            kept.remove_session_files(session)
            async with asyncio.timeout(UPLOAD_WITHIN_SECONDS):
                await self.app(scope, receive, send)
        except TimeoutError:
            await PlainTextResponse("The file took too long. Try again.", 408)(scope, receive, send)
        finally:
            self._uploading.discard(session)
        self._uploaded = [each for each in self._uploaded if each != session] + [session]
        while len(self._uploaded) > most:
            kept.remove_session_files(self._uploaded.pop(0))


class _Conversation:
    """One WebSocket: its client is heard as fast as it reads."""

    def __init__(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        self._app, self._receive, self._send = app, receive, send
        self._has_read = asyncio.Event()
        self._has_read.set()
        self._next_at = 0.0
        self._heard: asyncio.Queue[Message] = asyncio.Queue()
        self._left: Message | None = None
        self._ends = False
        self._task = asyncio.current_task()

    async def hold(self, scope: Scope) -> None:
        hearing = asyncio.create_task(self._hear())
        try:
            await self._app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._ends:
                raise
        finally:
            hearing.cancel()

    async def _hear(self) -> None:
        """Take what comes from the server at once, so that a client's end is known before its turn."""
        while self._left is None:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._left = message
            elif self._heard.qsize() >= WAITING_MESSAGES:
                self._left = {"type": "websocket.disconnect", "code": 1008}
                self._cut()
            self._heard.put_nowait(message)

    async def receive(self) -> Message:
        message = await self._heard.get()
        if self._left is None and message["type"] == "websocket.receive":
            await self._has_read.wait()
            await asyncio.sleep(self._next_at - time.monotonic())
            self._next_at = time.monotonic() + BETWEEN_MESSAGES_SECONDS
        return self._left or message

    async def send(self, message: Message) -> None:
        self._has_read.clear()
        try:
            async with asyncio.timeout(READ_WITHIN_SECONDS):
                await self._send(message)
        except TimeoutError:
            self._ends = True
            if self._task is not None:
                self._task.cancel()
            self._cut()
            raise
        finally:
            self._has_read.set()

    def _cut(self) -> None:
        """End the connection: uvicorn itself would wait for such a client, and keep the message, for ever."""
        if transport := getattr(getattr(self._send, "__self__", None), "transport", None):
            transport.abort()
