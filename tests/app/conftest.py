"""Fixtures of the app's tests. Every chart that one of them draws is held to the palette."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.shared import limits
from atlas.charts import look
from atlas.store.atlas import Atlas
from tests.app.pages import DEMO, only_atlas
from tests.chart_palette import check_palette
from tests.sample_atlas import write_sample_atlas


@pytest.fixture
def a(only_sample):
    """The sample, opened; there is no other atlas to choose."""
    with Atlas(only_sample) as opened:
        yield opened


@pytest.fixture
def another_atlas(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a sample atlas with these options, and let the app find no other."""

    def write(**options) -> Path:
        folder = write_sample_atlas(tmp_path / "another", **options)
        only_atlas(monkeypatch, folder)
        return folder

    return write


@pytest.fixture
def set_limits(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write a host's limits and let the environment name them."""

    def write(text: str) -> None:
        file = tmp_path / "host.toml"
        file.write_text(text, encoding="utf-8")
        monkeypatch.setenv(limits.LIMITS_VARIABLE, str(file))

    return write


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> limits.Limits:
    monkeypatch.setenv(limits.LIMITS_VARIABLE, str(DEMO))
    return limits.current()


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
