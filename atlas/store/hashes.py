"""Is a file what its manifest says? Its sha256, and what its rows take, are checked when it is first opened.

    check_hashes(folder, {folder / "facts.parquet": manifest.files["facts.parquet"]})

A file that was checked is not read again while its size and times stay as they are: `check_hashes` remembers
it in this process and, where files are large, in the cache folder for other processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from atlas.errors import StoreError
from atlas.files import whole_file
from atlas.models.known import cache_folder
from atlas.store.sizes import check_size

# Reading fewer takes less than a tenth of a second, so that no note is worth its file.
NOTED_BYTES = 64_000_000
# A file may change twice within one tick of a file system's clock.
_SETTLED_NANOSECONDS = 2_000_000_000

Times = tuple[int, int, int]
"""Size, and the times of the last change of content and of status."""

_seen: dict[str, tuple[Times, str]] = {}


Count = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True)
class FileRecord:
    """Rows, size and hash of one Parquet file."""

    rows: Count
    bytes: Count
    sha256: str


def sha256_of(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hashes(home: Path, files: Mapping[Path, FileRecord], *, again: bool = False) -> None:
    """Raises `StoreError` for a file whose sha256 is not its record's; see `find_damage`."""
    for sentence in find_damage(home, files, again=again).values():
        raise StoreError(sentence)


def find_damage(home: Path, files: Mapping[Path, FileRecord], *, again: bool = False) -> dict[Path, str]:
    """Each file whose sha256 is not its record's, or that takes too much memory, and a sentence about it.

    home: the folder of the atlas or the collection, whose note in the cache folder is used. `again` reads
    files that were checked before, too.
    """
    large = sum(record.bytes for record in files.values()) >= NOTED_BYTES
    if large:
        _recall(home)
    before = dict(_seen)
    found = {}
    for path, record in files.items():
        try:
            if not _matches(path, record.sha256, again=again):
                found[path] = (
                    f"{path} is damaged or changed: it does not match the sha256 in its manifest. "
                    "Build or copy the atlas again."
                )
        except OSError as error:
            found[path] = f"{path} cannot be read ({error.strerror}). Build or copy the atlas again."
        except StoreError as error:
            found[path] = str(error)
    if large and before != _seen:
        _write_down(home)
    return found


def _matches(path: Path, sha256: str, *, again: bool) -> bool:
    """Whether the file has this sha256. Raises `StoreError` for one whose rows take too much memory."""
    times, digest = _seen.get(str(path), (None, ""))
    now = _times(path)
    if not again and now == times:
        return digest == sha256
    if sha256_of(path) != sha256:
        return False
    check_size(path)
    if time.time_ns() - max(now[1:]) > _SETTLED_NANOSECONDS:
        _seen[str(path)] = now, sha256
    return True


def _times(path: Path) -> Times:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


# Notes for other processes ---------------------------------------------------------------------------


def _note(home: Path) -> Path:
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return cache_folder() / "checked" / f"{name}.json"


def _recall(home: Path) -> None:
    # A missing or broken note only means that files are read again.
    with suppress(OSError, ValueError, TypeError, AttributeError):
        for path, (times, digest) in json.loads(_note(home).read_text(encoding="utf-8")).items():
            _seen.setdefault(path, (tuple(times), digest))


def _write_down(home: Path) -> None:
    note = _note(home)
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        kept = {path: seen for path, seen in list(_seen.items()) if Path(path).is_relative_to(home)}
        with whole_file(note, shared=True) as file:
            file.write(json.dumps(kept).encode())
