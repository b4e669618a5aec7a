"""Files of a publisher, fetched once, checked against their sha256 and kept in the cache.

    folder = fetched(published, option="--source")      # after downloading what the cache lacks
    file = fetched_as_it_is(url, key="counterfact", …)  # where no sha256 was ever published

A file is renamed into the cache when it is complete and right, so whatever lies there can be used.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from atlas.errors import DatasetError
from atlas.files import whole_file
from atlas.models.known import cache_folder

TIMEOUT_SECONDS = 4.0
_DOWNLOADS_AT_ONCE = 8


@dataclass(frozen=True)
class PublishedFiles:
    """Where files are published: `hashes` maps their paths below `base_url` to their sha256.

    `key` names their folder in the cache; `copy` is what a person can pass instead, in words such as
    "a copy of its data folder".
    """

    key: str
    name: str
    copy: str
    base_url: str
    revision: str
    hashes: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Where they are kept."""
        return cache_folder() / self.key / self.revision[:12]


def fetched(
    published: PublishedFiles,
    *,
    option: str = "--source",
    say: Callable[[str], None] | None = None,
    count: Callable[[int, int], None] | None = None,
) -> Path:
    """The cache folder, after downloading what it lacks (or holds in another form).

    `say` is told what is fetched from where, `count` how many of how many files are there. Raises
    `DatasetError`, which names `option`, when a file cannot be had or is not the published one.
    """
    folder = published.folder
    wanted = [path for path, digest in published.hashes.items() if not _is_there(folder / path, digest)]
    if not wanted:
        return folder
    if say is not None:
        say(
            f"Fetching {len(wanted)} files of {published.name} from {published.base_url}; "
            f"they are checked against their sha256 and kept in {folder}."
        )
    instead = f"pass {published.copy} with {option} DIR"
    count = count or (lambda done, total: None)
    count(0, len(wanted))
    # One file alone first: out of reach, it says so after one timeout and not after many.
    _download(published, wanted[0], instead)
    count(1, len(wanted))
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        files = pool.map(lambda path: _download(published, path, instead), wanted[1:])
        for done, _ in enumerate(files, start=2):
            count(done, len(wanted))
    return folder


def fetched_as_it_is(
    url: str,
    *,
    key: str,
    name: str,
    copy: str,
    check: Callable[[bytes], object],
    option: str = "--source",
    say: Callable[[str], None] | None = None,
) -> Path:
    """The one file of a publisher who names no sha256, from the cache or after downloading it.

    `check` raises where it is not what it should be, before it is kept. Whoever reads it says which it was,
    by the sha256 of what was read. Raises `DatasetError` as `fetched` does.
    """
    target = cache_folder() / key / url.rpartition("/")[2]
    if target.is_file():
        return target
    if say is not None:
        say(f"Fetching {name} from {url}; no sha256 of it is published. It is kept in {target.parent}.")
    content = _content(
        url, f"{name} cannot be fetched from its public home", f"Pass {copy} with {option} FILE."
    )
    check(content)
    _keep(content, target, name)
    return target


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_there(path: Path, digest: str) -> bool:
    try:
        return sha256(path.read_bytes()) == digest
    except OSError:
        return False


def _download(published: PublishedFiles, path: str, instead: str) -> None:
    content = _content(
        f"{published.base_url}/{path}",
        f"{path} of {published.name} cannot be fetched from its public repository",
        f"{instead[0].upper()}{instead[1:]}.",
    )
    if sha256(content) != published.hashes[path]:
        raise DatasetError(
            f"What was fetched as {path} of {published.name} has another sha256 than the published file. "
            f"Try again, or {instead}."
        )
    _keep(content, published.folder / path, published.name)


def _content(url: str, fact: str, remedy: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            return response.read()
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DatasetError(f"{fact} ({reason}). {remedy}") from error


def _keep(content: bytes, target: Path, name: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Two runs may fetch at once, and either may be killed.
        with whole_file(target, shared=True) as file:
            file.write(content)
    except OSError as error:
        raise DatasetError(
            f"Files of {name} cannot be kept in {target.parent} ({error.strerror}). "
            "Set KNOWLEDGE_NEURON_ATLAS_CACHE to a folder that can be written."
        ) from error
