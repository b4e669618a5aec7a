"""Rows as CSV and JSON, and what a spreadsheet would make of them."""

import csv
import io
import json
from decimal import Decimal

import numpy as np
import pytest

from atlas.rows import csv_text, json_text, tokens_of

NUMBERS = [4.2e-12, 1e-300, 5e-324, 0.1, float(np.float32(0.1)), 1 / 3, 2**70, -(2**63), 1e22]


def read_csv(text):
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_survives_csv_and_json(number):
    assert json.loads(json_text(["x"], [(number,)])) == [{"x": number}]
    for for_spreadsheets in (False, True):
        (text,) = read_csv(csv_text(["x"], [(number,)], for_spreadsheets=for_spreadsheets))[1]
        assert type(number)(text) == number


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\r\nb", "\r", 'a"b', "a,b"])
def test_a_text_with_any_line_end_survives_csv(text):
    lines = io.StringIO(csv_text(["x", "y"], [(text, 1), (text, 2)]), newline="")
    assert list(csv.reader(lines)) == [["x", "y"], [text, "1"], [text, "2"]]


def test_numpy_s_values_are_written_as_python_s():
    row = (np.float32(0.1), np.int64(3), np.bool_(True), np.array([{"n": np.int16(2)}]), (1, 2))
    (written,) = json.loads(json_text("abcde", [row]))
    assert [*written.values()] == [float(np.float32(0.1)), 3, True, [{"n": 2}], [1, 2]]
    cells = [str(float(np.float32(0.1))), "3", "True", '[{"n": 2}]', "[1, 2]"]
    assert read_csv(csv_text("abcde", [row]))[1] == cells


def test_a_decimal_is_a_number_in_json_where_a_number_equals_it():
    rows = [(Decimal("1.50"), Decimal("0E-10"), Decimal("0.12345678901234567890"))]
    assert json.loads(json_text("abc", rows)) == [{"a": 1.5, "b": 0, "c": "0.12345678901234567890"}]
    assert read_csv(csv_text("abc", rows))[1] == ["1.50", "0.0000000000", "0.12345678901234567890"]


def test_what_is_no_number_is_null_in_json():
    rows = [(float("nan"), float("-inf"), None, [float("nan")])]
    assert json_text("abcd", rows) == '[\n  {"a": null, "b": null, "c": null, "d": [null]}\n]'
    assert json_text("a", []) == "[]"


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-based", "@SUM(A1)", "\t=1", "＝1", "-1 days", "-", "=5"]
TEXTS = ["Paris", "a=b", "-5", "-4.2e-12", "'quoted", " =1", "–", "é, ü"]


def test_only_formulas_get_an_apostrophe_and_only_in_a_spreadsheet_s_csv():
    rows = [(text,) for text in FORMULAS + TEXTS]
    written = csv_text(["=name"], rows, for_spreadsheets=True)
    assert written.startswith("\ufeff")
    guarded = [cell for (cell,) in read_csv(written[1:])]
    assert guarded == ["'=name", *(f"'{text}" for text in FORMULAS), *TEXTS]
    assert read_csv(csv_text(["=name"], rows)) == [["=name"], *map(list, rows)]
    assert csv_text("ab", [(-5, -4.2e-12)], for_spreadsheets=True) == "\ufeffa,b\n-5,-4.2e-12\n"


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ([{"token": "a", "logit": 1.0}, {"token": " b"}], ["a", " b"]),
        (np.array([{"token": "a"}]), ["a"]),
        ([{"token": "a"}, None], None),
        ([None, {"token": "a"}], None),
        ([{"token": None}], None),
        ([{"token": "a"}, {"other": 1}], None),
        ([], None),
        ("token", None),
        (None, None),
    ],
)
def test_tokens_are_read_only_where_every_element_has_one(value, tokens):
    assert tokens_of(value) == tokens
