"""Methods: do other scores choose the same neurons for a fact, and do their neurons have the same effect?

Dai et al. (ACL 2022) choose by integrated gradients and compare with the activation alone; Yu & Ananiadou
(EMNLP 2024) find that other scores choose better. Neurons are chosen on discovery prompts and evaluated on
held-out ones.

1. *Score* the discovery prompts by activation, gradient × activation and log-probability increase; integrated
   gradients are in the atlas. The log-probability increase projects every neuron onto the whole vocabulary,
   some seconds a prompt: it scores a third of the facts, those that a smaller sample would have.
2. *Choose* as many neurons as the default mode finds ('count'): those of the largest mean score, each
   prompt's as a share of its largest. Scores below a tenth of the largest are not in the atlas and count as
   zero. Integrated gradients choose in the modes default, paper and replication as well.
3. *Change* them: suppressed and amplified on the held-out prompts, beside how many integrated gradients
   share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from atlas.neuron import Neuron
from atlas.refinement import MODES
from build.evidence.setting import AtlasFact, Setting, chunks, top_neurons
from build.jobs.evaluation import INTERVENTION_BY_NAME
from build.output.tables import neurons_by_fact

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

STORED = "integrated_gradients"
QUICK = ("activation", "gradient_x_activation")
SLOW = "log_prob_increase"
COMPARED_METHODS = (STORED, *QUICK, SLOW)
COUNT = "count"
SLOW_SHARE = 3
"""The slow method scores one fact in so many."""
_FACTS_A_SHARD = 12
_SLOW_FACTS_A_SHARD = 3

_Unit = tuple[str, tuple[str, ...]]
Choices = dict[tuple[str, str], tuple[Neuron, ...]]
"""(method, mode) → the neurons chosen."""


def units(setting: Setting) -> list[_Unit]:
    """("quick" or the slow method, fact ids)."""
    usable = _usable(setting)
    fewer = replace(setting, sample=max(1, len(usable) // SLOW_SHARE))
    slow = [fact_id for fact_id in _usable(fewer) if fact_id in set(usable)]
    return [("quick", ids) for ids in chunks(usable, _FACTS_A_SHARD)] + [
        (SLOW, ids) for ids in chunks(slow, _SLOW_FACTS_A_SHARD)
    ]


def _usable(setting: Setting) -> list[str]:
    return [fact.fact_id for fact in setting.sampled("methods") if fact.discovery and fact.held_out]


def measure(setting: Setting, unit: _Unit) -> list[dict[str, Any]]:
    kind, ids = unit
    facts = [setting.by_id[fact_id] for fact_id in ids]
    stored = stored_choices(setting, facts)
    methods = QUICK if kind == "quick" else (kind,)
    scored = {method: _scores(setting, facts, method) for method in methods}
    choices: dict[str, Choices] = {}
    for fact in facts:
        count = len(stored[fact.fact_id][STORED, "default"])
        choices[fact.fact_id] = dict(stored[fact.fact_id]) if kind == "quick" else {}
        for method in methods:
            choices[fact.fact_id][method, COUNT] = choose_by_score(scored[method][fact.fact_id], count)
    return _rows(setting, facts, choices, stored)


# Steps 1 and 2: score, choose ------------------------------------------------------------------------


def _scores(setting: Setting, facts: Sequence[AtlasFact], method: str) -> dict[str, np.ndarray]:
    """Fact id → scores of its discovery prompts, (n_prompts, n_layers, n_neurons)."""
    prompts = [each.prompt for fact in facts for each in fact.discovery]
    scores = iter(setting.attribute(prompts, method=method))
    return {fact.fact_id: np.stack([next(scores) for _ in fact.discovery]) for fact in facts}


def choose_by_score(scores: np.ndarray, count: int) -> tuple[Neuron, ...]:
    """The `count` neurons of the largest mean score, each prompt's as a share of its largest.

    scores: (n_prompts, n_layers, n_neurons). A prompt without a positive score counts as zeros.
    """
    most = scores.max(axis=(1, 2), keepdims=True)
    mean = np.where(most > 0, scores / np.where(most > 0, most, 1), 0).mean(axis=0)
    return top_neurons(mean, count)


def stored_choices(setting: Setting, facts: Sequence[AtlasFact]) -> dict[str, Choices]:
    """Fact id → what integrated gradients choose in each mode, from the stored scores alone."""
    ids = pa.array([fact.fact_id for fact in facts], pa.string())
    found: dict[str, Choices] = {fact.fact_id: {} for fact in facts}
    for mode, rows in setting.refined.items():
        for fact_id, neurons in neurons_by_fact(rows.filter(pc.is_in(rows["fact_id"], ids))).items():
            found[fact_id][STORED, mode] = neurons
    attributions = setting.scores[0]
    attributions = attributions.filter(pc.is_in(attributions["fact_id"], ids)).to_pandas()
    for fact in facts:
        choices = found[fact.fact_id]
        for mode in MODES:
            choices.setdefault((STORED, mode), ())
        rows = attributions[attributions["fact_id"] == fact.fact_id]
        choices[STORED, COUNT] = _largest_stored(fact, rows, len(choices[STORED, "default"]))
    return found


def _largest_stored(fact: AtlasFact, rows: pd.DataFrame, count: int) -> tuple[Neuron, ...]:
    """`choose_by_score` of stored scores, by sums: every neuron's mean is over the same number of prompts."""
    rows = rows[rows["template_id"].isin([each.prompt.template_id for each in fact.discovery])]
    score = rows["score"].astype(float)
    relative = score / score.groupby(rows["template_id"]).transform("max")
    total = relative.groupby([rows["layer"], rows["neuron"]]).sum().reset_index(name="total")
    first = total.sort_values(["total", "layer", "neuron"], ascending=[False, True, True])[:count]
    return tuple(sorted(Neuron(int(a), int(b)) for a, b in zip(first["layer"], first["neuron"], strict=True)))


# Step 3: change --------------------------------------------------------------------------------------


def _rows(
    setting: Setting,
    facts: Sequence[AtlasFact],
    choices: Mapping[str, Choices],
    stored: Mapping[str, Choices],
) -> list[dict[str, Any]]:
    pairs = [
        (intervention(neurons), each.prompt)
        for fact in facts
        for neurons in choices[fact.fact_id].values()
        if neurons
        for intervention in INTERVENTION_BY_NAME.values()
        for each in fact.held_out
    ]
    predictions = setting.predict_changed(pairs)
    rows = []
    for fact in facts:
        before = float(np.mean([each.probability for each in fact.held_out]))
        for (method, mode), neurons in choices[fact.fact_id].items():
            after = {
                name: float(np.mean([next(predictions).probability for _ in fact.held_out]))
                if neurons
                else before
                for name in INTERVENTION_BY_NAME
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
    for method in COMPARED_METHODS:
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
