"""The schema beside the SQL editor: every table and view with a sentence a column; a click inserts a name.

    schema_pane(columns_of(atlas), into=".st-key-sql-text textarea")

Drawn in the browser, because Streamlit's text area does not tell where the caret is. All text is inserted as
text, never as HTML.
"""

from __future__ import annotations

import re
from typing import Any

import streamlit as st

from app.shared.words import NOT_MEASURED
from atlas.store.atlas import Atlas
from atlas.store.schema import DERIVED_VIEWS, TABLES, describe
from atlas.store.sources import sql_type

# Folded on a phone, so that the answer is in view.
_HTML = """
<details class="all"><summary>Tables and columns</summary>
<div class="schema" role="region" aria-label="Tables and columns"></div>
</details>
"""

_CSS = """
.schema {
  max-height: 412px; overflow-y: auto; padding: 2px 10px 6px; box-sizing: border-box;
  border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius, 8px);
  color: var(--st-text-color); font: 14px/1.4 var(--st-font, sans-serif);
}
.all > summary { font: 600 14px/2 var(--st-font, sans-serif); color: var(--st-text-color); }
@media (min-width: 640px) { .all > summary { display: none; } }
.schema details { border-bottom: 1px solid var(--st-border-color); padding: 5px 0; }
.schema details:last-of-type { border-bottom: none; }
summary { cursor: pointer; }
summary .name { font-family: var(--st-code-font, monospace); font-weight: 600; }
summary .kind, .type, p { color: color-mix(in srgb, var(--st-text-color) 72%, var(--st-background-color)); }
summary .kind { font-size: 12px; margin-left: 6px; }
p { margin: 4px 0 6px; }
ul { list-style: none; margin: 0; padding: 0 0 4px; }
li { margin: 0 0 5px; overflow-wrap: anywhere; }
button {
  font: 13px var(--st-code-font, monospace); color: var(--st-link-color); cursor: pointer;
  background: var(--st-secondary-background-color); border: 1px solid transparent; border-radius: 5px;
  padding: 1px 6px; margin-right: 6px;
}
button:hover, button:focus-visible, summary:focus-visible {
  border-color: var(--st-primary-color); outline: 1px solid var(--st-primary-color);
}
.type { font: 12px var(--st-code-font, monospace); margin-right: 6px; }
"""

_JS = """
const element = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
};

// React keeps the text of its inputs: a change needs the element's own setter and an event.
const setText = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set;

function insert(area, name) {
  // Before the first click, insert at the end.
  const untouched = !area.dataset.caret && document.activeElement !== area;
  const from = untouched ? area.value.length : area.selectionStart;
  const to = untouched ? area.value.length : area.selectionEnd;
  const before = area.value.slice(0, from), after = area.value.slice(to);
  const word = (/[\\w$"]$/.test(before) ? " " : "") + name + (/^[\\w$"]/.test(after) ? " " : "");
  setText.call(area, before + word + after);
  area.dispatchEvent(new Event("input", { bubbles: true }));
  area.focus();
  const caret = from + word.length;
  area.setSelectionRange(caret, caret);
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".schema");
  const find = () => document.querySelector(data.into);
  const remember = (event) => {
    if (event.target === find()) event.target.dataset.caret = "yes";
  };
  document.addEventListener("focusin", remember);
  const leave = () => document.removeEventListener("focusin", remember);
  const drawn = JSON.stringify(data.tables);
  if (root.drawn === drawn) return leave;
  root.drawn = drawn;
  parentElement.querySelector(".all").open = window.innerWidth >= 640;

  const button = (name, label) => {
    const made = element("button", name);
    made.type = "button";
    made.setAttribute("aria-label", label);
    made.title = label;
    // The editor keeps the focus: leaving it would run the page again.
    made.onmousedown = (event) => event.preventDefault();
    made.onclick = () => { const area = find(); if (area) insert(area, name); };
    return made;
  };
  root.replaceChildren(...data.tables.map((table) => {
    const details = element("details");
    const summary = element("summary");
    summary.append(element("span", table.name, "name"), element("span", table.kind, "kind"));
    const list = element("ul");
    const whole = element("li");
    whole.append(button(table.name, "Insert " + table.name), element("span", table.sentence));
    list.append(whole, ...table.columns.map((column) => {
      const item = element("li");
      item.append(
        button(column.name, "Insert " + column.name),
        element("span", column.type, "type"),
        element("span", column.sentence),
      );
      return item;
    }));
    details.append(summary, list);
    return details;
  }));
  return leave;
}
"""

_component = st.components.v2.component("sql_schema", html=_HTML, css=_CSS, js=_JS)


def schema_pane(tables: list[dict[str, Any]], *, into: str) -> None:
    """Draw the tables; `into`: the CSS selector of the text area that names are inserted into."""
    _component(key="sql-schema", data={"tables": tables, "into": into})


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
