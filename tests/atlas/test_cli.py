"""What every command line prints: any encoding takes it, no control character reaches a terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
import typer

import atlas.__main__
import build.__main__
import build.bench.cli
from atlas.store.manifest import read_manifest, record_files, write_manifest
from atlas.store.sql_types import distinct
from tests import ROOT
from tests.sample_atlas import replace_table, sample_tables, write_sample_atlas

ENCODINGS = ("cp1252", "cp437", "ascii", "utf-16")
NOT_NUMBERS = ("nan", "-nan", "inf", "-inf", "1e999", "-1")
# It clears the screen, turns the text red, and sets the title, in seven and in eight bits.
COMMANDS = "\x1b[2J\x1b[31m\x1b]0;owned\x07\x9b31m\x7f\r\u202e"


MAIN = {"atlas": atlas.__main__.main, "build": build.__main__.main, "build bench": build.bench.cli.main}


@pytest.fixture
def printed(monkeypatch):
    """A function: a command → its status, standard output and error; its streams have that encoding."""

    def run(program: str, *arguments: object, encoding: str = "utf-8", stdin: bytes = b""):
        files = {"stdin": io.BytesIO(stdin), "stdout": io.BytesIO(), "stderr": io.BytesIO()}
        for name, file in files.items():
            errors = "backslashreplace" if name == "stderr" else "strict"  # as Python opens them
            monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding, errors, write_through=True))
        status = MAIN[program]([str(argument) for argument in arguments])
        return status, files["stdout"].getvalue(), files["stderr"].getvalue()

    return run


# Encodings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "arguments",
    [
        ("atlas", "list"),
        ("atlas", "info"),
        ("atlas", "sql", "FROM facts WHERE subject IN ('Łódź', 'Nice') ORDER BY subject"),
        ("atlas", "sql", "EXPLAIN FROM facts"),
        ("build", "plan", "--model", "pocket-bert", "--dataset", "starter"),
        ("build", "check", "{sample}"),
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_text_is_printed_in_every_encoding(arguments, encoding, printed, sample):
    arguments = [argument.replace("{sample}", str(sample)) for argument in arguments]
    status, out, err = printed(*arguments, encoding=encoding)
    assert (status, err) == (0, b"")
    whole = printed(*arguments)[1].decode()
    # The rule of a table is of other characters, and its columns are as wide as what is printed in them.
    wanted = [word for word in whole.split() if set(word) != {"─"}]
    found = [word for word in out.decode(encoding).split() if set(word) != {"-"} and set(word) != {"─"}]
    assert found == [word.encode(encoding, "backslashreplace").decode(encoding) for word in wanted]


@pytest.mark.parametrize("encoding", ENCODINGS[:3])
def test_a_table_lines_up_in_every_encoding(encoding, printed):
    sql = "SELECT 'Łódź' AS a, 'x' AS b UNION ALL SELECT 'Nice', 'x'"
    head, rule, *rows, _ = printed("atlas", "sql", sql, encoding=encoding)[1].decode(encoding).splitlines()
    assert {line.rindex(" ") for line in (head, rule, *rows)} == {len(rule) - 2}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_data_in_a_file_is_utf_8_in_every_encoding(encoding, printed):
    sql = "SELECT subject, object FROM facts ORDER BY fact_id"
    _, as_csv, _ = printed("atlas", "sql", sql, "--format", "csv", "--limit", 5000, encoding=encoding)
    _, as_json, _ = printed("atlas", "sql", sql, "--format", "json", "--limit", 5000, encoding=encoding)
    with atlas.open() as opened:
        facts = opened.query(sql).values.tolist()
    assert [list(row.values()) for row in json.loads(as_json)] == facts
    assert list(csv.reader(io.StringIO(as_csv.decode())))[1:] == facts
    assert any("ż" in subject for subject, _ in facts)


@pytest.mark.parametrize("encoding", ENCODINGS[:3])
def test_a_message_is_printed_in_every_encoding(encoding, printed):
    status, out, err = printed("atlas", "info", "--atlas", "Łódź", encoding=encoding)
    assert (status, out) == (2, b"")
    shown = "Łódź".encode(encoding, "backslashreplace")
    assert err.startswith(b"'" + shown + b"' is neither a folder")


def test_a_query_on_standard_input_that_is_no_text_is_one_sentence(printed):
    status, out, err = printed("atlas", "sql", "-", stdin=b"SELECT '\xff'")
    assert (status, out) == (2, b"")
    assert err.startswith(b"Standard input is not text in utf-8")
    assert b"Traceback" not in err
    assert (
        printed("atlas", "sql", "-", "--format", "csv", stdin="SELECT 'Łódź' AS a".encode())[1]
        == "a\nŁódź\n".encode()
    )


# Control characters ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """An atlas with control characters in every text: of its manifest, and of its facts."""
    folder = write_sample_atlas(tmp_path_factory.mktemp("hostile") / "atlas", atlas_id=f"a{COMMANDS}")
    facts = [{**row, "subject": row["subject"] + COMMANDS} for row in sample_tables()["facts"]]
    replace_table(folder, "facts", facts)
    m = read_manifest(folder)
    write_manifest(
        folder,
        replace(
            m,
            files=record_files(folder),
            notes=COMMANDS,
            device=COMMANDS,
            created=COMMANDS,
            code_version=COMMANDS,
            model=replace(m.model, name=f"m{COMMANDS}", activation_function=COMMANDS),
            dataset=replace(m.dataset, id=COMMANDS, licence=COMMANDS),
            method=replace(
                m.method, refinement={**m.method.refinement, COMMANDS: COMMANDS, "mode": COMMANDS}
            ),
        ),
    )
    return folder


def is_harmless(text: str) -> bool:
    return not set(text) & set(COMMANDS) - set("[2J31m]0;owned")


SQL = f"SELECT subject, [subject] AS texts, {{'token': subject}} AS s, 1 AS \"{COMMANDS}\" FROM facts"


@pytest.mark.parametrize(
    "arguments",
    [
        ("atlas", "info", "--atlas", "{}"),
        ("atlas", "info", "--collection", "{}/.."),
        ("atlas", "sql", SQL, "--atlas", "{}"),
        ("atlas", "sql", f"EXPLAIN {SQL}", "--atlas", "{}"),
        ("atlas", "sql", "SELECT error(any_value(subject)) FROM facts", "--atlas", "{}"),
        ("atlas", "sql", f"SELECT {COMMANDS}", "--atlas", "{}"),
        ("atlas", "info", "--atlas", COMMANDS),
        ("build", "check", f"{{}}/{COMMANDS}"),
        ("build", "evaluate", "{}", "--experiments", COMMANDS),
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:50],
)
def test_no_control_character_of_an_atlas_is_printed(arguments, hostile, printed):
    _, out, err = printed(*(argument.replace("{}", str(hostile)) for argument in arguments))
    assert "\\u001b[2" in (out + err).decode()
    assert is_harmless(out.decode())
    assert is_harmless(err.decode())


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_no_control_character_reaches_a_terminal_in_any_format(format, hostile):
    ours, theirs = pty.openpty()
    query = [f"{SQL} LIMIT 3", "--format", format, "--atlas", str(hostile)]
    process = subprocess.Popen(
        [sys.executable, "-m", "atlas", "sql", *query],
        cwd=ROOT,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    )
    os.close(theirs)
    shown = b""
    # Linux raises once the other side is closed and everything is read.
    with suppress(OSError):
        while True:
            shown += os.read(ours, 4096)
    os.close(ours)
    assert process.wait() == 0
    # A terminal's line ends are CR LF.
    text = shown.decode().replace("\r\n", "\n")
    assert is_harmless(text)
    assert "\\u001b[2J" in text
    if format == "json":
        assert json.loads(text)[0]["subject"].endswith(COMMANDS)


def test_a_file_gets_the_characters_as_they_are(hostile, printed):
    query = (
        "sql",
        "SELECT replace(subject, chr(13), '') AS a FROM facts ORDER BY fact_id LIMIT 1",
        "--atlas",
        hostile,
        "--format",
    )
    _, as_csv, _ = printed("atlas", *query, "csv")
    _, as_json, _ = printed("atlas", *query, "json")
    _, row = csv.reader(io.StringIO(as_csv.decode(), newline=""))
    assert row == ["Anna 0" + COMMANDS.replace("\r", "")] == list(json.loads(as_json)[0].values())


# Numbers ---------------------------------------------------------------------------------------------


def float_options() -> list[tuple[str, str, str]]:
    """(program, command, option) of every option that takes a decimal number."""
    apps = {
        "atlas": atlas.__main__.app,
        "build": build.__main__.app,
        "build bench": build.bench.cli.benchmarks,
    }
    groups = {program: typer.main.get_command(each) for program, each in apps.items()}
    return [
        (program, name, parameter.opts[0])
        for program, group in groups.items()
        for name, command in {"": group, **group.commands}.items()
        for parameter in command.params
        if parameter.type_descriptor.annotation is float
    ]


NEEDED = {
    ("atlas", "sql"): ("SELECT 1",),
    ("build", "plan"): ("--model", "pocket-bert", "--dataset", "starter"),
    ("build", "run"): ("--model", "pocket-bert", "--dataset", "starter", "--out", "/nonexistent/atlas"),
}


def test_every_option_that_takes_a_decimal_number_is_tried():
    assert {("atlas", "sql", "--seconds"), ("build", "run", "--tolerance")} <= set(float_options())


@pytest.mark.parametrize("number", NOT_NUMBERS)
@pytest.mark.parametrize("option", float_options(), ids=" ".join)
def test_an_option_refuses_what_is_no_number_of_its_range(option, number, printed):
    program, command, name = option
    needed = NEEDED.get((program, command), ())
    status, out, err = printed(program, *filter(None, [command]), *needed, f"{name}={number}")
    assert (status, out) == (2, b"")
    assert len(err.splitlines()) == 1
    assert str(float(number)).removesuffix(".0").strip("-") in err.decode()


# Wide tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{}", "1", "{} AS c"], ids=["distinct", "repeated", "numbered"])
def test_a_table_of_1500_columns_has_a_name_for_each(name, capsys):
    columns = ", ".join(name.format(number) for number in range(1500))
    assert atlas.__main__.main(["sql", f"SELECT {columns}"]) == 0
    header, _, row, _ = capsys.readouterr().out.splitlines()
    assert len(set(header.split())) == len(row.split()) == 1500


def test_a_hundred_thousand_columns_of_one_name_are_numbered():
    names = distinct(["x"] * 100_000)
    assert names[:3] == ["x", "x_1", "x_2"]
    assert names[-1] == "x_99999"


def test_a_numbered_name_is_never_one_that_is_there():
    names = distinct(["a", "a_1", "a", "a", "a_1"])
    assert names == ["a", "a_1", "a_2", "a_3", "a_1_1"]
