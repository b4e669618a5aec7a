"""Scores that `atlas.surgery.attribute` does not give: of one layer alone, and before the nonlinearity.

    layer_scores(subject, token, layer=3, steps=20)                  # (n_neurons,)
    before_nonlinearity(subject, token, steps=20, layers=range(12))  # (12, n_neurons)

Both are the original's sum: with α from 0 to 1, both included, in `steps` points,

    score_i = w_i · 1/steps · Σ_α ∂P/∂w_i (α·w)

1. *One layer*: rows enter the staircase (`atlas.attribution.staircase`) at that layer only.
2. *Before the nonlinearity*: what the original calls a neuron of GPT-2 is z, the output of ``mlp.c_fc``. Then
   the layer writes act(α·z) @ W, which is not linear in α, so each point is an item of its own whose write
   is set; the gradient goes back through W and the slope of act at α·z.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from atlas.attribution import quadrature
from atlas.attribution.staircase import AnswerToken, Rows, base_pass, project, sweep
from atlas.compat.kept import first_projection
from atlas.surgery.hooks import attached
from atlas.surgery.subject import Subject


def layer_scores(
    subject: Subject, token: AnswerToken, *, layer: int, steps: int, rule: str = "endpoints"
) -> Tensor:
    """Scores of one layer for one answer token by a fixed sum, (n_neurons,)."""
    nodes, weights = quadrature.riemann(rule, steps)
    with subject.lock:
        base = base_pass(subject, [token])
        none = torch.zeros(steps, dtype=torch.long)
        swept = sweep(subject, base, Rows(none, none + layer, nodes.float()))
        summed = weights.to(swept.gradient) @ swept.gradient
        return project(subject, base, layer, none[:1].to(subject.device), summed[None])[0]


def before_nonlinearity(subject: Subject, token: AnswerToken, *, steps: int, layers: Iterable[int]) -> Tensor:
    """Scores of the first projection's outputs for one answer token, (n_layers asked for, n_neurons)."""
    layers = list(layers)
    alphas = quadrature.riemann("endpoints", steps)[0].float().to(subject.device)
    with subject.lock:
        recorded: dict[int, Tensor] = {}
        with attached(lambda handles: handles.extend(_recorders(subject, token.position, recorded))):
            base = base_pass(subject, [token] * steps)
        writes, slopes = base.writes.clone(), {}
        for layer in layers:
            inner = (alphas[:, None] * recorded[layer][0]).requires_grad_()
            with torch.enable_grad():
                active = activation(subject, layer)(inner)
                (slopes[layer],) = torch.autograd.grad(active.sum(), inner)
            values = subject.family.value_vectors(subject.model, layer)
            writes[:, layer] = active.detach().to(values.dtype) @ values
        rows = Rows(
            item=torch.arange(steps).repeat(len(layers)),
            layer=torch.tensor(layers).repeat_interleave(steps),
            alpha=torch.ones(steps * len(layers)),
        )
        swept = sweep(subject, replace(base, writes=writes), rows)
        scores = []
        for layer, gradient in zip(layers, swept.gradient.split(steps), strict=True):
            values = subject.family.value_vectors(subject.model, layer)
            scores.append(recorded[layer][0] * (slopes[layer] * (gradient @ values.T)).mean(0))
        return torch.stack(scores)


@torch.no_grad()
def inner_activations(subject: Subject, token: AnswerToken) -> Tensor:
    """The first projections' outputs at the answer, (n_layers, n_neurons)."""
    recorded: dict[int, Tensor] = {}
    with (
        subject.lock,
        attached(lambda handles: handles.extend(_recorders(subject, token.position, recorded))),
    ):
        base_pass(subject, [token])
    return torch.stack([recorded[layer][0] for layer in range(subject.n_layers)])


def activation(subject: Subject, layer: int) -> nn.Module:
    """The nonlinearity between the two projections."""
    return subject.family.layer_modules(subject.model)[layer].get_submodule("mlp.act")


def _recorders(subject: Subject, position: int, recorded: dict[int, Tensor]) -> list:
    def recorder(layer: int):
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            recorded[layer] = output[:, position].detach()

        return hook

    return [
        first_projection(subject.family, subject.model, layer).register_forward_hook(recorder(layer))
        for layer in range(subject.n_layers)
    ]
