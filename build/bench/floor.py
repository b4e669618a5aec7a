"""Percent of the floor: what the certified staircase computes, against what this machine could at most.

    result = measure_floor(subject, prompts, repeats=3, tolerance=0.01, progress=print)

1. *Work.* One untimed run under torch's flop counter: every matrix product and attention of the base passes,
   the sweeps forward and backward, and the projections onto neurons, as they are executed. Elementwise work
   (norms, activation functions, softmax) counts nothing, so the share errs on the low side.
2. *Time.* The same call again, several times; the median.
3. *Rate.* Square matrix products, and those of the model's own layers and vocabulary head at many rows, on
   the subject's device in the precision of its sweeps: the best of several of the fastest shape, before and
   after the timed runs. (Base passes, and paths that rounding stops, are float32 in every precision.)
4. The share is (operations ÷ seconds) ÷ rate; the floor itself, operations ÷ rate, is the least time in
   which this machine could execute them.

*Tokens* are positions: a row (one evaluation of P and its gradient) has one in a causal model, where it is
one token wide, and a whole sentence of them in a masked one; the base pass has the sentence's. *Layer tokens*
count each once for every layer that it goes through, for a row enters after its own layer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.neuron import Prompt
from build.bench.machine import now

if TYPE_CHECKING:
    import torch

    from atlas.attribution.attribution import Attribution
    from atlas.surgery.subject import Subject

SQUARES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
ROWS = {"cpu": 2048, "cuda": 16384}
PROMPTS = {"cpu": 64, "cuda": 2048}
SECONDS_A_SHAPE = 1.0
LAUNCHED = {"cpu": 1, "cuda": 10}  # products between two waits for the GPU


@dataclass(frozen=True)
class Work:
    """Operations by the name of the kernel that executes them, and how they divide into tokens."""

    operations: dict[str, int]
    rows: int
    tokens: int
    layer_tokens: int

    @property
    def total(self) -> int:
        return sum(self.operations.values())


@dataclass(frozen=True)
class Product:
    """(m, k) @ (k, n) took `seconds` at best."""

    m: int
    k: int
    n: int
    seconds: float

    @property
    def rate(self) -> float:
        return 2 * self.m * self.k * self.n / self.seconds


@dataclass(frozen=True)
class Floor:
    """Everything of `n_prompts` prompts in one call; rates are a second."""

    n_prompts: int
    work: Work
    seconds: tuple[float, ...]
    median_seconds: float
    products: tuple[Product, ...]
    rate: float
    operations_per_second: float
    tokens_per_second: float
    layer_tokens_per_second: float
    share: float
    floor_seconds: float
    points_per_layer: float


# --- step 1: the work ---


def operations(work: Callable[[], Any]) -> tuple[dict[str, int], Any]:
    """Floating-point operations of `work()` by kernel, a multiplication and an addition being two; and
    what it returns."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *args: Any, **options: Any) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    # torch's counter knows the GPU's attention kernels, but not the processor's.
    aten = torch.ops.aten
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        result = work()
    counted = counter.get_flop_counts().get("Global", {})
    return {str(kernel).removeprefix("aten."): int(n) for kernel, n in counted.items()}, result


def tokens_of(subject: Subject, attributions: Sequence[Attribution]) -> tuple[int, int, int]:
    """Rows, tokens and layer tokens of prompts that were attributed by path, from their points.

    A path's point at α = 1 is the same row for all layers of an answer token; it enters after layer 0.
    """
    n_layers, causal = subject.n_layers, subject.family.kind == "causal"
    rows = tokens = layer_tokens = 0
    for attribution in attributions:
        encoded = subject.encode(attribution.prompt)
        for position, points in zip(encoded.positions, attribution.n_points.tolist(), strict=True):
            sentence = position + 1 if causal else len(encoded.input_ids)
            width = 1 if causal else sentence
            entering = [n - 1 + (layer == 0) for layer, n in enumerate(points)]
            rows += sum(entering)
            tokens += width * sum(entering) + sentence
            layer_tokens += width * sum(n * (n_layers - 1 - layer) for layer, n in enumerate(entering))
            layer_tokens += sentence * n_layers
    return rows, tokens, layer_tokens


# --- step 3: the machine's rate ---


def product_shapes(subject: Subject) -> list[tuple[int, int, int]]:
    """Squares, a feed-forward layer there and back, and the vocabulary head: (m, k, n)."""
    device = subject.device.type
    rows, width, n_neurons = ROWS[device], subject.d_model, subject.n_neurons
    # The head is taken in part where all of its logits would be a memory of their own.
    head = min(subject.n_tokens, 32_768)
    squares = [(size, size, size) for size in SQUARES[device]]
    return [*squares, (rows, width, n_neurons), (rows, n_neurons, width), (rows, width, head)]


def time_product(shape: tuple[int, int, int], device: torch.device, precision: str) -> Product:
    """The best of several, warm. Operands are what the precision's sweeps multiply."""
    import torch

    from atlas.surgery.precision import products

    m, k, n = shape
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left = torch.randn(m, k, device=device, dtype=dtype)
    right = torch.randn(k, n, device=device, dtype=dtype)
    out = torch.empty(m, n, device=device, dtype=dtype)
    launched = LAUNCHED[device.type]
    times: list[float] = []
    with products(precision, device):
        torch.mm(left, right, out=out)
        while len(times) < 3 or sum(times) * launched < SECONDS_A_SHAPE:
            start = now(device)
            for _ in range(launched):
                torch.mm(left, right, out=out)
            times.append((now(device) - start) / launched)
    return Product(m, k, n, min(times))


def products_of(subject: Subject) -> tuple[Product, ...]:
    """Every shape, in the precision the subject computes in."""
    return tuple(time_product(shape, subject.device, subject.dtype) for shape in product_shapes(subject))


def again(products: Sequence[Product], subject: Subject) -> tuple[Product, ...]:
    """The fastest once more: a machine that was busy before may be so no longer."""
    best = max(products, key=lambda product: product.rate)
    second = time_product((best.m, best.k, best.n), subject.device, subject.dtype)
    return tuple(second if p is best and second.rate > best.rate else p for p in products)


# --- steps 2 and 4 ---


def measure_floor(
    subject: Subject,
    prompts: Sequence[Prompt],
    *,
    repeats: int,
    tolerance: float,
    progress: Callable[[str], None],
) -> Floor:
    """All prompts in one call, as the builder asks."""
    from atlas.attribution.attribution import attribute

    progress("floor · matrix products")
    products = products_of(subject)
    progress(f"floor · counting the operations of {len(prompts)} prompts")
    counted, found = operations(lambda: attribute(subject, prompts, tolerance=tolerance))
    rows, tokens, layer_tokens = tokens_of(subject, found)
    work = Work(counted, rows, tokens, layer_tokens)
    points = statistics.mean(float(attribution.n_points.mean()) for attribution in found)
    del found
    seconds = []
    for _ in range(repeats):
        start = now(subject.device)
        attribute(subject, prompts, tolerance=tolerance)
        seconds.append(now(subject.device) - start)
        progress(f"floor · {seconds[-1] / len(prompts):.3f} s a prompt")
    products = again(products, subject)
    median, rate = statistics.median(seconds), max(product.rate for product in products)
    return Floor(
        n_prompts=len(prompts),
        work=work,
        seconds=tuple(seconds),
        median_seconds=median,
        products=products,
        rate=rate,
        operations_per_second=work.total / median,
        tokens_per_second=work.tokens / median,
        layer_tokens_per_second=work.layer_tokens / median,
        share=work.total / median / rate,
        floor_seconds=work.total / rate,
        points_per_layer=points,
    )


def report(result: Floor, dtype: str) -> str:
    """The result as people read it."""
    n, work = result.n_prompts, result.work
    lines = [
        f"percent of the floor: {n} prompts in one call, certified; median of {len(result.seconds)} runs",
        f"{'':<34}{'a prompt':>16}{'a second':>16}",
        f"{'prompts':<34}{'':>16}{n / result.median_seconds:>16,.2f}",
        f"{'rows':<34}{work.rows / n:>16,.0f}{work.rows / result.median_seconds:>16,.0f}",
        f"{'tokens':<34}{work.tokens / n:>16,.0f}{result.tokens_per_second:>16,.0f}",
        f"{'tokens × the layers they pass':<34}{work.layer_tokens / n:>16,.0f}"
        f"{result.layer_tokens_per_second:>16,.0f}",
        f"{'floating-point operations':<34}{_short(work.total / n):>16}"
        f"{_short(result.operations_per_second):>16}",
        f"{'seconds':<34}{result.median_seconds / n:>16.4f}",
        f"{'the floor, seconds':<34}{result.floor_seconds / n:>16.4f}",
        "",
        f"matrix products, {dtype}: best of several",
    ]
    for product in result.products:
        shape = f"({product.m} × {product.k}) @ ({product.k} × {product.n})"
        best = "  the rate" if product.rate == result.rate else ""
        lines.append(f"{shape:<50}{_short(product.rate):>16}{best}")
    lines += ["", f"percent of the floor: {result.share:.1%} of the measured matrix-product rate"]
    return "\n".join(lines)


def _short(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G")):
        if value >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value / 1e6:,.2f} M"
