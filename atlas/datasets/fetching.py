"""Download published files once, check their sha256 and keep them in the cache.

    folder = fetch_files(published, option="--source")  # downloads what the cache lacks
    file = fetch_file(url, key="counterfact", …)        # without a published sha256

A file gets its name in the cache once it is complete and checked, so every file there is usable.
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


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob_id(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


def as_published(content: bytes) -> bytes:
    """A text without the carriage returns that copying may have put before its line ends."""
    return content.replace(b"\r\n", b"\n")


@dataclass(frozen=True)
class PublishedFiles:
    """Where files are published: `hashes` maps their paths below `base_url` to their sha256.

    `key` names their folder in the cache; `copy` names the alternative for users, such as "a copy of its data
    folder". `digest` computes the hashes and `digest_name` names them, where they are no sha256.
    """

    key: str
    name: str
    copy: str
    base_url: str
    revision: str
    hashes: Mapping[str, str]
    digest: Callable[[bytes], str] = sha256
    digest_name: str = "sha256"

    @property
    def folder(self) -> Path:
        """Their folder in the cache."""
        return cache_folder() / self.key / self.revision[:12]


def fetch_files(
    published: PublishedFiles,
    *,
    option: str = "--source",
    say: Callable[[str], None] | None = None,
    count: Callable[[int, int], None] | None = None,
) -> Path:
    """The cache folder, after downloading the files that it lacks or that differ.

    `say` receives a message before a download, `count` the number of files present and of all files. Raises
    `DatasetError`, which names `option`, when a file cannot be fetched or is not the published one.
    """
    folder = published.folder
    wanted = [path for path in published.hashes if not _is_there(published, path)]
    if not wanted:
        return folder
    if say is not None:
        say(
            f"Fetching {len(wanted)} files of {published.name} from {published.base_url}; "
            f"they are checked against their {published.digest_name} and kept in {folder}."
        )
    instead = f"pass {published.copy} with {option} DIR"
    count = count or (lambda done, total: None)
    count(0, len(wanted))
    # One file first, so that a server out of reach costs one timeout only.
    _download(published, wanted[0], instead)
    count(1, len(wanted))
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        files = pool.map(lambda path: _download(published, path, instead), wanted[1:])
        for done, _ in enumerate(files, start=2):
            count(done, len(wanted))
    return folder


def fetch_file(
    url: str,
    *,
    key: str,
    name: str,
    copy: str,
    check: Callable[[bytes], object],
    option: str = "--source",
    say: Callable[[str], None] | None = None,
) -> Path:
    """A file whose publisher states no sha256, from the cache or downloaded.

    `check` raises where the content is not valid; then it is not kept. Callers record the sha256 of the
    content. Raises `DatasetError` as `fetch_files` does.
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


def _is_there(published: PublishedFiles, path: str) -> bool:
    try:
        return published.digest((published.folder / path).read_bytes()) == published.hashes[path]
    except OSError:
        return False


def _download(published: PublishedFiles, path: str, instead: str) -> None:
    content = _content(
        f"{published.base_url}/{path}",
        f"{path} of {published.name} cannot be fetched from its public repository",
        f"{instead[0].upper()}{instead[1:]}.",
    )
    if published.digest(content) != published.hashes[path]:
        raise DatasetError(
            f"The download of {path} from {published.name} does not match the published "
            f"{published.digest_name}. "
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
        # Two runs may fetch at the same time.
        with whole_file(target, shared=True) as file:
            file.write(content)
    except OSError as error:
        raise DatasetError(
            f"Files of {name} cannot be written to {target.parent} ({error.strerror}). "
            "Set KNOWLEDGE_NEURON_ATLAS_CACHE to a writable folder."
        ) from error
