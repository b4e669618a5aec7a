"""What a BERT says when activations are multiplied by hooks of the tests' own, not by the library's.

probability_scaled(subject, prompt, neurons, factor=0)       # of a one-token answer, at its [MASK]
"""

from __future__ import annotations

import torch


def probability_scaled(subject, prompt, neurons, factor: float) -> float:
    """The answer's probability with these inputs of the down-projections × factor at the answer's place."""
    encoded = subject.encode(prompt)
    (position,), (target,) = encoded.positions, encoded.targets

    def scaling(layer):
        def hook(module, inputs):
            values = inputs[0].clone()
            values[0, position, [n.neuron for n in neurons if n.layer == layer]] *= factor
            return (values,)

        return hook

    handles = [
        block.output.dense.register_forward_pre_hook(scaling(index))
        for index, block in enumerate(subject.model.bert.encoder.layer)
    ]
    try:
        with torch.no_grad():
            logits = subject.model(torch.tensor([encoded.input_ids])).logits
    finally:
        for handle in handles:
            handle.remove()
    return float(logits[0, position].softmax(-1)[target])
