"""How long questions to 30 million pairs take, cold and warm, the memory they need, and what layout is best.

    python -m build bench big-collection many --giant giant            # once: five minutes, 1.2 GB
    python -m build bench reading many --giant giant --json figures.json
    python -m build bench reading many --layouts tried                 # the pairs in other layouts

1. *Ask.* Each question is asked in a process of its own, several times over. Before it opens anything, the
   pages of all files are dropped from the system's cache (posix_fadvise). `cold` counts from opening the
   collection to the last row, `CPU` is the processor's time for that (it grows less when other programs run),
   `query` leaves the opening out, `warm` is the same query once more in the same process, `read` is what came
   from the disk. Importing the libraries is not counted.
2. *Weigh.* The process's largest resident memory, its libraries included.
3. *Lay out.* Pairs (`knowledge_neurons`) in other row groups, orders and kinds of file, the same
   questions asked of each.

Figures are medians over processes, and the largest stands beside: times depend on what else runs.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.store.atlas import Atlas
from atlas.store.collection import Collection
from atlas.store.manifest import MANIFEST_NAME, file_name, read_manifest, record_file, write_manifest
from atlas.store.reader import Reader
from atlas.store.schema import TABLES
from atlas.store.sources import parquet, quoted_path
from build.bench.big_collection import member_id
from build.bench.figures import format_rows, markdown_table, write_json
from build.bench.machine import machine_load, peak_bytes, run_alone
from build.output import writer

MEMORY_MB = 1_000  # promised
WARM_TIMES = 3
WARM_SECONDS = 3.0
_PAIRS = "knowledge_neurons"

Figures = dict[str, Any]

# Promised milliseconds (None: nothing was promised) → name → query.
# Of a collection; $complete is a member with every table.
QUESTIONS = {
    100: {
        "a fact of one model": "FROM facts WHERE atlas_id = $atlas AND fact_id = $fact",
        "… its neurons, with what they promote": f"""SELECT k.*, n.n_facts, n.promoted FROM {_PAIRS} AS k
            JOIN neurons AS n USING (atlas_id, layer, neuron) WHERE atlas_id = $atlas AND fact_id = $fact""",
        "… its prompts": "FROM prompts WHERE atlas_id = $atlas AND fact_id = $fact",
        "… its scores (3 million rows a model)": """
            FROM attributions WHERE atlas_id = $complete AND fact_id = $fact""",
        "a neuron of one model: its facts": """
            FROM neuron_facts WHERE atlas_id = $atlas AND layer = $layer AND neuron = $neuron""",
        "a fact in every model: known, neurons": """
            SELECT atlas_id, known, mean_probability, n_neurons FROM facts WHERE fact_id = $fact""",
    },
    2_000: {
        "relation overlap of one model, all pairs": "FROM relation_overlap WHERE atlas_id = $atlas",
        "relation overlap of one relation in every model": """
            FROM relation_overlap WHERE relation_a = $relation AND relation_b = $relation""",
    },
    None: {
        "a fact in every model: all its neurons": f"FROM {_PAIRS} WHERE fact_id = $fact",
        "relation overlap, all pairs in every model": "FROM relation_overlap",
        "hub neurons of one model": "FROM hub_neurons WHERE atlas_id = $atlas LIMIT 50",
        "a relation's neurons in one model": """
            FROM relation_neurons WHERE atlas_id = $atlas AND relation_id = $relation LIMIT 50""",
        "hub neurons of every model": "FROM hub_neurons LIMIT 50",
        "known facts by model and relation": """
            SELECT atlas_id, relation_id, count(*) FILTER (known) FROM facts GROUP BY ALL ORDER BY ALL""",
        "all pairs counted by model and layer": f"""
            SELECT atlas_id, layer, count(*) FROM {_PAIRS} GROUP BY ALL ORDER BY ALL""",
    },
}
# Of one atlas with all the pairs.
GIANT_QUESTIONS = {
    100: {
        "a fact": "FROM facts WHERE fact_id = $giant_fact",
        "… its neurons": f"FROM {_PAIRS} WHERE fact_id = $giant_fact",
        "a neuron: its facts": f"""
            SELECT fact_id FROM {_PAIRS} WHERE layer = $layer AND neuron = $neuron""",
    },
    2_000: {"relation overlap, all pairs": "FROM relation_overlap"},
}
# Those that the pairs' layout decides.
LAYOUT_QUESTIONS = {
    None: {
        "a fact": f"FROM {_PAIRS} WHERE atlas_id = $atlas AND fact_id = $fact",
        "a neuron": f"FROM {_PAIRS} WHERE atlas_id = $atlas AND layer = $layer AND neuron = $neuron",
        "counts of one": f"""
            SELECT relation_id, layer, neuron, count(*) FROM {_PAIRS} WHERE atlas_id = $atlas GROUP BY ALL""",
        "a fact, all models": f"FROM {_PAIRS} WHERE fact_id = $fact",
        "a neuron, all models": f"FROM {_PAIRS} WHERE layer = $layer AND neuron = $neuron",
        "counts of all": f"SELECT atlas_id, layer, count(*) FROM {_PAIRS} GROUP BY ALL",
    }
}


def values_for(collection: Path, members: Sequence[str]) -> dict[str, Any]:
    """What questions ask for: a fact in the middle with neurons in every model, one of its neurons."""
    number = len(members) // 2
    with Collection(collection) as many:
        row = many.query_one(
            f"""
            SELECT fact_id AS fact, any_value(relation_id) AS relation,
                   (SELECT [layer, neuron] FROM {_PAIRS} WHERE atlas_id = $atlas AND fact_id = f.fact_id
                    ORDER BY layer DESC, neuron LIMIT 1) AS place
            FROM facts AS f GROUP BY fact_id HAVING min(n_neurons) >= 2
            ORDER BY fact_id LIMIT 1 OFFSET (SELECT count(*) // 4 FROM facts WHERE atlas_id = $atlas)
            """,
            {"atlas": members[number]},
        )
    layer, neuron = row.pop("place")
    return {
        **row,
        "atlas": members[number],
        "complete": member_id(0),
        "giant_fact": f"{row['fact']}.{number:03}",
        "layer": layer,
        "neuron": neuron,
    }


# --- step 1: ask ---


def open_reader(kind: str, path: Path) -> Reader:
    """A collection, an atlas, or all pairs in one file, as no atlas is: only to compare."""
    if kind == "file":
        return Reader(path, {_PAIRS: f"FROM {parquet(path)}"}, "")
    return (Collection if kind == "collection" else Atlas)(path)


def answer_question(kind: str, path: Path, sql: str, values: Mapping[str, Any], name: str) -> Figures:
    """In a process of its own: milliseconds and megabytes of one question."""
    forget_pages(path)
    read, cpu = _bytes_read(), time.process_time()
    begun = time.perf_counter()
    with open_reader(kind, path) as reader:
        ready = time.perf_counter()
        rows = len(reader.query(sql, values))
        answered = time.perf_counter()
        read, cpu = _bytes_read() - read, time.process_time() - cpu
        warm: list[float] = []
        while len(warm) < WARM_TIMES and sum(warm) < WARM_SECONDS:
            again = time.perf_counter()
            reader.query(sql, values)
            warm.append(time.perf_counter() - again)
    return {
        "rows": rows,
        "cold": 1e3 * (answered - begun),
        "cpu": 1e3 * cpu,
        "query": 1e3 * (answered - ready),
        "warm": 1e3 * min(warm),
        "read": read / 1e6,
        "memory": peak_bytes() / 1e6,
    }


def forget_pages(path: Path) -> None:
    """Drop the pages of a file, or of all files below a folder, from the system's cache."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_read() -> int:
    """What this process has had read from disks."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def measure_questions(
    questions: Mapping[int | None, Mapping[str, str]],
    values: Mapping[str, Any],
    kind: str,
    path: Path,
    repeats: int,
) -> list[Figures]:
    """The figures of every question."""
    return [
        {"name": name, **measure_question(name, sql, values, kind, path, repeats), "promised": promised}
        for promised, named in questions.items()
        for name, sql in named.items()
    ]


def measure_question(
    name: str, sql: str, values: Mapping[str, Any], kind: str, path: Path, repeats: int
) -> Figures:
    """The medians over so many processes."""
    needed = {key: value for key, value in values.items() if f"${key}" in sql}
    runs = [run_alone(answer_question, kind, path, sql, needed, name) for _ in range(repeats)]
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return {**medians, "cold_largest": max(run["cold"] for run in runs)}


# --- step 3: lay out ---

BY_FACT = ("fact_id", "layer", "neuron")
BY_NEURON = ("layer", "neuron", "fact_id")


@dataclass(frozen=True)
class Layout:
    """How the pairs are written. `options` are pyarrow's; one file of all members, or a file for each."""

    name: str
    rows: int = writer.ROW_GROUP_ROWS
    order: tuple[str, ...] = BY_FACT
    options: Mapping[str, Any] = field(default_factory=dict)
    one_file: bool = False


_BLOOM = {"fact_id": {"ndv": 2_000, "fpp": 0.01}, "neuron": {"ndv": 3_072, "fpp": 0.01}}
_BY_FACT_AND_ATLAS = ("fact_id", "atlas_id", "layer", "neuron")
LAYOUTS = (
    Layout("16k", 16_384),
    Layout("32k (chosen)", 32_768),
    Layout("64k", 65_536),
    Layout("131k", 131_072),
    Layout("1M", 1_048_576),
    Layout("32k, page index", options={"write_page_index": True}),
    Layout("32k, Bloom filters", options={"bloom_filter_options": _BLOOM}),
    Layout("32k, no dictionaries", options={"use_dictionary": False}),
    Layout("32k, by neuron", order=BY_NEURON),
    Layout("one file, 32k, by atlas and fact", order=("atlas_id", *BY_FACT), one_file=True),
    Layout("one file, 32k, by fact and atlas", order=_BY_FACT_AND_ATLAS, one_file=True),
)


def lay_out(collection: Path, folder: Path, layout: Layout) -> Path:
    """Write the pairs anew; returns the collection, or the one file. The other tables are linked."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout.one_file:
        path = folder / "pairs.parquet"
        columns = ", ".join(f'"{name}"' for name in TABLES[_PAIRS].names)
        with Collection(collection) as many:
            many.query(
                f"COPY (SELECT atlas_id, {columns} FROM {_PAIRS} ORDER BY {', '.join(layout.order)}) "
                f"TO {quoted_path(path)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {layout.rows})"
            )
        return path
    for member in sorted(path.parent for path in collection.glob(f"*/{MANIFEST_NAME}")):
        new = folder / member.name
        new.mkdir(exist_ok=True)
        manifest = read_manifest(member)
        for name in manifest.files:
            if name != file_name(_PAIRS):
                os.link(member / name, new / name)
        rows = writer.read_parquet(member / file_name(_PAIRS))
        rows = rows.sort_by([(key, "ascending") for key in layout.order])
        _write_pairs(new / file_name(_PAIRS), rows, layout)
        files = {**manifest.files, file_name(_PAIRS): record_file(new / file_name(_PAIRS))}
        write_manifest(new, replace(manifest, files=files))
    return folder


def _write_pairs(path: Path, rows: pa.Table, layout: Layout) -> None:
    """As `build.output.writer` writes, but for what the layout says."""
    options = {**writer.parquet_options(rows.schema, level=9), **layout.options}
    with pq.ParquetWriter(path, rows.schema, **options) as file:
        file.write_table(rows, row_group_size=layout.rows)


def compare_layouts(
    collection: Path, folder: Path, values: Mapping[str, Any], repeats: int
) -> Iterator[dict[str, Any]]:
    """Each layout, the megabytes of its pairs, and its figures; it is written, asked and removed."""
    for place, layout in enumerate(LAYOUTS):
        where = folder / str(place)
        try:
            path = lay_out(collection, where, layout)
            os.sync()  # pages that are not on the disk yet cannot be dropped
            files = [path] if layout.one_file else path.glob(f"*/{file_name(_PAIRS)}")
            size = sum(file.stat().st_size for file in files) / 1e6
            kind = "file" if layout.one_file else "collection"
            figures = measure_questions(LAYOUT_QUESTIONS, values, kind, path, repeats)
            yield {"layout": layout.name, "megabytes": size, "figures": figures}
        finally:
            shutil.rmtree(where, ignore_errors=True)


# --- all of them ---


def describe_questions(title: str, figures: Sequence[Figures]) -> str:
    """A table, and what took longer or more than promised."""
    heads = (title, "rows", "cold, ms", "largest", "CPU", "query alone", "warm", "read, MB", "memory, MB")
    cells = ("{name}", "{rows:,.0f}", "**{cold:,.0f}**", "{cold_largest:,.0f}", "{cpu:,.0f}")
    cells += ("{query:,.0f}", "{warm:,.0f}", "{read:,.1f}", "{memory:,.0f}")
    late = [each["name"] for each in figures if each["promised"] and each["cold"] > each["promised"]]
    heavy = [each["name"] for each in figures if each["memory"] > MEMORY_MB]
    return f"""{markdown_table(heads, format_rows(figures, *cells))}

Later than promised: {"; ".join(late) or "none"}.
Over {MEMORY_MB} MB: {"; ".join(heavy) or "none"}."""


def describe_layouts(results: Sequence[dict[str, Any]]) -> str:
    """A table: cold / warm milliseconds of the query alone."""
    heads = ("row groups, order", "MB", *(found["name"] for found in results[0]["figures"]))
    rows = [
        (
            each["layout"],
            f"{each['megabytes']:,.0f}",
            *(f"{found['query']:,.0f} / {found['warm']:,.0f}" for found in each["figures"]),
        )
        for each in results
    ]
    return markdown_table(heads, rows)


def time_questions(
    collection: Path, giant: Path | None, layouts: Path | None, repeats: int, json: Path | None
) -> None:
    """Ask a collection, and all its pairs as one atlas; or compare layouts, written into `layouts`."""
    members = sorted(path.parent.name for path in collection.glob(f"*/{MANIFEST_NAME}"))
    values = values_for(collection, members)
    if layouts:
        found: Any = list(compare_layouts(collection, layouts.resolve(), values, repeats))
        print(describe_layouts(found))
    else:
        asked = [("collection", f"{len(members)} models", QUESTIONS, "collection", collection)]
        if giant:
            asked.append(("giant", "one atlas", GIANT_QUESTIONS, "atlas", giant.resolve()))
        found = {}
        for key, title, questions, kind, path in asked:
            found[key] = measure_questions(questions, values, kind, path, repeats)
            print(f"{describe_questions(title, found[key])}\n")
    print(machine_load())
    write_json(json, found)
