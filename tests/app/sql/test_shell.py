"""What is offered for a DuckDB shell: the same answer, and nothing but a statement, in a real shell."""

from __future__ import annotations

import csv
import io
import os
import pty
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from app.sql.gallery import EXPERIMENTS, GALLERY
from app.sql.parameters import parameters, tokens
from app.sql.shell import LONGEST, for_the_shell, is_one_statement, sql_literal
from atlas.errors import QueryError
from atlas.store.atlas import Atlas, bundled
from tests import ROOT

SHELL = shutil.which("duckdb", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))

BUNDLED = bundled()["starter-pocket-bert"]

RUN = "\n.shell touch taken\n"
# Quotes that end for a shell and not for DuckDB, or the other way round, before a line that is a command.
QUOTES = {
    "an escaped quote": rf"SELECT e'\';{RUN}' AS x",
    "a capital E": rf"SELECT E'\';{RUN}' AS x",
    "an escaped backslash and quote": rf"SELECT e'\\\';{RUN}' AS x",
    "an escape that goes on": f"SELECT e'a'\n'\\';{RUN}' AS x",
    "an escape after a comment": rf"SELECT /* ' */ e'\';{RUN}' AS x",
    "an escape in a list": rf"SELECT ['a', e'\';{RUN}'] AS x",
    "an escape as a key": rf"SELECT {{e'\';{RUN}': 1}} AS x",
    "an escape as a name": rf"SELECT 1 AS e'\';{RUN}'",
    "a number before it": rf"SELECT 1e'\';{RUN}'",
    "national": rf"SELECT n'\', ';{RUN}' AS x",
    "bits": rf"SELECT b'\', ';{RUN}' AS x",
    "Unicode": rf"SELECT U&'\', ';{RUN}' AS x",
    "a Python string": rf"SELECT r'\', f';{RUN}' AS x",
    "a backslash": rf"SELECT '\' || ';{RUN}' AS x",
    "a plain string": f"SELECT ';{RUN}' AS x",
    "a doubled quote": f"SELECT ''';{RUN}' AS x",
    "a name within a string": f"SELECT '\";{RUN}\"' AS x",
    "a string as a name": f"SELECT 1 AS ';{RUN}'",
    "a string after a type": f"SELECT VARCHAR ';{RUN}' AS x",
    "dollars": f"SELECT $$;{RUN}$$ AS x",
    "dollars and a quote": f"SELECT $$';{RUN}$$ AS x",
    "a tag": f"SELECT $t$;{RUN}$t$ AS x",
    "a tag with a number": f"SELECT $t1$;{RUN}$t1$ AS x",
    "a tag of another alphabet": f"SELECT $é$;{RUN}$é$ AS x",
    "dollars in a tag": f"SELECT $t$ $$;{RUN}$t$ AS x",
    "a tag in dollars": f"SELECT $$ $t$;{RUN} $$ AS x",
    "a tag in a name": f"SELECT a$t$ FROM (SELECT ';{RUN}' AS a$t$)",
    "dollars in a comment": f"SELECT 1 -- $$\n, ';{RUN}' -- $$",
    "a quoted name": f'SELECT 1 AS ";{RUN}"',
    "a quote in a name": f'SELECT 1 AS "\';{RUN}"',
    "a backquoted name": f"SELECT 1 AS `';{RUN}`",
    "a comment": f"SELECT 1 /* ;{RUN} */",
    "a nested comment": f"SELECT 1 /* /* */ ;{RUN} */ AS x",
    "a quote in a comment": f"SELECT 1 /* ' */, ';{RUN}' AS x",
    "a quote in a line comment": f"SELECT 1 -- '\n, ';{RUN}' AS x",
    "a comment in a string": f"SELECT '/*', ';{RUN}*/' AS x",
    "two hyphens in a string": f"SELECT '--' || ';{RUN}' AS x",
    "a comment before": f"/* */{RUN}SELECT 1",
    "a line comment before": f"-- ;{RUN}SELECT 1",
    "a comment after": f"SELECT 1; -- x{RUN}",
    "a comment that ends at a carriage return": f"SELECT 1 --;\r;{RUN}",
    "carriage returns": "SELECT e'\\';\r.shell touch taken\r' AS x",
    "a vertical tab": "SELECT e'\\';\v.shell touch taken\v' AS x",
    "a form feed": "SELECT e'\\';\f.shell touch taken\f' AS x",
    "next line": "SELECT e'\\';\x85.shell touch taken\x85' AS x",
    "a line separator": "SELECT e'\\';\u2028.shell touch taken\u2028' AS x",
    "null characters": f"SELECT '\0;{RUN}' AS x",
    "no end of a string": f"SELECT ';{RUN}",
    "no end of a tag": f"SELECT $t$;{RUN}",
    "no end of a comment": f"SELECT 1 /* ;{RUN}",
    "no end of a name": f'SELECT ";{RUN}',
    "two statements": f"SELECT 1;{RUN}",
    "two semicolons": f"SELECT 1;;{RUN}SELECT 2",
    "a Greek question mark": f"SELECT 1\u037e{RUN}",
    "a fullwidth semicolon": f"SELECT '\uff1b{RUN}' AS x",
    "a command first": f"{RUN}SELECT 1",
    "a command after a mark": "\ufeff.shell touch taken\nSELECT 1",
    "a slash that ends": f"SELECT 1\n/{RUN}",
    "go": f"SELECT 1 AS\ngo{RUN}",
    "a command with a space": "SELECT 1 AS\n .shell touch taken\n",
    "an editor": "SELECT 1 AS\n\\e\n.edit\n",
    "another shell": "SELECT 1 AS x\n!touch taken\n\\! touch taken\n#",
    "right to left": f"SELECT '\u202e;{RUN}' AS x",
    "no width": f"SELECT '\u200b;{RUN}' AS x",
}
# Values of `$a`, as a link holds them.
VALUES = {
    "lines": f";{RUN}",
    "a quote": f"';{RUN}",
    "a backslash": f"\\';{RUN}",
    "a backslash last": "\\",
    "carriage returns": "';\r.shell touch taken\r",
    "tabs": "';\t\t.shell touch taken\t\n",
    "an escape sequence": f"\x1b[201~';{RUN}",
    "an interrupt": f"\x03{RUN}",
    "an end of input": f"\x04{RUN}",
    "a bell, which ends a statement": f"\x07{RUN}",
    "a cleared line": f"\x15{RUN}",
    "a new line within": f"\x18\x0a{RUN}",
    "a null character": f"\0{RUN}",
    "a Greek question mark": f"'\u037e{RUN}",
    "half a surrogate pair": f"\ud83d;{RUN}",
    "right to left": f"\u202e;{RUN}",
    "no width": f"\u200b\ufeff';{RUN}",
    "dollars": f"$$;{RUN}",
    "a comment": f"*/ ;{RUN} --",
}
# What else a shell would do, in quotes that do not end where they seem to.
COMMANDS = (
    ".system touch taken",
    ".output taken",
    ".once '|touch taken'",
    ".read '|touch taken'",
    ".excel",
    ".log taken",
    ".open taken",
    ".import taken x",
    "COPY (SELECT 1) TO 'taken';",
    "ATTACH 'taken';",
    "EXPORT DATABASE 'taken';",
)
ATTACKS = (
    {name: (sql, {}) for name, sql in QUOTES.items()}
    | {f"value: {name}": ("SELECT $a AS x", {"a": value}) for name, value in VALUES.items()}
    | {f"{line} in an escape": (f"SELECT e'\\';\n{line}\n' AS x", {}) for line in COMMANDS}
    | {f"{line} in a tag": (f"SELECT $t$';\n{line}\n$t$ AS x", {}) for line in COMMANDS}
)


def written(sql: str, values: Mapping[str, Any]) -> str:
    """The query of the text for a shell."""
    return for_the_shell(sql, values, "x").split("\n", 2)[2]


def offered() -> dict[str, str]:
    """The texts of those attacks for which there is one."""
    found = {}
    for name, (sql, values) in ATTACKS.items():
        try:
            found[name] = for_the_shell(sql, values, "x';\n.shell touch taken\n")
        except QueryError:
            continue
    return found


# In a real shell ---------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder where a shell starts."""
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas" / "views.sql").write_text("SELECT 'read';\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    return tmp_path


# What a shell asks about the terminal before it reads: the colour of its background, and its kind.
QUESTIONS = {b"\x1b]11;?": b"\x1b]11;rgb:0000/0000/0000\x07", b"\x1b[c": b"\x1b[?6c"}


def pipe(texts: Sequence[str], folder: Path) -> None:
    """Each text through the standard input; a command after it says that the shell has come there."""
    script = "".join(f"{text}\n.shell touch done{n}\n" for n, text in enumerate(texts))
    subprocess.run(
        [SHELL], input=script, text=True, capture_output=True, cwd=folder, timeout=300, check=False
    )


def type_in(texts: Sequence[str], folder: Path, by_line: bool) -> None:
    """Each text into an interactive shell, line by line or pasted; then the command as in `pipe`."""
    child, terminal = pty.fork()
    if child == 0:
        termios.tcsetwinsize(0, (40, 120))
        os.chdir(folder)
        os.execv(SHELL, [SHELL])
    try:
        read(terminal, 0.5)
        for n, text in enumerate(texts):
            for part in text.split("\n") if by_line else [text.replace("\n", "\r")]:
                os.write(terminal, f"{part}\r".encode())
                read(terminal)
            # Apart, so that it is no line of what was pasted.
            for part in (f".shell touch done{n}", "\r"):
                os.write(terminal, part.encode())
                read(terminal)
            for _ in range(200):
                if any((folder / name).exists() for name in (f"done{n}", "taken")):
                    break
                read(terminal, 0.1)
            else:
                return
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


def read(terminal: int, quiet: float = 0.05) -> None:
    """What the shell prints, until it is quiet; what it asks about the terminal is answered."""
    while select.select([terminal], [], [], quiet)[0]:
        asked = os.read(terminal, 65_536)
        for question, reply in QUESTIONS.items():
            if question in asked:
                os.write(terminal, reply)


WAYS = {
    "piped": pipe,
    "line by line": lambda texts, folder: type_in(texts, folder, by_line=True),
    "pasted": lambda texts, folder: type_in(texts, folder, by_line=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_text_that_is_offered_leaves_its_statement_in_a_shell(place, way):
    texts = offered()
    assert len(texts) >= 20
    WAYS[way](list(texts.values()), place)
    assert not (place / "taken").exists()
    # After each text the shell waits for a command: none has swallowed what follows.
    assert [name for n, name in enumerate(texts) if not (place / f"done{n}").exists()] == []


@pytest.mark.parametrize("way", WAYS)
def test_a_shell_runs_the_command_in_a_text_that_is_not_written_anew(place, way):
    WAYS[way]([QUOTES["an escaped quote"] + ";"], place)
    assert (place / "taken").exists()


# Values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *("x", "it's", "'; DROP TABLE x; --", "\\", "$a", "a\nb", "", "ü–名", 3, -3, 0.1, -1e-9, True, None),
        *("\\';\r\t\x1b\x7f", "\u202e\u2028\u200d\ufeff", "\uff1b\u037e🦆", "\\x41;", "''\\'';"),
    ],
)
def test_a_literal_is_read_back_as_the_value(value):
    with duckdb.connect() as connection:
        assert connection.execute(f"SELECT {sql_literal(value)}").fetchone() == (value,)
    assert is_one_statement(f"SELECT {sql_literal(value)};")


def test_values_go_where_the_parameters_stand_and_nowhere_else():
    sql = "SELECT $a, '$a', \"$a\", ab -- $a\n, $A::INTEGER"
    assert written(sql, {"a": 1}) == "SELECT 1, '$a', \"$a\", ab\n, 1::INTEGER;"
    assert written("SELECT $a", {"a": "$b', $b"}) == "SELECT '$b'', $b';"
    with pytest.raises(QueryError, match="U\\+0024"):
        written("SELECT $a", {})


def test_a_value_that_stands_in_a_query_a_thousand_times_makes_no_long_text():
    for sql, value in (("SELECT [" + "$a, " * 1_000 + "1]", ";" * 500), ("SELECT $a", "x" * LONGEST)):
        with pytest.raises(QueryError, match="longer than 100,000 characters"):
            written(sql, {"a": value})


# One statement -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
def test_a_text_is_one_statement_or_is_not_offered(name):
    try:
        setting, reading, query = for_the_shell(*ATTACKS[name], "x").split("\n", 2)
    except QueryError:
        return
    assert (setting, reading) == ("SET VARIABLE atlas = 'x';", ".read atlas/views.sql")
    assert query.count(";") == 1
    assert query.endswith(";")
    assert not re.search(r"[\0-\t\v-\x1f\x7f-\x9f\u2028-\u202e]", query)
    assert not [line for line in query.split("\n") if line.lstrip(" ")[:1] in tuple("./\\!#;@")]


NO_STATEMENTS = [
    *("", ";", "SELECT 1", "SELECT 1; ", "SELECT 1;\n", "SELECT ';';", "SELECT 1;\nSELECT 2;"),
    *("SELECT\t1;", "SELECT\r1;", "SELECT\0;", "SELECT\u2028;", "SELECT '\u202e';", "SELECT 1\u037e;"),
    *(f"SELECT 1\n{line}\n;" for line in ("", ".x", " .x", "/", "go", " GO ", "#", "!x", "\\e", "@x", "?")),
]


@pytest.mark.parametrize("text", NO_STATEMENTS)
def test_what_is_no_single_statement_is_found_without_knowing_sql(text):
    assert not is_one_statement(text)


def test_lines_and_indents_stay_and_comments_go():
    text = written("-- who\nSELECT  1, -- one\n\n\t $a /* it's */\nFROM  x\n  .y;\n", {"a": "it's"})
    assert text == "SELECT 1,\n  'it''s'\nFROM x .y;"


def test_a_function_that_reads_more_in_a_shell_than_on_the_page_is_not_offered(sample):
    # Each of them runs here, and reads where there is a variable `atlas`.
    conditions = {
        "query": "if(getvariable('atlas') IS NULL, 'SELECT 1', 'FROM read_text(''/etc/passwd'')')",
        "query_table": "if(getvariable('atlas') IS NULL, 'facts', '/etc/passwd.csv')",
        "read_text": "if(getvariable('atlas') IS NULL, [], ['/etc/passwd'])",
        "read_blob": "if(getvariable('atlas') IS NULL, [], ['/etc/passwd'])",
        "glob": "if(getvariable('atlas') IS NULL, [], ['/*'])",
        "json_execute_serialized_sql": "json_serialize_sql('SELECT 1')",
    }
    with Atlas(sample) as atlas, atlas.sandboxed(seconds=60) as console:
        for name, condition in conditions.items():
            for written in (name, name.upper(), f'"{name}"', f"`{name}`", f"main.{name} /* */ "):
                sql = f"SELECT * FROM {written}({condition})"
                if written == name:
                    assert console.query(sql).columns
                with pytest.raises(QueryError, match="may read in a shell what it cannot read here"):
                    for_the_shell(sql, {}, "x")
    # A name or a text alone calls nothing.
    assert for_the_shell("SELECT 'query (' AS glob, query FROM (SELECT 1 AS query)", {}, "x")


# The same answer ---------------------------------------------------------------------------------------

QUERIES = {
    "SELECT 'it''s' AS a, e'it\\'s' AS b, $$it's$$ AS c, $t$it's$t$ AS d": {},
    "SELECT 'a;b' AS a, ['a;b', ';'] AS b, 'a;b' LIKE '%;%' AS c, concat_ws('; ', 'a', 'b') AS d": {},
    "SELECT 'a\nb' AS a, e'a\\nb\\x41' || $$\t;$$ AS b, E'\\\\' AS c, '\\' AS d": {},
    "SELECT 'a'\n'b' AS a, 'a' -- x\n 'b' AS b": {},
    "SELECT 1 AS \"it's\", 2 AS `a\"b`, 3 AS \"a--b\", 4 AS 'it''s'": {},
    "SELECT $a AS a, $b::INTEGER AS b, $c::DOUBLE AS c, - $b::INTEGER AS d": {
        "a": "it's;\n\\ $b",
        "b": -3,
        "c": 0.1,
    },
    "SELECT $a || '$a' AS \"$a\"": {"a": "\xa0\uff1b\u200d🦆é"},
    "SELECT 1_000 AS a, 1e-3 AS b, .5 AS c, 7 // 2 AS e, [1, 2, 3][2:] AS f, @ -1 AS g": {},
    "WITH a AS (SELECT range AS n FROM range(3)) SELECT n, n - -1 AS m FROM a ORDER BY ALL;; -- end": {},
    "SELECT /* a; /* b */ ' */ 1 AS a\n\n, 2\n/ 3 AS b, 2 *\n.5 AS c": {},
    "FROM (VALUES (1, 'a'), (2, 'b')) AS t(n, s) SELECT n, s WHERE s <> 'x;' AND n IN (1, 2)": {},
    "SELECT {'sep': ';', 'n': 1}['sep'] AS a, CASE WHEN 1 = 1 THEN ';' ELSE '\t' END AS b": {},
}


def answer(sql: str, values: dict, connection: duckdb.DuckDBPyConnection = duckdb) -> tuple[list, list]:
    """The columns and the rows that DuckDB gives."""
    found = connection.execute(sql, values)
    return [column[0] for column in found.description], found.fetchall()


def in_the_shell(text: str, folder: Path = ROOT) -> list[list[str]]:
    """The columns and the rows that a shell prints for the last statement, as texts."""
    options = ["-csv", "-nullvalue", "None"]
    done = subprocess.run(
        [SHELL, *options], input=text, capture_output=True, text=True, cwd=folder, check=True
    )
    return list(csv.reader(io.StringIO(done.stdout, newline="")))


@pytest.mark.parametrize("sql", QUERIES)
def test_a_text_for_the_shell_gives_the_same_answer(sql):
    assert answer(written(sql, QUERIES[sql]), {}) == answer(sql, QUERIES[sql])


@pytest.mark.parametrize("sql", QUERIES)
def test_a_real_shell_gives_the_same_answer(sql):
    texts = f"SELECT COLUMNS(*)::VARCHAR FROM ({sql.partition(';;')[0]}\n)"
    names, rows = answer(texts, QUERIES[sql])
    assert in_the_shell(written(texts, QUERIES[sql])) == [names, *map(list, rows)]


@pytest.fixture(scope="module")
def console():
    with Atlas(BUNDLED) as atlas, atlas.sandboxed(seconds=60) as console:
        yield console


@pytest.mark.parametrize("example", [*GALLERY, *EXPERIMENTS], ids=lambda example: example.title)
def test_a_real_shell_answers_the_examples_as_the_page_does(example, console):
    values = {each.name: each.value(example.values.get(each.name)) for each in parameters(example.sql)}
    expected = console.query(example.sql, values)
    columns, *rows = in_the_shell(for_the_shell(example.sql, values, f"atlas/data/{BUNDLED.name}")) or [[]]
    assert len(rows) == len(expected.rows)
    # Some shells print no columns where there are no rows.
    assert columns == list(expected.columns) or not (columns or rows)


# The lexer ---------------------------------------------------------------------------------------------

PIECES = [
    *("'", "''", r"\'", "\\", "e'", "E'", "x'24'", "b'01'", "n'", "U&'", "$$", "$a$", "$é$", "$1", "$x", "`"),
    *('"', '""', "--", "/*", "*/", ";", "go", "a", "1_0", "0x1F", ".5", "#1", "@", "+", "é", "::VARCHAR"),
    *("(", ")", "[1]", "AS ", "'k'", "$$q$$", r"e'q\n'", "SELECT ", ",", " ", "\n.x"),
    *("\n", "\r", "\t", "\v", "\f", "\xa0", "\u200b", "\0"),
]


def strings_and_comments(sql: str) -> list[int]:
    """Where they begin, in bytes."""
    found = [t for t, _ in tokens(sql) if t[0][:2] in ("--", "/*") or t["dollars"] or t[0][-1] == "'"]
    return [len(sql[: token.start()].encode()) for token in found]


def duckdbs(sql: str) -> list[int]:
    """The same by DuckDB, whose strings have their letters before them."""
    found = [start for start, kind in duckdb.tokenize(sql) if kind.name in ("string_const", "comment")]
    return [start + (sql.encode()[start : start + 2].lower() in (b"x'", b"b'", b"n'")) for start in found]


def test_random_texts_that_are_offered_are_read_as_duckdb_reads_them():
    draw, n_offered = random.Random(13), 0
    with duckdb.connect() as connection:
        for _ in range(6_000):
            sql = "SELECT " + "".join(draw.choices(PIECES, k=draw.randint(1, 8)))
            try:
                text = written(sql, {})
                assert is_one_statement(text)
                expected = answer(sql, {}, connection)
            except (QueryError, duckdb.Error):
                continue
            n_offered += 1
            assert strings_and_comments(sql) == duckdbs(sql), sql
            assert answer(text, {}, connection) == expected, sql
    assert n_offered > 200
