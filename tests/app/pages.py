"""Drive the app's pages: open one by its URL, read its text, press its buttons.

app = page("search", q="oslo")
assert "Oslo" in words(app)
press(app, "Remove the filters")
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from atlas.store import atlas as store
from atlas.store.manifest import read_manifest, record_files, write_manifest
from tests import ROOT
from tests.sample_atlas import write_table

MAIN = ROOT / "app" / "main.py"
DEMO = ROOT / "app" / "limits_demo.toml"


def unmarked(text: object) -> str:
    """A text without markdown's backslashes and colours."""
    return re.sub(r":blue\[(.*)\]", r"\1", re.sub(r"\\(?=[^\w\s]|_)", "", str(text)))


def page(name: str = "home", *, fails: bool = False, **parameters: str) -> AppTest:
    """A fresh session that opens a page by its URL; it shows an exception only where it `fails`."""
    app = AppTest.from_file(str(MAIN), default_timeout=120).run()
    app.switch_page(f"{name}/page.py")
    app.query_params.update(parameters)
    app.run()
    assert fails or not app.exception
    return app


def words(app: AppTest) -> str:
    """All text of a page."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "error", "warning", "success", "code")
    texts = [element.value for kind in kinds for element in app.get(kind)]
    texts += [cell for table in app.table for row in table.value.itertuples() for cell in row]
    texts += [link.label for link in app.get("page_link")]
    return "\n".join(map(unmarked, texts))


def links(app: AppTest, to: str, *named: str) -> list[dict[str, str]]:
    """The parameters of the links to a page, in order; only of those with all of `named`."""
    found = [link.proto for link in app.get("page_link") if link.proto.page.endswith(to)]
    parameters = [dict(parse_qsl(each.query_string)) for each in found]
    return [each for each in parameters if set(named) <= set(each)]


def html(app: AppTest) -> list[str]:
    """The blocks of HTML on a page."""
    return [element.proto.body for element in app.get("html")]


def linked(cells: Iterable[str], name: str) -> list[str]:
    """That parameter of the addresses in a table's cells (`links.cell`)."""
    return [dict(parse_qsl(urlsplit(cell).query))[name] for cell in cells]


def labels(app: AppTest) -> list[str]:
    """The labels of a page's buttons."""
    return [unmarked(button.label) for button in app.button]


def press(app: AppTest, label: str) -> AppTest:
    app.button[labels(app).index(label)].click().run()
    assert not app.exception
    return app


def press_tray(app: AppTest, key: str) -> set[str]:
    """Put neurons into the tray; returns the names of those that are in it."""
    next(button for button in app.button if (button.key or "").startswith(f"tray-{key}")).click().run()
    (kept,) = app.session_state["trays"].values()
    return set(map(str, kept))


def measures(app: AppTest) -> dict[str, list[str]]:
    """The table of A and B on Compare: measure → its two values."""
    rows = [list(map(unmarked, row)) for row in app.table[0].value.itertuples()]
    return {row[0]: row[1:] for row in rows}


def only_atlas(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the app find this atlas and no other."""
    monkeypatch.setattr(store, "DATA", folder / "none")
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(folder))


def replace_tables(folder: Path, **tables: pd.DataFrame | list[dict]) -> None:
    """Write other rows into an atlas's tables, and their hashes into its manifest."""
    for table, rows in tables.items():
        write_table(folder, table, rows)
    write_manifest(folder, replace(read_manifest(folder), files=record_files(folder)))
