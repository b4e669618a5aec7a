"""What neurons do, kept while prompts stream by: where each is most and least active, and its means.

    kept = ActivatingPrompts(layers, neurons, facts, relations)
    kept.update(activations, rows)           # activations of these prompts; or, of a part made elsewhere,
    kept.merge(part, first)                  # part = the `packed()` of another, whose prompt 0 is `first`
    kept.pairs(), kept.table(…)              # what to read token by token, and the table `activating_prompts`
    mean_activations(activations, facts, discovery, pairs)

Of each fact at most one prompt is kept, and of each relation three, so that a neuron is shown on more than
one thing. What a part leaves out, the whole would leave out, too: what keeps a prompt out of its part keeps
it out of all. Parts must come in the order of their prompts: of equal activations the earlier prompt wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

ACTIVATING_PROMPTS = 5
PROMPTS_A_RELATION = 3


class ActivatingPrompts:
    """The `k` prompts of both sides, arrays of (2, n_neurons, k); side 1 holds negated activations.

    layers, neurons: (n_neurons,) each; facts, relations: (n_prompts,) each, by a prompt's number its fact and
    its relation, as numbers from 0. Where there are fewer prompts, values are −∞ and prompts −1.
    """

    def __init__(
        self,
        layers: np.ndarray,
        neurons: np.ndarray,
        facts: np.ndarray,
        relations: np.ndarray,
        *,
        k: int = ACTIVATING_PROMPTS,
    ) -> None:
        self.k = k
        self.layers, self.neurons = np.asarray(layers), np.asarray(neurons)
        # Prompt −1, which is none, is the last entry.
        self.facts, self.relations = np.append(facts, -1), np.append(relations, -1)
        self.values = np.full((2, len(self.neurons), k), -np.inf, np.float32)
        self.prompts = np.full((2, len(self.neurons), k), -1, np.int64)

    def update(self, activations: np.ndarray, prompts: np.ndarray) -> None:
        """activations (n_prompts, n_layers, n_neurons of a layer) of the prompts with these numbers."""
        chosen = activations[:, self.layers, self.neurons].T  # (n_neurons, n_prompts)
        for side, new in enumerate((chosen, -chosen)):
            self._keep(side, new, np.broadcast_to(prompts, new.shape))

    def packed(self) -> dict[str, list[np.ndarray]]:
        """What was kept, for `merge`: columns of one row."""
        return {"value": [self.values.ravel()], "prompt": [self.prompts.ravel()]}

    def merge(self, part: pa.Table, first: int) -> None:
        """Keep what the next part of the prompts, from number `first` on, kept for the same neurons."""
        values, prompts = (only_row(part, name).reshape(self.values.shape) for name in ("value", "prompt"))
        prompts = np.where(prompts >= 0, prompts + first, -1)
        for side in range(2):
            self._keep(side, values[side], prompts[side])

    def _keep(self, side: int, new: np.ndarray, prompts: np.ndarray) -> None:
        values = np.concatenate([self.values[side], new], axis=1)
        numbers = np.concatenate([self.prompts[side], prompts], axis=1)
        facts, relations = self.facts[numbers], self.relations[numbers]
        taken = np.full((len(values), self.k), -1)  # the relations of the places so far
        for place in range(self.k):
            best = values.argmax(axis=1)[:, None]  # the first of equal ones, so the earliest prompt
            value, number, fact, relation = (
                np.take_along_axis(each, best, 1) for each in (values, numbers, facts, relations)
            )
            self.values[side, :, place] = value[:, 0]
            self.prompts[side, :, place] = np.where(np.isfinite(value), number, -1)[:, 0]
            taken[:, place] = relation[:, 0]
            full = (taken == relation).sum(axis=1, keepdims=True) >= PROMPTS_A_RELATION
            values[(facts == fact) | (full & (relations == relation))] = -np.inf

    def pairs(self) -> np.ndarray:
        """Every (prompt, neuron) that was kept, once and in order: number and place, (n_pairs, 2)."""
        kept = self.prompts >= 0
        return np.unique(np.stack([self.prompts[kept], np.nonzero(kept)[1]], axis=1), axis=0)

    def table(self, fact_ids: pa.Array, template_ids: pa.Array, tokens: pa.Table) -> pa.Table:
        """The table `activating_prompts`.

        Prompt numbers index both arrays; tokens: the columns of a prompt's tokens, a row for each of `pairs`.
        """
        parts = []
        pairs = self.pairs() @ [len(self.neurons), 1]  # as one number each, still in order
        for side, name in enumerate(("top", "bottom")):
            neuron, place = np.nonzero(self.prompts[side] >= 0)
            prompt = self.prompts[side, neuron, place]
            number = pa.array(prompt)
            of_pair = tokens.take(np.searchsorted(pairs, prompt * len(self.neurons) + neuron))
            activation = self.values[side, neuron, place]
            parts.append(
                pa.table(
                    {
                        "layer": self.layers[neuron],
                        "neuron": self.neurons[neuron],
                        "side": pa.array([name] * len(neuron), pa.string()),
                        "rank": place + 1,
                        "fact_id": fact_ids.take(number),
                        "template_id": template_ids.take(number),
                        "activation": activation if side == 0 else -activation,
                        **{name: of_pair[name] for name in of_pair.column_names},
                    }
                )
            )
        return pa.concat_tables(parts)


def only_row(part: pa.Table, column: str) -> np.ndarray:
    """The numbers of a list column of a table of one row."""
    return part[column].combine_chunks().values.to_numpy()


def mean_activations(
    activations: np.ndarray, facts: np.ndarray, discovery: np.ndarray, pairs: np.ndarray
) -> np.ndarray:
    """Each pair's mean activation over its fact's discovery prompts, (n_pairs,).

    activations: (n_prompts, n_layers, n_neurons); facts, discovery: (n_prompts,), each prompt's fact and
    whether it is a discovery prompt; pairs: (n_pairs, 3), fact, layer and neuron.
    """
    means = np.empty(len(pairs), np.float32)
    for fact in np.unique(pairs[:, 0]):
        chosen = pairs[:, 0] == fact
        _, layers, neurons = pairs[chosen].T
        found = activations[(facts == fact) & discovery][:, layers, neurons]  # (n_discovery, n_of_fact)
        means[chosen] = found.mean(axis=0, dtype=np.float64)
    return means


@dataclass
class RunningActivations:
    """What was kept of the first `next_shard` shards, and how long they took.

    means: (n_pairs,), of the knowledge neurons in their order.
    """

    kept: ActivatingPrompts
    means: np.ndarray
    next_shard: int = 0
    seconds: float = 0.0

    def save(self, file: BinaryIO) -> None:
        np.savez(
            file,
            values=self.kept.values,
            prompts=self.kept.prompts,
            means=self.means,
            next_shard=self.next_shard,
            seconds=self.seconds,
        )

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        with np.load(path, allow_pickle=False) as state:
            self.kept.values, self.kept.prompts = state["values"], state["prompts"]
            self.means = state["means"]
            self.next_shard, self.seconds = int(state["next_shard"]), float(state["seconds"])
