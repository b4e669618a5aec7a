"""The made-up atlas and collection are atlases as large as they say, and questions to them are answered."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import atlas
from atlas.errors import AtlasError
from atlas.store.collection import Collection
from atlas.store.manifest import verify
from atlas.store.schema import TABLES
from build.bench import big_atlas, main, reading
from build.bench.big_atlas import NOT_MADE, write_big_atlas
from build.bench.big_collection import MEMBER_TABLES, write_big_collection, write_giant_atlas
from build.bench.reading import LAYOUTS, Layout
from build.output.check import check_atlas
from build.output.writer import row_group_rows
from tests.sample_atlas import OPTIONAL_TABLES

N_MODELS = 3
N_FACTS = 300


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    return write_big_collection(tmp_path_factory.mktemp("big") / "many", models=N_MODELS, n_facts=N_FACTS)


@pytest.fixture(scope="module")
def giant(many) -> Path:
    return write_giant_atlas(many, many.parent / "giant")


# --- the made-up atlas ---


def test_it_passes_the_check_and_its_neurons_follow_from_its_scores(tmp_path):
    folder = write_big_atlas(tmp_path / "big", n_facts=1_000)
    report = check_atlas(folder)
    assert not report.problems
    assert report.converged == 1
    with atlas.open(folder) as opened:
        counts = opened.query_one(
            """SELECT (SELECT count(*) FROM facts) AS facts, (SELECT count(*) FROM prompts) AS prompts,
                      (SELECT count(*) FROM knowledge_neurons) AS pairs,
                      (SELECT max(n_facts) FROM hub_neurons) AS hub"""
        )
    assert (counts["facts"], counts["prompts"], counts["pairs"]) == (1_000, 8_137, 11_036)
    assert counts["hub"] > 200


def test_it_is_the_same_each_time(tmp_path):
    first, second = (write_big_atlas(tmp_path / name, n_facts=500) for name in ("first", "second"))
    with atlas.open(first) as a, atlas.open(second) as b:
        for table in a.tables:
            rows = f"SELECT count(*) AS n, bit_xor(hash(row)) AS rows FROM {table} AS row"
            assert a.query_one(rows) == b.query_one(rows)


def test_its_relations_add_up_to_the_published_numbers():
    sizes = big_atlas.relation_sizes(big_atlas.PUBLISHED_FACTS, big_atlas.PUBLISHED_PROMPTS)
    assert len(sizes) == 39
    assert sum(n_facts for _, _, n_facts, _ in sizes) == 27_610
    assert sum(n_facts * n_templates for _, _, n_facts, n_templates in sizes) == 224_674
    assert min(n_templates for *_, n_templates in sizes) == 4


def test_tables_can_be_left_out(tmp_path):
    folder = write_big_atlas(tmp_path / "bare", n_facts=500, leave_out=OPTIONAL_TABLES)
    assert check_atlas(folder).passed
    with atlas.open(folder) as opened:
        assert opened.tables == ("relations", "facts", "knowledge_neurons")


# --- the made-up collection ---


def test_every_member_is_a_whole_atlas_of_the_same_facts_and_its_own_pairs(many):
    with Collection(many) as opened:
        assert len(opened.members) == N_MODELS
        for place, member in enumerate(opened.members.values()):
            verify(member.folder)
            assert member.manifest.tables == (
                tuple(name for name in TABLES if name not in NOT_MADE) if place == 0 else MEMBER_TABLES
            )
            assert (member.manifest.rows("facts"), member.manifest.rows("knowledge_neurons")) == (
                N_FACTS,
                3_311,
            )
        facts = opened.query("SELECT fact_id, count(*) AS n FROM facts GROUP BY ALL")
        assert set(facts["n"]) == {N_MODELS}
        pairs = opened.query(
            "SELECT fact_id, layer, neuron, count(*) AS n FROM knowledge_neurons GROUP BY ALL"
        )
        assert len(pairs) > 2 * 3_311


def test_counts_agree_with_the_pairs(many, giant):
    for folder in (*sorted(many.iterdir()), giant):
        with atlas.open(folder) as opened:
            wrong = opened.query(
                """SELECT * FROM facts LEFT JOIN
                (SELECT fact_id, count(*) AS n FROM knowledge_neurons GROUP BY ALL) USING (fact_id)
                WHERE n_neurons <> coalesce(n, 0)"""
            )
            assert wrong.empty
            wrong = opened.query(
                """SELECT * FROM neurons FULL JOIN
                (SELECT layer, neuron, count(*) AS n, count(DISTINCT relation_id) AS r
                 FROM knowledge_neurons GROUP BY ALL) USING (layer, neuron)
                WHERE n_facts IS DISTINCT FROM n OR n_relations IS DISTINCT FROM r"""
            )
            assert wrong.empty


def test_the_giant_has_every_pair_of_every_member(many, giant):
    with Collection(many) as opened, atlas.open(giant) as one:
        for atlas_id in opened.members:
            of_member = opened.query(
                "SELECT * EXCLUDE (atlas_id) FROM knowledge_neurons WHERE atlas_id = ? ORDER BY ALL",
                [atlas_id],
            )
            of_giant = one.query(
                "SELECT * REPLACE (fact_id[:-5] AS fact_id) FROM knowledge_neurons "
                f"WHERE fact_id LIKE '%.{atlas_id[-3:]}' ORDER BY ALL"
            )
            assert of_giant.equals(of_member)


def test_a_collection_is_the_same_each_time_and_what_is_there_is_kept(many, tmp_path):
    again = write_big_collection(tmp_path / "again", models=2, n_facts=N_FACTS, complete=0)
    with Collection(many) as a, Collection(again) as b:
        rows = (
            "SELECT count(*) AS n, bit_xor(hash(row)) AS rows FROM knowledge_neurons AS row "
            "WHERE atlas_id = ?"
        )
        assert a.query_one(rows, ["made-up-001"]) == b.query_one(rows, ["made-up-001"])
    times = {path: path.stat().st_mtime_ns for path in again.rglob("*.parquet")}
    write_big_collection(again, models=2, n_facts=N_FACTS, complete=0)
    assert times == {path: path.stat().st_mtime_ns for path in again.rglob("*.parquet")}


def test_its_files_have_the_row_groups_of_a_build(giant):
    for table in ("facts", "knowledge_neurons"):
        metadata = pq.read_metadata(giant / f"{table}.parquet")
        groups = [metadata.row_group(place).num_rows for place in range(metadata.num_row_groups)]
        assert max(groups) <= row_group_rows(table)


# --- the benchmark ---


def test_every_question_is_answered_and_reported(many, giant, tmp_path, capsys):
    arguments = ["reading", str(many), "--giant", str(giant), "--repeats", "1"]
    assert main([*arguments, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    for key, questions in (("collection", reading.QUESTIONS), ("giant", reading.GIANT_QUESTIONS)):
        assert [each["name"] for each in figures[key]] == [
            name for named in questions.values() for name in named
        ]
    for each in (*figures["collection"], *figures["giant"]):
        assert each["rows"] > 0, each["name"]
        assert each["cold"] >= each["query"] > 0
        assert each["memory"] > 50
    printed = capsys.readouterr().out
    assert all(f"| {each['name']} " in printed for each in figures["collection"])


@pytest.mark.parametrize(
    "layout", [LAYOUTS[0], LAYOUTS[-1], Layout("tiny", 100, options={"write_page_index": True})]
)
def test_a_layout_has_the_same_rows(many, tmp_path, layout):
    path = reading.lay_out(many, tmp_path / "laid out", layout)
    sql = "SELECT atlas_id, fact_id, layer, neuron FROM knowledge_neurons ORDER BY ALL"
    kind = "file" if layout.one_file else "collection"
    with reading.open_reader(kind, path) as new, Collection(many) as old:
        assert new.query(sql).equals(old.query(sql))
    figures = reading.measure_question("all", sql, {}, kind, path, 1)
    assert figures["rows"] == N_MODELS * 3_311
    files = [path] if layout.one_file else path.glob("*/knowledge_neurons.parquet")
    assert {pq.read_metadata(file).row_group(0).num_rows <= layout.rows for file in files} == {True}


def test_layouts_are_compared_and_removed(many, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reading, "LAYOUTS", LAYOUTS[:1])
    monkeypatch.setattr(reading, "LAYOUT_QUESTIONS", {None: {"a fact": "FROM facts WHERE fact_id = $fact"}})
    assert main(["reading", str(many), "--layouts", str(tmp_path / "tried"), "--repeats", "1"]) == 0
    assert "| 16k " in capsys.readouterr().out
    assert not any((tmp_path / "tried").iterdir())


def test_a_question_that_fails_ends_the_benchmark_with_its_error(many):
    with pytest.raises(AtlasError, match="nothing"):
        reading.measure_question("wrong", "SELECT nothing FROM facts", {}, "collection", many, 1)
