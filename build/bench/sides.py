"""Attribution against the plain loop: seconds, points, memory, and how far the scores lie apart.

    peaks = peaks_of(options)                   # of each side, in processes of their own
    result = compare(subject, options, peaks, print)

For each prompt, in an order that rotates from prompt to prompt: the plain loop (`build.bench.plain_loop`: one
layer at a time, every token through the whole model, one batch of the rule's points a layer), the staircase
with the same points, and the certified default. In between, three times, the staircase with all prompts in
one call, as the builder asks: seconds divided by prompts. The plain loop knows no batches. On a GPU, which
eight prompts leave idle, a call has more of them (`--at-once`); the first are those of the other sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.neuron import Prompt
from build.bench.machine import now
from build.bench.memory import Peak, alone
from build.bench.prompts import bench_prompts
from build.bench.shapes import subject_of

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

ONE_BY_ONE = ("plain", "same", "certified")
TOGETHER = ("same, batched", "certified, batched")
SIDES = ONE_BY_ONE + TOGETHER
BATCH_REPEATS = 3
AT_ONCE = {"cpu": 1, "cuda": 1024}  # at least


@dataclass(frozen=True)
class SideResult:
    """One side's figures; seconds are of one prompt, memory the peak of a process that ran only this side."""

    side: str
    seconds: tuple[float, ...]
    median_seconds: float
    speed_up: float
    points_per_layer: float
    relative_difference: float | None
    peak: Peak | None


@dataclass(frozen=True)
class Comparison:
    """Every side, and the certificate of the two certified ones."""

    n_at_once: int
    n_prompt_tokens: tuple[int, ...]
    steps: int
    tolerance: float
    converged_share: float
    max_gap: float
    sides: tuple[SideResult, ...]


def run_plain(subject: Subject, prompt: Prompt, steps: int) -> Any:
    """The plain loop over the answer's tokens: mean scores, (n_layers, n_neurons).

    In the precision of the subject's sweeps, so that a ratio says what the algorithm gains.
    """
    import torch

    from atlas.surgery.precision import products
    from build.bench.plain_loop import endpoints, plain_scores

    encoded = subject.encode(prompt)
    causal = subject.family.kind == "causal"
    total = 0
    for position, target in zip(encoded.positions, encoded.targets, strict=True):
        read = encoded.input_ids[: position + 1] if causal else encoded.input_ids
        input_ids = torch.tensor(read, device=subject.device)
        with products(subject.dtype, subject.device):
            total = total + plain_scores(
                subject.model, input_ids, position, target, rule=endpoints(steps), rows=steps
            )
    return (total / len(encoded.targets)).cpu().numpy()


def run_side(subject: Subject, prompts: list[Prompt], side: str, *, steps: int, tolerance: float) -> list:
    """Scores arrays (plain) or `Attribution`s of the prompts."""
    from atlas.attribution.attribution import attribute

    if side == "plain":
        return [run_plain(subject, prompt, steps) for prompt in prompts]
    rule = "endpoints" if side.startswith("same") else "certified"
    return attribute(subject, prompts, rule=rule, steps=steps, tolerance=tolerance)


def measure(
    subject: Subject,
    prompts: list[Prompt],
    *,
    steps: int,
    tolerance: float,
    together: list[Prompt] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, list[float]], dict[str, list]]:
    """Seconds a prompt and results of each side; results are the prompts' own, in order.

    together: what the sides with many prompts in one call are given, by default the same prompts.
    """
    together = together or prompts
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    results: dict[str, list] = {side: [] for side in SIDES}

    def timed(side: str, chosen: list[Prompt]) -> list:
        start = now(subject.device)
        found = run_side(subject, chosen, side, steps=steps, tolerance=tolerance)
        seconds[side].append((now(subject.device) - start) / len(chosen))
        progress(f"{side}: {seconds[side][-1]:.2f} s a prompt")
        return found

    n = len(prompts)
    batch_after = {round((k + 1) * n / BATCH_REPEATS) - 1 for k in range(BATCH_REPEATS)}
    warm_up(subject, prompts[:1], steps=steps, tolerance=tolerance)
    for index, prompt in enumerate(prompts):
        progress(f"prompt {index + 1}/{n}")
        turn = index % len(ONE_BY_ONE)
        for side in ONE_BY_ONE[turn:] + ONE_BY_ONE[:turn]:
            results[side] += timed(side, [prompt])
        if index in batch_after:
            for side in TOGETHER:
                results[side] = timed(side, together)
    return seconds, results


def warm_up(subject: Subject, prompts: list[Prompt], *, steps: int, tolerance: float) -> None:
    """What a first pass allocates is nobody's time; on a GPU each side has kernels of its own to load."""
    subject.predict(prompts)
    if subject.device.type == "cuda":
        for side in ONE_BY_ONE:
            run_side(subject, prompts, side, steps=steps, tolerance=tolerance)


def at_once(options: argparse.Namespace, subject: Subject) -> int:
    """Prompts in one call: as many as the other sides have, or what a GPU needs."""
    return max(options.prompts, options.at_once or AT_ONCE[subject.device.type])


def only_side(options: argparse.Namespace) -> None:
    """Run one side and print this process's peak memory."""
    subject = subject_of(options)
    n = at_once(options, subject) if options.only in TOGETHER else 1
    prompts = bench_prompts(subject.family.kind, n)
    run_side(subject, prompts, options.only, steps=options.steps, tolerance=options.tolerance)
    peak = Peak.of(subject.device)
    print(json.dumps({"process": peak.process, "device": peak.device}))


def peaks_of(options: argparse.Namespace, progress: Callable[[str], None]) -> dict[str, Peak | None]:
    """Peak memory of each side; None where nobody asked."""
    peaks: dict[str, Peak | None] = dict.fromkeys(SIDES)
    for side in SIDES if options.memory else ():
        peak = Peak(**alone(options, "--only", side))
        peaks[side] = peak
        progress(f"memory · {side}: {peak.shown}")
    return peaks


def compare(
    subject: Subject,
    options: argparse.Namespace,
    peaks: dict[str, Peak | None],
    progress: Callable[[str], None],
) -> Comparison:
    """Time every side, and put the figures together."""
    together = bench_prompts(subject.family.kind, at_once(options, subject))
    prompts = together[: options.prompts]
    seconds, results = measure(
        subject,
        prompts,
        steps=options.steps,
        tolerance=options.tolerance,
        together=together,
        progress=progress,
    )
    from atlas.attribution.attribution import relative_difference

    medians = {side: statistics.median(values) for side, values in seconds.items()}
    points = {"plain": float(options.steps)}
    difference: dict[str, float] = {}
    for side in SIDES[1:]:
        points[side] = statistics.mean(float(a.n_points.mean()) for a in results[side])
        if side.startswith("same"):
            difference[side] = max(
                relative_difference(found.scores, plain)
                for found, plain in zip(results[side][: len(prompts)], results["plain"], strict=True)
            )
    certified = results["certified"] + results["certified, batched"]
    return Comparison(
        n_at_once=len(together),
        n_prompt_tokens=tuple(len(subject.encode(prompt).input_ids) for prompt in prompts),
        steps=options.steps,
        tolerance=options.tolerance,
        converged_share=statistics.mean(float(a.converged.mean()) for a in certified),
        max_gap=max(a.max_gap for a in certified),
        sides=tuple(
            SideResult(
                side=side,
                seconds=tuple(seconds[side]),
                median_seconds=medians[side],
                speed_up=medians["plain"] / medians[side],
                points_per_layer=points[side],
                relative_difference=difference.get(side),
                peak=peaks[side],
            )
            for side in SIDES
        ),
    )


def report(result: Comparison) -> str:
    """The result as people read it."""
    n = len(result.n_prompt_tokens)
    many = f"{result.n_at_once} prompts in one call" if result.n_at_once > 1 else "in a call of its own"
    names = {
        "plain": f"plain loop, {result.steps} points",
        "same": f"staircase, same {result.steps} points",
        "certified": f"certified, tolerance {result.tolerance:g}",
        "same, batched": f"staircase, same points, {many}",
        "certified, batched": f"certified, {many}",
    }
    tokens = sorted(set(result.n_prompt_tokens))
    length = f"{tokens[0]}" if len(tokens) == 1 else f"{tokens[0]}–{tokens[-1]}"
    lines = [
        f"against the plain loop: medians over {n} prompt{'s' if n > 1 else ''} of {length} tokens",
        f"{'':<46}{'s a prompt':>11}{'speed-up':>10}{'points a layer':>16}{'peak memory':>13}",
    ]
    for side in result.sides:
        memory = "" if side.peak is None else side.peak.shown
        lines.append(
            f"{names[side.side]:<46}{side.median_seconds:>11.3f}{side.speed_up:>9.1f}×"
            f"{side.points_per_layer:>16.1f}{memory:>13}"
        )
    difference = max(side.relative_difference or 0 for side in result.sides)
    by_side = {side.side: side for side in result.sides}
    alone, together = by_side["certified"], by_side["certified, batched"]
    lines += [
        "",
        f"certified against the plain loop: {alone.speed_up:.1f}× one prompt at a time, "
        f"{together.speed_up:.1f}× {many}; "
        f"{alone.points_per_layer:.1f} points a layer on average",
        f"same points: scores within {difference:.1e} of the plain loop's (relative to the largest)",
        f"certified: {result.converged_share:.1%} of layers converged, "
        f"largest gap {result.max_gap:.1e} of the largest |score|",
    ]
    return "\n".join(lines)
