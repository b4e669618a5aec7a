"""Integrated gradients the plain way: one layer at a time, every token through the whole model.

    scores = plain_scores(model, input_ids, position, target, rule=endpoints(20))    # (n_layers, n_neurons)

What `atlas.attribution.attribution` must equal, and what `python -m build bench` times it against. It does
what EleutherAI's `knowledge_neurons` does, and shares no line with the package `atlas`, of which it imports
nothing.

1. Record w, the inputs of every layer's feed-forward down-projection at the answer position.
2. For each layer, run the whole model on `rows` copies of the prompt, in which that layer's w is replaced by
   α·w, an α for each copy; P(α) is the softmax at the answer position.
3. The score of neuron i is w_i · Σ_k weight_k · ∂P/∂w_i (α_k · w).

Where the originals waste work by accident, this loop does not: one recording pass serves all layers, no cache
of keys and values is kept, and gradients run only from the replaced activation upward (the parameters need
none).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class PlainRule:
    """Points on [0, 1] and their weights."""

    alphas: tuple[float, ...]
    weights: tuple[float, ...]


def endpoints(n: int = 20) -> PlainRule:
    """The replication's rule: n points from 0 to 1, both included, divided by n."""
    return PlainRule(tuple(k / (n - 1) for k in range(n)), (1 / n,) * n)


def _below(layers: str, down_projection: str) -> Callable[[PreTrainedModel], list[nn.Module]]:
    """The module of that name in each layer."""
    return lambda model: [
        layer.get_submodule(down_projection) for layer in operator.attrgetter(layers)(model)
    ]


def _albert(model: PreTrainedModel) -> list[nn.Module]:
    """One module, called at every depth."""
    (group,) = model.albert.encoder.albert_layer_groups
    (layer,) = group.albert_layers
    return [layer.ffn_output] * model.config.num_hidden_layers


_DOWN_PROJECTIONS: dict[str, Callable[[PreTrainedModel], list[nn.Module]]] = {
    "BertForMaskedLM": _below("bert.encoder.layer", "output.dense"),
    "RobertaForMaskedLM": _below("roberta.encoder.layer", "output.dense"),
    "XLMRobertaForMaskedLM": _below("roberta.encoder.layer", "output.dense"),
    "CamembertForMaskedLM": _below("roberta.encoder.layer", "output.dense"),
    "ElectraForMaskedLM": _below("electra.encoder.layer", "output.dense"),
    "DistilBertForMaskedLM": _below("distilbert.transformer.layer", "ffn.lin2"),
    "AlbertForMaskedLM": _albert,
    "ModernBertForMaskedLM": _below("model.layers", "mlp.Wo"),
    "GPT2LMHeadModel": _below("transformer.h", "mlp.c_proj"),
    "GPTNeoForCausalLM": _below("transformer.h", "mlp.c_proj"),
    "GPTJForCausalLM": _below("transformer.h", "mlp.fc_out"),
    "GPTNeoXForCausalLM": _below("gpt_neox.layers", "mlp.dense_4h_to_h"),
    "BloomForCausalLM": _below("transformer.h", "mlp.dense_4h_to_h"),
    "OPTForCausalLM": _below("model.decoder.layers", "fc2"),
    "Starcoder2ForCausalLM": _below("model.layers", "mlp.c_proj"),
    "PhiForCausalLM": _below("model.layers", "mlp.fc2"),
    "Gemma3ForConditionalGeneration": _below("model.language_model.layers", "mlp.down_proj"),
}
_LLAMA_LIKE = _below("model.layers", "mlp.down_proj")


def down_projections(model: PreTrainedModel) -> list[nn.Module]:
    """The module of each layer whose input holds the neurons; it may be the same at several depths."""
    return _DOWN_PROJECTIONS.get(type(model).__name__, _LLAMA_LIKE)(model)


@contextmanager
def replaced_activations(
    modules: list[nn.Module], layer: int, position: int, activation: Tensor
) -> Iterator[None]:
    """Inside, the layer's module reads `activation` (n_rows, n_neurons) at `position`, as before elsewhere.

    For one forward pass: of a module that serves several depths, only the call that belongs to this one.
    """
    own = sum(module is modules[layer] for module in modules[:layer])
    calls = count()

    def replace(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if next(calls) != own:
            return inputs
        changed = inputs[0].clone()
        # OPT lays the tokens of all rows end to end.
        changed.view(len(activation), -1, changed.shape[-1])[:, position] = activation
        return (changed, *inputs[1:])

    handle = modules[layer].register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def answer_probability(model: PreTrainedModel, input_ids: Tensor, position: int, target: int) -> Tensor:
    """Of `target` at `position`, for every row of `input_ids` (n_rows, n_tokens): (n_rows,)."""
    logits = model(input_ids=input_ids, **({"use_cache": False} if model.can_generate() else {})).logits
    answer = logits[:, position]
    return torch.softmax(answer, dim=-1, dtype=_summed_in(answer))[:, target]


def _summed_in(tensor: Tensor) -> torch.dtype:
    """Sums are at least in float32, whatever the model computes in."""
    return torch.promote_types(tensor.dtype, torch.float32)


def plain_activations(model: PreTrainedModel, input_ids: Tensor, position: int) -> Tensor:
    """The down-projections' inputs at `position` of one prompt (n_tokens,): (n_layers, n_neurons)."""
    recorded: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # In the order of the calls, which is the order of the layers.
        recorded.append(inputs[0].view(-1, inputs[0].shape[-1])[position].detach())

    handles = [module.register_forward_pre_hook(record) for module in dict.fromkeys(down_projections(model))]
    try:
        with torch.no_grad():
            model(input_ids=input_ids[None])
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(recorded)


def plain_scores(
    model: PreTrainedModel, input_ids: Tensor, position: int, target: int, *, rule: PlainRule, rows: int = 20
) -> Tensor:
    """Every neuron's score for one target token of one prompt (n_tokens,): (n_layers, n_neurons).

    Turns the parameters' own gradients off, for good.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    activations = plain_activations(model, input_ids, position)
    alphas = torch.tensor(rule.alphas, dtype=activations.dtype, device=activations.device)
    summed_in = _summed_in(activations)
    weights = torch.tensor(rule.weights, dtype=summed_in, device=activations.device)

    scores = torch.zeros_like(activations, dtype=summed_in)
    modules = down_projections(model)
    for layer in range(len(modules)):
        for chunk in torch.arange(len(alphas)).split(rows):
            scaled = (alphas[chunk, None] * activations[layer]).requires_grad_()
            with replaced_activations(modules, layer, position, scaled):
                probability = answer_probability(model, input_ids.expand(len(chunk), -1), position, target)
            (gradient,) = torch.autograd.grad(probability.sum(), scaled)
            scores[layer] += weights[chunk] @ gradient.to(summed_in)
        scores[layer] *= activations[layer]
    return scores
