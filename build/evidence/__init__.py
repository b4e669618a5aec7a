"""Experiments on a finished atlas: what there is to measure, as data.

    chosen = find_studies("suppress,update")    # the studies of these names, in the order of STUDIES
    chosen[0].load().units(setting)             # a study's module, which is a `StudyModule`

`build.evidence.evaluate` runs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from atlas.errors import BuildError

if TYPE_CHECKING:
    import pyarrow as pa

    from atlas.store.atlas import Atlas
    from build.evidence.setting import Setting


LARGE = 20_000
"""A model with more neurons takes minutes for what takes a small one seconds."""


class StudyModule(Protocol):
    """What every module of a study has: the work in shards, the rows of a shard, and a summary.

    `units` and `measure` depend on the atlas, the model, the sample and the seed alone: an evaluation that
    was killed and is run again ends with the same rows.

    A study whose shards are not just rows of its table also has their schema, ``SHARD``, and
    ``tables(setting, rows) -> dict[str, pa.Table]``, which makes all of its tables from their rows.
    """

    def units(self, setting: Setting) -> Sequence[Any]:
        """The work in units of at most a minute or so, each a shard."""

    def measure(self, setting: Setting, unit: Any) -> list[dict[str, Any]] | pa.Table:
        """The unit's rows: of the study's table, or of ``SHARD``."""

    def summary(self, atlas: Atlas) -> list[str]:
        """The results as lines of text, from the atlas's tables."""


@dataclass(frozen=True)
class Study:
    """One experiment: the table it fills, and the sample of facts that it takes by default.

    others: further tables that it fills. sample: None for every fact; sample_large: of a model with more than
    `LARGE` neurons, where that is another. on_request: whether 'all' leaves it out, as it takes long.
    version: raised when its rows would differ from before. needs: tables that the atlas must have.
    needs_held_out: whether it asks held-out prompts only, so that nothing can be measured where none is held
    out. needs_column: a table and its column without which nothing can be, either. needs_causal: whether only
    causal models can be asked. extends: whether the table is a build's own, of which the study fills columns,
    or rows of the facts that it takes.
    """

    name: str
    table: str
    sentence: str
    sample: int | None = None
    sample_large: int | None = None
    on_request: bool = False
    version: int = 1
    others: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("prompts", "knowledge_neurons")
    needs_model: bool = True
    needs_held_out: bool = True
    needs_column: tuple[str, str] | None = None
    needs_causal: bool = False
    extends: bool = False

    def load(self) -> StudyModule:
        return importlib.import_module(f"build.evidence.{self.name}")

    def sample_for(self, n_neurons: int) -> int | None:
        """How many facts it takes by default of a model with so many neurons."""
        return self.sample_large if self.sample_large and n_neurons > LARGE else self.sample

    @property
    def tables(self) -> tuple[str, ...]:
        return (self.table, *self.others)


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "statistics",
            "statistics",
            "numbers of neurons, sharing, layers and hubs under other thresholds and modes",
            needs=("prompts", "attributions", "knowledge_neurons"),
            needs_model=False,
            needs_held_out=False,
        ),
        Study(
            "effects",
            "effects",
            "suppress and amplify: own neurons, other neurons and other facts; whose neurons they are",
            sample=600,
            version=4,
            others=("control_neurons", "effect_summaries", "specificity"),
            extends=True,
            needs_held_out=False,
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
        Study(
            "generations",
            "generations",
            "what the model goes on to say without a fact's neurons, without random ones, and elsewhere",
            needs_held_out=False,
            needs_causal=True,
        ),
        Study(
            "synonymy",
            "synonymy",
            "whether an edit holds where a prompt names a synonym of its subject",
        ),
        Study(
            "grammar",
            "grammar",
            "minimal pairs of English grammar: the neurons of the right word, suppressed and edited",
            needs=("knowledge_neurons",),
            needs_held_out=False,
        ),
        Study(
            "consistency",
            "facts",
            "whether the wordings of a fact have the same coarse neurons",
            needs=("prompts", "attributions"),
            needs_model=False,
            needs_held_out=False,
            needs_column=("prompts", "max_score"),
            extends=True,
        ),
        Study(
            "labels",
            "neurons",
            "names for neurons: what their facts share, borne out by their activation on held-out prompts",
            sample=2500,
            needs=("prompts", "neurons", "knowledge_neurons"),
            needs_column=("knowledge_neurons", "mean_activation"),
            extends=True,
        ),
        Study(
            "planted",
            "planted",
            "whether methods find the neurons that a made-up answer was planted in (not part of all)",
            sample=100,
            sample_large=40,
            on_request=True,
            others=("planted_summaries",),
        ),
    )
}

# Other names for them.
ALIASES: dict[str, tuple[str, ...]] = {
    "all": tuple(name for name, study in STUDIES.items() if not study.on_request),
    "suppress": ("effects",),
    "amplify": ("effects",),
    "thesis": ("stability", "subsets", "methods"),
    "critics": ("update", "synonymy", "grammar", "consistency"),
}


def find_studies(names: str) -> list[Study]:
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
