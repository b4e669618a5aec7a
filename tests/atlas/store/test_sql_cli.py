"""`python -m atlas`: output, refusals, and browsing without torch."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.__main__ import main
from atlas.store.schema import TABLES
from tests import ROOT
from tests.sample_atlas import sample_tables, write_sample_atlas


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample_atlas(tmp_path_factory.mktemp("atlases") / "sample")


@pytest.fixture
def ask(sample, capsys):
    """Run one command on the sample; gives (status, stdout, stderr)."""

    def run(command, *arguments):
        where = [] if command == "list" or "--atlas" in arguments else ["--atlas", str(sample)]
        status = main([command, *arguments, *where])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def in_a_shell(*arguments, cwd=ROOT, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        **options,
    )


# sql -------------------------------------------------------------------------------------------------


def test_a_table_lines_up(ask):
    status, out, err = ask(
        "sql",
        "SELECT subject, known, n_neurons, 0.5::FLOAT AS half, NULL AS none "
        "FROM facts ORDER BY fact_id LIMIT 3",
    )
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "subject   known  n_neurons  half  none",
        "────────  ─────  ─────────  ────  ────",
        "Anna 0    True           3   0.5",
        "Łukasz 1  False          4   0.5",
        "Ömer 2    True           3   0.5",
        "(3 rows)",
    ]


def test_a_table_has_one_line_a_row(ask):
    _, out, _ = ask("sql", "SELECT 'two\nlines' AS a, repeat('x', 500) AS b, promoted FROM neurons LIMIT 1")
    lines = out.splitlines()
    assert len(lines) == 4
    assert "two lines" in lines[2]
    assert "xxx…" in lines[2]
    assert "up0, up1, up2" in lines[2]
    assert "{" not in out


def test_csv_can_be_read_back(ask):
    _, out, _ = ask("sql", "SELECT * FROM facts ORDER BY fact_id", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    expected = sorted(sample_tables(60)["facts"], key=lambda f: f["fact_id"])
    assert [r["subject"] for r in rows] == [f["subject"] for f in expected]
    assert list(rows[0]) == TABLES["facts"].names
    _, out, _ = ask("sql", "SELECT promoted, NULL AS n FROM neurons LIMIT 1", "--format", "csv")
    row = next(csv.DictReader(io.StringIO(out)))
    assert json.loads(row["promoted"])[0]["token"] == "up0"
    assert row["n"] == ""


def test_json_is_valid_for_every_value(ask):
    _, out, _ = ask(
        "sql",
        "SELECT 'nan'::FLOAT AS a, 'inf'::DOUBLE AS b, DATE '2026-01-01' AS c, 1.5::DECIMAL(9, 2) AS d, "
        "promoted, 'ü' AS e, 1 AS x, 2 AS x, [NULL, 1] AS f FROM neurons LIMIT 2",
        "--format",
        "json",
    )
    rows = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert len(rows) == 2
    assert rows[0]["a"] is None
    assert rows[0]["b"] is None
    assert rows[0]["c"] == "2026-01-01"
    assert rows[0]["d"] == 1.5
    assert rows[0]["promoted"][0] == {"token": "up0", "logit": 2.0}
    assert (rows[0]["e"], rows[0]["x"], rows[0]["x_1"], rows[0]["f"]) == ("ü", 1, 2, [None, 1])
    assert json.loads(ask("sql", "SELECT 1 WHERE false", "--format", "json")[1]) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("[{'token': 'a'}, NULL]", '[{"token": "a"}, null]'),
        ("[{'token': 'a'}, {'token': NULL}]", '[{"token": "a"}, {"token": null}]'),
        ("[NULL, {'token': 'a'}]", '[null, {"token": "a"}]'),
        ("[{'token': 1}]", '[{"token": 1}]'),
        ("[{'token': ' a'}, {'token': 'b'}]", "a, b"),
        ("[]", "[]"),
    ],
)
def test_a_list_is_tokens_only_where_every_element_is_one(value, shown, ask):
    status, out, _ = ask("sql", f"SELECT {value} AS x")
    assert status == 0
    assert out.splitlines()[2] == shown


@pytest.mark.parametrize(
    ("value", "printed", "in_json"),
    [
        ("4.2e-12::DOUBLE", "4.2e-12", 4.2e-12),
        ("1234567890123456789::BIGINT", "1234567890123456789", 1234567890123456789),
        ("0::DECIMAL(20, 10)", "0.0000000000", 0),
        ("1e-10::DECIMAL(20, 10)", "0.0000000001", 1e-10),
        ("0.12345678901234567890::DECIMAL(20, 20)", "0.12345678901234567890", "0.12345678901234567890"),
        ("100000000000000000000::UHUGEINT", "100000000000000000000", "100000000000000000000"),
        ("DATE '0044-03-15 (BC)'", "0044-03-15 (BC)", "0044-03-15 (BC)"),
        ("MAP {'a': INTERVAL 1 DAY}", "{a=1 day}", "{a=1 day}"),
        ("[TIME '24:00:00']", '["24:00:00"]', ["24:00:00"]),
    ],
)
def test_every_format_prints_what_duckdb_prints(value, printed, in_json, ask):
    query = f"SELECT {value} AS x"
    assert ask("sql", query)[1].splitlines()[2].strip() == printed
    assert next(csv.DictReader(io.StringIO(ask("sql", query, "--format", "csv")[1])))["x"] == printed
    assert json.loads(ask("sql", query, "--format", "json")[1]) == [{"x": in_json}]


def test_truncation_is_reported_on_stderr(ask):
    status, out, err = ask("sql", "SELECT fact_id FROM facts", "--format", "csv", "--limit", "5")
    assert status == 0
    assert len(out.splitlines()) == 6
    assert err == "Only the first 5 rows are shown; there are more. Give --limit.\n"
    assert ask("sql", "SELECT fact_id FROM facts", "--limit", "60")[2] == ""


def test_a_plan_is_printed_as_it_is(ask):
    status, out, _ = ask("sql", "EXPLAIN SELECT * FROM facts")
    assert status == 0
    assert "╭" in out or "┌" in out


def test_a_query_can_come_from_standard_input(sample):
    done = in_a_shell("-m", "atlas", "sql", "-", "--atlas", str(sample), input="SELECT 40 + 2 AS answer")
    assert done.returncode == 0
    assert "42" in done.stdout


@pytest.mark.parametrize(
    "sql", ["-- note\nSELECT 42 AS x", "--note\nSELECT 42 AS x", "-- a\n-- b\nSELECT 42 AS x"]
)
def test_a_query_may_begin_with_a_comment(sql, ask):
    assert ask("sql", sql, "--format", "csv") == (0, "x\n42\n", "")


BAD = {
    "-- nothing but a comment": "Only a single SELECT",
    "SELECT '\ud83d'": "is not text",
    "SELECT nope FROM facts": "nope",
    "SELEC 1": "syntax error",
    "": "The query is empty",
    "DROP TABLE facts": "Only a single SELECT",
    "SELECT 1; SELECT 2": "Only a single SELECT",
    "COPY facts TO 'facts.csv'": "Only a single SELECT",
    "SELECT * FROM read_csv('/etc/passwd')": "disabled",
    "WITH x AS (DELETE FROM facts RETURNING *) SELECT * FROM x": "Can only delete from base table",
    "WITH x AS (DELETE FROM loaded.facts RETURNING *) SELECT * FROM x": "read-only",
}


@pytest.mark.parametrize("sql", BAD)
def test_bad_sql_is_one_message_on_stderr_and_status_2(sql, ask, sample):
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sample.iterdir()}
    status, out, err = ask("sql", sql)
    assert (status, out) == (2, "")
    assert BAD[sql] in err
    assert "Traceback" not in err
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sample.iterdir()} == files


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--limit", "0"], "must be positive"),
        (["--limit", "-3"], "must be positive"),
        (["--seconds", "0"], "must be positive"),
        (["--memory", "lots"], "must be written like 512MB"),
        (["--atlas", "no/such/atlas"], "neither a folder nor the id of an atlas"),
        (["--atlas", "one", "--collection", "many"], "exclude each other"),
    ],
)
def test_bad_options_are_one_message_and_status_2(options, words, ask):
    status, out, err = ask("sql", "SELECT 1", *options)
    assert (status, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["sing"], ["sql"], ["sql", "SELECT 1", "--format", "xml"]])
def test_an_unknown_command_ends_with_status_2(arguments, capsys):
    assert main(arguments) == 2
    assert "Usage: python -m atlas" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["sql", "--help"], ["info", "--help"], ["list", "--help"]])
def test_help_is_there(arguments, capsys):
    assert main(arguments) == 0
    assert "Usage: python -m atlas" in capsys.readouterr().out


def test_a_long_query_is_stopped_and_does_not_hold_up_the_exit(sample):
    done = in_a_shell(
        "-m", "atlas", "sql", "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))",
        "--seconds", "0.5", "--atlas", str(sample),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "The query was stopped after 0.5 seconds. Select fewer rows, or add conditions.\n"


def test_a_closed_pipe_is_no_error(sample):
    process = subprocess.Popen(
        [sys.executable, "-m", "atlas", "sql", "SELECT * FROM prompts, facts", "--limit", "30000",
         "--atlas", str(sample)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline().startswith("fact_id")
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 0
    assert errors == ""
    process.stderr.close()


# info and list ---------------------------------------------------------------------------------------


def test_info_describes_the_atlas(ask, sample):
    status, out, err = ask("info")
    assert (status, err) == (0, "")
    for words in (
        "sample-model · bert · 4 layers × 256 neurons · gelu · float32",
        "sample · 1 · CC0-1.0",
        "integrated_gradients · certified · tolerance 0.01 · at most 513 points",
        "default · threshold 0.2 · share 0.5 · at_least 2",
        "every second template",
        "2026-01-01 · cpu",
        "60 facts of 4 relations, asked with 480 prompts (240 held out)",
        "48 known to the model (80.0%: rank 1 on most prompts)",
        "neurons within a relation",
        "100.00% of the integrals met their tolerance",
    ):
        assert words in out
    tables = sample_tables(60)
    known = {row["fact_id"] for row in tables["facts"] if row["known"]}
    for intervention, group in (("suppress", "own"), ("suppress", "matched"), ("amplify", "unrelated")):
        changes = [
            row["p_after"] / row["p_before"] - 1
            for row in tables["effects"]
            if (row["intervention"], row["group"], row["held_out"]) == (intervention, group, True)
            and {row["fact_id"], row["prompt_fact_id"]} <= known
        ]
        mean = sum(changes) / len(changes)
        width = max(map(len, {row["group"] for row in tables["effects"]}))
        assert f"  {intervention:<9} {group:<{width}} {mean:>+8.1%}   ({len(changes):,} prompts)" in out
    for table, rows in tables.items():
        assert f"{len(rows):,}" in next(line for line in out.splitlines() if line.startswith(table))


def test_info_names_unmeasured_tables(ask, tmp_path):
    folder = write_sample_atlas(tmp_path / "published", leave_out=("prompts", "attributions", "effects"))
    status, out, _ = ask("info", "--atlas", str(folder))
    assert status == 0
    assert sum(line.endswith("not measured in this atlas") for line in out.splitlines()) == 3
    assert "mean change" not in out
    assert "tolerance" not in out.split("table", 1)[1]


def test_info_refuses_a_broken_atlas(ask, sample, tmp_path):
    broken = Path(shutil.copytree(sample, tmp_path / "broken"))
    path = broken / "facts.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    status, out, err = ask("info", "--atlas", str(broken))
    assert (status, out) == (2, "")
    assert "is truncated" in err
    assert len(err.splitlines()) == 1


def test_list_names_the_bundled_atlases(ask, sample, tmp_path, monkeypatch):
    monkeypatch.setattr("atlas.store.atlas.DATA", tmp_path)
    assert "No atlas comes with this installation" in ask("list")[1]
    for name in ("another", "starter-pocket-bert"):
        shutil.copytree(sample, tmp_path / name)
    lines = ask("list")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["starter-pocket-bert", "another"]
    assert lines[0].endswith("(default)")
    assert "sample-model × sample, 60 facts" in lines[1]


# Without torch ---------------------------------------------------------------------------------------


def test_browsing_imports_no_torch(sample):
    done = in_a_shell(
        "-c",
        "import sys, atlas, atlas.store, atlas.queries, atlas.refinement, atlas.datasets, atlas.models\n"
        "from atlas.__main__ import main\n"
        f"assert main(['info', '--atlas', {str(sample)!r}]) == 0\n"
        f"assert main(['sql', 'SELECT 1', '--atlas', {str(sample)!r}]) == 0\n"
        f"with atlas.open({str(sample)!r}) as a: atlas.queries.facts_matching(a, 'oslo')\n"
        "heavy = {'torch', 'transformers', 'streamlit'} & set(sys.modules)\n"
        "assert not heavy, heavy\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_opening_an_atlas_is_one_call(sample):
    done = in_a_shell(
        "-c",
        "import atlas, sys\n"
        "assert 'duckdb' not in sys.modules\n"
        f"a = atlas.open({str(sample)!r})\n"
        "print(len(a.query('SELECT * FROM facts')))\n",
    )
    assert done.stdout == "60\n"
    assert done.stderr == ""
