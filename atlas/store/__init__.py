"""An atlas on disk: tables, manifest, DuckDB over both, and a sandbox for untrusted SQL.

    from atlas.store import open_atlas
    with open_atlas("starter-pocket-bert") as a:
        a.query("SELECT * FROM hub_neurons LIMIT 5")

Names are imported on first use, because the sandbox's process does not import pandas.
"""

from importlib import import_module
from typing import Any

__all__ = ["Atlas", "Reader", "at_hand", "bundled", "imported", "imported_folder", "open_atlas", "resolve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("atlas.store.atlas"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
