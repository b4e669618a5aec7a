"""PARAREL's prompts, and a stratified sample of them, before torch is imported.

    population = load_population(source, causal=False)
    groups = draw_groups(population, 2000, groups=20)

1. *Population.* Every prompt that a build would ask a model of this kind: a masked one all templates, a
   causal one those that end with the object.
2. *Sample.* Templates are the strata, each relation's own: a stratum gives as many prompts as its share asks
   for (largest remainders), every relation at least one, drawn without replacement from a fixed seed.
3. *Groups.* The sample is dealt out, template by template, into groups that each go through every relation.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from atlas.datasets import Dataset, load_dataset
from atlas.errors import BuildError
from atlas.neuron import Fact, Prompt, Template
from build.bench.prompts import PROMPT_SEED
from build.plan import BuildOptions, ModelShape, Plan

SAMPLES = {"cpu": 2_000, "cuda": 20_000}


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


def load_population(source: Path | None, *, causal: bool) -> Population:
    """PARAREL, from a folder or fetched as the builder does; `AtlasError` when it cannot be had."""
    return population_of(load_dataset("pararel", source=source), causal=causal)


def population_of(dataset: Dataset, *, causal: bool) -> Population:
    """The prompts that a build on the data set would ask a model of this kind."""
    usable = [r.relation_id for r in dataset.relations if dataset.templates_of(r.relation_id, causal=causal)]
    if not usable:
        raise BuildError("No template of the data set ends with the object. Choose a masked model.")
    dataset = dataset.restricted(usable)
    shape = ModelShape("causal" if causal else "masked")
    plan = Plan(BuildOptions(model="bench", dataset=dataset.dataset_id), shape, dataset)
    strata = [
        (template, facts)
        for relation_id, templates in plan.templates.items()
        if (facts := dataset.facts_of(relation_id))
        for template, _ in templates
    ]
    return Population(tuple(strata), plan.n_discovery)


def allocate(population: Population, n: int) -> list[int]:
    """How many prompts each stratum gives: by size, and at least one a relation."""
    relations = [template.relation_id for template, _ in population.strata]
    n = min(n, population.n_prompts)
    if n < population.n_relations:
        raise BuildError(
            f"--sample {n} cannot hold a prompt of each of {population.n_relations} relations. Give more."
        )
    exact = [len(facts) * n / population.n_prompts for _, facts in population.strata]
    given = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: given[k] - exact[k])
    for k in by_remainder[: n - sum(given)]:
        given[k] += 1
    of_relation = Counter()
    for relation, count in zip(relations, given, strict=True):
        of_relation[relation] += count
    for k, relation in enumerate(relations):
        if not of_relation[relation]:
            richest = max(range(len(given)), key=lambda j: (of_relation[relations[j]], given[j]))
            for place, change in ((k, 1), (richest, -1)):
                given[place] += change
                of_relation[relations[place]] += change
    return given


def draw_groups(
    population: Population, n: int, *, groups: int = 20, seed: int = PROMPT_SEED
) -> list[list[Prompt]]:
    """`n` prompts in groups that each go through all strata; the same for the same seed."""
    generator = random.Random(seed)
    prompts = [
        template.prompt(fact)
        for (template, facts), count in zip(population.strata, allocate(population, n), strict=True)
        for fact in generator.sample(facts, count)
    ]
    return [prompts[first::groups] for first in range(min(groups, len(prompts)))]
