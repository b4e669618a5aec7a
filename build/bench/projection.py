"""How long all of PARAREL would take, from a stratified sample of its prompts (`build.bench.sample`).

A group of the sample is one call, sorted into batches of similar length inside, like a shard of a build.
Seconds a prompt × prompts is the projection. The groups are replicates of each other, so resampling them
gives the 95 % interval (percentiles of 10,000 bootstrap means). One half of each relation's templates finds
neurons and is attributed by `python -m build run`; `--attribute all` attributes every prompt: both are given.

Attribution only: predicting held-out prompts, refining, effects and writing are not in it. A model loaded
with `--model` reads with its own tokenizer; a shape's is trained on the prompts themselves, which makes them
shorter. `token_cost` says by what share a token more prolongs a prompt (a fixed sum, at the mean length and
at twice it).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from atlas.attribution.attribution import attribute
from atlas.errors import BuildError, PromptError
from atlas.neuron import Prompt
from atlas.surgery.subject import Subject
from build.bench.figures import certificates, markdown_table, summary_of
from build.bench.machine import timed
from build.bench.models import trained_tokenizer
from build.bench.prompts import PROMPT_SEED
from build.bench.sample import Population
from build.bench.scaling import PROMPTS_A_POINT, seconds_by_length
from build.progress import ProgressBar

RESAMPLES = 10_000


@dataclass(frozen=True)
class ProjectedTime:
    """Seconds for `n_prompts` prompts, with a 95 % interval."""

    n_prompts: int
    seconds: float
    low: float
    high: float


def project_time(
    group_seconds: Sequence[float], group_prompts: Sequence[int], n_prompts: int, *, seed: int = PROMPT_SEED
) -> ProjectedTime:
    """Seconds a prompt × prompts; the interval from resampled groups."""
    seconds, prompts = np.asarray(group_seconds), np.asarray(group_prompts)
    chosen = np.random.default_rng(seed).integers(len(seconds), size=(RESAMPLES, len(seconds)))
    low, high = np.quantile(seconds[chosen].sum(1) / prompts[chosen].sum(1), (0.025, 0.975))
    mean = seconds.sum() / prompts.sum()
    return ProjectedTime(n_prompts, *(float(value * n_prompts) for value in (mean, low, high)))


def measure_projection(
    subject: Subject,
    population: Population,
    groups: Sequence[Sequence[Prompt]],
    *,
    tolerance: float,
    batch_rows: int | None = None,
    train: bool = False,
) -> dict[str, Any]:
    """Attribute every group, and multiply. train: read with a tokenizer trained on the prompts."""
    if train:
        config = subject.model.config
        tokenizer = trained_tokenizer(config.model_type, population.prompts(), config.vocab_size)
        subject = replace(subject, tokenizer=tokenizer)
    n_sampled = sum(map(len, groups))
    groups = [usable for group in groups if (usable := [p for p in group if _can_be_asked(subject, p)])]
    if not groups:
        raise BuildError(f"{subject.name} takes none of the sampled prompts. Choose another model.")
    sizes = [len(group) for group in groups]
    lengths = [len(subject.encode(prompt).input_ids) for group in groups for prompt in group]
    seconds, settled = [], []
    call = partial(attribute, subject, tolerance=tolerance, batch_rows=batch_rows)
    call(groups[0])  # what first passes allocate is nobody's time
    with ProgressBar("projection", total=sum(sizes)) as progress:
        for group in groups:
            took, found = timed(partial(call, group), subject.device)
            seconds.append(took)
            settled += certificates(found)
            progress.advance(len(group))
    return {
        "n_sampled": n_sampled,
        "n_left_out": n_sampled - sum(sizes),
        "n_relations": population.n_relations,
        "n_templates": len(population.strata),
        "group_prompts": sizes,
        "group_seconds": seconds,
        "prompts_per_second": sum(sizes) / sum(seconds),
        "discovery": project_time(seconds, sizes, population.n_discovery),
        "everything": project_time(seconds, sizes, population.n_prompts),
        "mean_tokens": statistics.fmean(lengths),
        "trained_tokenizer": train,
        "token_cost": token_cost(subject, groups[0], round(statistics.fmean(lengths))),
        **summary_of(settled),
    }


def _can_be_asked(subject: Subject, prompt: Prompt) -> bool:
    try:
        subject.encode(prompt)
    except PromptError:
        return False
    return True


def token_cost(subject: Subject, prompts: Sequence[Prompt], length: int) -> float | None:
    """By what share of its time a prompt of `length` tokens takes longer for a token more.

    None where no prompt can be made twice as long.
    """
    if 2 * length > subject.max_length:
        return None
    short = [prompt for prompt in prompts if len(subject.encode(prompt).input_ids) <= length]
    try:
        once, twice = seconds_by_length(subject, (length, 2 * length), short=short[:PROMPTS_A_POINT])
    except BuildError:
        return None
    return (twice / once - 1) / length


def describe_projection(result: dict[str, Any]) -> str:
    """The result for a person."""
    rows = []
    for name, part in (
        ("discovery prompts, as a build", "discovery"),
        ("all prompts (--attribute all)", "everything"),
    ):
        n_prompts, *spans = astuple(result[part])
        seconds, low, high = map(_span, spans)
        rows.append((name, f"{n_prompts:,}", seconds, f"{low} to {high}"))
    n, calls = sum(result["group_prompts"]), len(result["group_prompts"])
    lines = [
        f"projection: {n:,} prompts of {result['n_relations']} relations and {result['n_templates']} "
        f"templates, in {calls} calls",
        "",
        markdown_table(("", "prompts", "projected", "95 % interval"), rows),
        "",
        f"{result['prompts_per_second']:,.2f} prompts a second; attribution only",
        f"{result['points_per_layer']:.1f} points a layer; {result['converged_share']:.2%} of layers "
        f"converged; largest gap {result['max_gap']:.1e} of the largest |score|",
        f"{result['mean_tokens']:.1f} tokens a prompt on average",
    ]
    if result["trained_tokenizer"]:
        lines[-1] += ", with a tokenizer trained on the prompts themselves: a public one's are longer"
    if result["token_cost"] is not None:
        lines.append(f"a token more costs {result['token_cost']:+.1%} of a prompt's time")
    if result["n_left_out"]:
        lines.append(f"{result['n_left_out']:,} of {result['n_sampled']:,} sampled prompts do not fit")
    return "\n".join(lines)


def _span(seconds: float) -> str:
    """Three figures, so that an interval of a few per cent has two ends."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
