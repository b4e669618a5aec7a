"""Shared by the drop-in's tests: prompts, neurons, and the drop-in on a tiny model."""

from __future__ import annotations

import torch

from atlas.compat import KnowledgeNeurons
from tests.tiny_models import tiny_model

MASKED = "the capital of france is [MASK] ."
CAUSAL = "the capital of france is"
NEURONS = [[0, 3], [1, 7], [2, 11], [1, 60]]
STAYS = {"undo_modification": False, "quiet": True}


def drop_in(name: str, **options: object) -> KnowledgeNeurons:
    """The drop-in on a new tiny model."""
    return KnowledgeNeurons(*tiny_model(name), device="cpu", **options)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a fraction of the largest value expected."""
    return float((found - expected).abs().max() / expected.abs().max())
