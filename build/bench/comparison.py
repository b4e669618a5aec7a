"""Attribution against the plain loop: seconds, points, memory, and how far the scores lie apart."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.neuron import Prompt
from build.bench.machine import machine
from build.bench.memory import peak_bytes, peak_of
from build.bench.shapes import bench_prompts, subject_of

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

ONE_BY_ONE = ("plain", "same", "certified")
TOGETHER = ("same, batched", "certified, batched")
SIDES = ONE_BY_ONE + TOGETHER
BATCH_REPEATS = 3


@dataclass(frozen=True)
class SideResult:
    """One side's figures; seconds are of one prompt, memory the peak of a process that ran only this side."""

    side: str
    seconds: tuple[float, ...]
    median_seconds: float
    speed_up: float
    points_per_layer: float
    relative_difference: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class BenchResult:
    """What `python -m build bench` prints and writes."""

    subject: str
    n_parameters: int
    n_layers: int
    n_prompt_tokens: tuple[int, ...]
    steps: int
    tolerance: float
    converged_share: float
    max_gap: float
    machine: dict[str, Any]
    sides: tuple[SideResult, ...]


def run_plain(subject: Subject, prompt: Prompt, steps: int) -> Any:
    """The plain loop over the answer's tokens: mean scores, (n_layers, n_neurons)."""
    import torch

    from build.plain_loop import endpoints, plain_scores

    encoded = subject.encode(prompt)
    causal = subject.family.kind == "causal"
    total = 0
    for position, target in zip(encoded.positions, encoded.targets, strict=True):
        input_ids = torch.tensor(encoded.input_ids[: position + 1] if causal else encoded.input_ids)
        total = total + plain_scores(
            subject.model, input_ids, position, target, rule=endpoints(steps), rows=steps
        )
    return (total / len(encoded.targets)).numpy()


def run_side(subject: Subject, prompts: list[Prompt], side: str, *, steps: int, tolerance: float) -> list:
    """Scores arrays (plain) or `Attribution`s of the prompts."""
    from atlas.surgery.attribution import attribute

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
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, list[float]], dict[str, list]]:
    """Seconds a prompt and results of each side; results are the prompts' own, in order."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    results: dict[str, list] = {side: [] for side in SIDES}

    def timed(side: str, chosen: list[Prompt]) -> list:
        start = time.perf_counter()
        found = run_side(subject, chosen, side, steps=steps, tolerance=tolerance)
        seconds[side].append((time.perf_counter() - start) / len(chosen))
        progress(f"{side}: {seconds[side][-1]:.2f} s a prompt")
        return found

    n = len(prompts)
    batch_after = {round((k + 1) * n / BATCH_REPEATS) - 1 for k in range(BATCH_REPEATS)}
    subject.predict(prompts[:1])  # what a first forward pass allocates is nobody's time
    for index, prompt in enumerate(prompts):
        progress(f"prompt {index + 1}/{n}")
        turn = index % len(ONE_BY_ONE)
        for side in ONE_BY_ONE[turn:] + ONE_BY_ONE[:turn]:
            results[side] += timed(side, [prompt])
        if index in batch_after:
            for side in TOGETHER:
                results[side] = timed(side, prompts)
    return seconds, results


def relative_difference(scores: Any, reference: Any) -> float:
    """Largest difference of a score, as a fraction of the largest |score| of the reference."""
    return float(abs(scores - reference).max() / abs(reference).max())


def only_side(options: argparse.Namespace) -> int:
    """Run one side and print this process's peak memory."""
    subject = subject_of(options)
    prompts = bench_prompts(subject.family.kind, options.prompts if options.only in TOGETHER else 1)
    run_side(subject, prompts, options.only, steps=options.steps, tolerance=options.tolerance)
    print(peak_bytes())
    return 0


def bench(options: argparse.Namespace, progress: Callable[[str], None]) -> BenchResult:
    """Measure memory first, while this process is small, then time."""
    peaks: dict[str, int | None] = dict.fromkeys(SIDES)
    if options.memory:
        for side in SIDES:
            peaks[side] = peak_of(side, options)
            progress(f"memory · {side}: {peaks[side] / 1e9:.2f} GB")
    subject = subject_of(options)
    prompts = bench_prompts(subject.family.kind, options.prompts)
    seconds, results = measure(
        subject, prompts, steps=options.steps, tolerance=options.tolerance, progress=progress
    )

    medians = {side: statistics.median(values) for side, values in seconds.items()}
    points = {"plain": float(options.steps)}
    difference: dict[str, float] = {}
    for side in SIDES[1:]:
        points[side] = statistics.mean(float(a.n_points.mean()) for a in results[side])
        if side.startswith("same"):
            difference[side] = max(
                relative_difference(a.scores, b) for a, b in zip(results[side], results["plain"], strict=True)
            )
    certified = results["certified"] + results["certified, batched"]
    return BenchResult(
        subject=subject.name,
        n_parameters=sum(parameter.numel() for parameter in subject.model.parameters()),
        n_layers=subject.n_layers,
        n_prompt_tokens=tuple(len(subject.encode(prompt).input_ids) for prompt in prompts),
        steps=options.steps,
        tolerance=options.tolerance,
        converged_share=statistics.mean(float(a.converged.mean()) for a in certified),
        max_gap=max(a.max_gap for a in certified),
        machine=machine(options.threads),
        sides=tuple(
            SideResult(
                side=side,
                seconds=tuple(seconds[side]),
                median_seconds=medians[side],
                speed_up=medians["plain"] / medians[side],
                points_per_layer=points[side],
                relative_difference=difference.get(side),
                peak_bytes=peaks[side],
            )
            for side in SIDES
        ),
    )


def report(result: BenchResult) -> str:
    """The result as people read it."""
    names = {
        "plain": f"plain loop, {result.steps} points",
        "same": f"staircase, same {result.steps} points",
        "certified": f"certified, tolerance {result.tolerance:g}",
        "same, batched": f"same points, {len(result.n_prompt_tokens)} prompts at once",
        "certified, batched": f"certified, {len(result.n_prompt_tokens)} prompts at once",
    }
    here, tokens = result.machine, sorted(set(result.n_prompt_tokens))
    length = f"{tokens[0]}" if len(tokens) == 1 else f"{tokens[0]}–{tokens[-1]}"
    prompts = f"{len(result.n_prompt_tokens)} prompt{'s' if len(result.n_prompt_tokens) > 1 else ''}"
    lines = [
        f"{result.subject}: {result.n_parameters / 1e6:.1f} M parameters, {result.n_layers} layers",
        f"{here['cpu']}, {here['cores']} cores, {here['threads']} threads, torch {here['torch']}, "
        f"{here['dtype']}; medians over {prompts} of {length} tokens",
        "",
        f"{'':<32}{'s a prompt':>11}{'speed-up':>10}{'points a layer':>16}{'peak memory':>13}",
    ]
    for side in result.sides:
        memory = "" if side.peak_bytes is None else f"{side.peak_bytes / 1e9:.2f} GB"
        lines.append(
            f"{names[side.side]:<32}{side.median_seconds:>11.3f}{side.speed_up:>9.1f}×"
            f"{side.points_per_layer:>16.1f}{memory:>13}"
        )
    difference = max(side.relative_difference or 0 for side in result.sides)
    lines += [
        "",
        f"same points: scores within {difference:.1e} of the plain loop's (relative to the largest)",
        f"certified: {result.converged_share:.1%} of layers converged, "
        f"largest gap {result.max_gap:.1e} of the largest |score|",
    ]
    return "\n".join(lines)
