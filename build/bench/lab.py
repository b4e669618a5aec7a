"""How the time of an experiment in the Lab grows with the neurons that it changes.

Suppressing, and two edits, of random neurons in the prompts of a fact: its own, those of its relation and
unrelated ones, beside random draws, as the Lab does. Each point is the median of some runs; a line (least
squares) and a power law are fitted to each kind of change (`build.bench.scaling`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import atlas
from atlas.experiments.controls import choose_prompts
from atlas.experiments.experiment import Experiment
from atlas.experiments.run import run
from atlas.interventions import Edit, Intervention, Suppress
from atlas.neuron import Neuron
from atlas.surgery.subject import Subject, load_subject
from build.bench.figures import markdown_table, write_json
from build.bench.machine import machine_load, timed
from build.bench.scaling import fit_growth

ATLAS, MODEL, FACT = "starter-pocket-bert", "pocket-bert", "P36:france"


def random_neurons(subject: Subject, n: int) -> tuple[Neuron, ...]:
    """n different neurons of all layers, the same in each run."""
    places = np.random.default_rng(n).choice(subject.n_layers * subject.n_neurons, n, replace=False)
    return tuple(Neuron(int(place) // subject.n_neurons, int(place) % subject.n_neurons) for place in places)


def changes_of(neurons: tuple[Neuron, ...]) -> dict[str, tuple[Intervention, ...]]:
    """The kinds of change that are timed, each of these neurons."""
    edits = tuple(Edit(neurons, old="Paris", new=new) for new in ("Rome", "Berlin"))
    return {"suppress": (Suppress(neurons),), "two edits": edits}


def time_experiments(sizes: Sequence[int], rounds: int, json: Path | None) -> None:
    """Time experiments of these numbers of neurons; print a table and keep it as JSON."""
    subject = load_subject(MODEL)
    with atlas.open(ATLAS) as opened:
        prompts = choose_prompts(opened, FACT)
    run(subject, Experiment((Suppress(random_neurons(subject, 1)),), prompts))  # the first run pays for more
    points: list[dict[str, Any]] = []
    for n in sorted(set(sizes)):
        for kind, changes in changes_of(random_neurons(subject, n)).items():
            experiment = Experiment(changes, prompts)
            times = [timed(lambda experiment=experiment: run(subject, experiment))[0] for _ in range(rounds)]
            points.append({"neurons": n, "change": kind, "seconds": statistics.median(times)})
    kinds = list(dict.fromkeys(point["change"] for point in points))
    seconds = {kind: [p["seconds"] for p in points if p["change"] == kind] for kind in kinds}
    rows = [
        [f"{n:,}", *(f"{times[place]:.2f} s" for times in seconds.values())]
        for place, n in enumerate(sorted(set(sizes)))
    ]
    print(f"{MODEL}, {FACT}: {len(prompts)} prompts, {experiment.draws} draws of random neurons\n")
    print(markdown_table(("neurons", *kinds), rows))
    fits = {kind: fit_growth(sorted(set(sizes)), times) for kind, times in seconds.items() if len(times) > 1}
    for kind, fit in fits.items():
        print(
            f"{kind}: {fit.intercept:.2f} s + {1000 * fit.slope:.2f} s a thousand neurons (R² "
            f"{fit.r_squared:.3f}); seconds grow as neurons^{fit.exponent:.2f}"
        )
    print(machine_load())
    write_json(json, {"points": points, "fits": fits})
