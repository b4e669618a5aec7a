"""The folder that a build writes to: whole files only, shards, finished tables.

    output = Output(Path("out/my-atlas"))
    output.claim(parameters, fresh=False)             # "new", "resumed" or "finished", else an error
    output.write_shard("attribute", 12, table)        # temporary name, fsync, rename
    output.write_table("prompts", batches)            # a finished table, in row groups
    output.finish(manifest)                           # the data card, the manifest last; then work/ goes

A build keeps its shards and its plan in ``<out>/work``; `work/plan.json` has its parameters. A folder is
written to, or emptied by `--fresh`, only when everything in it is a build's own. Somebody else may have made
it: nothing is read or written before all entries are known to be plain files.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from atlas import files
from atlas.errors import BuildError, StoreError
from atlas.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    file_name,
    manifest_text,
    read_manifest,
    record_file,
    write_manifest,
)
from atlas.store.schema import SCHEMA_VERSION, TABLES, conform
from atlas.store.sizes import LARGEST_MANIFEST
from build.output.card import CARD, CROISSANT, cards
from build.plan import first_difference

WORK = "work"
PLAN_NAME = "plan.json"
LOCK_NAME = "lock"
# Measured: BENCHMARKS.md, "Reading at scale". Where one row of a few thousand is looked up in many atlases at
# once, a group of rows that has to be decoded for it had better be small.
ROW_GROUP_ROWS = 32_768
_SMALLER_GROUPS = {"facts": 4_096}
METADATA = b"build"
_SHARD = re.compile(r"\.?[a-z]+(-[0-9a-f]{8})?(-\d{5}\.parquet|\.npz)(\.partial)?")
_NEXT = ".next"
_OWN_NAMES = {
    before + name + after
    for name in (MANIFEST_NAME, CARD, CROISSANT, WORK, *map(file_name, TABLES))
    for before, after in (("", ""), ("", _NEXT), (".", ".partial"), (".", f"{_NEXT}.partial"))
}
_SELDOM_REPEATED = frozenset(
    (
        *("neuron", "score", "mean_score", "max_score", "mean_activation", "activation"),
        *("p_after", "probability", "max_gap"),
    )
)
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def with_metadata(table: pa.Table, **facts: Any) -> pa.Table:
    """The table with facts about its making in the file's footer."""
    merged = metadata_of(table.schema) | facts
    return table.replace_schema_metadata({METADATA: json.dumps(merged, ensure_ascii=False).encode()})


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """What `with_metadata` noted."""
    return json.loads((schema.metadata or {}).get(METADATA, b"{}"))


def check_entries(folder: Path) -> None:
    """Raises `BuildError` for an entry of an atlas's folder, or of its work folder, that is no plain file.

    Folders that no build reads or writes may be there.
    """
    for path in folder.iterdir():
        is_folder = path.is_dir() and not path.is_symlink()
        if path.name == WORK and is_folder:
            for below in path.iterdir():
                files.plain_file(below, BuildError)
        elif path.name == WORK:
            raise BuildError(f"{path} is not a folder. Remove it.")
        elif path.name in _OWN_NAMES or not is_folder:
            files.plain_file(path, BuildError)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises `BuildError` for a full disk or a folder without write permission."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise BuildError(
                f"The disk is full: {path.name} could not be written to {path.parent}. Free some space and "
                "run the same command again; complete shards are kept."
            ) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise BuildError(
                f"{path} cannot be written ({error.strerror}). Choose a folder you may write to."
            ) from None
        raise


@contextmanager
def open_output(path: Path) -> Iterator[BinaryIO]:
    """`atlas.files.whole_file`, with the errors of `writing`."""
    with writing(path), files.whole_file(path) as file:
        yield file


def parquet_options(schema: pa.Schema, *, level: int) -> dict[str, Any]:
    """How a table's file is written, as `pq.ParquetWriter` takes it."""
    # Numbers that hardly repeat need no dictionary, and floats among them shrink by a third when their bytes
    # are stored by significance. Integers stored so cannot be read by the DuckDB shell (1.5).
    return {
        "compression": "zstd",
        "compression_level": level,
        "use_dictionary": [leaf for leaf in _leaves(schema) if leaf not in _SELDOM_REPEATED],
        "use_byte_stream_split": [
            c.name for c in schema if c.name in _SELDOM_REPEATED and pa.types.is_floating(c.type)
        ],
    }


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A file's rows. By default pyarrow takes a folder above called `subject=x` for a column."""
    return pq.read_table(path, columns=columns, partitioning=None)


def row_group_rows(table: str) -> int:
    """How many rows of a finished table are stored, and skipped, together."""
    return _SMALLER_GROUPS.get(table, ROW_GROUP_ROWS)


def _write_parquet(
    path: Path,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    *,
    level: int,
    group_rows: int = ROW_GROUP_ROWS,
) -> None:
    with open_output(path) as file:
        writer = pq.ParquetWriter(file, schema, **parquet_options(schema, level=level))
        try:
            for table in tables:
                writer.write_table(table, row_group_size=group_rows)
        except BaseException:
            # Closing writes a footer; when the disk is full that fails again and would hide the cause.
            with suppress(OSError):
                writer.close()
            raise
        writer.close()


def _leaves(schema: pa.Schema) -> list[str]:
    """The columns as Parquet names them; those of lists by the path to their items."""
    probe = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), probe)
    columns = pq.read_metadata(pa.BufferReader(probe.getvalue())).schema
    return [columns.column(index).path for index in range(len(columns))]


class Output:
    """The folder of one build: what it was begun with, its shards, its finished tables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / WORK
        self._lock = FileLock(self.work / LOCK_NAME)

    # --- claiming the folder ---

    def claim(self, parameters: dict[str, Any], *, fresh: bool = False) -> str:
        """Take the folder for this build: 'new', 'resumed' or 'finished'.

        Raises `BuildError`, and changes nothing, when it holds another build, another atlas or files that
        no build wrote.
        """
        state = self.state(parameters, fresh=fresh)
        if state == "finished":
            return state
        with writing(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if state == "new":
            self.write_json(PLAN_NAME, parameters)
        elif fresh:
            # In this order a kill leaves either the old atlas or a begun build, never a heap of files.
            self.drop_shards()
            self.write_json(PLAN_NAME, parameters)
            for name in (MANIFEST_NAME, CARD, CROISSANT, *map(file_name, TABLES)):
                (self.folder / name).unlink(missing_ok=True)
            state = "new"
        return state

    def state(self, parameters: dict[str, Any], *, fresh: bool = False) -> str:
        """What `claim` will return: 'new', 'resumed' (with `fresh`: replaced) or 'finished'; only reads."""
        if self.folder.exists() and not self.folder.is_dir():
            raise BuildError(f"{self.folder} is a file. Give --out a folder.")
        if not self.folder.exists():
            return "new"
        check_entries(self.folder)
        names = {path.name for path in self.folder.iterdir()}
        foreign = sorted(names - _OWN_NAMES)
        if MANIFEST_NAME in names:
            manifest = self._manifest()
            if not fresh:
                before = manifest.method.options.get("parameters", {})
                difference = first_difference(before, parameters)
                if difference is None:
                    return "finished"
                raise BuildError(
                    f"{self.folder} holds a finished atlas with {difference}. "
                    "Choose another folder, or --fresh to replace it."
                )
        elif (self.work / PLAN_NAME).exists():
            if not fresh:
                begun = self.read_json(PLAN_NAME)
                difference = first_difference(begun, parameters)
                if difference is not None:
                    raise BuildError(
                        f"{self.folder} was begun with {difference}. "
                        "Choose another folder, or --fresh to start over."
                    )
        elif not foreign and names - {WORK}:
            foreign = sorted(names - {WORK})  # tables without a manifest or a plan: not ours to overwrite
        elif WORK in names and any(
            path.name not in (LOCK_NAME, f".{PLAN_NAME}.partial") for path in self.work.iterdir()
        ):
            foreign = [WORK]
        else:
            return "new" if not foreign else self._refuse(foreign)
        return "resumed" if not foreign else self._refuse(foreign)

    def _refuse(self, foreign: list[str]) -> str:
        raise BuildError(
            f"{self.folder} holds files that no build wrote ({', '.join(foreign[:3])}"
            f"{', …' if len(foreign) > 3 else ''}). Choose an empty or new folder."
        )

    def _manifest(self) -> Manifest:
        try:
            return read_manifest(self.folder)
        except StoreError as error:
            raise BuildError(
                f"{self.folder} holds a manifest that cannot be read ({error}). Choose another folder."
            ) from None

    def _take_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)  # the system drops it when the process ends, however it ends
        except Timeout:
            raise BuildError(
                f"Another build is running in {self.folder}. Wait for it, or choose another folder."
            ) from None

    def close(self) -> None:
        """Release the folder for other builds."""
        self._lock.release()

    def reopen(self) -> None:
        """Make a finished atlas's work folder again, for tables that are added later."""
        with writing(self.work):
            self.work.mkdir(exist_ok=True)
        self._take_lock()

    # --- shards ---

    def shard_path(self, stage: str, index: int) -> Path:
        return self.work / f"{stage}-{index:05d}.parquet"

    def write_shard(self, stage: str, index: int, table: pa.Table) -> None:
        _write_parquet(self.shard_path(stage, index), table.schema, [table], level=3)

    @contextmanager
    def background(self) -> Iterator[Callable[[str, int, pa.Table], None]]:
        """A `write_shard` that returns at once, and writes while the next shard is computed.

        An error is raised at the next shard, or at the end. A shard that was given is written even when the
        block is left by an error.
        """
        pending: Future[None] | None = None
        with ThreadPoolExecutor(1, "shards") as pool:

            def write(stage: str, index: int, table: pa.Table) -> None:
                nonlocal pending
                if pending is not None:
                    pending.result()
                pending = pool.submit(self.write_shard, stage, index, table)

            yield write
            if pending is not None:
                pending.result()

    def has_shard(self, stage: str, index: int) -> bool:
        """Whether the shard exists and its footer can be read; another one is made again."""
        try:
            pq.read_metadata(self.shard_path(stage, index))
        except (OSError, pa.ArrowException):
            return False
        return True

    def read_shard(self, stage: str, index: int, columns: list[str] | None = None) -> pa.Table:
        return read_parquet(self.shard_path(stage, index), columns)

    def shard_notes(self, stage: str, count: int) -> list[dict[str, Any]]:
        """What `with_metadata` noted in each of a stage's shards."""
        return [metadata_of(pq.read_schema(self.shard_path(stage, index))) for index in range(count)]

    # --- small files of the work folder ---

    def save_state(self, name: str, save: Callable[[BinaryIO], None]) -> None:
        """Replace a file of running results."""
        with open_output(self.work / name) as file:
            save(file)

    def load_state(self, name: str, load: Callable[[Path], None]) -> None:
        """`load(path)` when there is one."""
        path = self.work / name
        if path.exists():
            load(path)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        with open_output(self.work / name) as file:
            file.write(json.dumps(value, indent=2, ensure_ascii=False).encode())

    def read_json(self, name: str) -> dict[str, Any]:
        path = self.work / name
        try:
            return json.loads(files.plain_file(path, BuildError, most=LARGEST_MANIFEST).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise BuildError(
                f"{path} cannot be read ({error}). Choose another folder, or --fresh to start over."
            ) from None

    # --- finishing ---

    def write_table(self, table: str, rows: pa.Table | list[dict[str, Any]]) -> None:
        """A finished table, sorted by its keys."""
        self.write_sorted(table, [conform(table, rows)])

    def write_sorted(self, table: str, parts: Iterable[pa.Table]) -> None:
        """A finished table from parts that are already in the order of its keys."""
        rows = row_group_rows(table)
        _write_parquet(self.folder / file_name(table), TABLES[table], parts, level=9, group_rows=rows)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest last, then remove the work folder."""
        path = self.folder / MANIFEST_NAME
        with writing(path):
            write_cards(self.folder, manifest)
            write_manifest(self.folder, manifest)
            files.sync_folder(self.folder)
        self.tidy()

    def add_tables(self, tables: dict[str, pa.Table], manifest: Manifest) -> None:
        """Add tables to a finished atlas, or replace them; `manifest` comes without their records.

        All files are written under other names, the manifest's last, before the first is renamed; `settle`
        finishes an interrupted renaming.
        """
        for name, table in tables.items():
            path = self.folder / f"{file_name(name)}{_NEXT}"
            rows = row_group_rows(name)
            _write_parquet(path, TABLES[name], [conform(name, table)], level=9, group_rows=rows)
        files = dict(manifest.files)
        for name in tables:
            files[file_name(name)] = record_file(self.folder / f"{file_name(name)}{_NEXT}")
        ordered = {name: files[name] for name in map(file_name, TABLES) if name in files}
        with open_output(self.folder / f"{MANIFEST_NAME}{_NEXT}") as file:
            later = replace(manifest, files=ordered, schema_version=SCHEMA_VERSION)
            file.write(manifest_text(later).encode())
        settle(self.folder)

    def drop_shards(self, stage: str = "") -> None:
        """Remove a stage's shards, or all, whose rows are in tables now."""
        for path in self.work.iterdir():
            if path.name.startswith(stage) and _SHARD.fullmatch(path.name):
                path.unlink()

    def leave(self) -> None:
        """Release a finished atlas; its work folder stays only while it holds shards."""
        self.close()
        (self.work / LOCK_NAME).unlink(missing_ok=True)
        with suppress(OSError):
            self.work.rmdir()

    def tidy(self) -> None:
        """Remove the work folder of a finished atlas, unless it holds files that no build wrote."""
        self.close()
        if not self.work.is_dir():
            return
        self.drop_shards()
        for name in (PLAN_NAME, LOCK_NAME, f".{PLAN_NAME}.partial"):
            (self.work / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.work.rmdir()


def write_cards(folder: Path, manifest: Manifest) -> None:
    """The data card, for people and for programs."""
    for name, text in cards(manifest).items():
        with open_output(folder / name) as file:
            file.write(text.encode())


def settle(folder: Path) -> None:
    """Finish an interrupted `add_tables`: all of its files take their names, or none does.

    Raises `BuildError`, and changes nothing, for an entry that is no plain file.
    """
    check_entries(folder)
    waiting = folder / f"{MANIFEST_NAME}{_NEXT}"
    ready = waiting.exists()
    with writing(folder):
        for name in map(file_name, TABLES):
            path = folder / f"{name}{_NEXT}"
            if path.exists() and ready:
                os.replace(path, folder / name)
            path.unlink(missing_ok=True)
        files.sync_folder(folder)
        if ready:
            write_cards(folder, read_manifest(folder, waiting.name))
            os.replace(waiting, folder / MANIFEST_NAME)
            files.sync_folder(folder)
