"""How long a visitor waits in the Lab: for the likeliest words, the neurons, and what the model says changed.

1. *Serve.* `streamlit run app/main.py` in a process of its own.
2. *Ask.* One visitor over a websocket types a sentence that no atlas has, has its neurons found, and then
   changes the neurons of a fact beside its controls. Every round asks about another fact, so that nothing has
   been kept for it; a first round loads the model and counts for nothing.
3. *Count.* Seconds from a click until the page is drawn, and the server's CPU time for it, which grows less
   when other programs run. Medians over rounds, beside what issue and README promise for two idle cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import atlas
from atlas.errors import BuildError
from build.bench.figures import format_rows, markdown_table, write_json
from build.bench.machine import machine_load
from build.bench.sockets import Server, Visitor, serving

SENTENCE = "A sentence; ____ is the place of the answer, the end by default"
FIND, FORGET = "Find them live", "Forget"
WORDS, NEURONS = "sentence → likeliest words", "neurons of one sentence"
FIRST, FOUR = "neurons of four wordings: the first part", "neurons of four wordings: all"
CHANGE, TEXTS = "change with controls", "change with controls and three texts of 20 tokens"
# Model → step → the seconds that are promised.
PROMISED = {
    "pocket-bert": {WORDS: 0.3, NEURONS: 0.6, CHANGE: 1.0},
    "smollm2-135m": {WORDS: 0.5, FIRST: 2.0, FOUR: 6.0, TEXTS: 8.0},
}
# Not the atlas's own: those are recognised, and their neurons are known.
TYPED = (
    "Everyone knows that the capital of {} is called",
    "We all know that the capital city of {} is called",
    "Children learn that the capital of {} is the city of",
    "The seat of government of the country {} is the city of",
)

Step = tuple[str, float, float]  # its name, seconds, the server's CPU seconds


def chosen_facts(atlas_id: str, n: int) -> list[tuple[str, str]]:
    """(fact, subject) of so many capitals that the model knows and that have neurons; again from the first
    where there are fewer."""
    with atlas.open(atlas_id) as opened:
        rows = opened.query(
            "SELECT fact_id, subject FROM facts WHERE relation_id = 'P36' AND known AND n_neurons > 0 "
            "ORDER BY fact_id"
        )
    found = list(rows.itertuples(index=False, name=None))
    if not found:
        raise BuildError(
            f"The atlas {atlas_id} knows no capital. Take one that was built from the starter facts."
        )
    return [found[place % len(found)] for place in range(n)]


class Stopwatch:
    """Times what a visitor asks for, by the clock and by the server's CPU time."""

    def __init__(self, server: Server, visitor: Visitor) -> None:
        self.server, self.visitor = server, visitor
        self._start, self._cpu = 0.0, 0.0

    def start(self) -> None:
        self._start, self._cpu = time.perf_counter(), self.server.cpu()

    def stop(self, name: str, until: Callable[[], bool]) -> Step:
        """The step that ends when `until` holds; `BuildError` where the page then shows an error."""
        self.visitor.wait(until)
        took = name, time.perf_counter() - self._start, self.server.cpu() - self._cpu
        if self.visitor.errors:
            raise BuildError(f"The Lab shows an error after '{name}': {self.visitor.errors[0]}")
        return took


def one_round(server: Server, model: str, fact: tuple[str, str]) -> Iterator[Step]:
    """The steps of one visitor, about one fact."""
    fact_id, subject = fact
    sentence, *further = (text.format(subject) for text in TYPED)
    promised, atlas_id = PROMISED[model], f"starter-{model}"
    with Visitor(server) as visitor:
        watch, settled = Stopwatch(server, visitor), lambda: visitor.settled
        visitor.open("lab", atlas=atlas_id)
        watch.start()
        visitor.fill(SENTENCE, sentence)
        yield watch.stop(WORDS, settled)
        if FOUR in promised:
            visitor.fill(next(each.label for each in visitor.shown("text_area")), "\n".join(further))
            visitor.wait(settled)
        watch.start()
        visitor.click(FIND)
        if FIRST in promised:
            yield watch.stop(FIRST, lambda: any(text.startswith("After ") for text in visitor.texts()))
        yield watch.stop(FOUR if FOUR in promised else NEURONS, settled)
        visitor.open("lab", atlas=atlas_id, fact=fact_id)
        watch.start()
        visitor.click(FORGET)
        yield watch.stop(TEXTS if TEXTS in promised else CHANGE, settled)
        if not any("With as many random neurons" in text for text in visitor.texts("markdown")):
            raise BuildError(f"The Lab shows no result for {fact_id}.")


def time_steps(models: Sequence[str], rounds: int, json: Path | None) -> None:
    """Time the Lab's steps with each model; print a table and keep it as JSON."""
    if unknown := [name for name in models if name not in PROMISED]:
        raise BuildError(f"Nothing is promised for '{unknown[0]}'. Choose from {', '.join(PROMISED)}.")
    rows: list[dict[str, Any]] = []
    with serving() as server:
        for model in models:
            facts = chosen_facts(f"starter-{model}", rounds + 1)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in PROMISED[model]}
            for place, fact in enumerate(facts):
                for name, seconds, cpu in one_round(server, model, fact):
                    if place:
                        found[name].append((seconds, cpu))
            for name, times in found.items():
                wall, cpu = (statistics.median(each) for each in zip(*times, strict=True))
                promised = PROMISED[model][name]
                rows.append(
                    {
                        "model": model,
                        "step": name,
                        "promised": promised,
                        "wall": wall,
                        "cpu": cpu,
                        "n": rounds,
                    }
                )
    cells = ("{model}", "{step}", "{promised:g} s", "{wall:.2f} s", "{cpu:.2f} s", "{n}")
    heads = ("model", "step", "promised", "by the clock", "CPU time", "rounds")
    print(markdown_table(heads, format_rows(rows, *cells)))
    print(machine_load())
    write_json(json, rows)
