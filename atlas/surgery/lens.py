"""What a model would answer if it ended after each of its layers: the logit lens.

    lens(subject, prompts)[0].layers[5].probability     # of the answer's first token, after layer 5

The state at the first answer position after each layer goes through the model's own end: the final norm and
the head, in masked models the prediction head (nostalgebraist, "interpreting GPT: the logit lens", 2020).
After the last layer this is the model's prediction. The end was trained for that layer's states: what it
reads in early ones is unreliable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atlas.neuron import Prompt
from atlas.surgery.hooks import recording
from atlas.surgery.loaded import Encoded, LoadedModel, TokenPrediction, batches, token_predictions


@dataclass(frozen=True)
class Lens:
    """The prediction of the answer's first token after each layer of the model, from layer 0 to the last."""

    prompt: Prompt
    layers: tuple[TokenPrediction, ...]


@torch.no_grad()
def lens(
    subject: LoadedModel, prompts: Sequence[Prompt | Encoded], *, top_k: int = 3, batch_tokens: int = 2048
) -> list[Lens]:
    """One `Lens` a prompt, in their order; `top_k` likeliest tokens a layer."""
    model, family = subject.model, subject.family
    encoded = [subject.unanswered(subject.encode(prompt)) for prompt in prompts]
    results: dict[int, Lens] = {}
    for batch in batches(encoded, batch_tokens):
        input_ids, positions, targets, _ = subject.tensors([encoded[index] for index in batch])
        first, rows = positions[:, 0], torch.arange(len(batch), device=subject.device)
        with subject.lock:
            with recording(model, family, positions[:, :1], outputs=True) as trace:
                model.base_model(input_ids, **subject.forward_options())
            by_layer = [
                token_predictions(
                    subject,
                    family.logits(model, trace.outputs[layer][rows, first]),
                    targets[:, 0],
                    top_k=top_k,
                )
                for layer in range(subject.n_layers)
            ]
        for index, layers in zip(batch, zip(*by_layer, strict=True), strict=True):
            results[index] = Lens(encoded[index].prompt, layers)
    return [results[index] for index in range(len(encoded))]
