"""What the SQL editor says of an atlas: every table and view with a sentence a column.

tables_and_views(atlas)                      # drawn beside the editor, and completed in it
not_measured(atlas, sql)                     # why a query finds nothing
"""

from __future__ import annotations

import re
from typing import Any

from app.shared.words import NOT_MEASURED
from atlas.store.atlas import Atlas
from atlas.store.schema import DERIVED_VIEWS, TABLES, describe
from atlas.store.sources import sql_type


def tables_and_views(atlas: Atlas) -> list[dict[str, Any]]:
    """Every table and view of an atlas: name, kind, sentence, columns (name, type, sentence)."""
    tables = [
        {
            "name": name,
            "kind": _kind(name) if atlas.measured(name) else NOT_MEASURED,
            "sentence": describe(name),
            "columns": [
                {
                    "name": quoted(field.name),
                    "type": sql_type(field.type),
                    "sentence": describe(name, field.name),
                }
                for field in schema
            ],
        }
        for name, schema in TABLES.items()
    ]
    views = [
        {
            "name": name,
            "kind": "view",
            "sentence": sentence,
            "columns": [{"name": quoted(column), "type": "", "sentence": text} for column, text in columns],
        }
        for name, (sentence, columns) in DERIVED_VIEWS.items()
    ]
    return tables + views


def _kind(table: str) -> str:
    """'experiment' for the effects and every table after them in the schema."""
    order = list(TABLES)
    return "experiment" if order.index(table) >= order.index("effects") else ""


# A table, or several with commas, each with or without an alias. Looked ahead: an alias may be the next JOIN.
_ONE = r'"?\w+"?(?:\s+(?:AS\s+)?\w+)?'
_READ = re.compile(rf"\b(?:FROM|JOIN)\s+(?=({_ONE}(?:\s*,\s*{_ONE})*))", re.I)


def not_measured(atlas: Atlas, sql: str) -> list[str]:
    """The tables that a query reads and the atlas does not have. Columns may have a table's name."""
    lists = (found[1].split(",") for found in _READ.finditer(sql))
    read = {part.split()[0].strip('"').lower() for parts in lists for part in parts}
    return [name for name in TABLES if name in read and not atlas.measured(name)]


def quoted(name: str) -> str:
    """A column's name as a query writes it."""
    return f'"{name}"' if name in ("group", "order") else name
