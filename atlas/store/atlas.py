"""An atlas opened for reading: Parquet and a manifest on disk, DuckDB in memory over them.

    a = atlas.open()                                        # the one that comes with the project
    a = atlas.open("starter-pocket-bert")                   # by its id, or by its folder
    a.query("SELECT subject, object FROM facts WHERE relation_id = ?", ["P36"])    # a DataFrame
    a.sandboxed().query("SELECT …")                         # for untrusted SQL

Opening checks the manifest, the schema version, and sha256, columns and rows of each file. A file's sha256
is computed once, and again when the file has changed (`atlas.store.hashes`). Then it makes a view over each
file, and those of `views.sql`. Rows are read by queries only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from atlas.errors import StoreError
from atlas.files import looked_up
from atlas.models.known import cache_folder
from atlas.store.hashes import check_hashes
from atlas.store.manifest import MANIFEST_NAME, Manifest, check_files, file_name, read_manifest
from atlas.store.reader import Reader
from atlas.store.schema import TABLES
from atlas.store.sources import derived_views, no_rows, parquet, rows_of
from atlas.store.sql import Sandbox
from atlas.store.sql_pool import Pool
from atlas.store.sql_size import AnswerSize

MEMORY = "4GB"
"""What the tables of an atlas may take in memory. A build's with 100 million scores take less."""

DATA = Path(__file__).parents[1] / "data"
ENVIRONMENT_VARIABLE = "KNOWLEDGE_NEURON_ATLAS"
# The first is the default: its model comes with the project, so everything works at once and offline.
PREFERRED = ("starter-pocket-bert", "starter-smollm2-135m", "pararel-bert-base-uncased")


def bundled() -> dict[str, Path]:
    """Ids and folders of the atlases that come with the project, the preferred ones first."""
    found = sorted(path.parent for path in DATA.glob(f"*/{MANIFEST_NAME}"))
    order = {atlas_id: place for place, atlas_id in enumerate(PREFERRED)}
    found.sort(key=lambda folder: order.get(folder.name, len(order)))
    return {folder.name: folder for folder in found}


def imported_folder() -> Path:
    """The folder in the cache where the app keeps imported atlases."""
    return cache_folder() / "atlases"


def imported() -> dict[str, Path]:
    """Ids and folders of the atlases that were imported on this machine."""
    found = sorted(path.parent for path in imported_folder().glob(f"*/{MANIFEST_NAME}"))
    return {folder.name: folder for folder in found}


def at_hand() -> dict[str, Path]:
    """Ids and folders of the atlases that need no path: the bundled ones, then the imported ones."""
    known = bundled()
    return known | {atlas_id: folder for atlas_id, folder in imported().items() if atlas_id not in known}


def resolve(path_or_id: str | Path | None = None) -> Path:
    """The folder of an atlas: the id of a bundled or imported one, a folder, or the default when None.

    The default is what the environment variable KNOWLEDGE_NEURON_ATLAS names (an id or a folder), else
    the first bundled atlas. Raises `StoreError` when there is none.
    """
    if path_or_id is None:
        path_or_id = os.environ.get(ENVIRONMENT_VARIABLE) or next(iter(bundled()), None)
    if path_or_id is None:
        raise StoreError(
            "No atlas comes with this installation. Build one with `python -m build run` and give its folder."
        )
    known = at_hand()
    folder = known.get(str(path_or_id)) or looked_up(path_or_id, StoreError)
    if folder.is_dir():
        return folder
    raise StoreError(
        f"'{path_or_id}' is neither a folder nor the id of an atlas. "
        f"Give the folder of an atlas, or one of: {', '.join(known) or '(there is none)'}."
    )


def open_atlas(path_or_id: str | Path | None = None, *, memory: str = MEMORY) -> Atlas:
    """Open an atlas, given as for `resolve`. Raises `StoreError` when it is broken."""
    return Atlas(resolve(path_or_id), memory=memory)


class Atlas(Reader):
    """An opened atlas.

    with atlas.open("starter-pocket-bert") as a:
        a.query("SELECT * FROM hub_neurons LIMIT 5")
        a.manifest.model.name, a.measured("effects")

    `memory` is what its tables may take, in this process and in a sandbox's, when they are loaded.
    """

    def __init__(self, folder: str | Path, *, memory: str = MEMORY) -> None:
        self.path = Path(folder).resolve()
        self.memory = memory
        self.manifest: Manifest = read_manifest(self.path)
        check_files(self.path, self.manifest)
        self._prepared: set[str] = set()
        super().__init__(self.path, {table: self.source(table) for table in TABLES}, derived_views())

    @property
    def atlas_id(self) -> str:
        """Its id, from the manifest."""
        return self.manifest.atlas_id

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are on disk."""
        return self.manifest.tables

    def measured(self, table: str) -> bool:
        """Whether the atlas holds any row of a table; if not, say "not measured in this atlas"."""
        return self.manifest.rows(table) > 0

    def source(self, table: str) -> str:
        """The SQL that reads a table: its file, or its columns and no rows when the atlas has none."""
        if file_name(table) in self.manifest.files:
            return rows_of(table, f"SELECT * FROM {parquet(self.path / file_name(table))}")
        return no_rows(table)

    def _check_hashes(self) -> None:
        check_hashes(self.path, {self.path / name: each for name, each in self.manifest.files.items()})

    def prepare(self, table: str, sql: str) -> None:
        """Make an in-memory table from `sql` once, for queries that run again and again."""
        if table in self._prepared:
            return
        with self._lock:
            if table not in self._prepared:
                with self._one_thread():
                    self._connection.execute(f'CREATE TABLE "{table}" AS {sql}')
                self._prepared.add(table)

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """Use one thread while a table is made: each further thread takes as much memory again."""
        self._connection.execute("SET threads = 1")
        try:
            yield
        finally:
            self._connection.execute("RESET threads")

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Take no more than `memory`, and no disk in its place."""
        self._connection.execute("SET memory_limit = ?", [self.memory])
        self._connection.execute("SET max_temp_directory_size = '0B'")
        try:
            yield
        finally:
            self._connection.execute("RESET max_temp_directory_size")
            self._connection.execute("RESET memory_limit")

    def load(self, *tables: str) -> None:
        """Read tables into memory, compressed, for an app that queries them again and again.

        Answers stay the same; the memory used for reading returns to the system. Raises `StoreError` when
        they take more than `memory`.
        """
        with self._lock, self._one_thread(), self._bounded():
            try:
                self._connection.execute("SET allocator_background_threads = true")
                self._connection.execute("ATTACH IF NOT EXISTS ':memory:' AS loaded (COMPRESS)")
                for table in tables:
                    if f"loaded.{table}" not in self._prepared:
                        self._connection.execute(f"CREATE TABLE loaded.{table} AS {self.source(table)}")
                        self._connection.execute("CHECKPOINT loaded")
                        self._connection.execute(f"CREATE OR REPLACE VIEW {table} AS FROM loaded.{table}")
                        self._prepared.add(f"loaded.{table}")
            except duckdb.OutOfMemoryException:
                raise StoreError(
                    f"{self.path} takes more than {self.memory} of memory when it is loaded. Open another "
                    "atlas, or raise the limit (in the app: atlas_memory_mb in limits.toml)."
                ) from None
            except duckdb.Error as error:
                raise StoreError(f"{self.path} cannot be read ({error}). Build it again.") from error

    def sandboxed(
        self,
        *,
        max_rows: int = 10_000,
        seconds: float = 10,
        memory: str = "512MB",
        size: AnswerSize | None = None,
        pool: Pool | None = None,
    ) -> Sandbox:
        """A process for untrusted SQL that can read this atlas's tables and nothing else. Close it."""
        self._check_hashes()
        return Sandbox(
            {table: self.source(table) for table in TABLES},
            derived_views(),
            # Its process may start again, and read the files again, at any query.
            check=lambda sql: self._check_hashes(),
            max_rows=max_rows,
            size=size,
            seconds=seconds,
            memory=memory,
            loading=self.memory,
            pool=pool,
        )
