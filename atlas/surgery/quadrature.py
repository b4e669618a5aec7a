"""Quadrature rules on [0, 1]: nested Clenshaw–Curtis for certificates, Riemann sums for replication.

    nodes, weights = clenshaw_curtis(9)        # (9,), (9,), float64
    LEVELS                                     # (2, 3, 5, 9, 17, 33, 65): each a subset of the next

Clenshaw & Curtis (1960); weights by the explicit cosine sum (Waldvogel, BIT 2006, eq. 2.4 at
N intervals). The Riemann rules are those that the paper's code (`left`) and its replication
(`endpoints`) use; they are kept to reproduce those works, errors included.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from atlas.errors import AtlasError

LEVELS = (2, 3, 5, 9, 17, 33, 65)
FINEST = LEVELS[-1]


@cache
def clenshaw_curtis(n_points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights, (n_points,) each, of the closed rule; `n_points` is a power of two plus one.

    Exact for polynomials of degree `n_points` − 1 (and, by symmetry, one more).
    """
    n = n_points - 1
    index = torch.arange(n_points, dtype=torch.float64)
    nodes = (1 - torch.cos(index * math.pi / n)) / 2
    if n == 1:
        return nodes, torch.tensor([0.5, 0.5], dtype=torch.float64)
    weights = torch.ones(n_points, dtype=torch.float64)
    for k in range(1, n // 2 + 1):
        factor = 1.0 if 2 * k == n else 2.0
        weights -= factor * torch.cos(2 * k * index * math.pi / n) / (4 * k * k - 1)
    weights /= n
    weights[0] /= 2
    weights[-1] /= 2
    return nodes, weights


def finest_nodes() -> Tensor:
    """The nodes of the finest nested rule, (65,): every level's nodes are among them."""
    return clenshaw_curtis(FINEST)[0]


@cache
def level_weights(level: int) -> Tensor:
    """The weights of nested rule `level` spread over the finest rule's nodes, (65,): zero elsewhere."""
    n_points = LEVELS[level]
    spread = torch.zeros(FINEST, dtype=torch.float64)
    spread[:: (FINEST - 1) // (n_points - 1)] = clenshaw_curtis(n_points)[1]
    return spread


def level_nodes(level: int) -> list[int]:
    """Which of the finest rule's nodes rule `level` uses."""
    return list(range(0, FINEST, (FINEST - 1) // (LEVELS[level] - 1)))


def new_nodes(level: int) -> list[int]:
    """Which of the finest rule's nodes rule `level` adds to the rule before it."""
    before = set(level_nodes(level - 1)) if level else set()
    return [node for node in level_nodes(level) if node not in before]


def riemann(kind: str, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights, (steps,) each, of a fixed Riemann sum: `left`, `right` or `endpoints`."""
    if steps < 2:
        raise AtlasError(f"A Riemann sum of {steps} points is no path. Give 2 or more.")
    weights = torch.full((steps,), 1 / steps, dtype=torch.float64)
    index = torch.arange(steps, dtype=torch.float64)
    match kind:
        case "left":
            return index / steps, weights
        case "right":
            return (index + 1) / steps, weights
        case "endpoints":
            return torch.linspace(0, 1, steps, dtype=torch.float64), weights
    raise AtlasError(f"No rule is called '{kind}'. There are: certified, left, right, endpoints.")
