"""Experiments on a finished atlas: what there is to measure, as data.

    chosen = studies("suppress,update")         # the studies of these names, in the order of STUDIES
    chosen[0].load().units(ground)              # a study's module

A study's module has

    units(ground) -> list[Any]                  work in pieces of at most a minute or so, each a shard
    measure(ground, unit) -> list[dict] | pa.Table              rows of the study's table
    derived(ground, table) -> dict[str, pa.Table]               optional: tables that follow from it
    summary(atlas) -> list[str]                 lines for a person, from the atlas's tables

`units` and `measure` depend on the atlas, the model, the sample and the seed alone: a killed evaluation, run
again, ends with the same rows. `build.evidence.evaluate` runs them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from atlas.errors import BuildError


@dataclass(frozen=True)
class Study:
    """One experiment: the table it fills, and how many facts it takes when nobody says.

    derived: further tables that follow from it. sample: None for every fact. version: raised when its rows
    would come out otherwise than before. needs: tables that the atlas must have.
    """

    name: str
    table: str
    sentence: str
    sample: int | None = None
    version: int = 1
    derived: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("prompts", "knowledge_neurons")
    needs_model: bool = True

    def load(self) -> ModuleType:
        return importlib.import_module(f"build.evidence.{self.name}")

    @property
    def tables(self) -> tuple[str, ...]:
        return (self.table, *self.derived)


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "statistics",
            "statistics",
            "numbers of neurons, sharing, layers and hubs under other thresholds and modes",
            needs=("prompts", "attributions", "knowledge_neurons"),
            needs_model=False,
        ),
        Study(
            "effects",
            "effects",
            "suppress and amplify: own neurons and four controls, on discovery and held-out prompts",
            version=2,
            derived=("effect_summaries",),
        ),
        Study("update", "edits", "rewrite facts: success, and what else changes", sample=10, version=2),
        Study("erase", "erasures", "erase a relation's most frequent neurons, 1 to 200 of them", sample=25),
        Study(
            "contexts",
            "contexts",
            "how active a fact's neurons are where it is stated, and where only its subject is",
            sample=600,
        ),
        Study("subsets", "subsets", "how few of a fact's neurons give half the effect", sample=200),
        Study(
            "stability",
            "stability",
            "the same fact's neurons from the other half of its templates",
            sample=200,
        ),
        Study(
            "methods",
            "methods",
            "other ways to choose neurons: other methods and modes, by overlap and effect",
            sample=60,
            needs=("prompts", "attributions", "knowledge_neurons"),
        ),
    )
}

# What people may call them, too.
ALIASES: dict[str, tuple[str, ...]] = {
    "all": tuple(STUDIES),
    "suppress": ("effects",),
    "amplify": ("effects",),
    "thesis": ("stability", "subsets", "methods"),
}


def studies(names: str) -> list[Study]:
    """The studies of a list such as 'suppress,update', each once. Raises `BuildError` for another name."""
    chosen: set[str] = set()
    for name in filter(None, (part.strip().lower() for part in names.split(","))):
        if name not in STUDIES and name not in ALIASES:
            raise BuildError(
                f"There is no experiment '{name}'. Give some of: {', '.join((*STUDIES, *ALIASES))}."
            )
        chosen.update(ALIASES.get(name, (name,)))
    if not chosen:
        raise BuildError(f"--experiments names none. Give some of: {', '.join((*STUDIES, *ALIASES))}.")
    return [study for name, study in STUDIES.items() if name in chosen]
