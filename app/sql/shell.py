"""A query as text for a DuckDB shell: one statement, which no shell can take for anything else.

    print(for_the_shell("SELECT $a -- why", {"a": "it's"}, "atlas/data/starter-pocket-bert"))
    # SET VARIABLE atlas = 'atlas/data/starter-pocket-bert';
    # .read atlas/views.sql
    # SELECT 'it''s';

Anybody can send a link with a query, and shells read quotes and comments otherwise than DuckDB does: what is
a string here is a command there. So the text is written anew from the query's tokens, without comments, and
with quotes that all read alike; then `is_one_statement`, which knows no SQL, looks at what came out.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from app.sql.parameters import tokens
from atlas.errors import QueryError

# A value may stand in a query thousands of times.
LONGEST = 100_000

_SPACE = re.compile(r"[ \t\n\r\f\v]+")
# A line within a statement begins with one of these; sqlite's shell ends a statement at `go`.
_BEGIN = r"(?!go\s*$)[\w'\"()\[\]{}*,+<>=|&-]"
_LINE = re.compile(f" *{_BEGIN}", re.IGNORECASE)
_NO_LINE = re.compile(rf"\n *(?!{_BEGIN}| )", re.IGNORECASE | re.MULTILINE)
# DuckDB reads no escapes where a literal is a name or follows a type.
_BEFORE_VALUE = re.compile(r"([(,=|<>\[:]|\b(LIKE|ILIKE|THEN|ELSE|WHEN|SELECT))\s*\Z", re.IGNORECASE)
_AFTER_NAME = re.compile(r"\s*(:(?!:)|'|--|/\*)")
# Spaces that hold words together, and the joiners of several scripts.
_IN_WORDS = re.compile("[\u00a0\u200c\u200d\u202f\u3000]")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_CALL = re.compile(r"'[^']*'|(?P<name>\"[^\"]*\"|\w+)(?P<called>\s*\()?")
# Nothing on this page lets them read; a shell does, whatever their arguments come to there.
_READS = re.compile(
    r"query|query_table|json_execute_serialized_sql|glob|sniff_csv|(read|parquet)_\w+|\w+_scan|\w*external_resource\w*",
    re.IGNORECASE,
)


def for_the_shell(sql: str, values: Mapping[str, Any], folder: str) -> str:
    """The text that gives the same answer in a DuckDB shell; `folder`: of the atlas.

    Raises `QueryError` where a shell could take a part of it for something else.
    """
    text = re.sub(r"[ \n]*\n( *)", r"\n\1", _plain_text(sql, values)).strip("; \n")
    setting, query = f"SET VARIABLE atlas = {sql_literal(folder)};", _NO_LINE.sub(" ", text) + ";"
    for each in _CALL.finditer(query):
        if each["called"] and _READS.fullmatch(each["name"].strip('"')):
            raise QueryError(f"{each['name']} may read in a shell what it cannot read here. Leave it out.")
    if not (is_one_statement(setting) and is_one_statement(query)):
        raise QueryError("A shell could take a part of this query for a command. Write it otherwise.")
    return f"{setting}\n.read atlas/views.sql\n{query}"


def is_one_statement(text: str) -> bool:
    """Whether a text has one semicolon, its last character, and only printable lines that are no commands."""
    return text.endswith(";") and all(
        _is_plain(line) and _LINE.match(line) for line in text.removesuffix(";").split("\n")
    )


def sql_literal(value: Any) -> str:
    """A value as SQL, in printable characters and without a semicolon."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and math.isfinite(value):
        # SQL reads 0.1 as a decimal and 0.1e0 as the double that the sandbox gets.
        text = f"{value!r}e0" if isinstance(value, float) and "e" not in repr(value) else repr(value)
        return f"({text})" if value < 0 else text
    text = str(value).replace("'", "''")
    return f"'{text}'" if _is_plain(text) else "e'" + _escaped(text.replace("\\", r"\\")) + "'"


def _plain_text(sql: str, values: Mapping[str, Any]) -> str:
    """The query with literals for its parameters, without comments, and with plain quotes."""
    _refuse_long(sql, *map(str, values.values()))
    literals = {name.lower(): sql_literal(value) for name, value in values.items()}
    text, end = "", 0
    # A token that is not closed takes this line break.
    for token, next_end in tokens(f"{sql}\n"):
        if next_end > len(sql):
            raise QueryError("A quote or a comment of this query is not closed. Close it.")
        text += _between(sql[end : token.start()])
        end = next_end
        if token["comment"] or token["block"]:
            text += " "
        elif token["name"] and token["name"].lower() in literals:
            text += literals[token["name"].lower()]
            _refuse_long(text)
        elif token["quoted"] or token["dollars"]:
            is_value = bool(_BEFORE_VALUE.search(text[-40:]) and not _AFTER_NAME.match(sql, end))
            text += _quoted(token, is_value)
        else:
            text += _between(token[0])
    return text + _between(sql[end:])


def _refuse_long(*texts: str) -> None:
    if sum(map(len, texts)) > LONGEST:
        raise QueryError(f"The text for a shell is longer than {LONGEST:,} characters. Shorten the values.")


def _between(text: str) -> str:
    """Words, symbols and white space; lines and their indents stay."""
    text = _SPACE.sub(_one_space, text)
    if odd := next((each for each in text if each == "$" or not (each.isprintable() or each == "\n")), ""):
        raise QueryError(f"Shells differ in how they read U+{ord(odd):04X} outside quotes. Leave it out.")
    return text


def _one_space(run: re.Match) -> str:
    *lines, indent = re.split(r"[\n\r]", run[0])
    return "\n" + " " * len(indent) if lines else " "


def _quoted(token: re.Match, is_value: bool) -> str:
    """A string or a quoted name, in quotes that every shell reads alike. `is_value`: it may have escapes."""
    whole, n_mark = token[0], len(token["tag"] or "") + 2
    text = whole[1:-1]
    match whole[0]:
        case "`":
            whole = '"' + text.replace("``", "`").replace('"', '""') + '"'
        case "$":
            whole = "'" + whole[n_mark:-n_mark].replace("'", "''") + "'"
        case "e" | "E" if is_value:
            return "e'" + _escaped(_ESCAPE.sub(_kept, whole[2:-1])) + "'"
    if _is_plain(whole) and not (whole[0] in "eE" and r"\'" in whole):
        return whole
    if is_value and whole[0] == "'":
        return "e" + _escaped(whole.replace("\\", r"\\"))
    raise QueryError("A shell could take what is in quotes for their end or a command. Write it otherwise.")


def _kept(escape: re.Match) -> str:
    """An escape, or the character alone where that means the same and ends no quotes."""
    return "''" if escape[1] == "'" else escape[0] if _is_plain(escape[1]) else escape[1]


def _is_plain(text: str) -> bool:
    """Whether a text has neither a semicolon nor a character that shows nothing, except in words."""
    # What pastes a text may normalize it, which makes a Greek question mark a semicolon.
    return _IN_WORDS.sub("", text).isprintable() and ";" not in unicodedata.normalize("NFC", text)


def _escaped(text: str) -> str:
    """What is not plain as escapes."""
    if odd := re.search("[\0\ud800-\udfff]", text):
        raise QueryError(
            f"A string of this query holds U+{ord(odd[0]):04X}, which a shell does not read. Leave it out."
        )
    return "".join(
        each if _is_plain(each) else "".join(f"\\x{byte:02x}" for byte in each.encode()) for each in text
    )
