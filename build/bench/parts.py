"""The parts of the benchmark, put in an order: other processes first, then one model for the rest."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from build.bench import comparison, floor, projection, scaling
from build.bench.machine import machine
from build.bench.prompts import bench_prompts
from build.bench.shapes import SHAPES, subject_of
from build.plan import model_shape

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

PARTS = ("compare", "floor", "projection", "scaling")


def _causal(options: argparse.Namespace) -> bool:
    """Whether the subject reads from left to right; known without torch."""
    if options.model is None:
        return SHAPES[options.shape][0] != "bert"
    return model_shape(options.model, allow_download=True).causal


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Every part's result by its name, `subject` and `machine` first.

    What runs in other processes comes before this one loads the model, which may be large.
    """
    asked = None
    if "projection" in options.parts:
        asked = projection.load_population(options.source, causal=_causal(options))
        # As few as the sample will surely have: refused before torch is imported.
        projection.allocation(asked, options.sample or min(projection.SAMPLE.values()))

    from atlas.surgery.subject import device_of

    device = device_of(options.device).type
    results: dict[str, Any] = {}
    if "compare" in options.parts:
        peaks = comparison.peaks_of(options, say)
    if "scaling" in options.parts:
        results["scaling"] = scaling.measure_scaling(options, device, say)
    subject = subject_of(options)
    if "compare" in options.parts:
        results["compare"] = comparison.compare(subject, options, peaks, say)
    if "floor" in options.parts:
        prompts = bench_prompts(subject.family.kind, options.floor_prompts or floor.PROMPTS[device])
        results["floor"] = floor.measure_floor(
            subject, prompts, repeats=options.repeats, tolerance=options.tolerance, progress=say
        )
    if asked is not None:
        results["projection"] = _project(subject, asked, options, device, say)
    about = {
        "name": subject.name,
        "n_parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
        "n_layers": subject.n_layers,
    }
    ordered = {part: results[part] for part in PARTS if part in results}
    return {"subject": about, "machine": machine(subject, options.threads), **ordered}


def _project(
    subject: Subject,
    asked: projection.Population,
    options: argparse.Namespace,
    device: str,
    say: Callable[[str], None],
) -> projection.Projection:
    groups = projection.draw(asked, options.sample or projection.SAMPLE[device], groups=options.groups)
    without = options.model is None
    if without:
        say("projection · training a tokenizer on the prompts")
        subject = projection.with_trained_tokenizer(subject, asked.prompts())
    return projection.project(
        subject,
        asked,
        groups,
        tolerance=options.tolerance,
        batch_rows=options.batch_rows,
        trained_tokenizer=without,
    )
