"""The prompts on which each neuron is most and least active, kept while prompts stream by.

    kept = ActivatingPrompts(layers, neurons)
    kept.update(activations, rows)           # activations of these prompts; or, of a part made elsewhere,
    kept.merge(part)                         # part = the `packed()` of another
    kept.table(fact_ids, template_ids)       # the table `activating_prompts`

Parts must come in the order of their prompts: of equal activations the earlier prompt wins.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

ACTIVATING_PROMPTS = 5


class ActivatingPrompts:
    """The `k` prompts of both sides, arrays of (2, n_neurons, k); side 1 holds negated activations.

    layers, neurons: (n_neurons,) each. Where there are fewer prompts, values are −∞ and prompts −1.
    """

    def __init__(self, layers: np.ndarray, neurons: np.ndarray, *, k: int = ACTIVATING_PROMPTS) -> None:
        self.k = k
        self.layers, self.neurons = np.asarray(layers), np.asarray(neurons)
        self.values = np.full((2, len(self.neurons), k), -np.inf, np.float32)
        self.prompts = np.full((2, len(self.neurons), k), -1, np.int64)
        self.next_shard = 0
        self.seconds = 0.0

    def update(self, activations: np.ndarray, prompts: np.ndarray) -> None:
        """activations (n_prompts, n_layers, n_neurons of a layer) of the prompts with these numbers."""
        chosen = activations[:, self.layers, self.neurons].T  # (n_neurons, n_prompts)
        for side, new in enumerate((chosen, -chosen)):
            self._keep(side, new, np.broadcast_to(prompts, new.shape))

    def packed(self) -> pa.Table:
        """What was kept, for `merge`."""
        return pa.table({"value": self.values.ravel(), "prompt": self.prompts.ravel()})

    def merge(self, part: pa.Table) -> None:
        """Keep what the next part of the prompts kept for the same neurons."""
        values, prompts = (
            part[name].to_numpy().reshape(2, len(self.neurons), -1) for name in ("value", "prompt")
        )
        for side in range(2):
            self._keep(side, values[side], prompts[side])

    def _keep(self, side: int, new: np.ndarray, prompts: np.ndarray) -> None:
        values = np.concatenate([self.values[side], new], axis=1)
        numbers = np.concatenate([self.prompts[side], prompts], axis=1)
        for place in range(self.k):
            best = values.argmax(axis=1)[:, None]  # the first of equal ones, so the earliest prompt
            self.values[side, :, place] = np.take_along_axis(values, best, 1)[:, 0]
            self.prompts[side, :, place] = np.take_along_axis(numbers, best, 1)[:, 0]
            np.put_along_axis(values, best, -np.inf, 1)
            np.put_along_axis(numbers, best, -1, 1)

    def save(self, file: BinaryIO) -> None:
        np.savez(
            file,
            values=self.values,
            prompts=self.prompts,
            next_shard=self.next_shard,
            seconds=self.seconds,
        )

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        with np.load(path, allow_pickle=False) as state:
            self.values, self.prompts = state["values"], state["prompts"]
            self.next_shard, self.seconds = int(state["next_shard"]), float(state["seconds"])

    def table(self, fact_ids: pa.Array, template_ids: pa.Array) -> pa.Table:
        """The table `activating_prompts`; prompt numbers index both arrays."""
        parts = []
        for side, name in enumerate(("top", "bottom")):
            neuron, place = np.nonzero(self.prompts[side] >= 0)
            number = pa.array(self.prompts[side, neuron, place])
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
                    }
                )
            )
        return pa.concat_tables(parts)
