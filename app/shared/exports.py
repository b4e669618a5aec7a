"""Exports of what a page shows: its tables as CSV, JSON or Parquet, made only when someone asks for one.

    offer("azerbaijan", prompts=prompts, neurons=neurons)      # one button, a menu of files

Streamlit calls the function behind a download button when it is clicked: a page that nobody exports from
pays nothing for the offer.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import streamlit as st


def as_csv(rows: pd.DataFrame) -> bytes:
    return rows.to_csv(index=False).encode("utf-8")


def as_json(rows: pd.DataFrame) -> bytes:
    return rows.to_json(orient="records", force_ascii=False, indent=1).encode("utf-8")


def as_parquet(rows: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    rows.to_parquet(file, index=False, compression="zstd")
    return file.getvalue()


# Ending → (what it is called, how it is made, its media type).
FORMATS: dict[str, tuple[str, Callable[[pd.DataFrame], bytes], str]] = {
    "csv": ("CSV", as_csv, "text/csv"),
    "json": ("JSON", as_json, "application/json"),
    "parquet": ("Parquet", as_parquet, "application/vnd.apache.parquet"),
}


def file_name(*parts: str, ending: str) -> str:
    """A file's name from words of the data: letters, digits and dashes only."""
    words = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts)
    return f"{words.strip('-')[:100] or 'export'}.{ending}"


@dataclass(frozen=True)
class Later:
    """A table that is put together only when someone wants the file; `n_rows` is known before."""

    n_rows: int
    make: Callable[[], pd.DataFrame]

    def __len__(self) -> int:
        return self.n_rows


def _file(write: Callable[[pd.DataFrame], bytes], rows: pd.DataFrame | Later) -> bytes:
    return write(rows.make() if isinstance(rows, Later) else rows)


def offer(name: str, **tables: pd.DataFrame | Later) -> None:
    """A menu with every table that has rows, in every format. `name` becomes part of the files' names."""
    filled = {title: rows for title, rows in tables.items() if len(rows)}
    if not filled:
        return
    with st.popover("Export", icon=":material/download:"):
        for title, rows in filled.items():
            st.caption(f"{title.replace('_', ' ').capitalize()} ({len(rows):,} rows)")
            with st.container(horizontal=True, gap="small"):
                for ending, (shown, make, media_type) in FORMATS.items():
                    st.download_button(
                        shown,
                        partial(_file, make, rows),
                        file_name=file_name(name, title, ending=ending),
                        mime=media_type,
                        key=f"export-{name}-{title}-{ending}",
                        on_click="ignore",
                    )
