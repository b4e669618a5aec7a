"""How long the server takes to draw each browsing page, and the memory it holds, at the published size.

    python -m tests.bench_app                               # makes an atlas of 304,711 pairs, starts the app
    python -m tests.bench_app --atlas FOLDER --visits 50 --json figures.json

1. *Serve.* `streamlit run app/main.py` in a process of its own, with only this atlas to choose.
2. *Visit.* One visitor over a websocket, as a browser does it: a page and its URL's parameters go out, and
   the clock stops when the server says that its script has finished. Every visit asks for another fact,
   neuron, relation or word, so nothing has been kept for it; `again` is the same visit a second time. The
   server's CPU time stands beside the clock's: it grows less when other programs run.
3. *Weigh.* The server's resident memory at the start, after every page, and at its highest; beside it that of
   the processes it started (the SQL console's).

The Lab is left out: it holds a model. No test, because a time depends on the machine and on what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import psutil
from streamlit.proto.Alert_pb2 import Alert
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from tests.big_atlas import write_big_atlas
from websockets.sync.client import connect

import atlas
from atlas.neuron import Neuron
from atlas.store.atlas import ENVIRONMENT_VARIABLE
from tests import ROOT

# What issue and README promise, in milliseconds and megabytes.
PROMISED_MS = 300
PROMISED_MB = 400
SLOWEST = 120.0

Visit = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Row:
    """The visits of one kind of page: milliseconds of the server, and its memory after them."""

    page: str
    visits: int
    median: float
    p95: float
    largest: float
    again: float
    cpu: float
    megabytes: float


@dataclass(frozen=True)
class Memory:
    """Resident megabytes of the server, and of the processes it started."""

    at_start: float
    after_all: float
    highest: float
    children: float


# Serve -----------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The app over one atlas: its port and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.headless", "true"),
            *("--server.port", str(port), "--server.address", "127.0.0.1"),
        ],
        cwd=ROOT,
        env={**os.environ, ENVIRONMENT_VARIABLE: str(folder)},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait(server, f"http://127.0.0.1:{port}/_stcore/health")
        yield port, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(10)


def _wait(server: subprocess.Popen, address: str) -> None:
    until = time.monotonic() + SLOWEST
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit("The app ended before it began. Start it by hand to see why.")
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("The app does not answer.")


# Visit -----------------------------------------------------------------------------------------------


class Visitor:
    """One session of the app over its websocket.

    with visitor(port) as someone:
        someone.visit("fact", {"fact": "P36-00001"})     # seconds
    """

    def __init__(self, connection) -> None:
        self._connection = connection

    def visit(self, page: str, parameters: dict[str, str]) -> float:
        """Seconds from asking for a page until its script has finished. A page with an error is an error."""
        message = BackMsg()
        message.rerun_script.page_name = page
        message.rerun_script.query_string = urlencode(parameters)
        begun = time.perf_counter()
        self._connection.send(message.SerializeToString())
        while True:
            answer = ForwardMsg.FromString(self._connection.recv(timeout=SLOWEST))
            if answer.WhichOneof("type") == "script_finished":
                break
            wrong = _problem(answer)
            if wrong:
                raise SystemExit(f"The page {page} of {parameters} shows an error: {wrong}")
        seconds = time.perf_counter() - begun
        if answer.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY:
            raise SystemExit(f"The page {page} of {parameters} was not finished.")
        return seconds


def _problem(message: ForwardMsg) -> str | None:
    if message.WhichOneof("type") == "page_not_found":
        return "there is no such page"
    if message.WhichOneof("type") != "delta" or message.delta.WhichOneof("type") != "new_element":
        return None
    element = message.delta.new_element
    if element.WhichOneof("type") == "exception":
        return f"{element.exception.type}: {element.exception.message}"
    if element.WhichOneof("type") == "alert" and element.alert.format == Alert.ERROR:
        return element.alert.body
    return None


@contextmanager
def visitor(port: int) -> Iterator[Visitor]:
    address = f"ws://127.0.0.1:{port}/_stcore/stream"
    with connect(
        address, subprotocols=["streamlit"], max_size=None, compression=None, proxy=None
    ) as connection:
        yield Visitor(connection)


def itinerary(a: atlas.Atlas, n: int) -> dict[str, list[Visit]]:
    """Kind of page → the visits of it, each to something else."""
    facts = a.query(
        "SELECT fact_id, subject FROM facts WHERE n_neurons > 0 ORDER BY hash(fact_id) LIMIT $n", {"n": 2 * n}
    )
    ids, words = facts["fact_id"].to_list(), [name.split()[0].lower() for name in facts["subject"]]
    relations = a.query("SELECT relation_id FROM relations ORDER BY n_facts DESC")["relation_id"].to_list()
    some, hubs = (
        [str(Neuron(*map(int, pair))) for pair in a.query(sql, {"n": n}).to_numpy()]
        for sql in (
            "SELECT layer, neuron FROM neurons WHERE n_facts > 1 ORDER BY hash(layer, neuron) LIMIT $n",
            "SELECT layer, neuron FROM neurons ORDER BY n_facts DESC LIMIT $n",
        )
    )
    moved = {"t": "0.3", "p": "0.7"}
    # Experiments take a sample of the facts: few of those above have what they found.
    taken = a.query(
        "SELECT fact_id FROM edits SEMI JOIN subsets USING (fact_id) GROUP BY fact_id ORDER BY hash(fact_id)"
    )["fact_id"].to_list()
    found = {
        "Fact, taken by experiments": [("fact", {"fact": fact}) for fact in taken[:n]],
        "Fact, an edit of it": [("fact", {"fact": fact, "evidence": "edits"}) for fact in taken[n : 2 * n]],
    }
    return {
        # These two pay for all that follow: modules and tables are read, words are gathered for the search.
        "Home, first of all": [("", {})],
        "Search, for the first time": [("search", {})],
        "Home": [("", {})] * 3,
        "Search, all facts": [("search", {"page": str(k + 2)}) for k in range(n)],
        "Search, a word": [("search", {"q": word}) for word in words[:n]],
        "Search, a word with a typo": [("search", {"q": word + "x"}) for word in words[n:]],
        "Fact": [("fact", {"fact": fact}) for fact in ids[:n]],
        "Fact, other thresholds": [("fact", {"fact": fact, **moved}) for fact in ids[:n]],
        "Fact, prompt by prompt": [("fact", {"fact": fact, "view": "prompts"}) for fact in ids[n:]],
        **{page: visits for page, visits in found.items() if visits},
        "Relation, all": [("relation", {})] * 3,
        "Relation": [("relation", {"relation": relation}) for relation in relations[:n]],
        "Neuron, none chosen": [("neuron", {})] * 3,
        "Neuron": [("neuron", {"neuron": neuron}) for neuron in some],
        "Neuron, the largest hubs": [("neuron", {"neuron": neuron}) for neuron in hubs],
        "Compare, facts": [
            ("compare", {"kind": "facts", "a": one, "b": other})
            for one, other in zip(ids[:n], ids[n:], strict=True)
        ],
        "Compare, relations": [
            ("compare", {"kind": "relations", "a": one, "b": other})
            for one, other in pairwise(relations[: n + 1])
        ],
        "Compare, neurons": [
            ("compare", {"kind": "neurons", "a": one, "b": other})
            for one, other in zip(some, hubs, strict=True)
        ],
        "SQL, opened": [("sql", {})] * 3,
        # Its process starts, and reads all tables.
        "SQL, the first query": [("sql", {"sql": "SELECT count(*) FROM attributions"})],
        "SQL, a query": [
            ("sql", {"sql": f"SELECT * FROM attributions WHERE layer = {k % 12}"}) for k in range(n)
        ],
        "Atlases": [("atlases", {})] * 3,
    }


def measure(someone: Visitor, process: psutil.Process, page: str, visits: Sequence[Visit]) -> Row:
    first, again, cpu = [], [], []
    for place, parameters in visits:
        before = sum(process.cpu_times()[:2])
        first.append(1000 * someone.visit(place, parameters))
        cpu.append(1000 * (sum(process.cpu_times()[:2]) - before))
        again.append(1000 * someone.visit(place, parameters))
    median, p95 = np.percentile(first, [50, 95])
    return Row(
        page,
        len(visits),
        median=float(median),
        p95=float(p95),
        largest=max(first),
        again=float(np.median(again)),
        cpu=float(np.median(cpu)),
        megabytes=_megabytes(process),
    )


# Report ----------------------------------------------------------------------------------------------


def bench(folder: Path, n: int) -> tuple[list[Row], Memory]:
    with atlas.open(folder) as opened:
        visits = itinerary(opened, n)
    with serving(folder) as (port, process):
        at_start = _megabytes(process)
        with visitor(port) as someone:
            rows = [measure(someone, process, page, each) for page, each in visits.items()]
        children = sum(_megabytes(child) for child in process.children(recursive=True))
        after_all, highest = _megabytes(process), _highest(process)
    return rows, Memory(at_start, after_all, max(highest, after_all), children)


def _megabytes(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def _highest(process: psutil.Process) -> float:
    """Its peak so far, where the system says it; else 0."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return 0.0
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def report(rows: Sequence[Row], memory: Memory) -> str:
    lines = ["| page | visits | median | p95 | largest | again | CPU | MB |", "|---" + "|--:" * 7 + "|"]
    for row in rows:
        times = (row.median, row.p95, row.largest, row.again, row.cpu, row.megabytes)
        lines.append(f"| {row.page} | {row.visits} | {' | '.join(f'{time:.0f}' for time in times)} |")
    late = [row.page for row in rows if row.visits > 1 and row.p95 > PROMISED_MS]
    return "\n".join(
        [
            "Milliseconds of the server, from the question to the end of the script (CPU: the median of its",
            "processor time; MB: its memory after these visits):",
            "",
            *lines,
            "",
            f"p95 above {PROMISED_MS} ms (the first of all aside): {', '.join(late) or 'none'}",
            f"Memory of the server: {memory.at_start:.0f} MB at the start, {memory.after_all:.0f} MB after "
            f"every page, {memory.highest:.0f} MB at most (promised: under {PROMISED_MB} MB); of the "
            f"processes it started, {memory.children:.0f} MB",
            f"Load of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_app", description=__doc__.split("\n")[0])
    parser.add_argument("--atlas", type=Path, help="an atlas's folder; made anew if not given")
    parser.add_argument("--visits", type=int, default=20, help="visits of each kind of page (default 20)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    if options.visits < 1:
        parser.error("give at least one visit")
    with tempfile.TemporaryDirectory() as temporary:
        rows, memory = bench(options.atlas or write_big_atlas(Path(temporary) / "big"), options.visits)
    print(report(rows, memory))
    if options.json:
        figures = {"pages": [asdict(row) for row in rows], "memory": asdict(memory)}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
