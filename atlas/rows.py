"""Rows as CSV and JSON: the same text from the command line and from the app.

    json_text(("fact_id", "score"), [("P36.1", 4.2e-12)])      # [{"fact_id": "P36.1", "score": 4.2e-12}]
    csv_text(("tokens", "n"), [(["a", "b"], None)])            # a list is JSON, a null an empty cell

A number is written so that reading it gives the same number.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain
from types import SimpleNamespace
from typing import Any

# What a spreadsheet takes for a formula, unless it is a number.
_FORMULA = re.compile(r"[=@＝＠\t\r]|[-+－＋](?![\d.]*\d(?:e[-+]?\d+)?\Z)", re.IGNORECASE)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, for_spreadsheets: bool = False) -> str:
    """The rows as CSV, lists and dicts as JSON.

    for_spreadsheets: begin with a byte order mark, by which Excel knows UTF-8, and put an apostrophe before a
    text that Excel would run as a formula.
    """
    lines: list[str] = []
    # The writer quotes the characters of its line end, here both; it writes a row at a time.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    cell = _spreadsheet_cell if for_spreadsheets else _csv_cell
    writer.writerows([cell(value) for value in row] for row in chain([columns], rows))
    text = "".join(line.removesuffix("\r\n") + "\n" for line in lines)
    return ("\ufeff" if for_spreadsheets else "") + text


def _csv_cell(value: Any) -> Any:
    value = plain(value)
    return value_text(value) if isinstance(value, list | dict | Decimal) else value


def _spreadsheet_cell(value: Any) -> Any:
    cell = _csv_cell(value)
    return f"'{cell}" if isinstance(value, str) and _FORMULA.match(cell) else cell


def json_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The rows as one JSON document, a list with an object a row."""
    lines = [f"\n  {value_text(dict(zip(columns, row, strict=True)))}" for row in rows]
    # One row a line: readable, and still one document.
    return "[" + ",".join(lines) + ("\n]" if lines else "]")


def value_text(value: Any) -> str:
    """One value as text: lists and dicts as JSON, decimals with all their digits."""
    value = plain(value)
    if isinstance(value, list | dict):
        return json.dumps(_json_value(value), ensure_ascii=False)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def plain(value: Any) -> Any:
    """The value in Python's own types: numpy's numbers and arrays become numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value


def tokens_of(value: Any) -> list[str] | None:
    """The tokens of a list of {token, logit}, as `neurons.promoted` has; None for any other value."""
    value = plain(value)
    if not isinstance(value, list) or not value:
        return None
    tokens = [
        each["token"] for each in value if isinstance(each, dict) and isinstance(each.get("token"), str)
    ]
    return tokens if len(tokens) == len(value) else None


def _json_value(value: Any) -> Any:
    """The value in JSON's types: NaN becomes null, a date text, a decimal a number where one equals it."""
    value = plain(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_json_value(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _json_value(each) for key, each in value.items()}
    if isinstance(value, Decimal):
        return float(value) if Decimal(repr(float(value))) == value else value_text(value)
    return value if value is None or isinstance(value, str | int | bool) else str(value)
