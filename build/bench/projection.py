"""How long all of PARAREL would take, from a stratified sample of its prompts.

    asked = load_population(source, causal=False)             # no torch here
    sample = draw(asked, 2000, groups=20)
    result = project(subject, asked, sample, tolerance=0.01, batch_rows=None)

1. *Population.* Every prompt that a model of this kind can be asked, as a build would: a masked one all
   templates, a causal one those that end with the object. One half of each relation's templates finds neurons
   and is attributed by `python -m build run`; `--attribute all` attributes every prompt. Both are projected.
2. *Sample.* Templates are the strata, each relation's own: a stratum gives as many prompts as its share asks
   for (largest remainders), every relation at least one, drawn without replacement from a fixed seed.
3. *Groups.* The sample is dealt out, template by template, into groups that each go through every relation;
   a group is one call, sorted into batches of similar length inside, like a shard of a build.
4. *Projection.* Seconds a prompt × prompts. The groups are replicates of each other, so resampling them gives
   the 95 % interval (percentiles of 10,000 bootstrap means).

Attribution only: predicting held-out prompts, refining, effects and writing are not in it. A model loaded
with `--model` reads with its own tokenizer. A shape has none, so one is trained on the prompts themselves; it
knows their rare names as whole words, which makes prompts shorter than a public tokenizer would. `token_cost`
says by what share a token more prolongs a prompt (a fixed sum, at the mean length and at twice it).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.datasets import Dataset
from atlas.errors import BuildError, PromptError
from atlas.neuron import Fact, Prompt, Template
from build.bench.machine import now
from build.bench.prompts import SEED
from build.plan import BuildOptions, ModelShape, Plan
from build.progress import ProgressBar

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

GROUPS = 20
SAMPLE = {"cpu": 2_000, "cuda": 20_000}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Population:
    """Every prompt that could be attributed: templates with the facts they are asked about."""

    strata: tuple[tuple[Template, tuple[Fact, ...]], ...]
    n_discovery: int

    @property
    def n_prompts(self) -> int:
        return sum(len(facts) for _, facts in self.strata)

    @property
    def n_relations(self) -> int:
        return len({template.relation_id for template, _ in self.strata})

    def prompts(self) -> list[Prompt]:
        return [template.prompt(fact) for template, facts in self.strata for fact in facts]


@dataclass(frozen=True)
class Estimate:
    """Seconds for `n_prompts` prompts, with a 95 % interval."""

    n_prompts: int
    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Projection:
    """What the sample took, and what all of it would."""

    n_sampled: int
    n_left_out: int
    n_relations: int
    n_templates: int
    group_prompts: tuple[int, ...]
    group_seconds: tuple[float, ...]
    prompts_per_second: float
    discovery: Estimate
    everything: Estimate
    mean_tokens: float
    trained_tokenizer: bool
    token_cost: float | None
    points_per_layer: float
    converged_share: float
    max_gap: float


# --- step 1: the population ---


def load_population(source: Path | None, *, causal: bool) -> Population:
    """PARAREL, from a folder or fetched as the builder does; `AtlasError` when it cannot be had."""
    options = BuildOptions(model="bench", dataset="pararel", source=source)
    from atlas.datasets import load_dataset

    return population(load_dataset(options.dataset, source=source), causal=causal)


def population(dataset: Dataset, *, causal: bool) -> Population:
    """The prompts that a build on `dataset` would ask a model of this kind."""
    usable = [r.relation_id for r in dataset.relations if dataset.templates_of(r.relation_id, causal=causal)]
    if not usable:
        raise BuildError("No template of the data set ends with the object. Choose a masked model.")
    dataset = dataset.restricted(usable)
    shape = ModelShape("causal" if causal else "masked")
    plan = Plan(BuildOptions(model="bench", dataset=dataset.dataset_id), shape, dataset)
    facts = {relation_id: dataset.facts_of(relation_id) for relation_id in usable}
    strata = [
        (template, facts[relation_id])
        for relation_id, templates in plan.templates.items()
        for template, _ in templates
        if facts[relation_id]
    ]
    return Population(tuple(strata), plan.n_discovery)


# --- steps 2 and 3: the sample ---


def allocation(asked: Population, n: int) -> list[int]:
    """How many prompts each stratum gives: by size, and at least one a relation."""
    sizes = [len(facts) for _, facts in asked.strata]
    total = sum(sizes)
    n = min(n, total)
    if n < asked.n_relations:
        raise BuildError(
            f"--sample {n} cannot hold a prompt of each of {asked.n_relations} relations. Give more."
        )
    exact = [size * n / total for size in sizes]
    given = [int(share) for share in exact]
    rest = sorted(range(len(sizes)), key=lambda k: (given[k] - exact[k], k))
    for k in rest[: n - sum(given)]:
        given[k] += 1
    relations = [template.relation_id for template, _ in asked.strata]
    by_relation = {
        relation: sum(g for r, g in zip(relations, given, strict=True) if r == relation)
        for relation in relations
    }
    for k, relation in enumerate(relations):
        if by_relation[relation] == 0:
            richest = max(range(len(given)), key=lambda j: (by_relation[relations[j]], given[j]))
            given[richest] -= 1
            by_relation[relations[richest]] -= 1
            given[k] += 1
            by_relation[relation] += 1
    return given


def draw(asked: Population, n: int, *, groups: int = GROUPS, seed: int = SEED) -> list[list[Prompt]]:
    """`n` prompts in groups that each go through all strata; the same for the same seed."""
    generator = random.Random(seed)
    prompts = [
        template.prompt(fact)
        for (template, facts), count in zip(asked.strata, allocation(asked, n), strict=True)
        for fact in generator.sample(facts, count)
    ]
    dealt = [prompts[first::groups] for first in range(groups)]
    return [group for group in dealt if group]


# --- step 4: time and projection ---


def estimate(
    group_seconds: Sequence[float], group_prompts: Sequence[int], n_prompts: int, *, seed: int = SEED
) -> Estimate:
    """Seconds a prompt × prompts; the interval from resampled groups."""
    import numpy as np

    seconds, prompts = np.asarray(group_seconds), np.asarray(group_prompts)
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(seconds), size=(RESAMPLES, len(seconds)))
    means = seconds[chosen].sum(1) / prompts[chosen].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    mean = seconds.sum() / prompts.sum()
    return Estimate(n_prompts, *(float(value * n_prompts) for value in (mean, low, high)))


def project(
    subject: Subject,
    asked: Population,
    groups: Sequence[Sequence[Prompt]],
    *,
    tolerance: float,
    batch_rows: int | None = None,
    trained_tokenizer: bool = False,
) -> Projection:
    """Attribute every group, and multiply."""
    from atlas.attribution.attribution import attribute

    usable = [_askable(subject, group) for group in groups]
    n_sampled, n_usable = sum(map(len, groups)), sum(map(len, usable))
    if not n_usable:
        raise BuildError(f"{subject.name} can be asked none of the sampled prompts. Choose another model.")
    usable = [group for group in usable if group]
    lengths = [len(subject.encode(prompt).input_ids) for group in usable for prompt in group]
    seconds, points, converged, gap = [], 0.0, 0.0, 0.0
    # A group before the clock starts: what first passes allocate is nobody's time.
    attribute(subject, usable[0], tolerance=tolerance, batch_rows=batch_rows)
    with ProgressBar("projection", total=n_usable) as progress:
        for group in usable:
            start = now(subject.device)
            found = attribute(subject, group, tolerance=tolerance, batch_rows=batch_rows)
            seconds.append(now(subject.device) - start)
            points += sum(float(attribution.n_points.mean()) for attribution in found)
            converged += sum(float(attribution.converged.mean()) for attribution in found)
            gap = max(gap, *(attribution.max_gap for attribution in found))
            progress.advance(len(group))
    sizes = [len(group) for group in usable]
    return Projection(
        n_sampled=n_sampled,
        n_left_out=n_sampled - n_usable,
        n_relations=asked.n_relations,
        n_templates=len(asked.strata),
        group_prompts=tuple(sizes),
        group_seconds=tuple(seconds),
        prompts_per_second=n_usable / sum(seconds),
        discovery=estimate(seconds, sizes, asked.n_discovery),
        everything=estimate(seconds, sizes, asked.n_prompts),
        mean_tokens=statistics.fmean(lengths),
        trained_tokenizer=trained_tokenizer,
        token_cost=token_cost(subject, usable[0], round(statistics.fmean(lengths))),
        points_per_layer=points / n_usable,
        converged_share=converged / n_usable,
        max_gap=gap,
    )


def _askable(subject: Subject, group: Sequence[Prompt]) -> list[Prompt]:
    """Without the prompts whose answer or length is not for this model."""
    usable = []
    for prompt in group:
        try:
            subject.encode(prompt)
        except PromptError:
            continue
        usable.append(prompt)
    return usable


def token_cost(subject: Subject, prompts: Sequence[Prompt], length: int) -> float | None:
    """By what share of its time a prompt of `length` tokens takes longer for a token more.

    None where no prompt can be made twice as long.
    """
    from build.bench.scaling import N_PROMPTS, seconds_by_length

    if 2 * length > subject.max_length:
        return None
    short = [prompt for prompt in prompts if len(subject.encode(prompt).input_ids) <= length][:N_PROMPTS]
    try:
        once, twice = seconds_by_length(subject, (length, 2 * length), short=short)
    except BuildError:
        return None
    return (twice / once - 1) / length


def with_trained_tokenizer(subject: Subject, prompts: Sequence[Prompt]) -> Subject:
    """The same model, reading with a tokenizer that was trained on these prompts."""
    from build.bench.vocabulary import trained

    config = subject.model.config
    return replace(subject, tokenizer=trained(config.model_type, prompts, config.vocab_size))


def report(result: Projection) -> str:
    """The result as people read it."""
    n = sum(result.group_prompts)
    lines = [
        f"projection: {n:,} prompts of {result.n_relations} relations and {result.n_templates} templates, "
        f"in {len(result.group_prompts)} calls",
        f"{'':<34}{'prompts':>12}{'projected':>14}{'95 % interval':>26}",
        _row("discovery prompts, as a build", result.discovery),
        _row("all prompts (--attribute all)", result.everything),
        "",
        f"{result.prompts_per_second:,.2f} prompts a second; attribution only",
        f"{result.points_per_layer:.1f} points a layer; {result.converged_share:.2%} of layers converged; "
        f"largest gap {result.max_gap:.1e} of the largest |score|",
        f"{result.mean_tokens:.1f} tokens a prompt on average"
        + (
            ", with a tokenizer trained on the prompts themselves: a public one's are longer"
            if result.trained_tokenizer
            else ""
        ),
    ]
    if result.token_cost is not None:
        lines.append(f"a token more costs {result.token_cost:+.1%} of a prompt's time")
    if result.n_left_out:
        lines.append(f"{result.n_left_out:,} of {result.n_sampled:,} sampled prompts cannot be asked")
    return "\n".join(lines)


def _row(name: str, estimate: Estimate) -> str:
    interval = f"{_span(estimate.low)} to {_span(estimate.high)}"
    return f"{name:<34}{estimate.n_prompts:>12,}{_span(estimate.seconds):>14}{interval:>26}"


def _span(seconds: float) -> str:
    """Three figures, so that an interval of a few per cent has two ends."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
