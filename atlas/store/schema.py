"""The schema of an atlas: one pyarrow schema for each table, with a sentence for each column.

    TABLES["facts"]                           # pa.schema with descriptions in the fields' metadata
    describe("facts", "known")                # "Whether the model says the object first on …"
    empty_table("effects")                    # no rows, the right columns
    conform("facts", frame_or_table)          # checked, cast, in the right column and row order

One Parquet file a table, zstd, sorted by `SORT_KEYS`. Every column may be null: null means "not measured in
this atlas" (published neurons have no scores), never zero. Descriptions are stored in the files, so changing
one changes the bytes of tables built later. Atlases of an older schema open too: what they lack is null.
"""

from __future__ import annotations

import pyarrow as pa

from atlas.errors import StoreError
from atlas.store.definitions import DEFINITIONS, DERIVED_VIEWS, LATER_COLUMNS

__all__ = [
    "DERIVED_VIEWS",
    "LATER_COLUMNS",
    "READABLE_VERSIONS",
    "REQUIRED_TABLES",
    "SCHEMA_VERSION",
    "SORT_KEYS",
    "TABLES",
    "conform",
    "describe",
    "difference",
    "empty_table",
]

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, SCHEMA_VERSION)

# Every atlas has these; the others may be absent and then read as empty.
REQUIRED_TABLES = ("relations", "facts", "knowledge_neurons")

SORT_KEYS: dict[str, tuple[str, ...]] = {name: keys for name, (_, keys, _) in DEFINITIONS.items()}

TABLES: dict[str, pa.Schema] = {
    name: pa.schema(
        [pa.field(column, kind, metadata={"description": text}) for column, kind, text in columns],
        metadata={"description": sentence, "schema_version": str(SCHEMA_VERSION)},
    )
    for name, (sentence, _, columns) in DEFINITIONS.items()
}


def describe(table: str, column: str | None = None) -> str:
    """The sentence of a table, or of one of its columns."""
    schema = TABLES[table]
    metadata = schema.metadata if column is None else schema.field(column).metadata
    return metadata[b"description"].decode()


def empty_table(table: str) -> pa.Table:
    """A table of no rows with the right columns."""
    return TABLES[table].empty_table()


def difference(table: str, found: pa.Schema) -> str | None:
    """The first difference between a file's columns and the table's, in words; None without one.

    Names, order and types count; descriptions and nullability do not. `LATER_COLUMNS` may be missing.
    """
    later = {*LATER_COLUMNS.get(table, ())} - {*found.names}
    wanted = pa.schema([field for field in TABLES[table] if field.name not in later])
    missing = [name for name in wanted.names if name not in found.names]
    if missing:
        return f"the column {missing[0]} is missing"
    foreign = [name for name in found.names if name not in wanted.names]
    if foreign:
        return f"the column {foreign[0]} does not belong there"
    for field in wanted:
        kind = found.field(field.name).type
        if not _same_type(kind, field.type):
            return f"the column {field.name} has type {kind} and should have {field.type}"
    if list(found.names) != list(wanted.names):
        return f"its columns are not in the order {', '.join(wanted.names)}"
    return None


def _same_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Equal but for the name of a list's items in Parquet ('item' or 'element')."""
    if pa.types.is_list(wanted):
        return pa.types.is_list(found) and _same_type(found.value_type, wanted.value_type)
    if pa.types.is_struct(wanted):
        return (
            pa.types.is_struct(found)
            and [f.name for f in found] == [f.name for f in wanted]
            and all(_same_type(a.type, b.type) for a, b in zip(found, wanted, strict=True))
        )
    return found.equals(wanted)


def conform(table: str, rows) -> pa.Table:
    """`rows` (a pyarrow Table, a pandas DataFrame or a list of dicts) as the table's own type.

    Columns are put in order and cast without loss of range, absent ones become null, rows are sorted
    by the table's keys. Raises `StoreError` for a column the table does not have or a value that
    does not fit.
    """
    schema = TABLES[table]
    try:
        if isinstance(rows, list):
            rows = pa.Table.from_pylist(rows) if rows else schema.empty_table()
        elif not isinstance(rows, pa.Table):
            rows = pa.Table.from_pandas(rows, preserve_index=False)
        foreign = [name for name in rows.column_names if name not in schema.names]
        if foreign:
            raise StoreError(
                f"The table {table} has no column {foreign[0]}. It has: {', '.join(schema.names)}."
            )
        columns = [
            rows[f.name].cast(f.type, safe=not pa.types.is_floating(f.type))
            if f.name in rows.column_names
            else pa.nulls(rows.num_rows, f.type)
            for f in schema
        ]
    except pa.ArrowException as error:
        raise StoreError(
            f"Rows do not fit the table {table}: {error}. See atlas/store/definitions.py."
        ) from error
    ordered = pa.table(columns, schema=schema)
    return ordered.sort_by([(key, "ascending") for key in SORT_KEYS[table]])
