"""The Knowledge Neuron Atlas: which feed-forward neurons of a language model carry which fact.

    import atlas
    a = atlas.open("starter-pocket-bert")          # Parquet + DuckDB, no torch
    a.query("SELECT * FROM hub_neurons LIMIT 5")   # a pandas DataFrame

The part that touches models lives in ``atlas.surgery`` and is imported only by those who need it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from atlas import moved

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

__version__ = "0.1.0"

# MKL, in torch's CPU build, gives equal bits from run to run only where it is asked to: otherwise they depend
# on the alignment of memory, on AMD's processors at least. MKL reads this at its first product, so it may
# come after `import torch`. Every program of this project imports `atlas`; so do its worker processes.
os.environ.setdefault("MKL_CBWR", "AUTO")
moved.forward()


def open(path_or_id: str | Path | None = None) -> Atlas:
    """Open an atlas by its id or folder; the one that comes with the project when None is given."""
    from atlas.store.atlas import open_atlas

    return open_atlas(path_or_id)
