"""Paths that people give, and atomic writes: a file is written completely or not at all.

folder = looked_up("~/models/my-bert")       # expanded; AtlasError where the system refuses
plain_file(folder / "facts.parquet")         # AtlasError for a link or a pipe of that name
with whole_file(path) as file:
    file.write(content)
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from atlas.errors import AtlasError


def looked_up(path: str | Path, error: type[AtlasError] = AtlasError) -> Path:
    """The path with `~` expanded, whether or not it exists.

    Raises `error` where the system refuses to look it up: a name too long, a folder that may not be entered.
    """
    try:
        found = Path(path).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(os.path.join(found, "."))  # "." because a folder must also let us in
    except (OSError, RuntimeError, ValueError) as problem:  # RuntimeError: "~nobody"; ValueError: a null byte
        raise error(refusal(path, problem)) from None
    return found


def refusal(path: str | Path, problem: Exception) -> str:
    """The sentence for a path that the system does not open."""
    text, reason = " ".join(str(path).split()), getattr(problem, "strerror", None) or str(problem).rstrip(".")
    shown = text if len(text) <= 100 else f"{text[:100]}…"
    return f"'{shown}' cannot be used ({reason}). Check the path and its permissions."


_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}


def plain_file(path: Path, error: type[AtlasError] = AtlasError, *, most: int | None = None) -> Path:
    """The path, which names a file and no link, folder, pipe, socket or device.

    For entries of a folder that somebody else may have made: a link leads out of it, and opening a pipe
    waits for ever. Two names of one file (hard links) are files. Raises `error`, also for a file of more
    than `most` bytes, and `OSError` where nothing has this name.
    """
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise error(
            f"{path} is {_KINDS.get(kind, 'a socket or a device')}, not a file. "
            "Put the file itself there, or remove it."
        )
    if most is not None and status.st_size > most:
        raise error(f"{path} has {status.st_size:,} bytes, more than {most:,}. Put the right file there.")
    return path


@contextmanager
def whole_file(path: Path, *, shared: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when it is complete and on the disk.

    Until then it is called `.NAME.partial`; with `shared`, where several programs may write at once, each
    uses a different name. If writing fails, the old file stays. A link of either name is replaced, and what
    it leads to stays as it is. Raises `OSError`.
    """
    ending = f"partial-{uuid.uuid4().hex[:8]}" if shared else "partial"
    partial = path.with_name(f".{path.name}.{ending}")
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write a rename to the disk: it is stored in the folder. Some systems cannot open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
