"""Does reading a table take more memory than its file can account for?

    check_size(folder / "facts.parquet")         # raises StoreError, before any row is kept

A Parquet file of 100 kB can hold gigabytes: one long text that a million rows repeat, a list of a billion
zeros. A stranger's atlas may have such files; those of a build take 1 to 30 times their bytes.

1. *Footer.* Its length, and the numbers of its parts, are bounded before it is read.
2. *Declared.* The bytes and the rows that it declares.
3. *Measured.* The lengths of texts and lists, added up by DuckDB within a memory limit: what a file declares
   need not be so.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import StoreError
from atlas.store.sources import parquet

LARGEST_MANIFEST = 1_000_000
"""Bytes of a manifest; a build's has 10,000."""

MOST_TIMES = 250
"""Bytes that a byte of a file may take in memory."""

SMALL = 64_000_000
"""Bytes that any table may take in memory, however small its file."""

_LARGEST_FOOTER = 256_000
_MOST_OF_A_FOOTER = 10_000  # row groups, columns, notes: each a few bytes in the file, hundreds in memory
_MEASURING = "256MB"
_ROW = 16  # a text, or a list, in DuckDB besides its characters or items


def read_footer(path: Path) -> pq.FileMetaData:
    """Step 1. The metadata of a Parquet file. Raises `StoreError` when it is none, or huge, and `OSError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
    # A file of many rows has many row groups, each with its part of the footer: 1 % of a build's files.
    if size > length > max(_LARGEST_FOOTER, size // 20):
        raise StoreError(
            f"{path} is not a table of an atlas: its footer has {length:,} bytes. "
            "Build or copy the atlas again."
        )
    try:
        with pq.ParquetFile(path, thrift_container_size_limit=_MOST_OF_A_FOOTER) as file:
            return file.metadata
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, "is not a Parquet file", error) from error


def _unreadable(path: Path, what: str, error: Exception) -> StoreError:
    reason, _, _ = str(error).partition("\n")
    return StoreError(f"{path} {what} ({reason}). Build or copy the atlas again.")


def check_size(path: Path) -> None:
    """Raises `StoreError` for a file whose rows take far more memory than its bytes account for."""
    size = path.stat().st_size
    most = max(SMALL, MOST_TIMES * size)
    footer = read_footer(path)
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    declared = sum(abs(group.total_byte_size) for group in groups)
    rows = sum(abs(group.num_rows) for group in groups)
    if max(declared, rows * footer.num_columns) > most or _measured(path, footer, rows) > most:
        raise StoreError(
            f"{path} has {size:,} bytes, and its rows take more than {most // 1_000_000:,} MB in memory. "
            "No build makes such a file. Build the atlas again, or copy it from a source that you trust."
        )


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """One for all files: to make it takes longer than to measure a file."""
    return duckdb.connect(":memory:", config={"memory_limit": _MEASURING, "temp_directory": "", "threads": 1})


def _measured(path: Path, footer: pq.FileMetaData, rows: int) -> float:
    """Step 3. Bytes of all values; infinite where adding them up takes too much memory."""
    sizes = [_size(f'"{field.name}"', field.type) for field in footer.schema.to_arrow_schema()]
    sums = ", ".join(f"sum({varying})" for _, varying in sizes if varying) or "0"
    try:
        with _connection().cursor() as cursor:
            found = cursor.execute(f"SELECT {sums} FROM {parquet(path)}").fetchall()[0]
    except duckdb.OutOfMemoryException:
        return math.inf
    except duckdb.Error as error:
        raise _unreadable(path, "cannot be read", error) from error
    return sum(fixed for fixed, _ in sizes) * rows + sum(each or 0 for each in found)


def _size(column: str, kind: pa.DataType) -> tuple[int, str]:
    """Bytes of any value of a column, and the SQL of those that a value has besides."""
    if pa.types.is_string(kind):
        return _ROW, f"strlen({column})"
    if pa.types.is_list(kind):
        item = f"item{column.count('item')}"
        fixed, varying = _size(item, kind.value_type)
        size = f"len({column}) * {fixed}"
        if varying:
            size += f" + coalesce(list_sum(list_transform({column}, lambda {item}: {varying})), 0)"
        return _ROW, size
    if pa.types.is_struct(kind):
        parts = [_size(f"{column}.{field.name}", field.type) for field in kind]
        sizes = [f"coalesce({varying}, 0)" for _, varying in parts if varying]
        return sum(fixed for fixed, _ in parts), " + ".join(sizes)
    if pa.types.is_primitive(kind):
        return (kind.bit_width + 7) // 8, ""
    raise StoreError(f"{column} has type {kind}, which no table of an atlas has. Build the atlas again.")
