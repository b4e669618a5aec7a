"""How long the server takes to draw each browsing page, and the memory it holds, at the published size.

1. *Serve.* `streamlit run app/main.py` in a process of its own, with only this atlas to choose.
2. *Visit.* One visitor over a websocket, as a browser does it: a page and its URL's parameters go out, and
   the clock stops when the server says that its script has finished. Every visit asks for another fact,
   neuron, relation or word, so nothing has been kept for it; `again` is the same visit a second time. The
   server's CPU time stands beside the clock's: it grows less when other programs run.
3. *Weigh.* The server's resident memory at the start, after every page, and at its highest; beside it that of
   the processes it started (the SQL console's).

The Lab is left out: it holds a model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import atlas
from atlas.errors import BuildError
from atlas.neuron import Neuron
from atlas.store.atlas import Atlas
from build.bench.big_atlas import write_big_atlas
from build.bench.figures import format_rows, markdown_table, write_json
from build.bench.machine import machine_load, peak_bytes, timed
from build.bench.sockets import Visitor, serving

# What issue and README promise, in milliseconds and megabytes.
PROMISED_MS = 300
PROMISED_MB = 400

Visit = tuple[str, dict[str, str]]  # a page and its URL's parameters


# --- visit ---


def visit_page(visitor: Visitor, page: str, parameters: dict[str, str]) -> None:
    """Ask for a page and wait until nothing runs; `BuildError` when it shows an error."""
    visitor.open(page, **parameters)
    if visitor.errors:
        raise BuildError(f"The page {page} of {parameters} shows an error: {visitor.errors[0]}")


def plan_visits(opened: Atlas, n: int) -> dict[str, list[Visit]]:
    """Kind of page → the visits of it, each to something else."""

    def column(sql: str) -> list:
        return [row[0] for row in opened.query(sql, {"n": n} if "$n" in sql else None).to_numpy()]

    def visits(page: str, /, **parameters: Sequence[str]) -> list[Visit]:
        return [
            (page, dict(zip(parameters, values, strict=True)))
            for values in zip(*parameters.values(), strict=True)
        ]

    by_hash = "FROM facts WHERE n_neurons > 0 ORDER BY hash(fact_id) LIMIT 2 * $n"
    ids = column(f"SELECT fact_id {by_hash}")
    words = [subject.split()[0].lower() for subject in column(f"SELECT subject {by_hash}")]
    relations = column("SELECT relation_id FROM relations ORDER BY n_facts DESC")
    some, hubs = (
        [str(Neuron(*pair)) for pair in column(f"SELECT [layer, neuron] FROM neurons {order} LIMIT $n")]
        for order in ("WHERE n_facts > 1 ORDER BY hash(layer, neuron)", "ORDER BY n_facts DESC")
    )
    # Experiments take a sample of the facts: few of those above have what they found.
    taken = column(
        "SELECT fact_id FROM edits SEMI JOIN subsets USING (fact_id) GROUP BY fact_id ORDER BY hash(fact_id)"
    )
    queries = [f"SELECT * FROM attributions WHERE layer = {k % 12}" for k in range(n)]
    planned = {
        # These two pay for all that follow: modules and tables are read, words are gathered for the search.
        "Home, first of all": [("", {})],
        "Search, for the first time": [("search", {})],
        "Home": [("", {})] * 3,
        "Search, all facts": visits("search", page=[str(k + 2) for k in range(n)]),
        "Search, a word": visits("search", q=words[:n]),
        "Search, a word with a typo": visits("search", q=[word + "x" for word in words[n:]]),
        "Fact": visits("fact", fact=ids[:n]),
        "Fact, other thresholds": visits("fact", fact=ids[:n], t=["0.3"] * n, p=["0.7"] * n),
        "Fact, prompt by prompt": visits("fact", fact=ids[n:], view=["prompts"] * n),
        "Fact, taken by experiments": visits("fact", fact=taken[:n]),
        "Fact, an edit of it": [("fact", {"fact": fact, "evidence": "edits"}) for fact in taken[n : 2 * n]],
        "Relation, all": [("relation", {})] * 3,
        "Relation": visits("relation", relation=relations[:n]),
        "Neuron, none chosen": [("neuron", {})] * 3,
        "Neuron": visits("neuron", neuron=some),
        "Neuron, the largest hubs": visits("neuron", neuron=hubs),
        "Compare, facts": visits("compare", kind=["facts"] * n, a=ids[:n], b=ids[n:]),
        "Compare, relations": [
            ("compare", {"kind": "relations", "a": a, "b": b}) for a, b in pairwise(relations[: n + 1])
        ],
        "Compare, neurons": visits("compare", kind=["neurons"] * n, a=some, b=hubs),
        "SQL, opened": [("sql", {})] * 3,
        # Its process starts, and reads all tables.
        "SQL, the first query": [("sql", {"sql": "SELECT count(*) FROM attributions"})],
        "SQL, a query": visits("sql", sql=queries),
        "Atlases": [("atlases", {})] * 3,
    }
    return {page: found for page, found in planned.items() if found}


def time_visits(
    visitor: Visitor, process: psutil.Process, page: str, visits: Sequence[Visit]
) -> dict[str, Any]:
    """Visit each page twice: milliseconds of the server, and its memory after these visits."""

    def seconds(place: str, parameters: dict[str, str]) -> float:
        return timed(lambda: visit_page(visitor, place, parameters))[0]

    first, again, cpu = [], [], []
    for place, parameters in visits:
        before = sum(process.cpu_times()[:2])
        first.append(1000 * seconds(place, parameters))
        cpu.append(1000 * (sum(process.cpu_times()[:2]) - before))
        again.append(1000 * seconds(place, parameters))
    median, p95, largest = map(float, np.percentile(first, [50, 95, 100]))
    figures = {"median": median, "p95": p95, "largest": largest, "again": float(np.median(again))}
    figures |= {"cpu": float(np.median(cpu)), "megabytes": _megabytes(process)}
    return {"page": page, "visits": len(visits), **figures}


def _megabytes(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


# --- all of them ---


def measure_pages(folder: Path, n: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The figures of every kind of page, and resident megabytes of the server and of what it started."""
    with atlas.open(folder) as opened:
        planned = plan_visits(opened, n)
    with serving(folder) as server:
        memory = {"at_start": server.memory().server}
        with Visitor(server) as visitor:
            found = [time_visits(visitor, server.process, page, visits) for page, visits in planned.items()]
        weighed = server.memory()
        memory |= {"after_all": weighed.server, "children": weighed.processes}
        memory["highest"] = max(weighed.server, peak_bytes(server.process.pid) / 1e6)
    return found, memory


def time_pages(folder: Path | None, n: int, json: Path | None) -> None:
    """Visit the pages of an atlas, by default a made-up one; print the table and keep it as JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        pages, memory = measure_pages(folder or write_big_atlas(Path(scratch) / "big"), n)
    print(
        "Milliseconds of the server, from the question to the end of the script (CPU: the median of its\n"
        "processor time; MB: its memory after these visits):\n"
    )
    heads = ("page", "visits", "median", "p95", "largest", "again", "CPU", "MB")
    cells = ("{page}", "{visits}", "{median:.0f}", "{p95:.0f}", "{largest:.0f}", "{again:.0f}")
    print(markdown_table(heads, format_rows(pages, *cells, "{cpu:.0f}", "{megabytes:.0f}")))
    late = [each["page"] for each in pages if each["visits"] > 1 and each["p95"] > PROMISED_MS]
    print(
        f"\np95 above {PROMISED_MS} ms (the first of all aside): {', '.join(late) or 'none'}\n"
        f"Memory of the server: {memory['at_start']:.0f} MB at the start, {memory['after_all']:.0f} MB after "
        f"every page, {memory['highest']:.0f} MB at most (promised: under {PROMISED_MB} MB); of the "
        f"processes it started, {memory['children']:.0f} MB\n{machine_load()}"
    )
    write_json(json, {"pages": pages, "memory": memory})
