"""A data set: relations, the facts of each, and the templates that ask for them.

dataset.facts[0], dataset.templates_of("P36")
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from atlas.errors import DatasetError
from atlas.neuron import Fact, Relation, Template

NOT_PUBLISHED = "not the published files"
"""How the revision begins of people's own files in a published data set's form."""


@dataclass(frozen=True)
class Dataset:
    """Relations, their templates and their facts, in a fixed order.

    `dataset_hash` is a sha256 over all of them, which an atlas records.
    """

    dataset_id: str
    revision: str
    licence: str
    relations: tuple[Relation, ...]
    templates: tuple[Template, ...]
    facts: tuple[Fact, ...]

    @cached_property
    def _templates_by_relation(self) -> dict[str, tuple[Template, ...]]:
        grouped: dict[str, list[Template]] = {r.relation_id: [] for r in self.relations}
        for template in self.templates:
            grouped[template.relation_id].append(template)
        return {relation_id: tuple(group) for relation_id, group in grouped.items()}

    def templates_of(self, relation_id: str, *, causal: bool = False) -> tuple[Template, ...]:
        """The relation's templates; with `causal`, only those that end with the object."""
        templates = self._templates_by_relation[relation_id]
        return tuple(t for t in templates if t.ends_with_object) if causal else templates

    def facts_of(self, relation_id: str) -> tuple[Fact, ...]:
        """The relation's facts, in the data set's order."""
        return tuple(f for f in self.facts if f.relation_id == relation_id)

    @cached_property
    def dataset_hash(self) -> str:
        """sha256 over relations, templates, and facts with their marks; equal content has an equal hash."""
        digest = hashlib.sha256()
        for item in (*self.relations, *self.templates, *self.facts):
            digest.update(repr(item).encode())
            if isinstance(item, Fact):
                digest.update(item.marks.encode())
        return digest.hexdigest()

    def restricted(self, relations: Iterable[str] | None = None, limit: int | None = None) -> Dataset:
        """Only these relations, and at most `limit` facts, spread evenly over the relations.

        Raises `DatasetError` for a relation that the data set does not have, or a limit below 1.
        """
        keep = {r.relation_id for r in self.relations}
        if relations is not None:
            wanted = list(relations)
            unknown = [r for r in wanted if r not in keep]
            if unknown or not wanted:
                raise DatasetError(
                    f"The data set {self.dataset_id} has no relation {', '.join(unknown) or '(none)'}. "
                    f"It has: {', '.join(sorted(keep))}."
                )
            keep = set(wanted)
        if limit is not None and limit < 1:
            raise DatasetError(f"limit must be at least 1, got {limit}.")
        kept = [f for f in self.facts if f.relation_id in keep]
        if limit is not None and limit < len(kept):
            # Round-robin over relations: a small build still shows several of them.
            position: dict[str, int] = {}
            order = []
            for index, fact in enumerate(kept):
                rank = position.get(fact.relation_id, 0)
                position[fact.relation_id] = rank + 1
                order.append((rank, index))
            chosen = sorted(index for _, index in sorted(order)[:limit])
            kept = [kept[index] for index in chosen]
        present = {f.relation_id for f in kept}
        return replace(
            self,
            relations=tuple(r for r in self.relations if r.relation_id in present),
            templates=tuple(t for t in self.templates if t.relation_id in present),
            facts=tuple(kept),
        )
