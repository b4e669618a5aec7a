"""The parts of the attribution benchmark: other processes first, then one model for the rest."""

from __future__ import annotations

from typing import Any

from atlas.models.device import device_of
from build.bench import floor, projection, scaling, sides
from build.bench.figures import write_json
from build.bench.machine import Say, describe_machine
from build.bench.models import chosen_subject
from build.bench.options import BenchOptions
from build.bench.prompts import bench_prompts
from build.bench.sample import SAMPLES, Population, draw_groups

DESCRIBE = {
    "compare": sides.describe_sides,
    "floor": floor.describe_floor,
    "projection": projection.describe_projection,
    "scaling": scaling.describe_scaling,
}


def time_parts(options: BenchOptions, population: Population | None, say: Say) -> None:
    """Measure what was asked for, print it, and keep it as JSON."""
    results = measure_parts(options, population, say)
    write_json(options.json, {"options": options, **results})
    subject, here = results.pop("subject"), results.pop("machine")
    on = here["cpu"] if here["device"] == "cpu" else f"{here['device']} (CUDA {here['cuda']}); {here['cpu']}"
    print(
        f"{subject['name']}: {subject['n_parameters'] / 1e6:.1f} M parameters, {subject['n_layers']} layers\n"
        f"{on}, {here['cores']} cores, {here['threads']} threads, torch {here['torch']}, {here['dtype']}"
    )
    for part, figures in results.items():
        print(f"\n{DESCRIBE[part](figures)}")


def measure_parts(options: BenchOptions, population: Population | None, say: Say) -> dict[str, Any]:
    """The figures of every part, below those of the subject and the machine."""
    device = "cuda" if device_of(options.device).type == "cuda" else "cpu"
    peaks = sides.peaks_of_sides(options, say) if "compare" in options.parts else {}
    grown = scaling.measure_scaling(options, device, say) if "scaling" in options.parts else None
    subject = chosen_subject(options)
    results: dict[str, Any] = {
        "subject": {
            "name": subject.name,
            "n_parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
            "n_layers": subject.n_layers,
        },
        "machine": describe_machine(subject, options.threads),
    }
    if "compare" in options.parts:
        results["compare"] = sides.measure_sides(subject, options, peaks, say)
    if "floor" in options.parts:
        prompts = bench_prompts(subject.family.kind, options.floor_prompts or floor.FLOOR_PROMPTS[device])
        results["floor"] = floor.measure_floor(
            subject, prompts, say, repeats=options.repeats, tolerance=options.tolerance
        )
    if population is not None:
        results["projection"] = projection.measure_projection(
            subject,
            population,
            draw_groups(population, options.sample or SAMPLES[device], groups=options.groups),
            tolerance=options.tolerance,
            batch_rows=options.batch_rows,
            train=options.model is None,
        )
    return results | ({} if grown is None else {"scaling": grown})
