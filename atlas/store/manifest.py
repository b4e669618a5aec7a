"""The manifest of an atlas: what it was made from, how, and the hash of every file.

    manifest = read_manifest(folder)
    manifest.model.name, manifest.files["facts.parquet"].rows
    verify(folder)                       # raises StoreError naming the first problem

`manifest.json` is written last and atomically, so a folder that has one is a finished atlas.
`check_files` looks at presence, size, columns and rows, and at the sha256 of files that are new or changed;
`verify` at the sha256 of every file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from atlas.errors import StoreError
from atlas.files import looked_up, plain_file, whole_file
from atlas.store.hashes import Count, FileRecord, check_hashes, sha256_of
from atlas.store.schema import READABLE_VERSIONS, REQUIRED_TABLES, SCHEMA_VERSION, TABLES, difference
from atlas.store.sizes import LARGEST_MANIFEST, read_footer
from atlas.validation import one_line, problem_of

MANIFEST_NAME = "manifest.json"

Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class ModelRecord:
    """The subject model; `n_neurons` counts one layer's."""

    name: str
    revision: str | None = None
    weights_sha256: str | None = None
    activation_function: str | None = None
    family: str | None = None
    dtype: str | None = None
    n_layers: Annotated[int, Field(ge=0, lt=2**15)] | None = None
    n_neurons: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    config_sha256: str | None = None


@dataclass(frozen=True)
class DatasetRecord:
    """The data set of facts and templates."""

    id: str
    revision: str | None = None
    hash: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class MethodRecord:
    """How scores and neurons were found.

    `refinement` holds the mode and all its parameters (`Refinement.to_dict()`), `held_out` names the
    templates kept for evaluation, `options` holds everything else that shaped the rows.
    """

    name: str
    rule: str | None = None
    tolerance: Number | None = None
    max_points: Count | None = None
    refinement: Mapping[str, Any] = field(default_factory=dict)
    stored_fraction: Number | None = 0.1
    held_out: str | None = None
    seed: Count | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """One atlas = one model × one data set × one method.

    `files` maps file names ("facts.parquet") to their records; `created` is an ISO date.
    """

    atlas_id: str
    model: ModelRecord
    dataset: DatasetRecord
    method: MethodRecord
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    code_version: str | None = None
    device: str | None = None
    seconds: Number | None = None
    prompts_per_second: Number | None = None
    created: str | None = None
    notes: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are present, in the schema's order."""
        return tuple(name for name in TABLES if file_name(name) in self.files)

    @property
    def n_bytes(self) -> int:
        """Size of all tables on disk."""
        return sum(record.bytes for record in self.files.values())

    def rows(self, table: str) -> int:
        """Number of rows of a table; 0 where it is not on disk."""
        record = self.files.get(file_name(table))
        return 0 if record is None else record.rows

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, as written to JSON; the version first."""
        plain = asdict(self)
        return {"schema_version": plain.pop("schema_version"), **plain}


_MANIFEST = TypeAdapter(Manifest)


class _Part(BaseModel):
    """What the program reads of the manifest's free parts; they may hold more."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Refinement(_Part):
    mode: str | None = None
    threshold: float | None = None
    share: float | None = None
    shares: dict[str, float] = {}
    at_least: Count | None = None
    inclusive: bool | None = None
    target: tuple[float, float] | None = None
    step: float | None = None
    tries: Count | None = None
    negatives: Count | None = None
    seed: Count | None = None


class _Experiment(_Part):
    key: str | None = None
    sample: Count | None = None
    seed: Count | None = None
    all_facts: bool | None = None
    left_out: Count | None = None
    seconds: float | None = None
    code_version: str | None = None


class _Precision(_Part):
    prompts: Count
    largest_difference: float


class _Options(_Part):
    parameters: dict[str, Any] = {}
    published: dict[str, Any] | None = None
    stage_seconds: dict[str, float] = {}
    prompts_left_out: Count = 0
    facts_left_out: Count = 0
    why_left_out: list[str] = []
    precision: _Precision | None = None
    experiments: dict[str, _Experiment] = {}


class _Method(_Part):
    refinement: _Refinement = _Refinement()
    options: _Options = _Options()


class _FreeParts(_Part):
    method: _Method


def file_name(table: str) -> str:
    """The file that holds a table."""
    return f"{table}.parquet"


def record_file(path: Path) -> FileRecord:
    """Rows, size and hash of a Parquet file that was just written."""
    return FileRecord(rows=read_footer(path).num_rows, bytes=path.stat().st_size, sha256=sha256_of(path))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Records of every table in the folder, in the schema's order."""
    paths = (Path(folder) / file_name(table) for table in TABLES)
    return {path.name: record_file(path) for path in paths if path.exists()}


def manifest_text(manifest: Manifest) -> str:
    """The manifest as JSON text."""
    return json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n"


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `manifest.json` atomically."""
    path = Path(folder) / MANIFEST_NAME
    with whole_file(path) as file:
        file.write(manifest_text(manifest).encode())
    return path


def read_manifest(folder: str | Path, name: str = MANIFEST_NAME) -> Manifest:
    """Read the manifest of an atlas folder; unknown keys are ignored. name: of its file.

    Raises `StoreError` when it is missing, invalid or of another schema version.
    """
    folder = looked_up(folder, StoreError)
    path = folder / name
    if not folder.is_dir():
        raise StoreError(f"There is no folder {folder}. Give the folder of an atlas.")
    try:
        text = plain_file(path, StoreError, most=LARGEST_MANIFEST).read_text(encoding="utf-8")
        plain = json.loads(text)
    except FileNotFoundError:
        raise StoreError(
            f"{folder} has no {MANIFEST_NAME}, so it is not a finished atlas. "
            "Build one with `python -m build run`, or run an interrupted build again."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Build or copy the atlas again.") from error
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if version not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        found = "no schema version" if version is None else f"schema version {one_line(version, 40)}"
        raise StoreError(
            f"{path} has {found}; this program reads versions {known}. "
            "Build the atlas again, or use the program it was made with."
        )
    try:
        manifest = _MANIFEST.validate_json(text, strict=True)
        _FreeParts.model_validate_json(text)
        return manifest
    except ValidationError as error:
        raise StoreError(f"{problem_of(error, str(path))}. Build or copy the atlas again.") from error


def check_files(
    folder: str | Path, manifest: Manifest, *, contents: bool = True, again: bool = False
) -> None:
    """The check before opening: files are there, plain, of the right size, sha256, columns and rows.

    Without `contents` no file is opened, and only presence and size are checked; with `again` also the sha256
    of files that were checked before. Raises `StoreError` naming the first problem.
    """
    folder = Path(folder)
    for table in REQUIRED_TABLES:
        if file_name(table) not in manifest.files:
            raise StoreError(f"The manifest of {folder} lacks {file_name(table)}. Build the atlas again.")
    for name, record in manifest.files.items():
        table = name.removesuffix(".parquet")
        if name != file_name(table) or table not in TABLES:
            raise StoreError(
                f"The manifest of {folder} lists {name}, which is not a table of an atlas. "
                f"It may list: {', '.join(map(file_name, TABLES))}."
            )
        _check_size(folder / name, record)
    if contents:
        check_hashes(folder, {folder / name: each for name, each in manifest.files.items()}, again=again)
        for name, record in manifest.files.items():
            _check_footer(folder / name, name.removesuffix(".parquet"), record)


def _check_size(path: Path, record: FileRecord) -> None:
    try:
        size = plain_file(path, StoreError).stat().st_size
    except OSError:
        raise StoreError(f"{path} is missing. Build or copy the atlas again.") from None
    if size != record.bytes:
        what = "truncated" if size < record.bytes else "changed"
        raise StoreError(
            f"{path} is {what}: it has {size:,} bytes and should have {record.bytes:,}. "
            "Build or copy the atlas again."
        )


def _check_footer(path: Path, table: str, record: FileRecord) -> None:
    footer = read_footer(path)
    if problem := difference(table, footer.schema.to_arrow_schema()):
        raise StoreError(f"{path} is not a table of an atlas: {problem}. Build the atlas again.")
    if footer.num_rows != record.rows:
        raise StoreError(
            f"{path} has {footer.num_rows:,} rows and should have {record.rows:,}. "
            "Build or copy the atlas again."
        )


def verify(folder: str | Path) -> Manifest:
    """The full check: everything `check_files` looks at, every file read again.

    Returns the manifest. Raises `StoreError` naming the first problem.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest, again=True)
    return manifest
