"""How time and memory grow with prompts, layers, length and batch: each point in a process of its own.

| axis | what grows | what stays |
|---|---|---|
| prompts | prompts, in calls of as many as the smallest point has, as the builder's shards are | all else |
| layers | layers of the shape | 16 prompts, the sum's points |
| length | tokens of a prompt | 16 prompts, the sum's points |
| batch | `batch_rows`, answer tokens that go through the model at once | 64 prompts |

Prompts and batch are attributed by the certified rule, as users do. With other layers or another length
random weights would have other paths, which take other numbers of points, so those two use a fixed sum of
five points, about as many as the certified rule takes. What takes less than two seconds is the median of
three. Each axis gets a line (least squares, R²) and a power law (the slope of log time over log size).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atlas.attribution import attribution
from atlas.neuron import Prompt
from atlas.surgery.subject import Subject
from build.bench.figures import certificates, format_rows, markdown_table, shown_bytes, summary_of
from build.bench.machine import Say, peak_memory, run_alone, timed
from build.bench.models import chosen_subject, shape_config
from build.bench.options import BenchOptions
from build.bench.prompts import bench_prompts, prompts_of_length

PROMPTS_A_POINT = 16
N_BATCHED = 64
FIXED = {"rule": "endpoints", "steps": 5}
LONG_ENOUGH = 2.0  # seconds; what is shorter is measured again
REPEATS = 3
DEFAULT_SIZES = {"length": (8, 16, 32, 64), "batch": (1, 4, 16, 64)}
DEFAULT_PROMPTS = {"cpu": (16, 32, 64, 128, 256), "cuda": (256, 512, 1024, 2048, 4096)}


@dataclass(frozen=True)
class Fit:
    """value ≈ intercept + slope × size, its R², and the power law's exponent: value ∝ size^exponent."""

    slope: float
    intercept: float
    r_squared: float
    exponent: float


def fit_growth(sizes: Sequence[float], values: Sequence[float]) -> Fit:
    """Least squares through two points or more of different size; values are positive."""
    slope, intercept = statistics.linear_regression(sizes, values)
    rest = sum((v - intercept - slope * s) ** 2 for s, v in zip(sizes, values, strict=True))
    spread = statistics.pvariance(values) * len(values)
    logs = [math.log(s) for s in sizes], [math.log(v) for v in values]
    exponent = statistics.linear_regression(*logs).slope
    return Fit(slope, intercept, 1 - rest / spread if spread else 1.0, exponent)


# --- one point ---


def median_seconds(subject: Subject, prompts: Sequence[Prompt], at_once: int, **options: Any) -> tuple:
    """Seconds to attribute all prompts, `at_once` a call, after a warm call, and the mean points a layer."""

    def work() -> float:
        found = []  # nothing but certificates is kept from call to call
        for start in range(0, len(prompts), at_once):
            part = prompts[start : start + at_once]
            found += certificates(attribution.attribute(subject, part, **options))
        return summary_of(found)["points_per_layer"]

    attribution.attribute(subject, prompts[: min(at_once, options.get("batch_rows", at_once))], **options)
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < LONG_ENOUGH:
        took, points = timed(work, subject.device)
        times.append(took)
    return statistics.median(times), points


def measure_point(subject: Subject, axis: str, size: int, *, smallest: int, tolerance: float) -> dict:
    """One point, in this process; seconds are of all its prompts."""
    at_once, options = PROMPTS_A_POINT, FIXED
    if axis == "prompts":
        at_once, options = smallest, {"tolerance": tolerance, "batch_rows": smallest}
    elif axis == "batch":
        at_once, options = N_BATCHED, {"tolerance": tolerance, "batch_rows": size}
    if axis == "length":
        prompts = prompts_of_length(subject, size, PROMPTS_A_POINT)
    else:
        prompts = bench_prompts(subject.family.kind, size if axis == "prompts" else at_once)
    seconds, points = median_seconds(subject, prompts, at_once, **options)
    return {
        "size": size,
        "n_prompts": len(prompts),
        "seconds": seconds,
        "points_per_layer": points,
        "peak": peak_memory(subject.device),
    }


def point_alone(options: BenchOptions, axis: str, smallest: int, size: int) -> dict[str, Any]:
    """Load the subject and measure one point, in a process of its own."""
    subject = chosen_subject(options, layers=size if axis == "layers" else None)
    return measure_point(subject, axis, size, smallest=smallest, tolerance=options.tolerance)


def seconds_by_length(
    subject: Subject, lengths: Sequence[int], n: int = PROMPTS_A_POINT, short: Sequence[Prompt] | None = None
) -> list[float]:
    """Seconds a prompt at each length, with the fixed sum, in this process."""
    return [
        median_seconds(subject, prompts_of_length(subject, length, n, short), n, **FIXED)[0] / n
        for length in lengths
    ]


# --- all of them ---


def choose_sizes(options: BenchOptions, device: str) -> dict[str, Sequence[int]]:
    """The sizes of every axis that was asked for; a loaded model has the layers it has."""
    sizes = {
        "prompts": options.scaling_prompts or DEFAULT_PROMPTS[device],
        "layers": options.scaling_layers,
        "length": options.scaling_lengths or DEFAULT_SIZES["length"],
        "batch": options.scaling_batches or DEFAULT_SIZES["batch"],
    }
    if options.model is not None:
        del sizes["layers"]
    elif not sizes["layers"]:
        n = shape_config(options.subject).num_hidden_layers
        sizes["layers"] = sorted({max(1, round(quarters * n / 4)) for quarters in (1, 2, 3, 4)})
    return {axis: found for axis, found in sizes.items() if axis in options.axes}


def measure_scaling(options: BenchOptions, device: str, say: Say) -> dict[str, Any]:
    """Every point of every axis, one process after the other."""
    axes = {}
    for axis, sizes in choose_sizes(options, device).items():
        points = []
        for size in sizes:
            remedy = "Leave the part scaling out."
            points.append(run_alone(point_alone, options, axis, sizes[0], size, remedy=remedy))
            say(f"scaling · {axis} {size}: {points[-1]['seconds']:.2f} s, {shown_bytes(points[-1]['peak'])}")
        axes[axis] = growth_of(points)
    return {"axes": axes, "left_out": sorted(set(options.axes) - set(axes))}


def growth_of(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The points with their fit; memory_growth: the largest point's peak over the smallest's, less one."""
    peaks = [point["peak"]["device"] or point["peak"]["process"] for point in points]
    return {
        "points": points,
        "time": fit_growth([point["size"] for point in points], [point["seconds"] for point in points]),
        "memory_growth": peaks[-1] / peaks[0] - 1,
    }


def describe_scaling(result: dict[str, Any]) -> str:
    """The result for a person."""
    blocks = ["scaling: each point in a process of its own"]
    for name, axis in result["axes"].items():
        points, time = axis["points"], axis["time"]
        heads = (name, "seconds", "s a prompt", "points a layer", "peak memory")
        cells = ("{size}", "{seconds:.2f}", "{each:.4f}", "{points_per_layer:.1f}", "{memory}")
        rows = [
            point | {"each": point["seconds"] / point["n_prompts"], "memory": shown_bytes(point["peak"])}
            for point in points
        ]
        ratio = points[-1]["size"] / points[0]["size"]
        if name == "batch":  # the same work in fewer pieces: no line goes through that
            faster = points[0]["seconds"] / min(point["seconds"] for point in points)
            growth = f"up to {faster:.1f} times as fast as with {points[0]['size']}"
        else:
            growth = (
                f"time ≈ {time.intercept:.3f} + {time.slope:.4f} × {name}, R² {time.r_squared:.4f}; "
                f"∝ {name}^{time.exponent:.2f}"
            )
        memory = f"memory {axis['memory_growth']:+.1%} at {ratio:g} times the {name}"
        blocks.append(f"{markdown_table(heads, format_rows(rows, *cells))}\n\n{growth}; {memory}")
    if result["left_out"]:
        blocks.append("layers: left out. A loaded model has the layers it has; give --shape.")
    return "\n\n".join(blocks)
