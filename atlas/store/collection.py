"""Many atlases read as one: a folder of atlas folders, one for each model and data set.

    many = Collection("out/many")
    many.query("SELECT atlas_id, known FROM facts WHERE fact_id = ?", ["P36-00012"])     # of every model
    many.atlas("starter-pocket-bert")                                                    # one, as an Atlas

Every table and view has a first column `atlas_id`. To add an atlas, copy its folder into the collection; to
drop it, remove the folder. There is no index to update.

1. *Members*: manifests and the sizes of files are checked; no Parquet file is opened.
2. *Tables*: one view a table over the members' files. `atlas_id` is computed from a file's name, so DuckDB
   drops the files of other atlases from a query that names one before it opens any.
3. *Views*: those of `views.sql`, kept apart by `atlas_id`. Tables and views are made when a query first
   names them: making all of them takes longer than looking up a fact. Then the sha256 of a table's files is
   checked, too (`atlas.store.hashes`); a query over a damaged one fails, other queries do not.

Layout and figures: BENCHMARKS.md, "Reading at scale".
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from atlas.errors import QueryError, StoreError
from atlas.files import looked_up
from atlas.store.atlas import Atlas
from atlas.store.hashes import find_damage
from atlas.store.manifest import MANIFEST_NAME, Manifest, check_files, file_name, read_manifest
from atlas.store.reader import Parameters, Reader
from atlas.store.schema import TABLES
from atlas.store.sources import derived_views, glob_of, no_rows, parquet, sql_string, sql_type
from atlas.store.sql import Sandbox
from atlas.store.sql_pool import Pool
from atlas.store.sql_size import AnswerSize

# Memory for queries. The rest of a process (Python, DuckDB's code, pandas) takes 200 MB.
MEMORY = "600MB"

_VIEW = re.compile(r"^CREATE OR REPLACE VIEW (\w+) AS\n(.*?);$", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"\w+")
# Statements that list tables without naming them.
_CATALOG = {"show", "information_schema", "duckdb_views", "duckdb_tables", "duckdb_columns", "query_table"}


@dataclass(frozen=True)
class Member:
    """One atlas of a collection: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def atlas_id(self) -> str:
        """The value of the column `atlas_id` for its rows."""
        return self.manifest.atlas_id


class Collection(Reader):
    """An opened collection.

    with Collection("out/many") as many:
        many.query("SELECT * FROM relation_overlap WHERE atlas_id = 'starter-pocket-bert' AND within")
        many.sandboxed().query("SELECT atlas_id, count(*) FROM facts WHERE known GROUP BY ALL")

    Threads may share it. `memory` bounds the memory of queries; one that needs more uses temporary files.
    """

    def __init__(self, folder: str | Path, *, memory: str = MEMORY) -> None:
        self.path = looked_up(folder, StoreError).resolve()
        self.members: Mapping[str, Member] = read_members(self.path)
        super().__init__(self.path, {}, "")
        self._views = dict(_VIEW.findall(derived_views(of_a_collection=True)))
        self._made: set[str] = set()
        self._spill = tempfile.TemporaryDirectory(prefix="knowledge-neuron-atlas-")
        self._connection.execute("SET memory_limit = ?", [memory])
        self._connection.execute("SET temp_directory = ?", [self._spill.name])

    def close(self) -> None:
        """Close the connection and remove the temporary files of its queries."""
        super().close()
        self._spill.cleanup()

    @contextmanager
    def _executed(self, sql: str, params: Parameters) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with self._lock:
                self._make_what_is_named(sql)
        except duckdb.Error as error:
            raise QueryError(f"The query failed. {error}") from error
        with super()._executed(sql, params) as cursor:
            yield cursor

    def _make_what_is_named(self, sql: str) -> None:
        """Step 3: make the tables and views that the query names. One made by a false match is harmless."""
        words = set(_WORD.findall(sql.lower()))
        everything = {*TABLES, *self._views}
        for name in (everything if words & _CATALOG else words & everything) - self._made:
            statement = self._views.get(name) or self.source(name)
            if name in self._views:
                self._make_what_is_named(statement)
            self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {statement}")
            self._made.add(name)

    def atlas(self, atlas_id: str) -> Atlas:
        """One member, opened for the functions of `atlas.queries`. Close it."""
        if atlas_id not in self.members:
            raise QueryError(
                f"The collection {self.path} has no atlas '{atlas_id}'. It has: {', '.join(self.members)}."
            )
        return Atlas(self.members[atlas_id].folder)

    def files(self, table: str) -> dict[Path, Member]:
        """The files of a table, and whose they are; a member may lack it."""
        name = file_name(table)
        return {each.folder / name: each for each in self.members.values() if name in each.manifest.files}

    def source(self, table: str) -> str:
        """The SQL that reads a table of all members, `atlas_id` first."""
        files = self.files(table)
        if not files:
            return f"SELECT NULL::VARCHAR AS atlas_id, * FROM ({no_rows(table)})"
        # Step 2. Tables. DuckDB evaluates conditions on a function of the file's name before it opens files;
        # without a schema it would open the first one to learn the columns.
        columns = ", ".join(
            f"'{f.name}': {{'name': '{f.name}', 'type': '{sql_type(f.type)}', 'default_value': NULL}}"
            for f in TABLES[table]
        )
        records = {path: each.manifest.files[path.name] for path, each in files.items()}
        damage = find_damage(self.path, records)
        parts = [_failing(table, files[path].atlas_id, sentence) for path, sentence in damage.items()]
        if whole := [path for path in files if path not in damage]:
            parts.append(
                f"SELECT {self._id_of('filename')} AS atlas_id, * EXCLUDE (filename) "
                f"FROM {parquet(*whole, schema=f'MAP {{{columns}}}', filename='true')}"
            )
        return " UNION ALL ".join(parts)

    def _id_of(self, filename: str) -> str:
        """The SQL of an atlas's id from a file's name: its folder's name unless the ids differ."""
        folder = f"parse_path({filename})[-2]"
        renamed = [each for each in self.members.values() if each.folder.name != each.atlas_id]
        if not renamed:
            return folder
        cases = " ".join(
            f"WHEN {sql_string(each.folder.name)} THEN {sql_string(each.atlas_id)}" for each in renamed
        )
        return f"CASE {folder} {cases} ELSE {folder} END"

    def sandboxed(
        self,
        *,
        max_rows: int = 10_000,
        seconds: float = 30,
        memory: str = MEMORY,
        size: AnswerSize | None = None,
        pool: Pool | None = None,
    ) -> Sandbox:
        """A process for untrusted SQL that reads the members' files and no others. Close it."""
        return Sandbox(
            {table: self.source(table) for table in TABLES},
            derived_views(of_a_collection=True),
            # DuckDB checks both the path in the SQL, with escaped wildcards, and the path that it opens.
            files=sorted(
                {
                    name
                    for table in TABLES
                    for file in self.files(table)
                    for name in (str(file), glob_of(file))
                }
            ),
            max_rows=max_rows,
            size=size,
            seconds=seconds,
            memory=memory,
            pool=pool,
        )


def _failing(table: str, atlas_id: str, sentence: str) -> str:
    """A table of one atlas that says the sentence when it is read; conditions may leave the atlas out."""
    error = f"error({sql_string(sentence)})"
    columns = ", ".join(f'{error}::{sql_type(f.type)} AS "{f.name}"' for f in TABLES[table])
    return f"SELECT {sql_string(atlas_id)} AS atlas_id, {columns} WHERE {error}::BOOLEAN"


def read_members(folder: Path) -> dict[str, Member]:
    """Step 1: id → member, by id; folders without a manifest are skipped.

    Raises `StoreError` when there is none, one is damaged, or two have the same id.
    """
    if not folder.is_dir():
        raise StoreError(f"There is no folder {folder}. Give a folder that contains the folders of atlases.")
    if (folder / MANIFEST_NAME).exists():
        raise StoreError(
            f"{folder} is an atlas, not a collection. Give the folder it is in, or open it with --atlas."
        )
    members: dict[str, Member] = {}
    for path in sorted(path.parent for path in folder.glob(f"*/{MANIFEST_NAME}")):
        manifest = read_manifest(path)
        check_files(path, manifest, contents=False)
        other = members.setdefault(manifest.atlas_id, Member(path, manifest))
        if other.folder != path:
            raise StoreError(
                f"{other.folder} and {path} have the same atlas_id '{manifest.atlas_id}'. "
                "Remove one of them, or change the atlas_id in its manifest.json."
            )
    if not members:
        raise StoreError(
            f"{folder} has no atlas. Copy the folders of finished atlases into it, "
            "each with its manifest.json."
        )
    return dict(sorted(members.items()))
