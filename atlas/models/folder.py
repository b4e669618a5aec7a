"""Check and hash a folder that `from_pretrained` can read, without loading the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from atlas.errors import ModelError
from atlas.models.checkpoint import check_config, check_tensors, config_sha256, read_tensors
from atlas.models.known import KNOWN_NAMES

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class LocatedModel:
    """A folder that `from_pretrained` can read, and the model's identity: its weights and its config.

    config_sha256: "" for a model whose config comes with its weights.
    """

    name: str
    folder: Path
    revision: str
    weights_sha256: str
    config_sha256: str = ""

    def config(self) -> dict:
        """The model's ``config.json``."""
        return _read_config(self.folder)


def same_model(one: Any, other: Any) -> bool:
    """Whether the weights are the same and, where both are known, the configs.

    Each has `weights_sha256` and `config_sha256`: a model, an experiment, a manifest's record of a model.
    """
    known = {one.config_sha256, other.config_sha256} - {None, ""}
    return one.weights_sha256 == other.weights_sha256 and len(known) <= 1


def from_folder(name: str, folder: Path, *, revision: str | None = None) -> LocatedModel:
    """Check a folder's files, and that its config fits its weights; reads the weights only to hash them."""
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"The folder {folder} holds an adapter (PEFT). Merge it into its model with "
            "`merge_and_unload()`, and save that."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The folder {folder} has no config.json. Give one that `save_pretrained` wrote, "
            f"or {KNOWN_NAMES}."
        )
    config = _read_config(folder)
    files = weight_files(folder)
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise ModelError(
            f"The folder {folder} has no tokenizer. Save it beside the weights with "
            "`tokenizer.save_pretrained`."
        )
    check_config(config, folder)
    check_tensors(read_tensors(files), config, folder)
    try:
        digest = weights_sha256(files)
    except OSError as error:
        raise ModelError(
            f"The weights in {folder} cannot be read ({error}). Check the files' permissions."
        ) from None
    return LocatedModel(name, folder, revision or f"sha256:{digest[:12]}", digest, config_sha256(config))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that `from_pretrained` reads. Raises `ModelError` where a shard is missing."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            shards = sorted(set(content["weight_map"].values()))
            in_folder = all(shard and Path(shard).name == shard for shard in shards)
            if not shards or not in_folder or not isinstance(content["metadata"], dict):
                raise ValueError("not an index of files in this folder")
            missing = [shard for shard in shards if not (folder / shard).is_file()]
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise ModelError(f"The file {index} cannot be read. Save the model again.") from None
        if missing:
            raise ModelError(
                f"The folder {folder} lacks {len(missing)} of {len(shards)} weight files, "
                f"first {missing[0]}. Copy or download them again."
            )
        return [folder / shard for shard in shards]
    if any(folder.glob("*.safetensors")):
        raise ModelError(
            f"The folder {folder} has safetensors files, but no model.safetensors and no index of shards. "
            "Rename the weights to model.safetensors."
        )
    if any(folder.glob("pytorch_model*.bin")):
        raise ModelError(
            f"The folder {folder} has only pickled weights (pytorch_model.bin), which can run code when "
            "loaded. Convert them to model.safetensors with `save_pretrained`."
        )
    raise ModelError(f"The folder {folder} has no *.safetensors. Save the model with `save_pretrained`.")


def _read_config(folder: Path) -> dict:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"The config.json in {folder} cannot be read ({error}). Save the model again."
        ) from None
    if not isinstance(config, dict):
        raise ModelError(f"The config.json in {folder} is not a JSON object. Save the model again.")
    return config


def weights_sha256(files: Sequence[Path]) -> str:
    """sha256 of a safetensors file; of several, the sha256 of their digests in the order of names."""
    digests = []
    for file in sorted(files):
        stat = file.stat()
        digests.append(_file_sha256(file, stat.st_size, stat.st_mtime_ns))
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@cache
def _file_sha256(file: Path, size: int, mtime_ns: int) -> str:
    # Size and time are part of the key, so that a replaced file is read again.
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
