"""Load a data set by its name. A loader is one function that returns a `Dataset`; `LOADERS` lists them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atlas.datasets.counterfact import load_counterfact
from atlas.datasets.dai import load_dai
from atlas.datasets.dataset import Dataset
from atlas.datasets.pararel import load_pararel
from atlas.datasets.starter import load_starter
from atlas.errors import DatasetError


def _starter(source: Path | None) -> Dataset:
    return load_starter() if source is None else load_starter(source.expanduser())


LOADERS: dict[str, Callable[[Path | None], Dataset]] = {
    "starter": _starter,
    "pararel": load_pararel,
    "counterfact": load_counterfact,
    "dai": load_dai,
}


def load_dataset(name: str, *, source: Path | None = None) -> Dataset:
    """Load a data set by its name; `source` is a folder or file to read instead of a download.

    Raises `DatasetError` when the name is unknown or the files cannot be read.
    """
    if name not in LOADERS:
        raise DatasetError(f"There is no data set '{name}'. Choose one of: {', '.join(LOADERS)}.")
    return LOADERS[name](source)
