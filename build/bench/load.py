"""The hosted app under load: how long honest visitors wait, and the memory it takes, beside hostile ones.

1. *Serve.* `streamlit run app/hosted.py` with `limits_demo.toml`, in a process of its own.
2. *Warm up.* One visitor opens every page, runs an experiment and a query: what is loaded once is loaded.
3. *Visit.* Honest visitors go through the pages, an experiment in the Lab and a query, and think between two
   clicks. Hostile ones attack without a pause (`build.bench.attacks`).
4. *Weigh.* Memory of the server and its processes once a second, and a minute after all have left.
5. *Compare.* The same experiment gives the same numbers, bit for bit, before, during and after.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np

from atlas.errors import BuildError
from build.bench.attacks import ATLAS, ATTACKS, Attacker
from build.bench.figures import format_rows, markdown_table, write_json
from build.bench.machine import CHECKOUT, machine_load
from build.bench.sockets import Server, Visitor, serving

THINK = (1.0, 3.0)  # seconds, uniform
FACTS = ("P36:france", "P36:italy", "P36:japan", "P38:spain", "P38:austria", "P38:jordan", "P131:worcester")
NEURONS = ("L0.N17", "L1.N100", "L2.N23", "L2.N700")
RELATIONS = ("P36", "P38", "P131", "P407")
WORDS = ("oslo", "france", "capital", "euro", "berlim", "music")
BROWSING, EXPERIMENT, QUERY = "browsing", "Lab run", "SQL query"
SETTLES = 60.0  # seconds until the memory after all is read


@dataclass
class Waits:
    """What honest visitors met: seconds of each kind, what went wrong, and each fact's numbers."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter = field(default_factory=Counter)
    numbers: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"kind": kind, "n": len(found)}
            | dict(zip(("p50", "p95", "max"), map(float, np.percentile(found, [50, 95, 100])), strict=True))
            for kind, found in sorted(self.seconds.items())
        ]


# Honest visitors -------------------------------------------------------------------------------------


class Guest:
    """An honest visitor: through the pages, the Lab and a query, again and again."""

    def __init__(self, visitor: Visitor, waits: Waits, seed: int):
        self.visitor, self.waits, self.random = visitor, waits, random.Random(seed)

    def steps(self) -> list[Any]:
        """A round, begun at any place of it."""
        pick = self.random.choice
        pages = [
            ("", {}),
            ("search", {"q": pick(WORDS)}),
            ("fact", {"fact": pick(FACTS)}),
            ("relation", {"relation": pick(RELATIONS)}),
            ("neuron", {"neuron": pick(NEURONS)}),
            ("compare", {"kind": "facts", "a": FACTS[0], "b": pick(FACTS[1:])}),
        ]
        steps = [*[lambda page=page: self.browse(*page) for page in pages], self.experiment, self.query]
        first = self.random.randrange(len(steps))
        return steps[first:] + steps[:first]

    def browse(self, page: str, parameters: dict[str, str]) -> None:
        self._note(BROWSING, self.visitor.open(page, atlas=ATLAS, **parameters))

    def experiment(self, fact: str = "") -> None:
        """Open a fact in the Lab, and press its button."""
        fact = fact or self.random.choice(FACTS)
        self.browse("lab", {"fact": fact})
        label = next((each for each in self.visitor.buttons if each.startswith("Run ")), None)
        if label is None:
            self.waits.errors["The Lab has no button that runs"] += 1
            return
        self._note(EXPERIMENT, self.visitor.press(label))
        if found := lab_numbers(self.visitor):
            self.waits.numbers[fact].add(found)
        else:
            self.waits.errors["The Lab shows no result"] += 1

    def query(self) -> None:
        sql = f"SELECT *, {self.random.random()} AS asked FROM facts JOIN relations USING (relation_id)"
        self._note(QUERY, self.visitor.open("sql", atlas=ATLAS, sql=f"{sql} LIMIT 200"))
        if not self.visitor.tables and not self.visitor.errors:
            self.waits.errors["The query shows no answer"] += 1

    def _note(self, kind: str, seconds: float) -> None:
        self.waits.seconds[kind].append(seconds)
        self.waits.errors.update(f"{kind}: {error}" for error in self.visitor.errors)


def lab_numbers(visitor: Visitor) -> bytes:
    """Every prompt's probabilities and ranks on the Lab's page, as bytes; empty without a result."""
    return b"".join(table for table in visitor.tables if b"rank_before" in table)


def keep_visiting(server: Server, waits: Waits, seed: int, over: threading.Event) -> None:
    """One honest visitor, until the event is set; one that is thrown out comes again."""
    thinking = random.Random(seed)
    over.wait(thinking.uniform(0, THINK[1]))
    while not over.is_set():
        try:
            with Visitor(server) as visitor:
                guest = Guest(visitor, waits, thinking.randrange(10**9))
                while not over.is_set():
                    for step in guest.steps():
                        step()
                        if over.wait(thinking.uniform(*THINK)):
                            return
        except Exception as error:  # whatever it is, it is what the visitor meets
            waits.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            over.wait(1)


# All of them -----------------------------------------------------------------------------------------


def measure_load(
    server: Server, visitors: int, attacks: Sequence[str], hostile: int, seconds: float, seed: int
) -> dict[str, Any]:
    """The figures of one run: waits, errors, memory, numbers, and what the attackers were answered."""
    before, waits = Waits(), Waits()
    with Visitor(server) as visitor:
        guest = Guest(visitor, before, seed)
        for step in guest.steps():
            step()
        guest.experiment(FACTS[0])
    memory = {"start": server.memory()}
    attackers = [Attacker(server.seen_from(250 + k), seed + k) for k in range(hostile)] if attacks else []
    over, weighed = threading.Event(), [memory["start"]]
    threads = [
        *(
            threading.Thread(target=keep_visiting, args=(server.seen_from(k), waits, seed + k, over))
            for k in range(visitors)
        ),
        *(
            threading.Thread(target=attacker.keep_on, args=(attacks[k % len(attacks)], over), daemon=True)
            for k, attacker in enumerate(attackers)
        ),
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.process.is_running():
        time.sleep(1)
        weighed.append(server.memory())
    over.set()
    last = time.monotonic() + SETTLES
    for place, thread in enumerate(threads):
        thread.join(max(0.0, last - time.monotonic()))
        if place < visitors and thread.is_alive():
            # Its wait is in no percentile.
            waits.errors["A visitor still waits a minute after the end"] += 1
    end = time.monotonic()
    while time.monotonic() < end + SETTLES:
        time.sleep(1)
        weighed.append(server.memory())
    memory |= {"highest": max(weighed, key=lambda each: each.total), "after": weighed[-1]}
    after = Waits()
    try:
        with Visitor(server) as visitor:
            Guest(visitor, after, seed).experiment(FACTS[0])
    except Exception as error:
        after.errors[f"Afterwards: {type(error).__name__}: {error}"[:200]] += 1
    numbers = [before.numbers[fact] | waits.numbers[fact] | after.numbers[fact] for fact in FACTS]
    return {
        "waits": waits.rows(),
        "errors": dict(before.errors + waits.errors + after.errors),
        "memory": {name: asdict(each) for name, each in memory.items()},
        "highest_rss": max(each.server for each in weighed),
        "same_numbers": all(len(found) <= 1 for found in numbers),
        "attacks": sum(attacker.goes for attacker in attackers),
        "answers": dict(sum((attacker.answers for attacker in attackers), Counter())),
        "load": machine_load(),
    }


def time_visitors(
    visitors: int,
    hostile: int,
    seconds: float,
    attacks: Sequence[str],
    checkout: Path | None,
    seed: int,
    json: Path | None,
) -> None:
    """Serve the app, let all of them come, and print what the honest ones met."""
    if unknown := [name for name in attacks if name not in ATTACKS]:
        raise BuildError(f"There is no attack '{unknown[0]}'. Choose from {', '.join(ATTACKS)}.")
    where = (checkout or CHECKOUT).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        third = copytree(where / "atlas/data" / ATLAS, Path(scratch) / "third")
        served = serving(third, script="app/hosted.py", limits="app/limits_demo.toml", checkout=where)
        with served as server:
            found = measure_load(server, visitors, attacks or list(ATTACKS), hostile, seconds, seed)
    print(
        f"{visitors} honest visitors and {hostile} hostile ones for {seconds:g} s; seconds from a click "
        "until nothing runs:\n"
    )
    cells = ("{kind}", "{n}", "{p50:.2f}", "{p95:.2f}", "{max:.2f}")
    print(markdown_table(("kind", "n", "p50", "p95", "max"), format_rows(found["waits"], *cells)))
    print("\nMegabytes of the server and of its processes:\n")
    rows = [{"when": when} | each for when, each in found["memory"].items()]
    cells = ("{when}", "{server:.0f}", "{server_pss:.0f}", "{processes:.0f}", "{processes_pss:.0f}")
    heads = ("when", "server, RSS", "PSS", "processes, RSS", "PSS")
    print(markdown_table(heads, format_rows(rows, *cells)))
    print(f"\nErrors of honest visitors: {_counted(found['errors'])}")
    print(f"The Lab's numbers are the same, bit for bit: {'yes' if found['same_numbers'] else 'NO'}")
    print(f"Attacks: {found['attacks']}, answered with: {_counted(found['answers'])}\n{found['load']}")
    write_json(json, found)


def _counted(found: dict[str, int]) -> str:
    return "; ".join(f"{n} × {text}" for text, n in found.items()) or "none"
