"""How long questions to 30 million pairs take, cold and warm, the memory they need, and what layout is best.

    python -m tests.big_collection many --giant giant            # once: five minutes, 1.2 GB
    python -m tests.bench_reading many --giant giant --json figures.json
    python -m tests.bench_reading many --layouts tried          # the pairs in other layouts

1. *Ask.* Each question is asked in a process of its own, several times over. Before it opens anything, the
   pages of all files are dropped from the system's cache (posix_fadvise). `cold` counts from opening the
   collection to the last row, `CPU` is the processor's time for that (it grows less when other programs run),
   `query` leaves the opening out, `warm` is the same query once more in the same process, `read` is what came
   from the disk. Importing the libraries is not counted.
2. *Weigh.* The process's largest resident memory, its libraries included.
3. *Lay out.* Pairs (`knowledge_neurons`) in other row groups, orders and kinds of file, the same
   questions asked of each.

Times depend on the machine and on what else runs, so the largest stands beside the median.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.big_collection import member_id

from atlas.store.atlas import Atlas, Reader, quoted_path
from atlas.store.collection import Collection
from atlas.store.manifest import MANIFEST_NAME, file_name, read_manifest, record_file, write_manifest
from atlas.store.schema import TABLES
from build.output import writer
from tests import ROOT

# What the issue promises.
POINT_MS = 100
OVERLAP_MS = 2_000
MEMORY_MB = 1_000
WARM_TIMES = 3
LONG_ENOUGH = 3.0  # seconds
PAIRS = "knowledge_neurons"


@dataclass(frozen=True)
class Question:
    """One query, and the milliseconds it may take (None: nothing was promised)."""

    name: str
    sql: str
    values: Mapping[str, Any] = field(default_factory=dict)
    promised: int | None = None


@dataclass(frozen=True)
class Figures:
    """Medians over processes: milliseconds, megabytes."""

    name: str
    rows: int
    cold: float
    cold_largest: float
    cpu: float
    query: float
    warm: float
    read: float
    memory: float
    promised: int | None


def questions(
    atlas_id: str, complete: str, fact: str, neuron: tuple[int, int], relation: str
) -> list[Question]:
    """What is asked of a collection; `complete` is a member with every table."""
    one = {"atlas": atlas_id}
    a_fact = {**one, "fact": fact}
    a_neuron = {"layer": neuron[0], "neuron": neuron[1]}
    everywhere = {"fact": fact}
    here = "atlas_id = $atlas"
    return [
        Question("a fact of one model", f"FROM facts WHERE {here} AND fact_id = $fact", a_fact, POINT_MS),
        Question(
            "… its neurons, with what they promote",
            f"""SELECT k.*, n.n_facts, n.promoted FROM {PAIRS} AS k
            JOIN neurons AS n USING (atlas_id, layer, neuron) WHERE {here} AND fact_id = $fact""",
            a_fact,
            POINT_MS,
        ),
        Question("… its prompts", f"FROM prompts WHERE {here} AND fact_id = $fact", a_fact, POINT_MS),
        Question(
            "… its scores (3 million rows a model)",
            f"FROM attributions WHERE {here} AND fact_id = $fact",
            {**a_fact, "atlas": complete},
            POINT_MS,
        ),
        Question(
            "a neuron of one model: its facts",
            f"FROM neuron_facts WHERE {here} AND layer = $layer AND neuron = $neuron",
            {**one, **a_neuron},
            POINT_MS,
        ),
        Question(
            "a fact in every model: known, neurons",
            "SELECT atlas_id, known, mean_probability, n_neurons FROM facts WHERE fact_id = $fact",
            everywhere,
            POINT_MS,
        ),
        Question("… all its neurons", f"FROM {PAIRS} WHERE fact_id = $fact", everywhere),
        Question(
            "relation overlap of one model, all pairs", f"FROM relation_overlap WHERE {here}", one, OVERLAP_MS
        ),
        Question(
            "relation overlap of one relation in every model",
            "FROM relation_overlap WHERE relation_a = $relation AND relation_b = $relation",
            {"relation": relation},
            OVERLAP_MS,
        ),
        Question("relation overlap, all pairs in every model", "FROM relation_overlap"),
        Question("hub neurons of one model", f"FROM hub_neurons WHERE {here} LIMIT 50", one),
        Question(
            "a relation's neurons in one model",
            f"FROM relation_neurons WHERE {here} AND relation_id = $relation LIMIT 50",
            {**one, "relation": relation},
        ),
        Question("hub neurons of every model", "FROM hub_neurons LIMIT 50"),
        Question(
            "known facts by model and relation",
            "SELECT atlas_id, relation_id, count(*) FILTER (known) FROM facts GROUP BY ALL ORDER BY ALL",
        ),
        Question(
            "all pairs counted by model and layer",
            f"SELECT atlas_id, layer, count(*) FROM {PAIRS} GROUP BY ALL ORDER BY ALL",
        ),
    ]


def giant_questions(fact: str, neuron: tuple[int, int]) -> list[Question]:
    """What is asked of one atlas with all the pairs."""
    where = {"layer": neuron[0], "neuron": neuron[1]}
    return [
        Question("a fact", "FROM facts WHERE fact_id = $fact", {"fact": fact}, POINT_MS),
        Question("… its neurons", f"FROM {PAIRS} WHERE fact_id = $fact", {"fact": fact}, POINT_MS),
        Question(
            "a neuron: its facts",
            f"SELECT fact_id FROM {PAIRS} WHERE layer = $layer AND neuron = $neuron",
            where,
            POINT_MS,
        ),
        Question("relation overlap, all pairs", "FROM relation_overlap", {}, OVERLAP_MS),
    ]


# 1. Ask ----------------------------------------------------------------------------------------------


def ask() -> None:
    """In a process of its own: what to ask comes on standard input, the figures go to standard output."""
    wanted = json.load(sys.stdin)
    path = Path(wanted["path"])
    forget(path)
    read, cpu = _bytes_read(), time.process_time()
    begun = time.perf_counter()
    with opened(wanted["kind"], path) as reader:
        ready = time.perf_counter()
        rows = len(reader.query(wanted["sql"], wanted["values"]))
        answered = time.perf_counter()
        read, cpu = _bytes_read() - read, time.process_time() - cpu
        warm: list[float] = []
        while len(warm) < WARM_TIMES and sum(warm) < LONG_ENOUGH:
            again = time.perf_counter()
            reader.query(wanted["sql"], wanted["values"])
            warm.append(time.perf_counter() - again)
    figures = {
        "rows": rows,
        "cold": 1e3 * (answered - begun),
        "cpu": 1e3 * cpu,
        "query": 1e3 * (answered - ready),
        "warm": 1e3 * min(warm),
        "read": read / 1e6,
        "memory": _peak_bytes() / 1e6,
    }
    print(json.dumps(figures))


def opened(kind: str, path: Path) -> Reader:
    """A collection, an atlas, or all pairs in one file, as no atlas is: only to compare."""
    if kind == "collection":
        return Collection(path)
    return (
        Atlas(path)
        if kind == "atlas"
        else Reader(path, {PAIRS: f"FROM read_parquet({quoted_path(path)})"}, "")
    )


def forget(path: Path) -> None:
    """Drop the pages of a file, or of all files below a folder, from the system's cache."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _bytes_read() -> int:
    """What this process has had read from disks."""
    return _of_process("io", "read_bytes")


def _peak_bytes() -> int:
    """The most memory it had; `getrusage` would begin with that of the process that started it."""
    return 1024 * _of_process("status", "VmHWM")


def _of_process(file: str, name: str) -> int:
    lines = Path("/proc/self", file).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def measured(question: Question, kind: str, path: Path, repeats: int) -> Figures:
    """The medians over so many processes."""
    wanted = {"kind": kind, "path": str(path), "sql": question.sql, "values": dict(question.values)}
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", "from tests.bench_reading import ask; ask()"],
            cwd=ROOT,
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"'{question.name}' was not answered: {done.stderr.strip()}")
        runs.append(json.loads(done.stdout))
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return Figures(
        name=question.name,
        **{**median, "rows": int(median["rows"])},
        cold_largest=max(run["cold"] for run in runs),
        promised=question.promised,
    )


# 3. Lay out ------------------------------------------------------------------------------------------

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
    Layout(
        "one file, 32k, by fact and atlas", order=("fact_id", "atlas_id", "layer", "neuron"), one_file=True
    ),
)


def lay_out(collection: Path, folder: Path, layout: Layout) -> Path:
    """Write the pairs anew; returns the collection, or the one file. The other tables are linked."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout.one_file:
        path = folder / "pairs.parquet"
        columns = ", ".join(f'"{name}"' for name in TABLES[PAIRS].names)
        with Collection(collection) as many:
            many.query(
                f"COPY (SELECT atlas_id, {columns} FROM {PAIRS} ORDER BY {', '.join(layout.order)}) "
                f"TO {quoted_path(path)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {layout.rows})"
            )
        return path
    for member in sorted(path.parent for path in collection.glob(f"*/{MANIFEST_NAME}")):
        new = folder / member.name
        new.mkdir(exist_ok=True)
        manifest = read_manifest(member)
        for name in manifest.files:
            if name != file_name(PAIRS):
                os.link(member / name, new / name)
        rows = pq.read_table(member / file_name(PAIRS)).sort_by([(key, "ascending") for key in layout.order])
        _write(new / file_name(PAIRS), rows, layout)
        files = {**manifest.files, file_name(PAIRS): record_file(new / file_name(PAIRS))}
        write_manifest(new, replace(manifest, files=files))
    return folder


def _write(path: Path, rows: pa.Table, layout: Layout) -> None:
    """As `build.output.writer` writes, but for what the layout says."""
    options = {**writer.parquet_options(rows.schema, level=9), **layout.options}
    with pq.ParquetWriter(path, rows.schema, **options) as file:
        file.write_table(rows, row_group_size=layout.rows)


def layout_questions(atlas_id: str, fact: str, neuron: tuple[int, int]) -> list[Question]:
    """Those that the pairs' layout decides."""
    a_neuron = {"layer": neuron[0], "neuron": neuron[1]}
    here, this = "atlas_id = $atlas", "fact_id = $fact"
    return [
        Question("a fact", f"FROM {PAIRS} WHERE {here} AND {this}", {"atlas": atlas_id, "fact": fact}),
        Question(
            "a neuron",
            f"FROM {PAIRS} WHERE {here} AND layer = $layer AND neuron = $neuron",
            {"atlas": atlas_id, **a_neuron},
        ),
        Question(
            "counts of one",
            f"SELECT relation_id, layer, neuron, count(*) FROM {PAIRS} WHERE {here} GROUP BY ALL",
            {"atlas": atlas_id},
        ),
        Question("a fact, all models", f"FROM {PAIRS} WHERE {this}", {"fact": fact}),
        Question("a neuron, all models", f"FROM {PAIRS} WHERE layer = $layer AND neuron = $neuron", a_neuron),
        Question("counts of all", f"SELECT atlas_id, layer, count(*) FROM {PAIRS} GROUP BY ALL"),
    ]


def compared(
    collection: Path, folder: Path, layouts: Sequence[Layout], asked: Sequence[Question], repeats: int
) -> Iterator[tuple[Layout, float, list[Figures]]]:
    """Each layout, the megabytes of its pairs, and its figures; it is written, asked and removed."""
    for place, layout in enumerate(layouts):
        where = folder / str(place)
        try:
            path = lay_out(collection, where, layout)
            os.sync()  # pages that are not on the disk yet cannot be dropped
            files = [path] if layout.one_file else path.glob(f"*/{file_name(PAIRS)}")
            size = sum(file.stat().st_size for file in files) / 1e6
            kind = "file" if layout.one_file else "collection"
            yield layout, size, [measured(question, kind, path, repeats) for question in asked]
        finally:
            shutil.rmtree(where, ignore_errors=True)


# Report ----------------------------------------------------------------------------------------------


def report(title: str, figures: Sequence[Figures]) -> str:
    """A Markdown table."""
    lines = [
        f"| {title} | rows | cold, ms | largest | CPU | query alone | warm | read, MB | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.name} | {each.rows:,} | **{each.cold:,.0f}** | {each.cold_largest:,.0f} | "
        f"{each.cpu:,.0f} | {each.query:,.0f} | {each.warm:,.0f} | {each.read:,.1f} | {each.memory:,.0f} |"
        for each in figures
    ]
    late = [each.name for each in figures if each.promised is not None and each.cold > each.promised]
    heavy = [each.name for each in figures if each.memory > MEMORY_MB]
    lines += [
        "",
        f"Later than promised: {'; '.join(late) or 'none'}.",
        f"Over {MEMORY_MB} MB: {'; '.join(heavy) or 'none'}.",
    ]
    return "\n".join(lines)


def layout_report(results: Sequence[tuple[Layout, float, list[Figures]]]) -> str:
    """A Markdown table: cold / warm milliseconds of the query alone."""
    names = [each.name for each in results[0][2]]
    lines = [
        f"| row groups, order | MB | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    lines += [
        f"| {layout.name} | {size:,.0f} | "
        + " | ".join(f"{each.query:,.0f} / {each.warm:,.0f}" for each in figures)
        + " |"
        for layout, size, figures in results
    ]
    return "\n".join(lines)


def a_fact_of(collection: Path, atlas_id: str) -> tuple[str, tuple[int, int], str]:
    """A fact in the middle with neurons in every model, one of its neurons, its relation."""
    with Collection(collection) as many:
        row = many.query_one(
            f"""
            SELECT fact_id, any_value(relation_id) AS relation_id,
                   (SELECT [layer, neuron] FROM {PAIRS} WHERE atlas_id = $atlas AND fact_id = f.fact_id
                    ORDER BY layer DESC, neuron LIMIT 1) AS place
            FROM facts AS f GROUP BY fact_id HAVING min(n_neurons) >= 2
            ORDER BY fact_id LIMIT 1 OFFSET (SELECT count(*) // 4 FROM facts WHERE atlas_id = $atlas)
            """,
            {"atlas": atlas_id},
        )
    return row["fact_id"], tuple(row["place"]), row["relation_id"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_reading", description=__doc__.split("\n")[0])
    parser.add_argument("collection", type=Path, help="a folder that tests.big_collection wrote")
    parser.add_argument("--giant", type=Path, metavar="FOLDER", help="all its pairs as one atlas: asked, too")
    parser.add_argument("--layouts", type=Path, metavar="FOLDER", help="only compare layouts, written here")
    parser.add_argument("--repeats", type=int, default=5, help="processes a question (default 5)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("ask at least once")
    members = sorted(path.parent.name for path in options.collection.glob(f"*/{MANIFEST_NAME}"))
    atlas_id, complete = members[len(members) // 2], member_id(0)
    fact, neuron, relation = a_fact_of(options.collection, atlas_id)
    where = options.collection.resolve()
    if options.layouts:
        asked = layout_questions(atlas_id, fact, neuron)
        results = list(compared(where, options.layouts.resolve(), LAYOUTS, asked, options.repeats))
        print(layout_report(results))
        found: Any = [
            {"layout": layout.name, "megabytes": size, "figures": [asdict(each) for each in figures]}
            for layout, size, figures in results
        ]
    else:
        asked = questions(atlas_id, complete, fact, neuron, relation)
        many = [measured(each, "collection", where, options.repeats) for each in asked]
        print(report(f"{len(members)} models", many))
        found = {"collection": [asdict(each) for each in many]}
        if options.giant:
            one = [
                measured(each, "atlas", options.giant.resolve(), options.repeats)
                for each in giant_questions(f"{fact}.{members.index(atlas_id):03}", neuron)
            ]
            print("\n" + report("one atlas", one))
            found["giant"] = [asdict(each) for each in one]
    print(f"\nLoad of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
