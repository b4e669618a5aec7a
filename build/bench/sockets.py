"""Visitors over real WebSockets, as browsers are, and the server that they visit.

    with serving(limits="app/limits_demo.toml") as server, Visitor(server) as visitor:
        visitor.open("sql", sql="SELECT 42")         # returns the seconds until nothing runs
        visitor.press("Run"), visitor.errors, visitor.tables
        server.memory().total                        # of the server and its processes, in MB

A browser sends its URL and the states of its widgets, and asks by itself for the parts of a page that are
drawn again and again while something runs. So does a `Visitor`; `ask` and `click` only send, `wait` reads on.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
from streamlit.proto.Alert_pb2 import Alert
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import connect

from atlas.errors import BuildError
from atlas.store.atlas import ENVIRONMENT_VARIABLE
from build.bench.machine import CHECKOUT

LIMITS_VARIABLE = "KNOWLEDGE_NEURON_LIMITS"
SLOWEST = 120.0
_TEXTS = {"markdown": "body", "alert": "body", "heading": "body", "code": "code_text", "progress": "text"}
_TEXTS |= {"exception": "message", "toast": "body", "text": "body"}


# The server ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Megabytes of the server and of the processes that it started, each as RSS and PSS.

    PSS divides what several processes share among them, so that sums are true.
    """

    server: float
    server_pss: float
    processes: float
    processes_pss: float

    @property
    def total(self) -> float:
        """PSS of all."""
        return self.server_pss + self.processes_pss


@dataclass(frozen=True)
class Server:
    """A running app: its port, its process, and the address that visitors come from."""

    port: int
    process: psutil.Process
    client: str = "127.0.0.1"

    def seen_from(self, place: int) -> Server:
        """The same, for visitors from another address: Linux takes all of 127.0.0.0/8 for this machine."""
        client = f"127.0.{1 + place // 250}.{1 + place % 250}" if psutil.LINUX else self.client
        return replace(self, client=client)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> Memory:
        """Read while no process begins or ends: a copy of the server shares what was counted before."""
        for _ in range(20):
            processes = self.process.children(recursive=True)
            own, *started = [_megabytes(each) for each in (self.process, *processes)]
            if processes == self.process.children(recursive=True):
                break
        return Memory(*own, sum(rss for rss, _ in started), sum(pss for _, pss in started))

    @property
    def rss(self) -> float:
        """Megabytes of the server alone: quicker to read than `memory`."""
        return self.process.memory_info().rss / 1e6

    def cpu(self) -> float:
        """Seconds of processor time of the server and of its processes, those that have ended included."""
        times = [self.process.cpu_times()]
        for each in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times.append(each.cpu_times())
        return sum(sum(each[:4]) for each in times)


def _megabytes(process: psutil.Process) -> tuple[float, float]:
    try:
        rss = process.memory_info().rss / 1e6
        # Only Linux says what is shared.
        full = process.memory_full_info() if psutil.LINUX else None
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0.0, 0.0
    return rss, full.pss / 1e6 if full else rss


@contextmanager
def serving(
    folder: Path | None = None,
    *,
    script: str = "app/main.py",
    limits: str | Path | None = None,
    checkout: Path = CHECKOUT,
    log: Path | None = None,
) -> Iterator[Server]:
    """The app as `streamlit run` serves it, over one atlas or the bundled ones.

    limits: the file that KNOWLEDGE_NEURON_LIMITS names; checkout: the code that is served; log: what the
    server writes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--server.headless", "true", "--server.port", str(port), "--server.address", "127.0.0.1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KNOWLEDGE_")}
    environment |= {ENVIRONMENT_VARIABLE: str(folder.resolve())} if folder else {}
    environment |= {LIMITS_VARIABLE: str(limits)} if limits else {}
    with open(log or os.devnull, "wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", script, *options],
            cwd=checkout,
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        server = Server(port, psutil.Process(process.pid))
        _wait_for(process, server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen, server: Server) -> None:
    until = time.monotonic() + SLOWEST
    while time.monotonic() < until:
        if process.poll() is not None:
            raise BuildError("The app ended before it was ready. Start it by hand to see why.")
        try:
            with urllib.request.urlopen(f"{server.address}/_stcore/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise BuildError(f"The app did not answer within {SLOWEST:.0f} s. Start it by hand to see why.")


# A visitor -------------------------------------------------------------------------------------------


class Visitor:
    """One session: what it sees, and what it can do.

    `busy`: its script runs; `elements`: what the page shows, by place; `query`: the URL's parameters.
    """

    def __init__(self, server: Server, session: str | None = None):
        """Connect; `session`: the id of one that was left, to go on with it."""
        self.server = server
        self.session = session
        self.busy = False
        self.elements: dict[tuple[int, ...], Element] = {}
        self.query = ""
        self._page = self._script = ""
        self._states: dict[str, WidgetState] = {}
        self._again: dict[str, tuple[float, float]] = {}  # fragment → seconds between, when next
        self._urls: list[Any] = []
        self._files: list[Any] = []
        protocols = ["streamlit", *(["none", session] if session else [])]
        address = f"ws://127.0.0.1:{server.port}/_stcore/stream"
        options: dict[str, Any] = {"compression": None, "proxy": None, "max_size": None}
        options |= {"open_timeout": SLOWEST, "close_timeout": 1, "source_address": (server.client, 0)}
        self.connection = connect(address, subprotocols=protocols, **options)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self, *, at_once: bool = False) -> None:
        """Close the connection; `at_once`: as when the network fails, without a word."""
        if at_once:
            self.connection.socket.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    # What it does

    def open(self, page: str = "", seconds: float = SLOWEST, /, **parameters: str) -> float:
        """Open a page by its URL and wait until nothing runs; returns the seconds."""
        start = time.monotonic()
        self.ask(page, **parameters)
        self.wait(lambda: self.settled, seconds)
        return time.monotonic() - start

    def press(self, label: str, seconds: float = SLOWEST) -> float:
        """Press a button and wait until nothing runs; returns the seconds."""
        start = time.monotonic()
        self.click(label)
        self.wait(lambda: self.settled, seconds)
        return time.monotonic() - start

    def ask(self, page: str = "", /, **parameters: str) -> None:
        """Ask for a page by its URL; `wait` for it."""
        self._page, self._script = page, ""
        self.query = urlencode(parameters)
        self.elements, self._again = {}, {}
        self.send_again()

    def click(self, label: str) -> None:
        """Press a button; `wait` for what it does."""
        self.send_again(WidgetState(id=self.buttons[label], trigger_value=True))

    def fill(self, label: str, text: str) -> None:
        """Type a text into a field; `wait` for what the page makes of it."""
        fields = [each for kind in ("text_input", "text_area") for each in self.shown(kind)]
        found = next(each.id for each in fields if each.label == label)
        self.set(found, string_value=text)

    def set(self, widget: str, **value: Any) -> None:
        """Set a widget by its id, whether the page has it or not; `wait` for what the page makes of it."""
        self._states[widget] = WidgetState(id=widget, **value)
        self.send_again()

    def upload(self, data: bytes, name: str = "experiment.json") -> int:
        """Hand in a file as the first uploader of the page does; returns the HTTP status."""
        message = BackMsg()
        message.file_urls_request.request_id = uuid.uuid4().hex
        message.file_urls_request.file_names.append(name)
        message.file_urls_request.session_id = self.session or ""
        self._urls.clear()
        self._send(message)
        self.wait(lambda: bool(self._urls))
        with urllib.request.urlopen(f"{self.server.address}/_stcore/health") as health:
            token = re.search(r"_streamlit_xsrf=([^;]+)", str(health.headers))
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        request = urllib.request.Request(
            self.server.address + self._urls[0].upload_url,
            data=head.encode() + data + f"\r\n--{edge}--\r\n".encode(),
            method="PUT",
            headers={"Content-Type": f"multipart/form-data; boundary={edge}"}
            | ({"Cookie": f"_streamlit_xsrf={token[1]}", "X-Xsrftoken": token[1]} if token else {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=SLOWEST) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def download(self, label: str) -> bytes:
        """The file behind a download button; raises `BuildError` when the app makes none."""
        button = next((each for each in self.shown("download_button") if each.label == label), None)
        if button is None:
            raise BuildError(f"The page offers no file {label}.")
        url = button.url
        if not url:
            message = BackMsg()
            asked = message.backend_operation_request
            asked.request_id, asked.session_id = uuid.uuid4().hex, self.session or ""
            asked.deferred_file.file_id = button.deferred_file_id
            self._files.clear()
            self._send(message)
            self.wait(lambda: bool(self._files))
            if self._files[0].error_msg:
                raise BuildError(f"The file {label} cannot be had: {self._files[0].error_msg}")
            url = self._files[0].deferred_file.url
        with urllib.request.urlopen(self.server.address + url, timeout=SLOWEST) as file:
            return file.read()

    # What it sees

    @property
    def settled(self) -> bool:
        """Whether nothing runs, and no part of the page is drawn again by itself."""
        return not self.busy and not self._again

    def shown(self, kind: str) -> list[Any]:
        """The elements of a kind, as they stand on the page."""
        placed = sorted(self.elements.items())
        return [getattr(element, kind) for _, element in placed if element.WhichOneof("type") == kind]

    def texts(self, *kinds: str) -> list[str]:
        """The texts of the page, by default all."""
        return [getattr(each, _TEXTS[kind]) for kind in kinds or _TEXTS for each in self.shown(kind)]

    @property
    def errors(self) -> list[str]:
        """The error boxes and exceptions of the page."""
        alerts = [each.body for each in self.shown("alert") if each.format == Alert.ERROR]
        return alerts + [f"{each.type}: {each.message}" for each in self.shown("exception")]

    @property
    def tables(self) -> list[bytes]:
        """The tables of the page, as Arrow."""
        return [each.arrow_data.data for each in self.shown("dataframe")]

    @property
    def buttons(self) -> dict[str, str]:
        """Label → id."""
        return {each.label: each.id for each in self.shown("button")}

    # How it does it

    def wait(self, until: Callable[[], bool], seconds: float = SLOWEST) -> None:
        """Read, and ask again for what is drawn by itself, until something holds.

        Raises `TimeoutError`, and `ConnectionError` when the server has closed the connection.
        """
        deadline = time.monotonic() + seconds
        while not until():
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"The page {self._page or 'home'} is not done after {seconds:g} s.")
            next_ones = [deadline, *(when for _, when in self._again.values() if not self.busy)]
            try:
                self.read(max(0.0, min(next_ones) - now))
            except TimeoutError:
                self._ask_again()

    def read(self, seconds: float = SLOWEST) -> ForwardMsg:
        """The next message, taken in; raises `TimeoutError`."""
        message = ForwardMsg.FromString(self.connection.recv(timeout=seconds))
        match message.WhichOneof("type"):
            case "new_session":
                self.session = message.new_session.initialize.session_id
                if not message.metadata.run.fragment_ids:
                    self.elements, self._again = {}, {}
            case "navigation":
                self._script = message.navigation.page_script_hash
            case "delta":
                self._place(tuple(message.metadata.delta_path), message.delta)
            case "page_info_changed":
                self.query = message.page_info_changed.query_string
            case "auto_rerun":
                every = message.auto_rerun.interval
                self._again[message.auto_rerun.fragment_id] = every, time.monotonic() + every
            case "stop_auto_rerun":
                self._again.pop(message.stop_auto_rerun.fragment_id, None)
            case "file_urls_response":
                self._urls[:] = message.file_urls_response.file_urls
            case "backend_operation_response":
                self._files.append(message.backend_operation_response)
            case "page_not_found":
                raise BuildError(f"There is no page {self._page}.")
            case "script_finished":
                self.busy = message.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN
        return message

    def _place(self, path: tuple[int, ...], delta: Any) -> None:
        kind = delta.WhichOneof("type")
        if kind == "new_element":
            gone = [each for each in self.elements if each[: len(path)] == path]
            for each in gone:
                del self.elements[each]
            self.elements[path] = delta.new_element
        elif kind == "add_block":
            self.elements.pop(path, None)

    def _ask_again(self) -> None:
        now = time.monotonic()
        for fragment, (every, when) in [*self._again.items()]:
            if when <= now and not self.busy:
                self._again[fragment] = every, now + every
                self.send_again(fragment=fragment)

    def send_again(self, *triggers: WidgetState, fragment: str = "") -> None:
        """Ask for the page, or a fragment of it, again, with what has been set and these clicks."""
        message = BackMsg()
        run = message.rerun_script
        run.query_string, run.page_script_hash = self.query, self._script
        if not self._script:
            run.page_name = self._page
        run.fragment_id, run.is_auto_rerun = fragment, bool(fragment)
        run.widget_states.widgets.extend([*self._states.values(), *triggers])
        self._send(message)
        self.busy = True

    def _send(self, message: BackMsg) -> None:
        self.connection.send(message.SerializeToString())
