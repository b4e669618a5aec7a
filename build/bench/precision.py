"""What rounded matrix products cost: tf32's and bfloat16's rounding, imitated on a processor.

A GPU's tf32 rounds the operands of a product to 10 bits behind the point and adds in float32; bfloat16
to 7. Both are imitated by rounding the operands of every product, forward and backward, of sweeps that ask
for less than float32; so the figures are those of the rounding, not of a GPU, and no times are taken.

1. Scores in float32, then rounded: how many points a layer they took, what settled, and how far they lie
   from float32's at a tenth of the tolerance.
2. The same without step 7 of `atlas.attribution.integration`: what rounding keeps from settling is bisected.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from atlas.attribution import integration
from atlas.attribution.attribution import Attribution, attribute, relative_difference
from atlas.neuron import Prompt
from atlas.surgery.subject import Subject
from build.bench.figures import certificates, format_rows, markdown_table, summary_of, write_json
from build.bench.models import named_subject
from build.bench.prompts import bench_prompts
from build.bench.shapes import SHAPES
from build.plan import BuildOptions, make_plan

BITS = {"tf32": 10, "bfloat16": 7}
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
    stalled, restart = integration.STALLED, integration._Certified._restart_in_float32
    integration.STALLED, integration._Certified._restart_in_float32 = float("inf"), lambda self: False
    try:
        yield
    finally:
        integration.STALLED, integration._Certified._restart_in_float32 = stalled, restart


def prompts_for(name: str, subject: Subject, n: int) -> list[Prompt]:
    """A shape's own sentences; for a model, the first discovery prompt of `n` starter facts."""
    if name in SHAPES:
        return bench_prompts(subject.family.kind, n)
    plan = make_plan(BuildOptions(model=name, dataset="starter", limit=n))
    return [next(p for p, held_out in plan.prompts_of(fact) if not held_out) for fact in plan.facts]


def attribute_rounded(subject: Subject, prompts: Sequence[Prompt]) -> Iterator[tuple[str, list[Attribution]]]:
    """(precision, attributions) in float32, rounded, and without step 7."""
    yield "float32", attribute(subject, prompts, tolerance=TOLERANCE)
    # One switch for both, since nothing else rounds on a processor.
    reduced = replace(subject, dtype="tf32")
    for precision, bits in BITS.items():
        with Rounding(bits) as mode:
            found = attribute(reduced, prompts, tolerance=TOLERANCE)
        assert mode.n_products, "nothing was rounded"
        yield precision, found
    with Rounding(BITS["tf32"]), never_begun_again():
        yield "tf32, not repeated", attribute(reduced, prompts, tolerance=TOLERANCE)


def measure_rounding(names: Sequence[str], n_prompts: int, json: Path | None) -> None:
    """Print a table for each model, and keep them as JSON."""
    figures = {}
    for name in names:
        subject = named_subject(name)
        prompts = prompts_for(name, subject, n_prompts)
        exact = attribute(subject, prompts, tolerance=TOLERANCE / 10)
        rows = {}
        for precision, found in attribute_rounded(subject, prompts):
            off = [relative_difference(a.scores, b.scores) for a, b in zip(found, exact, strict=True)]
            rows[precision] = {
                **summary_of(certificates(found)),
                "off_at_most": max(off),
                "median_off": statistics.median(off),
            }
        figures[subject.name] = rows
        title = f"{subject.name}, {len(prompts)} prompts"
        heads = (title, "points", "settled", "gap", "off at most", "median")
        cells = format_rows(
            ({"precision": precision, **row} for precision, row in rows.items()),
            *("{precision}", "{points_per_layer:.1f}", "{converged_share:.1%}", "{max_gap:.2%}"),
            *("{off_at_most:.2%}", "{median_off:.2%}"),
        )
        print(f"\n{markdown_table(heads, cells)}", flush=True)
    write_json(json, figures)
