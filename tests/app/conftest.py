"""Fixtures of the app's tests."""

from __future__ import annotations

import pytest

from atlas.store.atlas import Atlas


@pytest.fixture
def a(only_sample):
    """The sample, opened; there is no other atlas to choose."""
    with Atlas(only_sample) as opened:
        yield opened
