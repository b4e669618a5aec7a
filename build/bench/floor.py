"""Percent of the floor: what the certified staircase computes, against what this machine could at most.

1. *Work.* One untimed run under torch's flop counter: every matrix product and attention of the base passes,
   the sweeps forward and backward, and the projections onto neurons, as they are executed. Elementwise work
   (norms, activation functions, softmax) counts nothing, so the share errs on the low side.
2. *Time.* The same call again, several times; the median.
3. *Rate.* Square matrix products, and those of the model's own layers and vocabulary head at many rows, on
   the subject's device in the precision of its sweeps: the best of several of the fastest shape, before and
   after the timed runs. (Base passes, and paths that rounding stops, are float32 in every precision.)
4. *Share.* (operations ÷ seconds) ÷ rate; the floor itself, operations ÷ rate, is the least time in which
   this machine could execute them.

*Tokens* are positions: a row (one evaluation of P and its gradient) has one in a causal model, where it is
one token wide, and a whole sentence of them in a masked one; the base pass has the sentence's. *Layer tokens*
count each once for every layer that it goes through, for a row enters after its own layer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from atlas.attribution.attribution import Attribution, attribute
from atlas.neuron import Prompt
from atlas.surgery.precision import products
from atlas.surgery.subject import Subject
from build.bench.figures import certificates, markdown_table, summary_of
from build.bench.machine import Say, timed

SQUARES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
ROWS = {"cpu": 2048, "cuda": 16384}
FLOOR_PROMPTS = {"cpu": 64, "cuda": 2048}
SECONDS_A_SHAPE = 1.0
LAUNCHED = {"cpu": 1, "cuda": 10}  # products between two waits for the GPU

Shape = tuple[int, int, int]  # (m, k) @ (k, n)


# --- step 1: the work ---


def count_operations(work: Callable[[], Any]) -> tuple[dict[str, int], Any]:
    """Floating-point operations of `work()` by kernel, a multiplication and an addition being two; and
    what it returns."""
    # torch's counter knows the GPU's attention kernels, but not the processor's.
    aten = torch.ops.aten
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: (
            lambda *operands, **_: sdpa_flop_count(*operands[:3])
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda *operands, **_: sdpa_backward_flop_count(*operands[:4])
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        result = work()
    counted = counter.get_flop_counts().get("Global", {})
    return {str(kernel).removeprefix("aten."): int(n) for kernel, n in counted.items()}, result


def count_tokens(subject: Subject, attributions: Sequence[Attribution]) -> dict[str, int]:
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
    return {"rows": rows, "tokens": tokens, "layer_tokens": layer_tokens}


# --- step 3: the machine's rate ---


def product_shapes(subject: Subject) -> list[Shape]:
    """Squares, a feed-forward layer there and back, and the vocabulary head."""
    device = subject.device.type
    rows, width, n_neurons = ROWS[device], subject.d_model, subject.n_neurons
    # The head is taken in part where all of its logits would be a memory of their own.
    head = min(subject.n_tokens, 32_768)
    squares = [(size, size, size) for size in SQUARES[device]]
    return [*squares, (rows, width, n_neurons), (rows, n_neurons, width), (rows, width, head)]


def rate_of(shape: Shape, device: torch.device, precision: str) -> float:
    """Operations a second of a product of what the precision's sweeps multiply: the best of several, warm."""
    m, k, n = shape
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (torch.randn(*size, device=device, dtype=dtype) for size in ((m, k), (k, n)))
    out = torch.empty(m, n, device=device, dtype=dtype)

    def multiply() -> None:
        for _ in range(LAUNCHED[device.type]):
            torch.mm(left, right, out=out)

    times: list[float] = []
    with products(precision, device):
        multiply()
        while len(times) < 3 or sum(times) < SECONDS_A_SHAPE:
            times.append(timed(multiply, device)[0])
    return 2 * m * k * n * LAUNCHED[device.type] / min(times)


# --- steps 2 and 4 ---


def measure_floor(
    subject: Subject, prompts: Sequence[Prompt], say: Say, *, repeats: int, tolerance: float
) -> dict[str, Any]:
    """All prompts in one call, as the builder asks."""
    call = partial(attribute, subject, prompts, tolerance=tolerance)
    say("floor · matrix products")
    rates = {shape: rate_of(shape, subject.device, subject.dtype) for shape in product_shapes(subject)}
    say(f"floor · counting the operations of {len(prompts)} prompts")
    operations, found = count_operations(call)
    work = {"operations": operations, **count_tokens(subject, found)}
    points = summary_of(certificates(found))["points_per_layer"]
    del found
    seconds = []
    for _ in range(repeats):
        seconds.append(timed(call, subject.device)[0])
        say(f"floor · {seconds[-1] / len(prompts):.3f} s a prompt")
    # The fastest once more: a machine that was busy before may be so no longer.
    best = max(rates, key=rates.__getitem__)
    rates[best] = max(rates[best], rate_of(best, subject.device, subject.dtype))
    median, total, rate = statistics.median(seconds), sum(operations.values()), max(rates.values())
    return {
        "n_prompts": len(prompts),
        "work": work,
        "seconds": seconds,
        "median_seconds": median,
        "products": [{**dict(zip("mkn", shape, strict=True)), "rate": r} for shape, r in rates.items()],
        "rate": rate,
        "operations_per_second": total / median,
        "tokens_per_second": work["tokens"] / median,
        "layer_tokens_per_second": work["layer_tokens"] / median,
        "share": total / median / rate,
        "floor_seconds": total / rate,
        "points_per_layer": points,
        "precision": subject.dtype,
    }


def describe_floor(result: dict[str, Any]) -> str:
    """The result for a person."""
    n, seconds, work = result["n_prompts"], result["median_seconds"], result["work"]
    operations = sum(work["operations"].values())
    rows = [("prompts", "", f"{n / seconds:,.2f}")]
    for name, count in (
        ("rows", work["rows"]),
        ("tokens", work["tokens"]),
        ("tokens × the layers they pass", work["layer_tokens"]),
    ):
        rows.append((name, f"{count / n:,.0f}", f"{count / seconds:,.0f}"))
    rows += [
        ("floating-point operations", _short(operations / n), _short(operations / seconds)),
        ("seconds", f"{seconds / n:.4f}", ""),
        ("the floor, seconds", f"{result['floor_seconds'] / n:.4f}", ""),
    ]
    products = [
        (
            "({m} × {k}) @ ({k} × {n})".format(**product),
            _short(product["rate"]),
            "the rate" if product["rate"] == result["rate"] else "",
        )
        for product in result["products"]
    ]
    runs = f"certified; median of {len(result['seconds'])} runs"
    return f"""percent of the floor: {n} prompts in one call, {runs}

{markdown_table(("", "a prompt", "a second"), rows)}

{markdown_table((f"matrix products, {result['precision']}", "best of several, a second", ""), products)}

percent of the floor: {result["share"]:.1%} of the measured matrix-product rate"""


def _short(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G")):
        if value >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value / 1e6:,.2f} M"
