"""How few of a fact's neurons give half the effect.

A sceptic's question about Dai et al. (ACL 2022): do all of a fact's knowledge neurons contribute, or only
a few? For facts that have neurons and held-out prompts:

1. *Order.* Its neurons by mean score, the largest first; beside it the same neurons in a random order.
2. *Subsets.* The first k of them are suppressed, k = 1 … n; of more than 40 every k up to 20 and a grid to n.
3. *Effect.* The mean probability of the answer on the held-out prompts, before and with each subset.

The smallest k that gives half the fall follows from these rows: `atlas.queries.subsets.half_effect`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas.neuron import Neuron
from atlas.queries.subsets import LEAST_FALL, RISE, SUBSET_ORDERS, half_effect
from build.evidence.setting import AtlasFact, Setting, chunks

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

EVERY_SIZE = 40
"""Up to so many neurons every k is measured; of more, every k up to `FIRST_SIZES` and a grid."""
FIRST_SIZES = 20
_FACTS_A_SHARD = 8


def units(setting: Setting) -> list[tuple[str, ...]]:
    return chunks([fact.fact_id for fact in setting.sampled("subsets") if fact.held_out], _FACTS_A_SHARD)


def measure(setting: Setting, unit: Sequence[str]) -> list[dict[str, Any]]:
    from atlas.interventions import Suppress

    # Step 3: prompt by prompt, so that its rows share the computation before the answer.
    changed = [
        ((fact.fact_id, order, k), (Suppress(neurons), each.prompt))
        for fact in (setting.by_id[fact_id] for fact_id in unit)
        for each in fact.held_out
        for order, k, neurons in _subsets(setting, fact)
    ]
    predictions = setting.predict_changed([pair for _, pair in changed])
    after: dict[tuple[str, str, int], list[float]] = {}
    for (key, _), prediction in zip(changed, predictions, strict=True):
        after.setdefault(key, []).append(prediction.probability)
    return [
        {
            "fact_id": fact_id,
            "order": order,
            "k": k,
            "n_neurons": len(setting.by_id[fact_id].neurons),
            "p_before": float(np.mean([each.probability for each in setting.by_id[fact_id].held_out])),
            "p_after": float(np.mean(probabilities)),
        }
        for (fact_id, order, k), probabilities in after.items()
    ]


def _subsets(setting: Setting, fact: AtlasFact) -> Iterator[tuple[str, int, tuple[Neuron, ...]]]:
    """Steps 1 and 2: (order, k, the first k neurons in that order)."""
    shuffled = setting.generator("subsets/random", fact.fact_id).permutation(len(fact.neurons))
    orders = {"score": fact.neurons, "random": tuple(fact.neurons[place] for place in shuffled)}
    for order in SUBSET_ORDERS:
        for k in subset_sizes(len(fact.neurons)):
            yield order, k, orders[order][:k]


def subset_sizes(n: int) -> list[int]:
    """How many of n neurons are suppressed: every number, or every small one and a grid that ends with n."""
    if n <= EVERY_SIZE:
        return list(range(1, n + 1))
    grid = np.linspace(FIRST_SIZES, n, EVERY_SIZE - FIRST_SIZES + 1).round().astype(int)[1:]
    return [*range(1, FIRST_SIZES + 1), *(int(k) for k in grid)]


# Summary ---------------------------------------------------------------------------------------------


def summary(atlas: Atlas) -> list[str]:
    rows = half_effect(atlas)
    known = rows[rows["known"]]
    parts = [("all", rows)] * (len(known) < len(rows)) + [("known", known)] * (len(known) > 0)
    lines = [
        f"suppressing all n neurons lowers the answer by {LEAST_FALL:.0%} or more, and half of that takes",
        f"{'':<28} {'k neurons (quartiles)':>24} {'k ÷ n':>14} {'k = 1':>7}"
        f" {'k+1 hurts less':>15} {'fewer than n hurt most':>23}",
    ]
    for name, part in parts:
        for order in SUBSET_ORDERS:
            of_order = part[part["order"] == order]
            falls = of_order[of_order["k_half"].notna()]
            about = f"{name}, {len(falls)} of {len(of_order)} facts, {order}"
            lines.append(f"{about:<28} {_numbers(falls)}" if len(falls) else about)
    return lines


def _numbers(rows: pd.DataFrame) -> str:
    quartiles = [0.25, 0.5, 0.75]
    low, middle, high = rows["k_half"].quantile(quartiles)
    shares = " ".join(f"{share:.0%}" for share in (rows["k_half"] / rows["n_neurons"]).quantile(quartiles))
    fewer_hurt_more = rows["fall_most"] - rows["fall_all"] >= RISE
    return (
        f"{f'{middle:g} ({low:g} to {high:g})':>24} {shares:>14} {(rows['k_half'] == 1).mean():>7.0%}"
        f" {rows['rises'].mean():>15.1%} {fewer_hurt_more.mean():>23.0%}"
    )
