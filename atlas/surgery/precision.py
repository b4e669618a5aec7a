"""The precision of a sweep's matrix products.

    with products("tf32", device):
        swept = sweep(subject, base, rows)

Weights, base passes, predictions and activations are always float32; only the products of the sweeps, which
are nearly all of the arithmetic, may be rounded. The cost shows in two places: completeness gaps grow, and
paths that do not settle restart in float32 (`atlas.attribution.integration`); and a build compares the scores
of a sample of its prompts with float32's.

* ``float32``: as they are.
* ``tf32``: operands rounded to 10 bits behind the point, on GPUs that have it; float32 elsewhere.
* ``bfloat16``: operands rounded to 7 bits, on GPUs and on processors that have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")


@contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """Compute matrix products in this precision inside the block."""
    before = torch.get_float32_matmul_precision()
    # Autocast is also switched off, so that float32 inside another precision is float32.
    reduced = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        with reduced:
            yield
    finally:
        torch.set_float32_matmul_precision(before)
