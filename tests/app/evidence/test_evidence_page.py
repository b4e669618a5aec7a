"""The page Evidence says what the report says."""

from __future__ import annotations

import pytest

from atlas import claims
from atlas.claims import CLAIMS, Verdict
from atlas.store.schema import REQUIRED_TABLES, TABLES
from tests.app.pages import only_atlas, page, unmarked, words
from tests.chart_clicks import chart
from tests.sample_atlas import write_sample_atlas

PICTURE = "The claim's number in each model, with 95 % intervals"


def test_every_claim_is_there_with_its_verdict_and_number(a, only_sample):
    app = page("evidence")
    rows = app.dataframe[0].value.to_numpy().tolist()
    report = claims.judge([claims.measure(a)])
    assert rows == [[row.claim.says, row.claim.paper, row.cells[0].text] for row in report.rows]
    assert claims.AGAINST_FIRST in words(app)
    assert claims.HOW_JUDGED in words(app)


def test_what_speaks_against_the_thesis_comes_first_and_its_first_claim_is_drawn(a, only_sample):
    against = claims.judge([claims.measure(a)]).against
    app = page("evidence")
    assert app.expander[0].label == f"What speaks against the thesis ({len(against)})"
    assert unmarked(app.subheader[0].value) == against[0].claim.says
    assert chart(app, PICTURE).spec


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.name for claim in CLAIMS])
def test_the_address_names_a_claim(claim, a, only_sample):
    app = page("evidence", claim=claim.name)
    assert claim.says in unmarked(app.subheader[0].value)
    text = words(app)
    assert claim.how in text
    assert claim.paper in text
    (cell,) = next(row for row in claims.judge([claims.measure(a)]).rows if row.claim == claim).cells
    for part in (cell.text, cell.reading.note, *(number.text() for _, _, number in cell.reading.beside)):
        assert part in text


def test_an_unknown_claim_is_no_error(only_sample):
    assert not page("evidence", claim="nothing").error


def test_an_atlas_of_few_tables_says_what_was_not_measured(tmp_path, monkeypatch):
    leave_out = sorted(set(TABLES) - set(REQUIRED_TABLES))
    only_atlas(monkeypatch, write_sample_atlas(tmp_path / "bare", n_facts=24, leave_out=leave_out))
    app = page("evidence", claim="suppress")
    assert not app.error
    verdicts = [row[-1] for row in app.dataframe[0].value.to_numpy()]
    assert verdicts.count(Verdict.NOT_MEASURED) >= len(CLAIMS) - 1
