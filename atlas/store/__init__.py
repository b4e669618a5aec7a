"""An atlas on disk: tables, manifest, DuckDB over both, and a sandbox for SQL that other people wrote.

    from atlas.store import open_atlas
    with open_atlas("starter-pocket-bert") as a:
        a.query("SELECT * FROM hub_neurons LIMIT 5")

What reads an atlas is imported when it is asked for: the sandbox's process does without pandas.
"""

from importlib import import_module
from typing import Any

__all__ = ["Atlas", "Reader", "at_hand", "bundled", "imported", "imported_folder", "open_atlas", "resolve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("atlas.store.atlas"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
