"""Exports of what a page shows: its tables as CSV, JSON or Parquet, its charts as PNG or SVG.

JSON and Parquet hold every value as it is. CSV is for spreadsheets: an apostrophe precedes formulas.

    offer("azerbaijan", prompts=prompts, neurons=neurons)      # one button, a menu of files

Streamlit calls the function behind a download button when it is clicked, and the browser makes the pictures
of what it has drawn (`static/charts.js`): an unused offer costs nothing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import streamlit as st

from atlas.rows import csv_text, json_text
from atlas.store.sql import frame_of

Rows = pd.DataFrame | pa.Table
_ROWS_AT_ONCE = 200

_charts = st.components.v2.component(
    "charts",
    html='<ul class="charts" aria-label="Charts of this page"></ul>',
    css="""
    ul { list-style: none; margin: 0; padding: 0; }
    p { margin: 0 0 6px; font-size: 14px; color: color-mix(in srgb, var(--st-text-color) 72%, transparent); }
    li { margin: 0 0 12px; }
    button {
      font: 16px var(--st-font, sans-serif); padding: 6px 12px; margin-right: 8px; cursor: pointer;
      color: inherit; background: none;
      border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius, 8px);
    }
    button:hover, button:focus-visible { color: var(--st-primary-color); border-color: currentcolor; }
    """,
    js=(Path(__file__).parents[1] / "static" / "charts.js").read_text(encoding="utf-8"),
)


def _rows(rows: Rows) -> Iterator[tuple[Any, ...]]:
    """The rows with None for what is missing; those of Arrow become objects only a few at a time."""
    if isinstance(rows, pa.Table):
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            yield from _rows(frame_of(rows.slice(start, _ROWS_AT_ONCE)))
    else:
        yield from rows.astype(object).where(rows.notna(), None).itertuples(index=False, name=None)


def _names(rows: Rows) -> list[str]:
    return rows.column_names if isinstance(rows, pa.Table) else list(rows)


def _parquet(rows: Rows) -> bytes:
    if not isinstance(rows, pa.Table):
        return rows.to_parquet(index=False, compression="zstd")
    file = io.BytesIO()
    pq.write_table(_as_pandas_has_it(rows), file, compression="zstd")
    return file.getvalue()


def _as_pandas_has_it(table: pa.Table) -> pa.Table:
    """The table that pandas would make of the rows; what is in lists and structs becomes no objects."""
    nested = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    flat = pa.Table.from_pandas(frame_of(table.drop_columns(nested)), preserve_index=False)
    columns = {
        name: column.cast(_with_64_bits(column.type)) if name in nested else flat[name]
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    schema = pa.table(columns).schema
    described = pa.Table.from_pandas(frame_of(table.slice(0, 0)), schema=schema, preserve_index=False).schema
    return pa.table(columns, metadata=described.metadata)


def _with_64_bits(kind: pa.DataType) -> pa.DataType:
    """The type with numbers of 64 bits, as Python has them."""
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _with_64_bits(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_with_64_bits(kind.value_type))
    if pa.types.is_floating(kind):
        return pa.float64()
    return pa.int64() if pa.types.is_integer(kind) and kind != pa.uint64() else kind


# Ending → (label, function that makes the file, media type).
FORMATS: dict[str, tuple[str, Callable[[Rows], bytes | str], str]] = {
    "csv": (
        "CSV",
        lambda rows: csv_text(_names(rows), _rows(rows), for_spreadsheets=True),
        "text/csv",
    ),
    "json": ("JSON", lambda rows: json_text(_names(rows), _rows(rows)), "application/json"),
    "parquet": ("Parquet", _parquet, "application/vnd.apache.parquet"),
}


@dataclass(frozen=True)
class Later:
    """A table that is made only when someone wants the file; `n_rows` is known before."""

    n_rows: int
    make: Callable[[], Rows]

    def __len__(self) -> int:
        return self.n_rows


def export_name(*parts: str, ending: str) -> str:
    """A file's name from text of the data: letters, digits and dashes only."""
    words = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts)
    return f"{words.strip('-')[:100] or 'export'}.{ending}"


def offer(name: str, **tables: Rows | Later) -> None:
    """A menu with every table that has rows, in every format, and the page's charts.

    `name` becomes part of the files' names.
    """
    filled = {title: rows for title, rows in tables.items() if len(rows)}
    if not filled:
        return
    with st.popover("Export", icon=":material/download:"):
        for title, rows in filled.items():
            st.caption(f"{title.replace('_', ' ').capitalize()} ({len(rows):,} rows)")
            with st.container(horizontal=True, gap="small"):
                for ending, (label, write, media_type) in FORMATS.items():
                    st.download_button(
                        label,
                        partial(_file, write, rows),
                        file_name=export_name(name, title, ending=ending),
                        mime=media_type,
                        key=f"export-{name}-{title}-{ending}",
                        on_click="ignore",
                    )
        _charts(key=f"export-{name}-charts")


def _file(write: Callable[[Rows], bytes | str], rows: Rows | Later) -> bytes | str:
    return write(rows.make() if isinstance(rows, Later) else rows)
