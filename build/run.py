"""One build from the first prompt to the manifest; a build killed at any moment goes on where it was.

    summary = run_build(options, out=Path("out/my-atlas"))

1. Attribute: scores of every neuron for every discovery prompt, a prediction for every other prompt.
2. Refine: knowledge neurons of every fact.
3. Read out: what their value vectors promote, and which prompts they are active on.
4. Evaluate: what suppressing and amplifying them does to held-out prompts, beside controls.
5. Finish: sorted tables, the manifest last.

Stages 1, 3 and 4 write shards (`build.writer`); the rest is made again by a resume.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.models import locate
from build.plan import MAX_POINTS, METHOD, BuildOptions, Plan, at_least_one, make_plan
from build.progress import Progress
from build.writer import Output

if TYPE_CHECKING:
    from atlas.models import LocatedModel
    from atlas.surgery.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a build is run; nothing here is meant to change a row."""

    device: str = "auto"
    threads: int | None = None
    batch_rows: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None:
            at_least_one("--threads", self.threads)
        if self.batch_rows is not None:
            at_least_one("--batch-rows", self.batch_rows)


def parameters_for(plan: Plan, located: LocatedModel) -> dict[str, Any]:
    """Everything that changes rows, as plain JSON: a folder goes on only with the same."""
    options = plan.options
    return {
        "model": located.name,
        "weights_sha256": located.weights_sha256,
        "dataset": plan.dataset.dataset_id,
        "relations": None if options.relations is None else list(options.relations),
        "limit": options.limit,
        "attribute": options.attribute,
        "mode": options.mode,
        "method": METHOD,
        "rule": options.rule,
        "tolerance": options.tolerance,
        "steps": None if options.rule == "certified" else options.steps,
        "max_points": MAX_POINTS if options.rule == "certified" else None,
        "dtype": options.dtype,
        "seed": options.seed,
        "shard_size": options.shard_size,
        "dataset_hash": plan.dataset.dataset_hash,
    }


def run_build(
    options: BuildOptions, *, out: Path, machine: Machine | None = None, fresh: bool = False
) -> str:
    """Build the atlas in `out`, or go on with it; returns a summary for a person.

    Raises an `AtlasError` for whatever cannot be done; complete shards are kept.
    """
    machine = machine or Machine()
    plan = make_plan(options, allow_download=True)
    located = locate(options.model)
    output = Output(out)
    state = output.claim(parameters_for(plan, located), fresh=fresh)
    if state == "finished":
        output.tidy()
        return f"{out} is finished already. Nothing to do; --fresh builds it again."
    try:
        if state == "resumed":
            print(f"Going on with the build in {out}.", file=sys.stderr)
        subject = _load(located.name, options, machine)
        attribute_stage(plan, output, subject, machine)
        return ""
    finally:
        output.close()


def _load(name: str, options: BuildOptions, machine: Machine) -> Subject:
    import torch

    from atlas.surgery.subject import load_subject

    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    return load_subject(name, device=machine.device, dtype=options.dtype)


# --- stage 1 ---


def attribute_stage(plan: Plan, output: Output, subject: Subject, machine: Machine) -> None:
    """Every shard of attributions that is not there yet."""
    from build.stages import Batches, attribute_shard, with_metadata

    shards = list(enumerate(plan.shards()))
    missing = [(index, facts) for index, facts in shards if not output.has_shard("attribute", index)]
    done = plan.n_prompts - sum(plan.n_prompts_of(facts) for _, facts in missing)
    batches = Batches.for_subject(subject, machine.batch_rows)
    with Progress("attribute", total=plan.n_prompts, done=done) as progress:
        batches.note = progress.note
        for index, facts in missing:
            started = time.monotonic()
            table = attribute_shard(subject, plan, facts, batches=batches, report=progress.advance)
            table = with_metadata(
                table, seconds=time.monotonic() - started, device=device_name(subject, machine)
            )
            output.write_shard("attribute", index, table)


def device_name(subject: Subject, machine: Machine) -> str:
    """The device in words, such as 'cpu, 2 threads' or 'NVIDIA H100'."""
    import torch

    if subject.device.type == "cuda":
        return torch.cuda.get_device_name(subject.device)
    return f"{subject.device.type}, {torch.get_num_threads()} threads"
