"""Read value vectors through the unembedding: the tokens that a neuron promotes and suppresses.

    readout(subject, [Neuron(9, 2141)], k=5)[0].promoted      # ((" Baku", 1.8), …)

A neuron writes its activation times its value vector into the residual stream, so the value vector's
product with the unembedding is how much it raises or lowers each token (Geva et al., EMNLP 2022,
"Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary Space").
A final norm's gain is applied, its centring and scale are not: they depend on everything else
in the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from atlas.interventions import Suppress
from atlas.models.known import OnProgress
from atlas.neuron import Neuron, Prompt
from atlas.surgery.interventions import check_interventions
from atlas.surgery.loaded import LoadedModel


@dataclass(frozen=True)
class Readout:
    """The tokens a neuron promotes and suppresses most, with the logit of one unit of activation."""

    neuron: Neuron
    value_norm: float
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]

    def at(self, activation: float) -> Readout:
        """As the neuron acts with this activation: below zero it raises what its value vector lowers."""
        if activation >= 0:
            return self
        raised, lowered = (
            tuple((token, -logit) for token, logit in side) for side in (self.suppressed, self.promoted)
        )
        return replace(self, promoted=raised, suppressed=lowered)


def mean_activations(
    subject: LoadedModel, prompts: Sequence[Prompt], neurons: Sequence[Neuron]
) -> tuple[float, ...]:
    """Each neuron's mean activation over the prompts, at the first answer position."""
    means = subject.activations(prompts).mean(dim=0)
    return tuple(float(means[each.layer, each.neuron]) for each in neurons)


@torch.no_grad()
def nearest_values(
    subject: LoadedModel, neuron: Neuron, *, k: int = 12, progress: OnProgress | None = None
) -> tuple[tuple[Readout, float], ...]:
    """The `k` neurons of the model whose value vectors point most nearly where this one's does, or away from
    there, each with the cosine of the two.

    ``progress(share, message)`` may raise to stop. Raises `AtlasError` for a neuron that the model does not
    have.
    """
    check_interventions(subject, Suppress((neuron,)))
    own = subject.family.value_vectors(subject.model, neuron.layer)[neuron.neuron].float()
    found: list[tuple[Neuron, float]] = []
    for layer in range(subject.n_layers):
        if progress is not None:
            progress(layer / subject.n_layers, f"layer {layer}")
        values = subject.family.value_vectors(subject.model, layer).float()
        of_layer = torch.nn.functional.cosine_similarity(values, own[None])
        largest = of_layer.abs().topk(min(k + 1, len(of_layer))).indices.tolist()
        found += [(Neuron(layer, index), float(of_layer[index])) for index in largest]
    found = [each for each in found if each[0] != neuron]
    nearest = sorted(found, key=lambda each: -abs(each[1]))[:k]
    cosines = [cosine for _, cosine in nearest]
    return tuple(zip(readout(subject, [each for each, _ in nearest]), cosines, strict=True))


@torch.no_grad()
def readout(
    subject: LoadedModel, neurons: Sequence[Neuron], *, k: int = 10, batch: int = 256
) -> list[Readout]:
    """One `Readout` a neuron, in the order given; `k` tokens on either side."""
    family, model = subject.family, subject.model
    embeddings = family.token_embeddings(model).float()  # (n_tokens, d_model)
    gain = 1.0
    for module in family.final_modules(model)[:1]:
        weight = getattr(module, "weight", None)  # some norms have none
        if weight is not None and weight.dim() == 1:
            gain = weight.float() + family.gain_offset
    results: list[Readout] = []
    for start in range(0, len(neurons), batch):
        chosen = neurons[start : start + batch]
        values = torch.stack([family.value_vectors(model, n.layer)[n.neuron].float() for n in chosen])
        logits = (values * gain) @ embeddings.T  # (n_chosen, n_tokens)
        highest, lowest = logits.topk(k), (-logits).topk(k)
        norms = values.norm(dim=1)
        for row, neuron in enumerate(chosen):
            results.append(
                Readout(
                    neuron=neuron,
                    value_norm=float(norms[row]),
                    promoted=tuple(
                        (subject.token_text(t), v)
                        for t, v in zip(
                            highest.indices[row].tolist(), highest.values[row].tolist(), strict=True
                        )
                    ),
                    suppressed=tuple(
                        (subject.token_text(t), -v)
                        for t, v in zip(
                            lowest.indices[row].tolist(), lowest.values[row].tolist(), strict=True
                        )
                    ),
                )
            )
    return results
