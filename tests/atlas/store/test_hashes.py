"""A damaged file is refused when it is first opened, and one that was checked is not read again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import atlas
from atlas.__main__ import main
from atlas.errors import QueryError, StoreError
from atlas.store import hashes
from atlas.store.collection import Collection
from atlas.store.manifest import file_name, verify
from atlas.store.schema import TABLES
from tests.sample_atlas import write_sample_atlas

REFUSAL = r"{}\.parquet is damaged or changed: .* sha256 in its manifest\. Build or copy the atlas again\."


@pytest.fixture
def copy(sample, tmp_path) -> Path:
    return shutil.copytree(sample, tmp_path / "many" / "copy")


@pytest.fixture
def reads(monkeypatch, tmp_path) -> list[str]:
    """The names of the files that are read, in a machine's cache of its own; files need no time to settle."""
    found: list[str] = []
    real = hashes.sha256_of
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "sha256_of", lambda path: found.append(path.name) or real(path))
    monkeypatch.setattr(hashes, "_SETTLED_NANOSECONDS", 0)
    monkeypatch.setattr(hashes, "_seen", {})
    return found


@pytest.fixture
def noted(monkeypatch) -> None:
    """Files of every size are noted in the cache folder."""
    monkeypatch.setattr(hashes, "NOTED_BYTES", 0)


def flip(path: Path, share: float = 0.4, *, same_time: bool = False) -> None:
    """Change one byte; with `same_time`, as a program that sets the time back."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)
    if same_time:
        os.utime(path, ns=times)


# Damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_a_changed_byte_anywhere_in_a_file_is_refused_when_the_atlas_is_opened(table, copy):
    whole = (copy / file_name(table)).read_bytes()
    for share in (0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99, 1):
        flip(copy / file_name(table), share)
        for open_it in (atlas.open, verify):
            with pytest.raises(StoreError, match=REFUSAL.format(table)) as refusal:
                open_it(copy)
            assert "\n" not in str(refusal.value)
        (copy / file_name(table)).write_bytes(whole)
    atlas.open(copy).close()


def test_the_command_line_names_the_damaged_file(copy, capsys):
    flip(copy / "subsets.parquet")
    for command in (["info"], ["sql", "SELECT 1"]):
        assert main([*command, "--atlas", str(copy)]) == 2
        assert "subsets.parquet is damaged" in capsys.readouterr().err


def test_a_file_damaged_after_it_was_checked_is_refused_at_the_next_opening(copy, reads):
    atlas.open(copy).close()
    flip(copy / "facts.parquet", same_time=True)
    with pytest.raises(StoreError, match=REFUSAL.format("facts")):
        atlas.open(copy)


READING = (
    "SELECT count(*) FROM knowledge_neurons",
    "SELECT max(layer) FROM knowledge_neurons WHERE mean_score > 0",
    "FROM hub_neurons",
    "SELECT fact_id FROM facts JOIN knowledge_neurons USING (atlas_id, fact_id) WHERE atlas_id <> 'sample'",
)
NOT_READING = (
    "SELECT count(*) FROM facts",
    "SELECT count(*) FROM knowledge_neurons WHERE atlas_id = 'sample'",
    "SELECT count(*) FROM hub_neurons WHERE atlas_id = 'sample'",
)


def test_a_query_of_a_collection_fails_only_where_it_reads_a_damaged_file(copy, sample):
    shutil.copytree(sample, copy.parent / "other")
    text = (copy / "manifest.json").read_text(encoding="utf-8")
    (copy / "manifest.json").write_text(text.replace('"sample"', '"copy"', 1), encoding="utf-8")
    flip(copy / "knowledge_neurons.parquet")
    with Collection(copy.parent) as many, many.sandboxed() as console:
        for sql in READING:
            for ask in (many.query, console.query):
                with pytest.raises(QueryError, match=REFUSAL.format("copy/knowledge_neurons")):
                    ask(sql)
        for sql in NOT_READING:
            assert many.query(sql).iloc[0, 0] == console.query(sql).rows[0][0] > 0


def test_the_sql_process_never_starts_over_a_file_that_was_damaged_since(copy):
    with atlas.open(copy) as a:
        console = a.sandboxed()
        flip(copy / "facts.parquet")
        for ask in (a.sandboxed, lambda: console.query("FROM facts")):
            with pytest.raises(StoreError, match=REFUSAL.format("facts")):
                ask()
        console.close()


def test_a_file_that_vanished_is_one_sentence(copy):
    with atlas.open(copy) as a:
        (copy / "facts.parquet").unlink()
        with pytest.raises(StoreError, match=r"facts\.parquet cannot be read \(No such file"):
            a.sandboxed()


# Once ------------------------------------------------------------------------------------------------


def test_a_file_is_read_once_until_it_changes(copy, reads):
    atlas.open(copy).close()
    assert sorted(reads) == sorted(map(file_name, TABLES))
    reads.clear()
    atlas.open(copy).close()
    assert reads == []
    (copy / "facts.parquet").touch()
    atlas.open(copy).close()
    assert reads == ["facts.parquet"]


def test_a_file_is_read_again_for_the_full_check(copy, reads):
    atlas.open(copy).close()
    reads.clear()
    verify(copy)
    assert len(reads) == len(TABLES)


def test_a_file_that_may_still_change_within_a_tick_of_the_clock_is_not_remembered(copy, reads, monkeypatch):
    monkeypatch.setattr(hashes, "_SETTLED_NANOSECONDS", 60 * 10**9)
    atlas.open(copy).close()
    reads.clear()
    atlas.open(copy).close()
    assert len(reads) == len(TABLES)


def test_another_process_does_not_read_large_files_again(copy, reads, noted):
    atlas.open(copy).close()
    reads.clear()
    hashes._seen.clear()  # as in another process
    atlas.open(copy).close()
    assert reads == []
    hashes._seen.clear()
    flip(copy / "facts.parquet", same_time=True)
    with pytest.raises(StoreError, match=REFUSAL.format("facts")):
        atlas.open(copy)


def test_small_atlases_leave_no_note(copy, reads, tmp_path):
    atlas.open(copy).close()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("note", ["", "[]", '{"x": 1}', '{"x": [1, 2]}', "null", '{"x": [[1], "a"]}', "\0"])
def test_a_broken_note_means_that_files_are_read_again(note, copy, reads, noted, tmp_path):
    atlas.open(copy).close()
    (path,) = (tmp_path / "cache" / "checked").iterdir()
    assert set(json.loads(path.read_text())) == {str(copy / file_name(table)) for table in TABLES}
    path.write_text(note)
    reads.clear()
    hashes._seen.clear()
    atlas.open(copy).close()
    assert len(reads) == len(TABLES)
    assert len(json.loads(path.read_text())) >= len(TABLES)


def test_a_cache_folder_that_cannot_be_written_is_no_error(copy, reads, noted, tmp_path):
    (tmp_path / "cache").write_text("a file")
    atlas.open(copy).close()
    write_sample_atlas(tmp_path / "another")
    atlas.open(tmp_path / "another").close()
