"""A query and its `$name` parameters: found in its text, typed by their casts, written back as literals.

    Query.of("SELECT $a::INTEGER", {"a": "9"}).values                    # {"a": 9}
    found = parameters("SELECT * FROM neurons WHERE layer = $layer::INTEGER AND label = $label")
    found[0].name, found[0].kind                 # 'layer', 'whole'
    found[0].value("9")                          # 9
    inlined(sql, {"layer": 9, "label": "it's"})  # … layer = 9::INTEGER AND label = 'it''s'

DuckDB has no public function that says where a parameter stands, and a visitor's text must not reach its
parser inside the app. So the text is read token by token, as DuckDB's lexer does: strings, quoted names and
comments hold no parameters. A test compares this with DuckDB's own list of names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

# The order matters: what opens first hides the rest. No pattern backtracks over more than one token.
_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* )
  | (?P<block> /\* )
  | (?P<quoted> [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | '(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z) )
  | (?P<dollars> \$(?P<tag>[^\W\d]\w*)?\$.*?(?:\$(?(tag)(?P=tag))\$|\Z) )
  | (?P<parameter> \$(?P<name>\w+) )
  | (?P<word> [^\W\d][\w$]* )
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK = re.compile(r"/\*|\*/")
_CAST_AFTER = re.compile(r"\s*::\s*(\w+)")
_CAST_BEFORE = re.compile(r"\bCAST\s*\(\s*\Z", re.IGNORECASE)
_CAST_AS = re.compile(r"\s*AS\s+(\w+)", re.IGNORECASE)

_WHOLE = {f"{sign}{size}INT" for sign in ("", "U") for size in ("", "TINY", "SMALL", "BIG", "HUGE")}
_WHOLE |= {"INTEGER", "UINTEGER", "INT1", "INT2", "INT4", "INT8", "SHORT", "LONG"}
_NUMBER = {"FLOAT", "DOUBLE", "REAL", "DECIMAL", "NUMERIC", "FLOAT4", "FLOAT8"}
_FLAG = {"BOOLEAN", "BOOL", "LOGICAL"}

# Servers and mail programs cut longer links.
LONGEST_LINK = 6_000


@dataclass(frozen=True)
class Parameter:
    """A parameter of a query. `kind`: 'text', 'whole', 'number' or 'flag'."""

    name: str
    kind: str

    def value(self, text: str | None) -> str | int | float | bool | None:
        """The value of a text in the URL; None (null) where it is not of this kind."""
        if self.kind == "text":
            return text or ""
        if text is None:
            return None
        if self.kind == "flag":
            return {"true": True, "false": False}.get(text.lower())
        try:
            number = int(text[:40]) if self.kind == "whole" else float(text[:40])
        except ValueError:
            return None
        return number if abs(number) < 2**53 else None


@dataclass(frozen=True)
class Query:
    """A query and the texts of its parameters, as they stand in the URL."""

    sql: str
    texts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, sql: str, texts: Mapping[str, str | None]) -> Query:
        """With the texts of the query's own parameters, in their order."""
        names = [each.name for each in parameters(sql)]
        return cls(sql, tuple((name, texts[name]) for name in names if texts.get(name) not in (None, "")))

    @property
    def fits_a_link(self) -> bool:
        return sum(len(quote(text)) for text in (self.sql, *dict(self.texts).values())) <= LONGEST_LINK

    @property
    def values(self) -> dict[str, str | int | float | bool | None]:
        texts = dict(self.texts)
        return {each.name: each.value(texts.get(each.name)) for each in parameters(self.sql)}


def parameters(sql: str) -> tuple[Parameter, ...]:
    """The parameters of a query in their order, each once."""
    found: dict[str, Parameter] = {}
    for token in _tokens(sql):
        name = token["name"]
        if name is None:
            continue
        kind = _kind(sql, token)
        known = found.get(name.lower())
        if known is None or (known.kind == "text" and kind != "text"):
            found[name.lower()] = Parameter(known.name if known else name, kind)
    return tuple(found.values())


def inlined(sql: str, values: Mapping[str, Any]) -> str:
    """The query with literals instead of its parameters; a parameter without a value stays."""
    lowered = {name.lower(): value for name, value in values.items()}
    parts, end = [], 0
    for token in _tokens(sql):
        name = (token["name"] or "").lower()
        if name in lowered:
            parts += [sql[end : token.start()], sql_literal(lowered[name])]
            end = token.end()
    return "".join([*parts, sql[end:]])


def sql_literal(value: Any) -> str:
    """A value as SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and math.isfinite(value):
        # SQL reads 0.1 as a decimal and 0.1e0 as the double that the sandbox gets.
        text = f"{value!r}e0" if isinstance(value, float) and "e" not in repr(value) else repr(value)
        return f"({text})" if value < 0 else text
    return "'" + str(value).replace("\0", "").replace("'", "''") + "'"


def for_the_shell(sql: str, values: Mapping[str, Any], folder: str) -> str:
    """The text for a DuckDB shell that gives the same answer; `folder`: of the atlas."""
    text = inlined(sql, values).strip().rstrip(";").rstrip()
    # A comment line that starts with a dot must not become a command of the shell.
    text = "".join(
        part if is_quoted else re.sub(r"^\.", " .", part, flags=re.MULTILINE)
        for part, is_quoted in _parts(text)
    )
    # A comment at the end would swallow the semicolon.
    return f"SET VARIABLE atlas = {sql_literal(folder)};\n.read atlas/views.sql\n{text}\n;"


def _tokens(sql: str) -> Iterator[re.Match]:
    place = 0
    while (token := _TOKEN.search(sql, place)) is not None:
        yield token
        place = _end_of_block(sql, token.start()) if token["block"] else token.end()


def _end_of_block(sql: str, start: int) -> int:
    """Where a comment ends; comments nest."""
    depth = 0
    for mark in _BLOCK.finditer(sql, start):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)


def _parts(sql: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is quoted."""
    end = 0
    for token in _tokens(sql):
        if token["quoted"] or token["dollars"]:
            yield sql[end : token.start()], False
            yield token[0], True
            end = token.end()
    yield sql[end:], False


def _kind(sql: str, token: re.Match) -> str:
    cast = _CAST_AFTER.match(sql, token.end())
    if cast is None and _CAST_BEFORE.search(sql, max(0, token.start() - 40), token.start()):
        cast = _CAST_AS.match(sql, token.end())
    name = cast[1].upper() if cast else ""
    for kind, names in (("whole", _WHOLE), ("number", _NUMBER), ("flag", _FLAG)):
        if name in names:
            return kind
    return "text"
