"""How time and memory grow with prompts, layers, length and batch: each point in a process of its own.

    scaling = measure_scaling(options, print)
    scaling.axes["prompts"].time.exponent       # 1: twice the prompts take twice the time

| axis | what grows | what stays |
|---|---|---|
| prompts | prompts, in calls of as many as the smallest point has, as the builder's shards are | all else |
| layers | layers of the shape | 16 prompts, the sum's points |
| length | tokens of a prompt | 16 prompts, the sum's points |
| batch | `batch_rows`, answer tokens that go through the model at once | 64 prompts |

Prompts and batch are attributed by the certified rule, as users do. With other layers or another length
random weights would have other paths, which take other numbers of points, so those two use a fixed sum of
five points, about as many as the certified rule takes.

Each axis gets a line (least squares, R²) and a power law (the slope of log time over log size).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from atlas.neuron import Prompt
from build.bench.machine import now
from build.bench.memory import Peak, alone
from build.bench.prompts import bench_prompts, prompts_of_length
from build.bench.shapes import shape_config, subject_of

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

AXES = ("prompts", "layers", "length", "batch")
N_PROMPTS = 16
N_BATCHED = 64
FIXED = {"rule": "endpoints", "steps": 5}
LONG_ENOUGH = 2.0  # seconds; what is shorter is measured again
REPEATS = 3
DEFAULT_PROMPTS = {"cpu": (16, 32, 64, 128, 256), "cuda": (256, 512, 1024, 2048, 4096)}
DEFAULT_LENGTHS = (8, 16, 32, 64)
DEFAULT_BATCHES = (1, 4, 16, 64)
SHARES_OF_LAYERS = (1 / 4, 1 / 2, 3 / 4, 1)


@dataclass(frozen=True)
class Point:
    """One size of one axis; seconds are of the whole, the peak is of its process."""

    size: int
    n_prompts: int
    seconds: float
    points_per_layer: float
    peak: Peak


@dataclass(frozen=True)
class Fit:
    """value ≈ intercept + slope × size, its R², and the power law's exponent: value ∝ size^exponent."""

    slope: float
    intercept: float
    r_squared: float
    exponent: float


@dataclass(frozen=True)
class Axis:
    """The points of one axis; memory_growth: the largest point's peak over the smallest's, less one."""

    points: tuple[Point, ...]
    time: Fit
    memory_growth: float


@dataclass(frozen=True)
class Scaling:
    axes: dict[str, Axis]
    left_out: dict[str, str]


def fit(sizes: Sequence[float], values: Sequence[float]) -> Fit:
    """Least squares through two points or more of different size; values are positive."""
    line = statistics.linear_regression(sizes, values)
    rest = sum((v - line.intercept - line.slope * s) ** 2 for s, v in zip(sizes, values, strict=True))
    mean = statistics.fmean(values)
    spread = sum((v - mean) ** 2 for v in values)
    logs = [math.log(s) for s in sizes], [math.log(v) for v in values]
    return Fit(
        slope=line.slope,
        intercept=line.intercept,
        r_squared=1 - rest / spread if spread else 1.0,
        exponent=statistics.linear_regression(*logs).slope,
    )


# --- one point ---


def seconds_of(work: Callable[[], float], subject: Subject) -> tuple[float, float]:
    """Seconds, the median of three where it is short, else of one; and what `work` returned."""
    times: list[float] = []
    found = 0.0
    while len(times) < REPEATS and sum(times) < LONG_ENOUGH:
        start = now(subject.device)
        found = work()
        times.append(now(subject.device) - start)
    return statistics.median(times), found


def run_in_calls(subject: Subject, prompts: Sequence[Prompt], at_once: int, **options: Any) -> float:
    """Attributes `at_once` prompts a call and keeps nothing but the mean points a layer."""
    from atlas.attribution.attribution import attribute

    points = 0.0
    for start in range(0, len(prompts), at_once):
        found = attribute(subject, prompts[start : start + at_once], **options)
        points += sum(float(attribution.n_points.mean()) for attribution in found)
    return points / len(prompts)


def measure_point(subject: Subject, axis: str, size: int, *, smallest: int, tolerance: float) -> Point:
    """One point, in this process."""
    kind = subject.family.kind
    certified = {"tolerance": tolerance}
    if axis == "prompts":
        prompts, at_once, options = bench_prompts(kind, size), smallest, certified | {"batch_rows": smallest}
    elif axis == "batch":
        prompts, at_once, options = (
            bench_prompts(kind, N_BATCHED),
            N_BATCHED,
            certified | {"batch_rows": size},
        )
    elif axis == "length":
        prompts, at_once, options = prompts_of_length(subject, size, N_PROMPTS), N_PROMPTS, FIXED
    else:
        prompts, at_once, options = bench_prompts(kind, N_PROMPTS), N_PROMPTS, FIXED
    warm = min(at_once, options.get("batch_rows", at_once))
    run_in_calls(subject, prompts[:warm], warm, **options)
    seconds, points = seconds_of(partial(run_in_calls, subject, prompts, at_once, **options), subject)
    return Point(size, len(prompts), seconds, points, Peak.of(subject.device))


def only_point(options: argparse.Namespace) -> None:
    """`--point axis:size:smallest`: measure it and print it."""
    axis, size, smallest = options.point.split(":")
    subject = subject_of(options, layers=int(size) if axis == "layers" else None)
    point = measure_point(subject, axis, int(size), smallest=int(smallest), tolerance=options.tolerance)
    peak = {"process": point.peak.process, "device": point.peak.device}
    print(json.dumps({**vars(point), "peak": peak}))


def seconds_by_length(
    subject: Subject,
    lengths: Sequence[int],
    n_prompts: int = N_PROMPTS,
    short: Sequence[Prompt] | None = None,
) -> list[float]:
    """Seconds a prompt at each length, with the fixed sum, in this process."""
    found = []
    for length in lengths:
        prompts = prompts_of_length(subject, length, n_prompts, short)
        work = partial(run_in_calls, subject, prompts, n_prompts, **FIXED)
        work()
        found.append(seconds_of(work, subject)[0] / n_prompts)
    return found


# --- all of them ---


def sizes_of(options: argparse.Namespace, device: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Every axis's sizes, and why an axis is left out."""
    sizes = {
        "prompts": options.scaling_prompts or DEFAULT_PROMPTS[device],
        "length": options.scaling_lengths or DEFAULT_LENGTHS,
        "batch": options.scaling_batches or DEFAULT_BATCHES,
    }
    left_out = {}
    if options.model is None:
        sizes["layers"] = options.scaling_layers or _layers(options.shape)
    elif "layers" in options.axes:
        left_out["layers"] = "A loaded model has the layers it has; give --shape."
    return {axis: sizes[axis] for axis in AXES if axis in sizes and axis in options.axes}, left_out


def _layers(shape: str) -> tuple[int, ...]:
    n_layers = shape_config(shape).num_hidden_layers
    return tuple(sorted({max(1, round(share * n_layers)) for share in SHARES_OF_LAYERS}))


def measure_scaling(options: argparse.Namespace, device: str, progress: Callable[[str], None]) -> Scaling:
    """Every point of every axis, one process after the other."""
    sizes, left_out = sizes_of(options, device)
    axes = {}
    for axis, values in sizes.items():
        points = []
        for size in values:
            found = alone(options, "--point", f"{axis}:{size}:{values[0]}")
            point = Point(**found | {"peak": Peak(**found["peak"])})
            points.append(point)
            progress(f"scaling · {axis} {size}: {point.seconds:.2f} s, {point.peak.shown}")
        axes[axis] = axis_of(points)
    return Scaling(axes, left_out)


def axis_of(points: Sequence[Point]) -> Axis:
    """The points with their fits."""
    peaks = [point.peak.device or point.peak.process for point in points]
    return Axis(
        points=tuple(points),
        time=fit([point.size for point in points], [point.seconds for point in points]),
        memory_growth=peaks[-1] / peaks[0] - 1,
    )


def report(result: Scaling) -> str:
    """The result as people read it."""
    lines = ["scaling: each point in a process of its own"]
    for name, axis in result.axes.items():
        lines += ["", f"{name:>10}{'seconds':>12}{'s a prompt':>12}{'points a layer':>16}{'peak memory':>14}"]
        lines += [
            f"{point.size:>10}{point.seconds:>12.2f}{point.seconds / point.n_prompts:>12.4f}"
            f"{point.points_per_layer:>16.1f}{point.peak.shown:>14}"
            for point in axis.points
        ]
        ratio = axis.points[-1].size / axis.points[0].size
        memory = f"memory {axis.memory_growth:+.1%} at {ratio:g} times the {name}"
        if name == "batch":  # the same work in fewer pieces: no line goes through that
            faster = axis.points[0].seconds / min(point.seconds for point in axis.points)
            lines.append(f"{'':>6}up to {faster:.1f} times as fast as with {axis.points[0].size}; {memory}")
            continue
        lines.append(
            f"{'':>6}time ≈ {axis.time.intercept:.3f} + {axis.time.slope:.4f} × {name}, "
            f"R² {axis.time.r_squared:.4f}; ∝ {name}^{axis.time.exponent:.2f}; {memory}"
        )
    lines += [f"\n{name}: left out. {reason}" for name, reason in result.left_out.items()]
    return "\n".join(lines)
