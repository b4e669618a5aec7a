"""What rounded matrix products cost: tf32's and bfloat16's rounding, imitated on a processor.

    python -m tests.bench_precision                              # both shapes and pocket-bert
    python -m tests.bench_precision --models smollm2-135m --prompts 6

A GPU's tf32 rounds the operands of a product to 10 bits behind the point and adds in float32; bfloat16
to 7. Both are imitated by rounding the operands of every product, forward and backward, of sweeps that ask
for less than float32; so the figures are those of the rounding, not of a GPU, and no times are taken.

1. Scores in float32, then rounded: how many points a layer they took, what settled, and how far they lie
   from float32's at a tenth of the tolerance.
2. The same without step 7 of `atlas.attribution.integration`: what rounding keeps from settling is bisected.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from atlas.attribution import integration
from atlas.attribution.attribution import Attribution, attribute, relative_difference
from atlas.neuron import Prompt
from atlas.surgery.subject import Subject, load_subject
from build.bench.prompts import bench_prompts
from build.bench.shapes import SHAPES, shape_subject
from build.plan import BuildOptions, make_plan

BITS = {"float32": 23, "tf32": 10, "bfloat16": 7}
TOLERANCE = 0.01
_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
_SUMS = (torch.ops.aten.addmm.default, torch.ops.aten.baddbmm.default)


def rounded(tensor: Tensor, bits: int) -> Tensor:
    """float32 numbers rounded to so many bits behind the point, half up."""
    if tensor.dtype != torch.float32:
        return tensor
    cut = 23 - bits
    whole = tensor.contiguous().view(torch.int32) + (1 << (cut - 1))
    return (whole & ~((1 << cut) - 1)).view(torch.float32)


class Rounding(TorchDispatchMode):
    """Inside, products of sweeps in less than float32 round their operands."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.n_products = bits, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        first = 1 if operation in _SUMS else 0
        attention = "scaled_dot_product" in name and "backward" not in name
        if torch.get_float32_matmul_precision() == "high" and (
            operation in (*_PRODUCTS, *_SUMS) or attention
        ):
            self.n_products += 1
            last = first + (3 if attention else 2)
            args = tuple(
                rounded(value, self.bits) if first <= place < last else value
                for place, value in enumerate(args)
            )
        return operation(*args, **(kwargs or {}))


@contextmanager
def never_begun_again() -> Iterator[None]:
    """Without step 7."""
    stalled, begin_again = integration.STALLED, integration._Certified._begin_again
    integration.STALLED, integration._Certified._begin_again = float("inf"), lambda self: False
    try:
        yield
    finally:
        integration.STALLED, integration._Certified._begin_again = stalled, begin_again


def subject_and_prompts(name: str, n: int) -> tuple[Subject, list[Prompt]]:
    if name in SHAPES:
        subject = shape_subject(name)
        return subject, bench_prompts(subject.family.kind, n)
    subject = load_subject(name, device="cpu")
    plan = make_plan(BuildOptions(model=name, dataset="starter", limit=n))
    asked = [next(p for p, held_out in plan.prompts_of(fact) if not held_out) for fact in plan.facts]
    return subject, asked[:n]


def line(name: str, found: list[Attribution], exact: list[Attribution]) -> str:
    converged = np.concatenate([each.converged.ravel() for each in found]).mean()
    points = np.concatenate([each.n_points.ravel() for each in found]).mean()
    off = [relative_difference(a.scores, b.scores) for a, b in zip(found, exact, strict=True)]
    return (
        f"{name:<34}{points:>8.1f}{converged:>11.1%}{max(each.max_gap for each in found):>10.2%}"
        f"{max(off):>12.2%}{np.median(off):>10.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="bert-base,gpt2,pocket-bert", help="shapes or models")
    parser.add_argument("--prompts", type=int, default=8)
    options = parser.parse_args()
    heads = f"{'points':>8}{'settled':>11}{'gap':>10}{'off at most':>12}{'median':>10}"
    for name in options.models.split(","):
        subject, prompts = subject_and_prompts(name, options.prompts)
        exact = attribute(subject, prompts, tolerance=TOLERANCE / 10)
        print(f"\n{f'{subject.name}, {len(prompts)} prompts':<34}{heads}", flush=True)
        # One switch for both, since nothing else rounds on a processor.
        reduced = replace(subject, dtype="tf32")
        print(line("float32", attribute(subject, prompts), exact), flush=True)
        for precision in ("tf32", "bfloat16"):
            with Rounding(BITS[precision]) as mode:
                found = attribute(reduced, prompts)
            assert mode.n_products, "nothing was rounded"
            print(line(precision, found, exact), flush=True)
        with Rounding(BITS["tf32"]), never_begun_again():
            print(line("tf32, never begun again", attribute(reduced, prompts), exact), flush=True)


if __name__ == "__main__":
    main()
