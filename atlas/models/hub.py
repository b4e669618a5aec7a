"""Find a model in the hub's cache, or make one quick attempt to download it."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

from atlas.errors import ModelError
from atlas.models.folder import weight_files
from atlas.models.known import WITHOUT_HUB, OnProgress

HUB_DEADLINE_SECONDS = 3.5

_FILES: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"],
    "ignore_patterns": ["*/*"],
}


def cached_snapshot(name: str) -> Path | None:
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
        weight_files(folder)
    except ModelError:
        return None
    return folder


def download(name: str, progress: OnProgress | None) -> Path:
    """One quick attempt to reach the hub, then the snapshot's files."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            RepositoryNotFoundError,
        )
        from huggingface_hub.utils import filter_repo_objects
    except ImportError:
        raise ModelError(
            f"The model '{name}' is not on this machine, and huggingface_hub is not installed. {WITHOUT_HUB}"
        ) from None

    # In a thread, because the HTTP client's timeout does not cover the look-up of the host name.
    answer: list = []

    def ask() -> None:
        try:
            answer.append(HfApi().model_info(name, timeout=HUB_DEADLINE_SECONDS, files_metadata=True))
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="hub-look-up")
    thread.start()
    thread.join(HUB_DEADLINE_SECONDS)
    info = answer[0] if answer else TimeoutError(f"no answer in {HUB_DEADLINE_SECONDS} s")
    if isinstance(info, GatedRepoError):
        raise ModelError(
            f"The hub's '{name}' is gated. Accept its terms and log in with "
            f"`hf auth login`, or: {WITHOUT_HUB}"
        )
    if isinstance(info, RepositoryNotFoundError | HFValidationError):
        raise ModelError(f"The hub has no model '{name}'. Check the spelling. {WITHOUT_HUB}")
    if isinstance(info, Exception):
        raise ModelError(f"The hub cannot be reached to download '{name}'. {WITHOUT_HUB}")

    files = [sibling.rfilename for sibling in info.siblings or ()]
    if files and not any(file.endswith(".safetensors") and "/" not in file for file in files):
        raise ModelError(
            f"The hub's '{name}' has no safetensors weights. Convert it to a local folder with "
            "`save_pretrained`."
        )
    report: OnProgress = progress or (lambda fraction, message: None)
    report(0.0, f"Downloading {name} from the hub")
    n_bytes = sum(each.size or 0 for each in filter_repo_objects(info.siblings or (), **_FILES, key=_name))
    try:
        folder = snapshot_download(
            name, revision=info.sha, **_FILES, etag_timeout=4, tqdm_class=_reporting(name, n_bytes, report)
        )
    except Exception as error:  # its HTTP client has errors of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"The download of '{name}' failed ({reason}). Run it again to resume, or: {WITHOUT_HUB}"
        ) from None
    report(1.0, f"{name} is ready")
    return Path(folder)


def _name(file: Any) -> str:
    return file.rfilename


def _reporting(name: str, n_bytes: int, report: OnProgress) -> type:
    """A bar for `snapshot_download` that reports the bytes on disk instead of drawing them."""

    from tqdm import tqdm

    class Reporting(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            # There are bars of the files' number and of the bytes on the network, too.
            if str(self.desc).startswith("Reconstructing") and n_bytes:
                done = min(self.n, n_bytes)
                report(done / n_bytes, f"Downloading {name}, {done / 1e6:,.0f} of {n_bytes / 1e6:,.0f} MB")

    return Reporting
