"""What a BERT says when activations are multiplied by hooks of the tests' own, not by the library's.

probability_scaled(subject, prompt, neurons, factor=0)       # of the answer, at its [MASK]s
"""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch


def probability_scaled(subject, prompt, neurons, factor: float, means=None) -> float:
    """The answer's probability with these inputs of the down-projections × factor at the answer's places.

    means: (n_layers, n_neurons); with it they are set to these numbers.
    """
    encoded = subject.encode(prompt)
    chances = logits_scaled(subject, prompt, neurons, factor, means).softmax(-1)
    return math.prod(
        float(chances[at, token]) for at, token in zip(encoded.positions, encoded.targets, strict=True)
    )


def logits_scaled(subject, prompt, neurons, factor: float, means=None) -> torch.Tensor:
    """The logits at every place, (n_tokens of the prompt, n_tokens of the vocabulary)."""
    encoded = subject.encode(prompt)

    def scaling(layer):
        def hook(module, inputs):
            values = inputs[0].clone()
            here = [n.neuron for n in neurons if n.layer == layer]
            for position in encoded.positions:
                if means is None:
                    values[0, position, here] *= factor
                else:
                    values[0, position, here] = torch.tensor(means[layer, here])
            return (values,)

        return hook

    handles = [
        block.output.dense.register_forward_pre_hook(scaling(index))
        for index, block in enumerate(subject.model.bert.encoder.layer)
    ]
    try:
        with torch.no_grad():
            return subject.model(torch.tensor([encoded.input_ids])).logits[0].float()
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def down_projections(subject):
    """The weights of every layer's down-projection, to be changed; afterwards they are as before."""
    weights = [layer.output.dense.weight for layer in subject.model.bert.encoder.layer]
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        try:
            yield weights
        finally:
            for weight, kept in zip(weights, before, strict=True):
                weight.copy_(kept)
