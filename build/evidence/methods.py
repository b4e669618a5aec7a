"""Methods: do other ways to choose a fact's neurons choose the same ones, and do those do as much?

Dai et al. (ACL 2022) choose by integrated gradients and compare with the activation alone; Yu & Ananiadou
(EMNLP 2024) find that other scores choose better. Every choice is made on discovery prompts and judged on
held-out ones.

1. *Score* the discovery prompts by activation, gradient × activation and log-probability increase; integrated
   gradients are in the atlas. The log-probability increase reads every neuron through the whole vocabulary,
   some seconds a prompt: it is taken of a third of the facts, those the sample would begin with.
2. *Choose* as many neurons as the default mode finds ('count'): those whose score, over the largest of its
   prompt, has the largest mean. Scores below a tenth of the largest are not in the atlas and count as
   nothing. Integrated gradients choose in the modes default, paper and replication as well.
3. *Change* them: suppressed and amplified on the held-out prompts, beside how many integrated gradients
   chose, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from atlas.neuron import Neuron
from atlas.refinement import MODES
from build.evidence.ground import Ground, GroundFact, chunks

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

STORED = "integrated_gradients"
QUICK = ("activation", "gradient_x_activation")
SLOW = "log_prob_increase"
METHODS = (STORED, *QUICK, SLOW)
COUNT = "count"
FACTS_A_SHARD = 12
SLOW_FACTS_A_SHARD = 3
SLOW_SHARE = 3
"""Of every so many facts one is scored by the slow method."""

Unit = tuple[str, tuple[str, ...]]
Choices = dict[tuple[str, str], tuple[Neuron, ...]]
"""(method, mode) → the neurons chosen."""


def units(ground: Ground) -> list[Unit]:
    """("quick" or the slow method, fact ids)."""
    usable = _usable(ground)
    fewer = replace(ground, sample=max(1, len(usable) // SLOW_SHARE))
    slow = [fact_id for fact_id in _usable(fewer) if fact_id in set(usable)]
    return [("quick", ids) for ids in chunks(usable, FACTS_A_SHARD)] + [
        (SLOW, ids) for ids in chunks(slow, SLOW_FACTS_A_SHARD)
    ]


def _usable(ground: Ground) -> list[str]:
    return [fact.fact_id for fact in ground.sampled("methods") if fact.discovery and fact.held_out]


def measure(ground: Ground, unit: Unit) -> list[dict[str, Any]]:
    kind, ids = unit
    facts = [ground.by_id[fact_id] for fact_id in ids]
    stored = stored_choices(ground, facts)
    methods = QUICK if kind == "quick" else (kind,)
    scored = {method: _scores(ground, facts, method) for method in methods}
    choices: dict[str, Choices] = {}
    for fact in facts:
        count = len(stored[fact.fact_id][STORED, "default"])
        choices[fact.fact_id] = dict(stored[fact.fact_id]) if kind == "quick" else {}
        for method in methods:
            choices[fact.fact_id][method, COUNT] = largest(scored[method][fact.fact_id], count)
    return _rows(ground, facts, choices, stored)


# Steps 1 and 2: score, choose ------------------------------------------------------------------------


def _scores(ground: Ground, facts: Sequence[GroundFact], method: str) -> dict[str, np.ndarray]:
    """Fact id → scores of its discovery prompts, (n_prompts, n_layers, n_neurons)."""
    from atlas.attribution.attribution import attribute

    prompts = [each.prompt for fact in facts for each in fact.discovery]
    ground.batches.note = ground.note
    results = ground.batches.run(
        lambda: attribute(ground.subject, prompts, method=method, batch_rows=ground.batches.rows)
    )
    scores = iter(result.scores for result in results)
    return {fact.fact_id: np.stack([next(scores) for _ in fact.discovery]) for fact in facts}


def largest(scores: np.ndarray, count: int) -> tuple[Neuron, ...]:
    """The `count` neurons of the largest mean score, each prompt's as a share of its largest.

    scores: (n_prompts, n_layers, n_neurons). A prompt without a positive score counts as nothing.
    """
    most = scores.max(axis=(1, 2), keepdims=True)
    mean = np.where(most > 0, scores / np.where(most > 0, most, 1), 0).mean(axis=0)
    order = np.argsort(-mean, axis=None, kind="stable")[:count]
    return tuple(sorted(Neuron(int(i // mean.shape[1]), int(i % mean.shape[1])) for i in order))


def stored_choices(ground: Ground, facts: Sequence[GroundFact]) -> dict[str, Choices]:
    """Fact id → what integrated gradients choose in each mode, from the stored scores alone."""
    ids = pa.array([fact.fact_id for fact in facts], pa.string())
    found: dict[str, Choices] = {fact.fact_id: {} for fact in facts}
    for mode, rows in ground.refined.items():
        for fact_id, neurons in _by_fact(rows.filter(pc.is_in(rows["fact_id"], ids))).items():
            found[fact_id][STORED, mode] = neurons
    attributions = ground.scores[0]
    attributions = attributions.filter(pc.is_in(attributions["fact_id"], ids)).to_pandas()
    for fact in facts:
        choices = found[fact.fact_id]
        for mode in MODES:
            choices.setdefault((STORED, mode), ())
        rows = attributions[attributions["fact_id"] == fact.fact_id]
        choices[STORED, COUNT] = _largest_stored(fact, rows, len(choices[STORED, "default"]))
    return found


def _by_fact(rows: pa.Table) -> Mapping[str, tuple[Neuron, ...]]:
    neurons: dict[str, list[Neuron]] = defaultdict(list)
    columns = (rows[name].to_pylist() for name in ("fact_id", "layer", "neuron"))
    for fact_id, layer, neuron in zip(*columns, strict=True):
        neurons[fact_id].append(Neuron(layer, neuron))
    return {fact_id: tuple(sorted(each)) for fact_id, each in neurons.items()}


def _largest_stored(fact: GroundFact, rows: pd.DataFrame, count: int) -> tuple[Neuron, ...]:
    """`largest` of stored scores; the mean is over as many prompts for each neuron, so a sum will do."""
    rows = rows[rows["template_id"].isin([each.prompt.template_id for each in fact.discovery])]
    score = rows["score"].astype(float)
    relative = score / score.groupby(rows["template_id"]).transform("max")
    total = relative.groupby([rows["layer"], rows["neuron"]]).sum().reset_index(name="total")
    first = total.sort_values(["total", "layer", "neuron"], ascending=[False, True, True])[:count]
    return tuple(sorted(Neuron(int(a), int(b)) for a, b in zip(first["layer"], first["neuron"], strict=True)))


# Step 3: change --------------------------------------------------------------------------------------


def _rows(
    ground: Ground,
    facts: Sequence[GroundFact],
    choices: Mapping[str, Choices],
    stored: Mapping[str, Choices],
) -> list[dict[str, Any]]:
    from build.jobs.trials import INTERVENTIONS

    asked = [
        (neurons, name, each.prompt)
        for fact in facts
        for neurons in choices[fact.fact_id].values()
        if neurons
        for name in INTERVENTIONS
        for each in fact.held_out
    ]
    said = iter(
        ground.predict(
            [prompt for _, _, prompt in asked], [INTERVENTIONS[name](neurons) for neurons, name, _ in asked]
        )
    )
    rows = []
    for fact in facts:
        before = float(np.mean([each.probability for each in fact.held_out]))
        for (method, mode), neurons in choices[fact.fact_id].items():
            after = {
                name: float(np.mean([next(said).probability for _ in fact.held_out])) if neurons else before
                for name in INTERVENTIONS
            }
            rows.append(
                {
                    "fact_id": fact.fact_id,
                    "method": method,
                    "mode": mode,
                    "n_neurons": len(neurons),
                    "shared": len(set(neurons) & set(stored[fact.fact_id][STORED, mode])),
                    "p_before": before,
                    "p_suppressed": after["suppress"],
                    "p_amplified": after["amplify"],
                }
            )
    return rows


# Summary ---------------------------------------------------------------------------------------------


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query("SELECT * FROM methods")
    if rows.empty:
        return ["no fact has neurons and held-out prompts"]
    # The slow method has fewer facts, so all methods are compared on those, too.
    slow = rows[rows["fact_id"].isin(rows.loc[rows["method"] == SLOW, "fact_id"])]
    lines = _table("held-out prompts, integrated gradients", rows[rows["method"] == STORED])
    lines += _table("as many neurons, by other methods", rows[rows["mode"] == COUNT])
    if len(slow) < len(rows):
        lines += _table("the same on the facts that all methods have", slow[slow["mode"] == COUNT])
    return lines


def _table(title: str, rows: pd.DataFrame) -> list[str]:
    lines = [f"{title:<48}{'facts':>7}{'neurons':>9}{'overlap':>9}{'suppress':>10}{'amplify':>9}"]
    modes = (*MODES, COUNT)
    for method in METHODS:
        for mode in modes:
            part = rows[(rows["method"] == method) & (rows["mode"] == mode)]
            if len(part) == 0:
                continue
            some = part[part["n_neurons"] > 0]
            overlap = f"{(some['shared'] / some['n_neurons']).mean():.0%}" if len(some) else "-"
            before = part["p_before"].mean()
            changes = [part[name].mean() / before - 1 for name in ("p_suppressed", "p_amplified")]
            lines.append(
                f"  {f'{method}, {mode}':<46}{len(part):>7,}{part['n_neurons'].mean():>9.1f}"
                f"{overlap:>9}{changes[0]:>+10.1%}{changes[1]:>+9.1%}"
            )
    return lines
