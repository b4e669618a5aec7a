"""The Knowledge Neuron Atlas: which feed-forward neurons of a language model an answer depends on.

    import atlas
    a = atlas.open("starter-pocket-bert")          # Parquet + DuckDB, no torch
    a.query("SELECT * FROM hub_neurons LIMIT 5")   # a pandas DataFrame

`import atlas` never imports torch; ``atlas.surgery``, which loads models, does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from atlas import moved

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

__version__ = "0.1.0"

# MKL, in torch's CPU build, is reproducible from run to run only with this setting: otherwise results depend
# on the alignment of memory, at least on AMD processors. MKL reads it at its first matrix product, so torch
# may be imported first. Every program of this project and its worker processes import `atlas`.
os.environ.setdefault("MKL_CBWR", "AUTO")
moved.forward()


def open(path_or_id: str | Path | None = None) -> Atlas:
    """Open an atlas by its id or folder; None opens the default atlas."""
    from atlas.store.atlas import open_atlas

    return open_atlas(path_or_id)
