"""The types in which rows leave DuckDB: numbers and texts as they are, others as the text that DuckDB prints.

    table = exact_table(cursor, cursor.sql("SELECT DATE '0044-03-15 (BC)', [sum(x)] FROM …"))

Arrow, pandas or Python would change the other types: they have no year before 1, no 24:00, no nanoseconds, no
integers of 128 bits. DuckDB casts them, also inside lists and structs, before rows are fetched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

# The ids of types whose values are the same in DuckDB, Arrow, Python and files.
_EXACT = {"boolean", "tinyint", "smallint", "integer", "bigint", "float", "double", "decimal", "varchar"}
_EXACT |= {"utinyint", "usmallint", "uinteger", "ubigint"}
_LONG_INTEGERS = {"hugeint", "uhugeint", "bignum"}
_WITH_PARTS = {"list", "array", "struct", "tuple", "decimal"}


def exact_table(cursor: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation) -> pa.Table:
    """All rows of a relation; repeated column names are numbered."""
    rows = with_integers(cursor, with_exact_types(relation).to_arrow_table(), relation.types)
    return rows.rename_columns(distinct(relation.columns))


def with_exact_types(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The relation in types that pandas, browsers and files know; others as the text that DuckDB prints."""
    if are_exact(relation.types):
        return relation
    sent = [_sent_as(kind, long_integers="VARCHAR") for kind in relation.types]
    return relation.project(", ".join(f"CAST(#{place} AS {kind})" for place, kind in enumerate(sent, 1)))


def with_integers(
    cursor: duckdb.DuckDBPyConnection, rows: pa.Table, kinds: Sequence[DuckDBPyType]
) -> pa.Table:
    """The rows with long integers, such as sums, as numbers in the columns where 64 bits hold all of them."""
    for place, kind in enumerate(kinds):
        wanted = _sent_as(kind, long_integers="BIGINT")
        if wanted != _sent_as(kind, long_integers="VARCHAR"):
            field = cursor.sql(f"SELECT NULL::{wanted}").to_arrow_table().field(0)
            with contextlib.suppress(pa.ArrowInvalid):
                rows = rows.set_column(place, field, rows.column(place).cast(field.type))
    return rows


def are_exact(kinds: Sequence[DuckDBPyType]) -> bool:
    """Whether rows of these types can leave DuckDB as they are."""
    return all(_sent_as(kind, long_integers="VARCHAR") == str(kind) for kind in kinds)


def _sent_as(kind: DuckDBPyType, *, long_integers: str) -> str:
    """The type in which a column is sent, as SQL; lists and structs are changed from the inside."""
    parts: dict[str, Any] = dict(kind.children) if kind.id in _WITH_PARTS else {}
    if kind.id in ("list", "array"):
        return _sent_as(parts["child"], long_integers=long_integers) + "[]"
    if kind.id == "struct":
        fields = {name: _sent_as(part, long_integers=long_integers) for name, part in parts.items()}
        return str(duckdb.struct_type(fields))
    if kind.id == "tuple":  # its parts have no names; all as they are, or the whole as text
        unnamed: Any = kind.children
        return str(kind) if are_exact([part for _, part in unnamed]) else "VARCHAR"
    if kind.id in _LONG_INTEGERS or parts.get("scale") == 0:
        return long_integers
    return str(kind) if kind.id in _EXACT else "VARCHAR"


def distinct(names: list[str]) -> list[str]:
    """Column names, with a number where one is repeated."""
    # Name → the last number that it was given.
    taken: dict[str, int] = {}
    for name in names:
        free = name
        while free in taken:
            taken[name] += 1
            free = f"{name}_{taken[name]}"
        taken[free] = 0
    return list(taken)
