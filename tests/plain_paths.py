"""What tests need of the plain loop besides its scores: other rules, and P(α) along a path."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from build.bench.plain_loop import (
    PlainRule,
    answer_probability,
    down_projections,
    plain_activations,
    replaced_activations,
)


def left(n: int = 20) -> PlainRule:
    """The paper's rule: k / n for k = 0 … n - 1."""
    return PlainRule(tuple(k / n for k in range(n)), (1 / n,) * n)


def right(n: int = 20) -> PlainRule:
    """k / n for k = 1 … n."""
    return PlainRule(tuple((k + 1) / n for k in range(n)), (1 / n,) * n)


def gauss_legendre(n: int = 200) -> PlainRule:
    """Dense and exact for polynomials of degree 2n - 1: the reference for the integral itself."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return PlainRule(tuple((nodes + 1) / 2), tuple(weights / 2))


def plain_path(
    model: PreTrainedModel, input_ids: Tensor, position: int, target: int, *, layer: int, alphas: list[float]
) -> Tensor:
    """P(α) of one layer's path, for each of `alphas`: (n_alphas,)."""
    activation = plain_activations(model, input_ids, position)[layer]
    scaled = activation * torch.tensor(alphas, dtype=activation.dtype, device=activation.device)[:, None]
    with torch.no_grad(), replaced_activations(down_projections(model), layer, position, scaled):
        return answer_probability(model, input_ids.expand(len(alphas), -1), position, target)
