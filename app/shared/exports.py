"""Exports of what a page shows: its tables as CSV, JSON or Parquet, made only when someone asks for one.

JSON and Parquet hold every value as it is. CSV is for spreadsheets: an apostrophe precedes formulas.

    offer("azerbaijan", prompts=prompts, neurons=neurons)      # one button, a menu of files

Streamlit calls the function behind a download button when it is clicked, so an unused offer costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from atlas.rows import csv_text, json_text


def _rows(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """The rows with None for what is missing."""
    return frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None)


# Ending → (label, function that makes the file, media type).
FORMATS: dict[str, tuple[str, Callable[[pd.DataFrame], bytes | str], str]] = {
    "csv": (
        "CSV",
        lambda frame: csv_text(list(frame), _rows(frame), for_spreadsheets=True),
        "text/csv",
    ),
    "json": ("JSON", lambda frame: json_text(list(frame), _rows(frame)), "application/json"),
    "parquet": (
        "Parquet",
        lambda rows: rows.to_parquet(index=False, compression="zstd"),
        "application/vnd.apache.parquet",
    ),
}


@dataclass(frozen=True)
class Later:
    """A table that is made only when someone wants the file; `n_rows` is known before."""

    n_rows: int
    make: Callable[[], pd.DataFrame]

    def __len__(self) -> int:
        return self.n_rows


def export_name(*parts: str, ending: str) -> str:
    """A file's name from text of the data: letters, digits and dashes only."""
    words = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts)
    return f"{words.strip('-')[:100] or 'export'}.{ending}"


def offer(name: str, **tables: pd.DataFrame | Later) -> None:
    """A menu with every table that has rows, in every format. `name` becomes part of the files' names."""
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


def _file(write: Callable[[pd.DataFrame], bytes | str], rows: pd.DataFrame | Later) -> bytes | str:
    return write(rows.make() if isinstance(rows, Later) else rows)
