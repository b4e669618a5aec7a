"""Scores of `knowledge-neurons` that `atlas.attribution.attribute` does not compute.

    layer_scores(subject, token, layer=3, steps=20)                  # (n_neurons,)
    before_nonlinearity(subject, token, steps=20, layers=range(12))  # (12, n_neurons)

Both are sums of `steps` points α from 0 to 1, both included unless a rule says otherwise:

    score_i = w_i · 1/steps · Σ_α ∂P/∂w_i (α·w)

1. *One layer*: rows enter the staircase (`atlas.attribution.staircase`) at that layer only.
2. *Before the nonlinearity*: the original takes GPT-2's neurons there, as z, the inputs of ``mlp.act``. The
   layer then writes act(α·z) @ W, which is not linear in α, so each point is an item with its own write, and
   the gradient goes back through W and the slope of act at α·z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from atlas.attribution import quadrature
from atlas.attribution.staircase import AnswerToken, Base, Rows, base_pass, project_to_neurons, sweep
from atlas.errors import ModelError
from atlas.surgery.hooks import attached
from atlas.surgery.subject import Subject


def finite(subject: Subject, values: Tensor) -> Tensor:
    """The values; raises `ModelError` where one is not a number."""
    if not bool(torch.isfinite(values).all()):
        raise ModelError(f"{subject.name} returned NaN. Load it in float32 and check the weights.")
    return values


def nonlinearity(subject: Subject, layer: int) -> nn.Module:
    """The module whose inputs the original calls the neurons of GPT-2 and GPT-Neo."""
    return subject.family.layer_modules(subject.model)[layer].get_submodule("mlp.act")


def layer_scores(subject: Subject, token: AnswerToken, *, layer: int, steps: int, rule: str) -> Tensor:
    """Scores of one layer for one answer token by a fixed sum, (n_neurons,)."""
    nodes, weights = quadrature.riemann(rule, steps)
    with subject.lock:
        base = base_pass(subject, [token])
        item = torch.zeros(steps, dtype=torch.long)
        swept = sweep(subject, base, Rows(item, item + layer, nodes.float()))
        summed = weights.to(swept.gradient) @ swept.gradient
        scores = project_to_neurons(subject, base, layer, item[:1].to(subject.device), summed[None])[0]
        return finite(subject, scores)


def inner_activations(subject: Subject, token: AnswerToken) -> Tensor:
    """The nonlinearities' inputs at the answer, (n_layers, n_neurons)."""
    with subject.lock:
        return finite(subject, _base_with_inner(subject, [token])[1])


def before_nonlinearity(subject: Subject, token: AnswerToken, *, steps: int, layers: Sequence[int]) -> Tensor:
    """Scores of the nonlinearities' inputs in these layers for one answer token, (n_layers, n_neurons)."""
    alphas = quadrature.riemann("endpoints", steps)[0].float().to(subject.device)
    with subject.lock:
        base, inner = _base_with_inner(subject, [token] * steps)
        values = {layer: subject.family.value_vectors(subject.model, layer) for layer in layers}
        writes = base.writes.clone()
        slopes: list[Tensor] = []
        for layer in layers:
            z = (alphas[:, None] * inner[layer]).requires_grad_()
            with torch.enable_grad():
                # Not a call: a change that is kept in the model has acted on z already.
                active = nonlinearity(subject, layer).forward(z)
                slopes += torch.autograd.grad(active.sum(), z)
            writes[:, layer] = active.detach().to(values[layer].dtype) @ values[layer]
        rows = Rows(
            item=torch.arange(steps).repeat(len(layers)),
            layer=torch.tensor(layers).repeat_interleave(steps),
            alpha=torch.ones(steps * len(layers)),
        )
        swept = sweep(subject, replace(base, writes=writes), rows)
        scores = [
            inner[layer] * (slope * (gradient @ values[layer].T)).mean(0)
            for layer, slope, gradient in zip(layers, slopes, swept.gradient.split(steps), strict=True)
        ]
        return finite(subject, torch.stack(scores))


def _base_with_inner(subject: Subject, tokens: Sequence[AnswerToken]) -> tuple[Base, Tensor]:
    """A base pass of one answer token, repeated, and `inner_activations`."""
    inner: list[Tensor] = []

    def record(module: nn.Module, args: tuple) -> None:
        inner.append(args[0][0, tokens[0].position])

    def register(handles: list) -> None:
        for layer in range(subject.n_layers):
            handles.append(nonlinearity(subject, layer).register_forward_pre_hook(record))

    with attached(register):
        return base_pass(subject, tokens), torch.stack(inner)
