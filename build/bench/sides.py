"""Attribution against the plain loop: seconds, points, memory, and how far the scores lie apart.

1. *Sides.* The plain loop (`build.bench.plain_loop`: one layer at a time, every token through the whole
   model, one batch of the rule's points a layer), the staircase with the same points, and the certified
   default; then the last two with many prompts in one call, as the builder asks. The plain loop knows no
   batches. On a GPU, which eight prompts leave idle, a call has more of them; the first are the other sides'.
2. *Turns.* For each prompt every side once, in an order that rotates; in between, three times, the calls of
   many prompts, whose seconds are divided by their prompts. Figures are medians over prompts.
3. *Memory.* Every side in a process of its own, before this one loads the model.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from atlas.attribution import attribution
from atlas.neuron import Prompt
from atlas.surgery.precision import products
from atlas.surgery.subject import Subject
from build.bench.figures import certificates, format_rows, markdown_table, shown_bytes, summary_of
from build.bench.machine import Say, peak_memory, run_alone, run_in_turn
from build.bench.models import chosen_subject
from build.bench.options import BenchOptions
from build.bench.plain_loop import endpoints, plain_scores
from build.bench.prompts import bench_prompts

ONE_BY_ONE = ("plain", "same", "certified")
TOGETHER = ("same, batched", "certified, batched")
BATCH_REPEATS = 3
AT_ONCE = {"cpu": 1, "cuda": 1024}  # at least


def plain_attribution(subject: Subject, prompt: Prompt, steps: int) -> np.ndarray:
    """The plain loop over the answer's tokens: mean scores, (n_layers, n_neurons).

    In the precision of the subject's sweeps, so that a ratio says what the algorithm gains.
    """
    encoded = subject.encode(prompt)
    total = torch.zeros(())
    for position, target in zip(encoded.positions, encoded.targets, strict=True):
        read = encoded.input_ids[: position + 1] if subject.family.kind == "causal" else encoded.input_ids
        input_ids = torch.tensor(read, device=subject.device)
        with products(subject.dtype, subject.device):
            scores = plain_scores(
                subject.model, input_ids, position, target, rule=endpoints(steps), rows=steps
            )
        total = total.to(scores) + scores
    return (total / len(encoded.targets)).cpu().numpy()


def run_side(subject: Subject, prompts: Sequence[Prompt], side: str, *, steps: int, tolerance: float) -> list:
    """Scores arrays (plain) or `Attribution`s of the prompts."""
    if side == "plain":
        return [plain_attribution(subject, prompt, steps) for prompt in prompts]
    rule = "endpoints" if side.startswith("same") else "certified"
    return attribution.attribute(subject, prompts, rule=rule, steps=steps, tolerance=tolerance)


def time_sides(
    subject: Subject,
    prompts: Sequence[Prompt],
    together: Sequence[Prompt],
    say: Say,
    *,
    steps: int,
    tolerance: float,
) -> tuple[dict[str, list[float]], dict[str, list]]:
    """Seconds a prompt, and results in the prompts' order, of each side; `together`: prompts of one call."""
    run = partial(run_side, subject, steps=steps, tolerance=tolerance)
    seconds: dict[str, list[float]] = {side: [] for side in ONE_BY_ONE + TOGETHER}
    results: dict[str, list] = {side: [] for side in ONE_BY_ONE}
    # What first passes allocate is nobody's time; on a GPU each side has kernels of its own to load.
    subject.predict(prompts[:1])
    for side in ONE_BY_ONE if subject.device.type == "cuda" else ():
        run(prompts[:1], side)
    batch_after = {round((k + 1) * len(prompts) / BATCH_REPEATS) - 1 for k in range(BATCH_REPEATS)}
    for index, prompt in enumerate(prompts):
        alone = {side: partial(run, [prompt], side) for side in ONE_BY_ONE}
        for side, (took, found) in run_in_turn(alone, index, say, subject.device).items():
            seconds[side].append(took)
            results[side] += found
        if index in batch_after:
            calls = {side: partial(run, together, side) for side in TOGETHER}
            for side, (took, found) in run_in_turn(calls, index, say, subject.device).items():
                seconds[side].append(took / len(together))
                results[side] = found
    return seconds, results


def prompts_at_once(options: BenchOptions, subject: Subject) -> list[Prompt]:
    """The prompts of one call: as many as the other sides have, or what a GPU needs."""
    n = max(options.prompts, options.at_once or AT_ONCE[subject.device.type])
    return bench_prompts(subject.family.kind, n)


def peak_of_side(options: BenchOptions, side: str) -> dict[str, int | None]:
    """Run one side, in a process of its own."""
    subject = chosen_subject(options)
    prompts = prompts_at_once(options, subject)
    prompts = prompts if side in TOGETHER else prompts[:1]
    run_side(subject, prompts, side, steps=options.steps, tolerance=options.tolerance)
    return peak_memory(subject.device)


def peaks_of_sides(options: BenchOptions, say: Say) -> dict[str, dict[str, int | None]]:
    """Peak memory of each side, if asked for."""
    peaks = {}
    for side in ONE_BY_ONE + TOGETHER if options.memory else ():
        peaks[side] = run_alone(peak_of_side, options, side, remedy="Try --no-memory.")
        say(f"memory · {side}: {shown_bytes(peaks[side])}")
    return peaks


def measure_sides(subject: Subject, options: BenchOptions, peaks: dict, say: Say) -> dict[str, Any]:
    """Time every side, and put the figures together."""
    together = prompts_at_once(options, subject)
    prompts = together[: options.prompts]
    seconds, results = time_sides(
        subject, prompts, together, say, steps=options.steps, tolerance=options.tolerance
    )
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    sides = []
    for side in seconds:
        found, points, difference = results[side], float(options.steps), None
        if side != "plain":
            points = summary_of(certificates(found))["points_per_layer"]
        if side.startswith("same"):
            pairs = zip(found, results["plain"], strict=False)
            difference = max(attribution.relative_difference(a.scores, plain) for a, plain in pairs)
        sides.append(
            {
                "side": side,
                "seconds": seconds[side],
                "median_seconds": medians[side],
                "speed_up": medians["plain"] / medians[side],
                "points_per_layer": points,
                "relative_difference": difference,
                "peak": peaks.get(side),
            }
        )
    certified = summary_of(certificates(results["certified"] + results["certified, batched"]))
    return {
        "n_at_once": len(together),
        "n_prompt_tokens": [len(subject.encode(prompt).input_ids) for prompt in prompts],
        "steps": options.steps,
        "tolerance": options.tolerance,
        "converged_share": certified["converged_share"],
        "max_gap": certified["max_gap"],
        "sides": sides,
    }


def describe_sides(result: dict[str, Any]) -> str:
    """The result for a person."""
    n, steps = len(result["n_prompt_tokens"]), result["steps"]
    many = f"{result['n_at_once']} prompts in one call" if result["n_at_once"] > 1 else "in a call of its own"
    names = {
        "plain": f"plain loop, {steps} points",
        "same": f"staircase, same {steps} points",
        "certified": f"certified, tolerance {result['tolerance']:g}",
        "same, batched": f"staircase, same points, {many}",
        "certified, batched": f"certified, {many}",
    }
    rows = [
        side | {"name": names[side["side"]], "memory": shown_bytes(side["peak"]) if side["peak"] else ""}
        for side in result["sides"]
    ]
    lengths = sorted(set(result["n_prompt_tokens"]))
    tokens = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]}–{lengths[-1]}"
    cells = ("{name}", "{median_seconds:.3f}", "{speed_up:.1f}×", "{points_per_layer:.1f}", "{memory}")
    title = f"medians over {n} prompt{'s' if n > 1 else ''} of {tokens} tokens"
    heads = (title, "s a prompt", "speed-up", "points a layer", "peak memory")
    by_side = {side["side"]: side for side in result["sides"]}
    alone, together = by_side["certified"], by_side["certified, batched"]
    difference = max(side["relative_difference"] or 0 for side in result["sides"])
    return f"""against the plain loop

{markdown_table(heads, format_rows(rows, *cells))}

certified against the plain loop: {alone["speed_up"]:.1f}× one prompt at a time, \
{together["speed_up"]:.1f}× {many}; {alone["points_per_layer"]:.1f} points a layer on average
same points: scores within {difference:.1e} of the plain loop's (relative to the largest)
certified: {result["converged_share"]:.1%} of layers converged, largest gap {result["max_gap"]:.1e} \
of the largest |score|"""
