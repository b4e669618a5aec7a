"""Old names of moved modules keep working in notebooks and scripts.

from atlas.comparison import overlap          # `atlas.queries.comparison`, with a DeprecationWarning
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "atlas.collection": "atlas.store.collection",
    "atlas.comparison": "atlas.queries.comparison",
    "atlas.controls": "atlas.experiments.controls",
    "atlas.definitions": "atlas.store.definitions",
    "atlas.documents": "atlas.experiments.documents",
    "atlas.evidence": "atlas.queries.evidence",
    "atlas.experiment": "atlas.experiments.experiment",
    "atlas.families": "atlas.models.families",
    "atlas.manifest": "atlas.store.manifest",
    "atlas.schema": "atlas.store.schema",
    "atlas.search": "atlas.queries.search",
    "atlas.selectivity": "atlas.queries.selectivity",
    "atlas.sharing": "atlas.queries.sharing",
    "atlas.sql": "atlas.store.sql",
    "atlas.subsets": "atlas.queries.subsets",
    "atlas.surgery.attribution": "atlas.attribution.attribution",
    "atlas.surgery.bisection": "atlas.attribution.bisection",
    "atlas.surgery.crossing": "atlas.experiments.crossing",
    "atlas.surgery.experiments": "atlas.experiments.run",
    "atlas.surgery.integration": "atlas.attribution.integration",
    "atlas.surgery.outcome": "atlas.experiments.outcome",
    "atlas.surgery.quadrature": "atlas.attribution.quadrature",
    "atlas.surgery.sequential": "atlas.attribution.sequential",
    "atlas.surgery.staircase": "atlas.attribution.staircase",
}


class _Forwarder(MetaPathFinder, Loader):
    """Finds the old names and returns the new modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} has moved to {new}.", DeprecationWarning, stacklevel=2)
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        # The import system returns this entry and leaves the new module's attributes alone.
        sys.modules[module.__name__] = import_module(MOVED[module.__name__])


def forward() -> None:
    """Register the old names with the import system."""
    if not any(isinstance(finder, _Forwarder) for finder in sys.meta_path):
        sys.meta_path.append(_Forwarder())
