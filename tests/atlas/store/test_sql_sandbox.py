"""The sandbox's process: its rights, stopping queries, the line, and the types of answers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from atlas.errors import QueryError, StoreError
from atlas.store import sql as sandboxes
from atlas.store import sql_pool
from atlas.store.atlas import Atlas
from atlas.store.sql_pool import LONGEST_LINE
from tests import ROOT
from tests.sample_atlas import write_sample_atlas

ENDLESS = "SELECT sum(x) FROM range(1000000000000) AS t(x)"
DEAF = "SELECT levenshtein(repeat('a', 500000), repeat('b', 500000))"

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Only Linux tells of a process.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")


@pytest.fixture(scope="module")
def console(folder):
    with Atlas(folder) as atlas, atlas.sandboxed(seconds=20, max_rows=50) as sandbox:
        yield sandbox


def running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


# Rights of the process --------------------------------------------------------------------------------


@LINUX
def test_the_process_can_neither_open_nor_write_a_file(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import errno, os, sys\n"
            "from atlas.store.sql_worker import confine\n"
            "written = open('before', 'wb')\n"
            "confine(100_000_000)\n"
            "def refused(act):\n"
            "    try:\n"
            "        act()\n"
            "    except (OSError, MemoryError) as error:\n"
            "        return getattr(error, 'errno', 'memory')\n"
            "print(refused(lambda: open('/etc/passwd')) == errno.EMFILE)\n"
            "print(refused(lambda: os.write(written.fileno(), b'x')) == errno.EFBIG)\n"
            "print(refused(lambda: os.pipe()) == errno.EMFILE)\n",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True"] * 3


@LINUX
def test_the_process_knows_nothing_of_the_host_s_environment(folder, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "a secret of the host")
    with Atlas(folder) as atlas, atlas.sandboxed() as console:
        environment = Path(f"/proc/{console.process_id}/environ").read_bytes()
    assert b"PYTHONPATH=" in environment
    assert b"SOME_TOKEN" not in environment
    assert b"a secret" not in environment


@LINUX
def test_the_process_imports_neither_torch_nor_streamlit_nor_pandas(console):
    loaded = Path(f"/proc/{console.process_id}/maps").read_text()
    assert "duckdb" in loaded
    for package in ("torch", "streamlit", "pandas"):
        assert f"/{package}/" not in loaded


# Stopping ---------------------------------------------------------------------------------------------


def test_a_stopped_query_raises_and_the_process_lives(console):
    before = console.process_id
    asked = console.start(ENDLESS)
    assert not asked.wait(0.5)
    asked.stop()
    with pytest.raises(QueryError, match=r"^The query was stopped\.$"):
        asked.answer()
    assert console.process_id == before
    assert console.query("SELECT 1").rows == ((1,),)


def test_a_query_that_ignores_interrupts_is_killed_with_its_process(console):
    before = console.process_id
    asked = console.start(DEAF)
    asked.wait(0.5)
    asked.stop()
    assert asked.wait(20)
    with pytest.raises(QueryError, match="stopped"):
        asked.answer()
    assert not running(before)
    assert console.query("SELECT 1").rows == ((1,),)


def test_stopping_a_finished_query_changes_nothing(console):
    asked = console.start("SELECT 1 AS x")
    assert asked.answer().rows == ((1,),)
    asked.stop()
    asked.stop()
    assert asked.done
    assert asked.answer().columns == ("x",)


def test_a_process_that_dies_under_a_query_is_replaced(folder):
    with Atlas(folder) as atlas, atlas.sandboxed(seconds=60) as console:
        asked = console.start(ENDLESS)
        assert not asked.wait(0.5)
        os.kill(console.process_id, signal.SIGKILL)
        with pytest.raises(QueryError, match="crashed the database engine"):
            asked.answer()
        assert console.query("SELECT count(*) FROM facts").rows == ((60,),)


def test_a_query_succeeds_after_the_idle_process_died(console):
    assert console.query("SELECT 1").rows == ((1,),)
    os.kill(console.process_id, signal.SIGKILL)
    assert console.query("SELECT count(*) FROM facts").rows == ((60,),)


def test_a_closed_console_refuses_queries_and_leaves_no_process(folder):
    with Atlas(folder) as atlas, atlas.sandboxed() as console:
        process = console.process_id
        asked, waiting = console.start(ENDLESS), console.start("SELECT 1")
        asked.wait(0.3)
        console.close()
        for each in (asked, waiting):
            assert each.wait(20)
            with pytest.raises(QueryError):
                each.answer()
        assert not running(process)
        with pytest.raises(QueryError, match="closed"):
            console.query("SELECT 1")


def test_an_idle_process_ends_and_the_next_query_starts_another(folder, monkeypatch):
    monkeypatch.setattr(sql_pool, "IDLE_SECONDS", 0.2)
    with Atlas(folder) as atlas, atlas.sandboxed() as console:
        assert console.query("SELECT 1").rows == ((1,),)
        before = console.process_id
        begun = time.monotonic()
        while running(before) and time.monotonic() < begun + 20:
            time.sleep(0.05)
        assert console.process_id is None
        assert not running(before)
        assert console.query("SELECT count(*) FROM facts").rows == ((60,),)


def test_the_process_ends_with_the_program_that_started_it(folder):
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from atlas.store.atlas import Atlas\n"
            f"console = Atlas({str(folder)!r}).sandboxed()\n"
            "print(console.process_id, flush=True)\n"
            f"console.start({ENDLESS!r}).wait()\n",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    process = int(program.stdout.readline())
    assert running(process)
    program.kill()
    program.wait()
    program.stdout.close()
    begun = time.monotonic()
    while running(process) and time.monotonic() < begun + 20:
        time.sleep(0.05)
    assert not running(process)


def test_a_missing_atlas_is_reported_and_found_again(folder, tmp_path):
    moved = Path(shutil.copytree(folder, tmp_path / "atlas"))
    with Atlas(moved) as atlas, atlas.sandboxed() as console:
        assert console.query("SELECT count(*) FROM facts").rows == ((60,),)
        moved.rename(tmp_path / "elsewhere")
        os.kill(console.process_id, signal.SIGKILL)
        with pytest.raises(StoreError, match="cannot be read"):
            console.query("SELECT 1")
        (tmp_path / "elsewhere").rename(moved)
        assert console.query("SELECT count(*) FROM facts").rows == ((60,),)


# The line ---------------------------------------------------------------------------------------------


def test_queries_are_answered_in_the_order_they_come(console):
    first = console.start(ENDLESS)
    others = [console.start(f"SELECT {number}") for number in range(3)]
    assert [each.ahead for each in (first, *others)] == [0, 1, 2, 3]
    assert [each.seconds for each in others] == [0, 0, 0]
    others[1].stop()
    with pytest.raises(QueryError, match="stopped"):
        others[1].answer()
    assert first.seconds > 0
    assert others[2].ahead == 2
    first.stop()
    assert [each.answer().rows for each in (others[0], others[2])] == [((0,),), ((2,),)]


def test_a_full_line_refuses_queries(console):
    asked = [console.start(ENDLESS) for _ in range(LONGEST_LINE)]
    with pytest.raises(QueryError, match=f"{LONGEST_LINE} queries are waiting"):
        console.start("SELECT 1")
    for each in reversed(asked):
        each.stop()
    assert all(each.wait(30) for each in asked)
    assert console.query("SELECT 1").rows == ((1,),)


def test_a_caller_who_is_interrupted_stops_the_query(console, monkeypatch):
    class Leaves(BaseException):
        pass

    def leave(asked):
        asked.wait(0.3)
        raise Leaves

    monkeypatch.setattr(sandboxes.PendingQuery, "answer", leave)
    with pytest.raises(Leaves):
        console.query(ENDLESS)
    monkeypatch.undo()
    begun = time.monotonic()
    assert console.query("SELECT 1").rows == ((1,),)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("sql", "values", "words"),
    [
        ("SELECT " + "1" * 20_000, {}, "20,007 characters; the limit is 20,000"),
        ("SELECT '\ud83d'", {}, "has half a character"),
        ("SELECT $a", {"a": "x" * 20_001}, "values have more than 20,000 characters"),
        ("SELECT $a", {}, "not provided"),
        ("SELECT $a::INTEGER", {"a": "ten"}, "Could not convert"),
    ],
)
def test_invalid_queries_are_refused(sql, values, words, console):
    with pytest.raises(QueryError, match=words):
        console.query(sql, values)


# Answers ----------------------------------------------------------------------------------------------


def test_values_keep_their_types_beside_nulls(console):
    frame = console.query(
        "SELECT * FROM (VALUES (1, true, 'x', 1.5), (NULL, NULL, NULL, NULL)) AS t(whole, flag, word, number)"
    ).frame
    assert frame["whole"].dtype == pd.Int32Dtype()
    assert frame["flag"].dtype == pd.BooleanDtype()
    assert frame["whole"][0] == 1
    assert frame.loc[1].isna().all()


def test_lists_and_structs_are_python_s(console):
    frame = console.query("SELECT promoted, [1, 2] AS n FROM neurons LIMIT 1").frame
    assert frame["promoted"][0][0]["token"] == "up0"
    assert frame["n"][0] == [1, 2]


def test_sums_are_whole_numbers_and_longer_ones_stay_exact(console):
    rows = console.query(
        "SELECT sum(n_neurons) AS a, [sum(1)] AS b, {'n': sum(1)} AS c, round(1.5::DECIMAL(9, 2)) AS d, "
        "170000000000000000000000000000000000::HUGEINT AS e, [{'n': 3::UHUGEINT}, NULL] AS f FROM facts"
    ).rows
    assert isinstance(rows[0][0], int)
    assert rows[0][1:] == ([60], {"n": 60}, 2, "170000000000000000000000000000000000", [{"n": 3}, None])


def test_numbers_stay_numbers_in_lists_and_structs(console):
    answer = console.query(
        "SELECT 18446744073709551615::UBIGINT, 1.50::DECIMAL(9, 2), [0.1::DOUBLE], [1, NULL]::INTEGER[2]"
    )
    assert answer.rows == ((18446744073709551615, Decimal("1.50"), [0.1], [1, None]),)


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("DATE '2026-01-02'", "2026-01-02"),
        ("DATE '0044-03-15 (BC)'", "0044-03-15 (BC)"),
        ("DATE 'infinity'", "infinity"),
        ("TIMESTAMP '2026-01-02 03:04:05'", "2026-01-02 03:04:05"),
        ("'infinity'::TIMESTAMP", "infinity"),
        ("TIMESTAMP_NS '2026-01-02 03:04:05.123456789'", "2026-01-02 03:04:05.123456789"),
        ("TIME '10:00'", "10:00:00"),
        ("TIME '24:00:00'", "24:00:00"),
        ("TIMETZ '10:00:00+02'", "10:00:00+02"),
        ("INTERVAL '1 month 2 days 3 seconds'", "1 month 2 days 00:00:03"),
        ("170141183460469231731687303715884105727::HUGEINT", "170141183460469231731687303715884105727"),
        ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455"),
        ("12345678901234567890123456789012345678901::BIGNUM", "12345678901234567890123456789012345678901"),
        ("'101'::BIT", "101"),
        ("'\\xAB'::BLOB", "\\xAB"),
        ("'b'::ENUM ('a', 'b')", "b"),
        ("'00000000-0000-0000-0000-000000000001'::UUID", "00000000-0000-0000-0000-000000000001"),
        ("MAP {'a': DATE '2026-01-02'}", "{a=2026-01-02}"),
        ("union_value(n := 2)", "2"),
        ("row(1, DATE '2026-01-02')", "(1, 2026-01-02)"),
        ("1::VARIANT", "1"),
        ("[DATE '2026-01-02', NULL]", ["2026-01-02", None]),
        ("[[TIME '24:00:00']]", [["24:00:00"]]),
        ("{'day': DATE '0044-03-15 (BC)', 'n': 1}", {"day": "0044-03-15 (BC)", "n": 1}),
        ("{'a\"b': [MAP {1: TIME '24:00:00'}]}", {'a"b': ["{1='24:00:00'}"]}),
        ("[340282366920938463463374607431768211455::UHUGEINT]", ["340282366920938463463374607431768211455"]),
    ],
)
def test_other_types_come_as_duckdb_prints_them(value, printed, console):
    assert console.query(f"SELECT {value}").rows == ((printed,),)


READING = [
    "-- note\nEXPLAIN SELECT 1",
    "/* x /* y */ */ EXPLAIN /* z */ ANALYZE -- é\n SELECT 1;",
    "EXPLAIN (FORMAT json) SELECT 1",
    "EXPLAIN (SELECT 1)",
    "/* x */ SELECT 1",
    ";; -- x\n SELECT 1 ; /* y */ ;",
    "PIVOT facts ON known USING count(*)",
    "-- note\nPIVOT (SELECT known, relation_id FROM facts) ON known USING count(*); -- é;",
    "EXPLAIN PIVOT facts ON known USING count(*)",
    "DESCRIBE PIVOT facts ON known USING count(*)",
    "WITH p AS (PIVOT facts ON known USING count(*)) SELECT * FROM p",
    "UNPIVOT facts ON n_neurons, n_prompts",
    "DESCRIBE facts",
    "SUMMARIZE facts",
    "SHOW TABLES",
    "FROM facts",
    "TABLE facts",
    "VALUES (1), (2)",
    "(SELECT 1)",
    "WITH a AS (SELECT 1 AS x) SELECT * FROM a",
    "SELECT * FROM hub_neurons",
    "SELECT 'COPY facts TO x; DROP TABLE facts' AS text",
    "SELECT * FROM facts PIVOT (count(*) FOR known IN (true, false)) LIMIT 1",
    "explain analyze SELECT count(*) FROM facts;",
    "SELECT relation_id, count(*) FROM facts GROUP BY ALL ORDER BY ALL",
]


@pytest.mark.parametrize("sql", READING)
def test_any_single_statement_that_reads_runs(sql, console):
    assert console.query(sql).rows


def test_a_pivot_counts_what_a_group_by_counts(console):
    (pivoted,) = console.query("PIVOT (SELECT known FROM facts) ON known USING count(*)").rows
    counted = console.query("SELECT count(*) FROM facts GROUP BY known ORDER BY known").rows
    assert pivoted == tuple(n for (n,) in counted)


def test_an_answer_without_columns_of_rows_has_both(console):
    answer = console.query("SELECT subject, known FROM facts WHERE false")
    assert answer.rows == ()
    assert list(answer.frame.columns) == ["subject", "known"]


def test_an_answer_that_is_too_large_is_refused(console):
    with pytest.raises(QueryError, match="larger than 32 MB"):
        console.query("SELECT repeat('x', 1000000) FROM range(49)")
