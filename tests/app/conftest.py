"""Fixtures of the app's tests. Every chart that one of them draws is held to the palette."""

from __future__ import annotations

import pytest

from atlas.charts import look
from atlas.store.atlas import Atlas
from tests.chart_palette import check_palette


@pytest.fixture
def a(only_sample):
    """The sample, opened; there is no other atlas to choose."""
    with Atlas(only_sample) as opened:
        yield opened


@pytest.fixture(autouse=True)
def charts_keep_to_the_palette(monkeypatch: pytest.MonkeyPatch):
    wrong, to_dict = [], look.Ready.to_dict

    def checked(self):
        # A page says what goes wrong in a sentence and goes on, and Streamlit takes the rows out of the spec.
        spec = to_dict(self)
        try:
            check_palette(spec)
        except (AssertionError, KeyError) as error:
            wrong.append(error)
        return spec

    monkeypatch.setattr(look.Ready, "to_dict", checked)
    yield
    assert wrong == []
