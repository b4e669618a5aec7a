"""An atlas opened for reading: Parquet and a manifest on disk, DuckDB in memory over them.

    a = atlas.open()                                        # the one that comes with the project
    a = atlas.open("starter-pocket-bert")                   # by its id, or by its folder
    a.query("SELECT subject, object FROM facts WHERE relation_id = ?", ["P36"])    # a DataFrame
    a.sandboxed().query("SELECT …")                         # for SQL that other people wrote

Opening is cheap: the manifest, the schema version, and size, columns and rows of each file are checked
(`atlas.store.manifest.verify` also hashes them), then every table becomes a view over its file, and
`views.sql` adds the derived ones. Nothing is read before it is asked for.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pandas as pd
import pyarrow as pa

from atlas.errors import QueryError, StoreError
from atlas.models.known import cache_folder
from atlas.store.manifest import MANIFEST_NAME, Manifest, check_files, file_name, read_manifest
from atlas.store.schema import TABLES
from atlas.store.sql import Sandbox

DATA = Path(__file__).parents[1] / "data"
VIEWS = Path(__file__).parents[1] / "views.sql"
ENVIRONMENT_VARIABLE = "KNOWLEDGE_NEURON_ATLAS"
# The first is shown when none is chosen: its model comes along, so everything works at once and offline.
PREFERRED = ("starter-pocket-bert", "starter-smollm2-135m")

_PART_TWO = "-- Part 2:"
_OF_A_COLLECTION = re.compile(r"/\*\+ (.*?) \*/")

_SQL_TYPES = {
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "float": "FLOAT",
}

Parameters = Sequence[Any] | Mapping[str, Any] | None


def bundled() -> dict[str, Path]:
    """Ids and folders of the atlases that come with the project, the preferred ones first."""
    found = sorted(path.parent for path in DATA.glob(f"*/{MANIFEST_NAME}"))
    order = {atlas_id: place for place, atlas_id in enumerate(PREFERRED)}
    found.sort(key=lambda folder: order.get(folder.name, len(order)))
    return {folder.name: folder for folder in found}


def imported_folder() -> Path:
    """Where the app keeps the atlases that it imports: in the cache."""
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
        path_or_id = os.environ.get(ENVIRONMENT_VARIABLE) or None
    known = bundled()
    if path_or_id is None:
        if not known:
            raise StoreError(
                "No atlas comes with this installation. "
                "Build one with `python -m build run` and give its folder."
            )
        return next(iter(known.values()))
    known = at_hand()
    folder = known.get(str(path_or_id))
    if folder is not None:
        return folder
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return folder
    raise StoreError(
        f"'{path_or_id}' is neither a folder nor the id of an atlas. "
        f"Give the folder of an atlas, or one of: {', '.join(known) or '(there is none)'}."
    )


def open_atlas(path_or_id: str | Path | None = None) -> Atlas:
    """Open an atlas; see `resolve` for what may be given. Raises `StoreError` when it is broken."""
    return Atlas(resolve(path_or_id))


class Reader:
    """What an opened atlas and an opened collection have in common: tables in DuckDB that answer queries.

    reader.query("SELECT count(*) FROM facts WHERE known")
    reader.query_one("SELECT * FROM facts WHERE fact_id = ?", ["P36.france"])
    reader.close()

    `tables`: name → the SQL that reads it; `views`: statements that make the derived ones. Safe to share
    between threads: each query has a cursor of its own.
    """

    def __init__(self, path: Path, tables: Mapping[str, str], views: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection = duckdb.connect(":memory:")
        # Names in a query are tables of the atlas, never variables of the Python program.
        self._connection.execute("SET python_enable_replacements = false")
        self._connection.execute("SET autoinstall_known_extensions = false")
        # Views over views would read the same footers again and again.
        self._connection.execute("SET parquet_metadata_cache = true")
        try:
            for table, source in tables.items():
                self._connection.execute(f"CREATE VIEW {table} AS {source}")
            self._connection.execute(views)
        except duckdb.Error as error:
            self._connection.close()
            raise StoreError(f"{self.path} cannot be opened ({error}). Build it again.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def close(self) -> None:
        """Close the connection; a question asked after that raises."""
        self._connection.close()

    def query(self, sql: str, params: Parameters = None) -> pd.DataFrame:
        """The rows of a trusted query as a DataFrame; values go in as parameters (`?` or `$name`).

        Raises `QueryError` when DuckDB refuses it. For SQL that other people wrote use `sandboxed`.
        """
        with self._executed(sql, params) as cursor:
            return cursor.df()

    def query_one(self, sql: str, params: Parameters = None) -> dict[str, Any] | None:
        """The first row as a dict of plain Python values, or None."""
        with self._executed(sql, params) as cursor:
            row = cursor.fetchone()
            return None if row is None else dict(zip([d[0] for d in cursor.description], row, strict=True))

    @contextmanager
    def _executed(self, sql: str, params: Parameters) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._lock:
            cursor = self._connection.cursor()
        try:
            yield cursor.execute(sql, params) if params else cursor.execute(sql)
        except duckdb.Error as error:
            raise QueryError(f"The query failed. {error}") from error
        finally:
            cursor.close()


class Atlas(Reader):
    """An opened atlas.

    with atlas.open("starter-pocket-bert") as a:
        a.query("SELECT * FROM hub_neurons LIMIT 5")
        a.manifest.model.name, a.measured("effects")
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder).resolve()
        self.manifest: Manifest = read_manifest(self.path)
        check_files(self.path, self.manifest)
        self._prepared: set[str] = set()
        super().__init__(self.path, {table: self.source(table) for table in TABLES}, derived_views())

    @property
    def atlas_id(self) -> str:
        """Its id, from the manifest: the name of its folder where it comes with the project."""
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
            return f"SELECT * FROM read_parquet({quoted_path(self.path / file_name(table))})"
        return no_rows(table)

    def prepare(self, table: str, sql: str) -> None:
        """Make an in-memory table from `sql` once, for questions that are asked again and again."""
        if table in self._prepared:
            return
        with self._lock:
            if table not in self._prepared:
                with self._one_thread():
                    self._connection.execute(f'CREATE TABLE "{table}" AS {sql}')
                self._prepared.add(table)

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """While a table is made: each further thread takes as much memory again."""
        self._connection.execute("SET threads = 1")
        try:
            yield
        finally:
            self._connection.execute("RESET threads")

    def load(self, *tables: str) -> None:
        """Read tables into memory, for an app that asks about them again and again; answers stay the same.

        They are kept compressed, and what reading them took goes back to the system.
        """
        with self._lock, self._one_thread():
            try:
                self._connection.execute("SET allocator_background_threads = true")
                self._connection.execute("ATTACH IF NOT EXISTS ':memory:' AS loaded (COMPRESS)")
                for table in tables:
                    if f"loaded.{table}" not in self._prepared:
                        self._connection.execute(f"CREATE TABLE loaded.{table} AS {self.source(table)}")
                        self._connection.execute("CHECKPOINT loaded")
                        self._connection.execute(f"CREATE OR REPLACE VIEW {table} AS FROM loaded.{table}")
                        self._prepared.add(f"loaded.{table}")
            except duckdb.Error as error:
                raise StoreError(f"{self.path} cannot be read ({error}). Build it again.") from error

    def sandboxed(self, *, max_rows: int = 10_000, seconds: float = 10, memory: str = "512MB") -> Sandbox:
        """A process for untrusted SQL that can read this atlas's tables and nothing else. Close it."""
        return Sandbox(
            {table: self.source(table) for table in TABLES},
            derived_views(),
            max_rows=max_rows,
            seconds=seconds,
            memory=memory,
        )


def derived_views(*, of_a_collection: bool = False) -> str:
    """The statements of `views.sql` that do not depend on where the tables come from.

    Those of a collection keep atlases apart: what stands in `/*+ … */` is then part of them.
    """
    views = VIEWS.read_text(encoding="utf-8").partition(_PART_TWO)[2].partition("\n")[2]
    return _OF_A_COLLECTION.sub(r"\1", views) if of_a_collection else views


def no_rows(table: str) -> str:
    """The SQL of a table that is not on disk: its columns and no rows."""
    columns = ", ".join(f'NULL::{sql_type(f.type)} AS "{f.name}"' for f in TABLES[table])
    return f"SELECT {columns} WHERE false"


def quoted_path(path: Path) -> str:
    """A path as a SQL string that names this file only: its wildcards and quotes are escaped."""
    return literal(pattern(path))


def pattern(path: Path) -> str:
    """A path as DuckDB expands it: to this file only, whatever its name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def sql_type(kind: pa.DataType) -> str:
    """The DuckDB type of a column's pyarrow type."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"STRUCT({', '.join(f'{each.name} {sql_type(each.type)}' for each in kind)})"
    return _SQL_TYPES[str(kind)]
