"""A stranger's atlas whose small files hold gigabytes is refused in little memory, wherever it is opened."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.errors import StoreError
from atlas.store.atlas import Atlas, bundled
from atlas.store.hashes import FileRecord, sha256_of
from atlas.store.manifest import MANIFEST_NAME, read_manifest, write_manifest
from atlas.store.schema import TABLES
from atlas.store.sizes import MOST_TIMES, SMALL
from tests import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads peaks of memory in /proc")

MOST_MEGABYTES = 700
"""Peak of a process that opens a bomb; one that opens the sample takes 270."""

# Every way to open an atlas, in one process; prints what each says, and the peak of the process's memory.
OPEN = """
import json, sys
from pathlib import Path
from atlas.errors import AtlasError
from atlas.store.atlas import Atlas
from atlas.store.collection import Collection
from build.output.check import check_atlas
from build.output.summary import describe_atlas

def look_up_in_a_collection(folder):
    with Collection(folder.parent) as many:
        many.query(f"SELECT * FROM {sys.argv[2]}")

def check(folder):
    for problem in check_atlas(folder).problems:
        raise AtlasError(problem)

said = []
for way in (lambda folder: Atlas(folder).load("facts"), look_up_in_a_collection, check, describe_atlas):
    try:
        way(Path(sys.argv[1]))
        said.append("")
    except AtlasError as error:
        said.append(str(error))
status = Path("/proc/self/status").read_text().splitlines()
print(json.dumps([said, next(int(line.split()[1]) // 1000 for line in status if line.startswith("VmHWM"))]))
"""


def open_in_a_process(folder: Path, table: str) -> tuple[list[str], int]:
    """What each way says about the folder, "" where it opens it, and the peak in MB."""
    command = [sys.executable, "-c", OPEN, str(folder), table]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, peak = json.loads(done.stdout)
    return said, peak


# Bombs -----------------------------------------------------------------------------------------------


def write(folder: Path, table: str, n_rows: int, columns: dict[str, pa.Array], **options: Any) -> str:
    """The table with these columns and nulls, as many `times` as row groups; returns its name."""
    times = options.pop("times", 1)
    arrays = {f.name: columns.get(f.name, pa.nulls(n_rows, f.type)) for f in TABLES[table]}
    rows = pa.table(arrays)
    options = {"compression": "zstd", "store_schema": False, **options}
    with pq.ParquetWriter(folder / f"{table}.parquet", rows.schema, **options) as file:
        for _ in range(times):
            file.write_table(rows, row_group_size=n_rows)
    record(folder, table, n_rows * times)
    return table


def record(folder: Path, table: str, n_rows: int) -> None:
    """Put the file into the manifest, as a careful stranger does."""
    path, manifest = folder / f"{table}.parquet", read_manifest(folder)
    files = {**manifest.files, path.name: FileRecord(n_rows, path.stat().st_size, sha256_of(path))}
    write_manifest(folder, replace(manifest, files=files))


def one_text_in_every_row(folder: Path) -> str:
    text = pa.DictionaryArray.from_arrays(np.zeros(70_000, np.int32), pa.array(["x" * 100_000]))
    return write(folder, "facts", 70_000, {"subject": text})


def one_text_in_every_row_group(folder: Path) -> str:
    text = pa.DictionaryArray.from_arrays(np.zeros(100, np.int32), pa.array(["x" * 100_000]))
    return write(folder, "relations", 100, {"label": text}, times=300)


def one_text_in_every_list(folder: Path) -> str:
    tokens = pa.StructArray.from_arrays(
        [pa.array(["x" * 100_000] * 1_000), pa.nulls(1_000, pa.float32())], ["token", "logit"]
    )
    lists = pa.ListArray.from_arrays(np.arange(1_001, dtype=np.int32), tokens)
    return write(folder, "neurons", 1_000, {"promoted": lists})


def a_list_of_zeros(folder: Path) -> str:
    zeros = pa.ListArray.from_arrays([0, 80_000_000], pa.array(np.zeros(80_000_000, np.float32)))
    return write(folder, "statistics", 1, {"layer_shares": zeros})


def many_rows_of_nothing(folder: Path) -> str:
    return write(folder, "knowledge_neurons", 20_000_000, {}, times=4)


def long_texts(folder: Path, **options: Any) -> str:
    text = pa.array(["x" * 1_000_000] * 300)
    return write(folder, "facts", 300, {"subject": text}, use_dictionary=False, **options)


def long_texts_in_gzip(folder: Path) -> str:
    return long_texts(folder, compression="gzip")


def long_texts_in_brotli(folder: Path) -> str:
    return long_texts(folder, compression="brotli")


def long_texts_that_the_footer_calls_short(folder: Path) -> str:
    table, path = long_texts(folder), folder / "facts.parquet"
    chunk = pq.read_metadata(path).row_group(0).column(2)
    data, length = path.read_bytes(), struct.unpack("<I", path.read_bytes()[-8:-4])[0]
    footer = data[-8 - length :]
    for size in (chunk.total_uncompressed_size, pq.read_metadata(path).row_group(0).total_byte_size):
        # The same number of bytes, for a size of 1.
        was = varint(2 * size)
        assert was in footer
        footer = footer.replace(was, b"\x82" + b"\x80" * (len(was) - 2) + b"\x00")
    path.write_bytes(data[: -8 - length] + footer)
    record(folder, table, 300)
    return table


BOMBS = [
    one_text_in_every_row,
    one_text_in_every_row_group,
    one_text_in_every_list,
    a_list_of_zeros,
    many_rows_of_nothing,
    long_texts,
    long_texts_in_gzip,
    long_texts_in_brotli,
    long_texts_that_the_footer_calls_short,
]


def varint(number: int) -> bytes:
    """As Thrift writes it: seven bits a byte, the lowest first."""
    head = bytes([number & 127 | 128]) if number > 127 else bytes([number])
    return head + varint(number >> 7) if number > 127 else head


def footer_of(columns: int, groups: int, notes: int = 0) -> bytes:
    """A footer with so many columns in each of so many row groups; each takes few bytes here."""

    def several(parts: int) -> bytes:
        return bytes([parts << 4 | 12]) if parts < 15 else b"\xfc" + varint(parts)

    schema = several(2) + b"\x48\x06schema\x15\x02\x00" + b"\x15\x02\x25\x00\x18\x01a\x00"
    group = b"\x19" + several(columns) + b"\x26\x00\x00" * columns + b"\x16\x00\x16\x00\x00"
    told = b"\x19" + several(notes) + b"\x18\x00\x00" * notes if notes else b""
    return b"\x15\x02\x19" + schema + b"\x16\x00\x19" + several(groups) + group * groups + told + b"\x00"


def with_footer(folder: Path, footer: bytes, *, padding: int = 0, length: int | None = None) -> str:
    size = struct.pack("<I", len(footer) if length is None else length)
    (folder / "facts.parquet").write_bytes(b"PAR1" + bytes(padding) + footer + size + b"PAR1")
    record(folder, "facts", 60)
    return "facts"


FOOTERS: dict[str, Callable[[Path], str]] = {
    "columns": lambda folder: with_footer(folder, footer_of(1_300_000, 1)),
    "columns in groups": lambda folder: with_footer(folder, footer_of(9_000, 9)),
    "row groups": lambda folder: with_footer(folder, footer_of(1, 20_000)),
    "notes": lambda folder: with_footer(folder, footer_of(1, 1, notes=80_000)),
    "a large file": lambda folder: with_footer(folder, footer_of(1_300_000, 1), padding=50_000_000),
    "a false length": lambda folder: with_footer(folder, b"", padding=4_000_000, length=2**32 - 1),
}


@pytest.fixture
def copy(sample: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample, tmp_path / "many" / "theirs")


@pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)
def test_a_table_that_takes_far_more_than_its_bytes_is_refused_in_little_memory(make, copy):
    table = make(copy)
    size = (copy / f"{table}.parquet").stat().st_size
    said, peak = open_in_a_process(copy, table)
    sentence = f"{table}.parquet has {size:,} bytes, and its rows take more than "
    most = max(SMALL, MOST_TIMES * size) // 1_000_000
    assert all(f"{sentence}{most:,} MB in memory. No build makes such a file" in each for each in said), said
    assert peak < MOST_MEGABYTES


@pytest.mark.parametrize("make", FOOTERS.values(), ids=FOOTERS)
def test_a_footer_of_many_parts_is_refused_in_little_memory(make, copy):
    said, peak = open_in_a_process(copy, make(copy))
    assert all("facts.parquet is not a " in each or "cannot be read (" in each for each in said), said
    assert peak < MOST_MEGABYTES


@pytest.mark.parametrize(
    ("start", "again", "end", "n_bytes"),
    [
        ("[", "[", "", 900_000),
        ('{"schema_version": 2, "a": [', "[],", "0]}", 999_000),
        ('{"schema_version": 2, "atlas_id": "', "x", '"}', 999_000),
        ('{"schema_version": ', "9", "}", 999_000),
        ("", "", "", 1_000_001),
        ("", "", "", 50_000_000_000),
    ],
    ids=["nested", "many lists", "a long name", "a long number", "too large", "a sparse file of 50 GB"],
)
def test_a_manifest_of_any_kind_is_refused_in_little_memory(start, again, end, n_bytes, copy):
    path = copy / MANIFEST_NAME
    path.write_text(start + again * ((n_bytes - len(start) - len(end)) // max(len(again), 1)) + end)
    if not start:
        with path.open("r+b") as file:
            file.truncate(n_bytes)
    said, peak = open_in_a_process(copy, "facts")
    assert all(said), said
    assert max(map(len, said)) < 1_000
    assert peak < MOST_MEGABYTES


def test_the_sample_opens_in_every_way(copy):
    said, peak = open_in_a_process(copy, "facts")
    assert said == ["", "", "", ""]
    assert peak < MOST_MEGABYTES


# Within the limits, and yet too large ----------------------------------------------------------------


def test_tables_that_take_more_than_the_memory_for_them_are_not_loaded(copy):
    write(copy, "facts", 500, {"subject": pa.array([f"{n:06}" * 17_000 for n in range(500)])})
    with Atlas(copy, memory="30MB") as atlas:
        with pytest.raises(
            StoreError, match=r"takes more than 30MB of memory when it is loaded\. Open another"
        ):
            atlas.load("facts")
        assert atlas.query_row("SELECT count(*) AS n FROM facts")["n"] == 500
        with pytest.raises(StoreError, match="they take more than 30 MB of memory when they are loaded"):
            atlas.sandboxed(memory="10MB")
    with Atlas(copy) as atlas, atlas.sandboxed(memory="10MB") as console:
        atlas.load("facts")
        assert console.query("SELECT count(*) FROM facts").rows == ((500,),)


@pytest.mark.parametrize("folder", bundled().values(), ids=bundled())
def test_a_bundled_atlas_is_loaded_and_queried_within_a_demo_s_memory(folder):
    with Atlas(folder, memory="300MB") as atlas:
        atlas.load(*atlas.tables)
        largest = max(atlas.tables, key=atlas.manifest.rows)
        with atlas.sandboxed(memory="64MB") as console:
            counted = console.query(f"SELECT count(*) FROM {largest}").rows
    assert counted == ((atlas.manifest.rows(largest),),)
    assert counted[0][0] > 300_000
