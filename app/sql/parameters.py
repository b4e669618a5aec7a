"""A query and its `$name` parameters: found in its text, typed by their casts.

    Query.of("SELECT $a::INTEGER", {"a": "9"}).values                    # {"a": 9}
    found = parameters("SELECT * FROM neurons WHERE layer = $layer::INTEGER AND label = $label")
    found[0].name, found[0].kind                 # 'layer', 'whole'
    found[0].value("9")                          # 9

DuckDB has no public function that says where a parameter stands, and a visitor's text must not reach its
parser inside the app. So the text is read token by token, as DuckDB's lexer does: strings, quoted names and
comments hold no parameters. A test compares this with DuckDB's own list of names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

# Fields for parameters: each is a widget that the server and the browser keep.
MOST_FIELDS = 40

# The order matters: what opens first hides the rest. No pattern backtracks over more than one token.
_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n\r]* )
  | (?P<block> /\* )
  | (?P<quoted> [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | '(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z)
        | `(?:[^`]|``)*(?:`|\Z) )
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


@lru_cache(maxsize=64)
def parameters(sql: str) -> tuple[Parameter, ...]:
    """The parameters of a query in their order, each once."""
    found: dict[str, Parameter] = {}
    for token, _ in tokens(sql):
        name = token["name"]
        if name is None:
            continue
        kind = _kind(sql, token)
        known = found.get(name.lower())
        if known is None or (known.kind == "text" and kind != "text"):
            found[name.lower()] = Parameter(known.name if known else name, kind)
    return tuple(found.values())


def tokens(sql: str) -> Iterator[tuple[re.Match, int]]:
    """The words, strings, quoted names, comments and parameters, each with where it ends."""
    end = 0
    while (token := _TOKEN.search(sql, end)) is not None:
        end = _end_of_block(sql, token.start()) if token["block"] else token.end()
        yield token, end


def _end_of_block(sql: str, start: int) -> int:
    """Where a comment ends; comments nest."""
    depth = 0
    for mark in _BLOCK.finditer(sql, start):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)


def _kind(sql: str, token: re.Match) -> str:
    cast = _CAST_AFTER.match(sql, token.end())
    if cast is None and _CAST_BEFORE.search(sql, max(0, token.start() - 40), token.start()):
        cast = _CAST_AS.match(sql, token.end())
    name = cast[1].upper() if cast else ""
    for kind, names in (("whole", _WHOLE), ("number", _NUMBER), ("flag", _FLAG)):
        if name in names:
            return kind
    return "text"
