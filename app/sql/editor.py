"""The SQL editor: completion and colours over a text area, and the atlas's tables beside it.

    sql = query_editor(tables_and_views(atlas), longest=20_000)
    fill("SELECT 1")                                # another text, as if typed

The widget is Streamlit's text area. CodeMirror lies over it and writes into it (`editor.js`), so that what is
typed takes one way to the server, with or without the script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

TEXT = "sql-text"
_FILLED = "sql-filled"

_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "sql_editor",
    html="""
    <div class="sql-editor">
      <div class="text"></div>
      <details class="all"><summary>Tables and columns</summary>
        <div class="schema" role="region" aria-label="Tables and columns" tabindex="0"></div>
      </details>
    </div>
    """,
    css=(_HERE / "editor.css").read_text(encoding="utf-8"),
    js=(_HERE / "editor.js").read_text(encoding="utf-8"),
    # The colours of CodeMirror, and what asks which field has the focus, are the page's.
    isolate_styles=False,
)


def query_editor(tables: list[dict[str, Any]], *, longest: int) -> str:
    """Draw the editor; returns its text. `tables` as `schema.tables_and_views` returns them."""
    with st.container(key="sql-editor"):
        sql = st.text_area(
            "Query",
            key=TEXT,
            height=290,
            max_chars=longest,
            placeholder="SELECT …",
            label_visibility="collapsed",
            persist_state="session",
        )
        _component(
            key="sql-component",
            data={
                "tables": tables,
                "into": f".st-key-{TEXT} textarea",
                "longest": longest,
                "sql": sql or "",
                "filled": st.session_state.get(_FILLED, 0),
            },
        )
    return sql or ""


def fill(sql: str) -> None:
    """Put another text into the editor."""
    st.session_state[TEXT] = sql
    # The script takes over a text only where this changes: what is typed meanwhile stays.
    st.session_state[_FILLED] = st.session_state.get(_FILLED, 0) + 1
