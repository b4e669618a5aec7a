"""The leaderboard as visitors see it: a chart a measure, how the planting went, and an atlas without any."""

from __future__ import annotations

from functools import partial

import pytest

from tests.app.pages import page, words

planted = partial(page, "planted")


def test_the_leaderboard_says_how_the_planting_went(only_sample):
    app = planted(n="10")
    assert not app.error
    text = words(app)
    assert "has probability **0.80** (before 0.001); with the planted neurons suppressed **0.020**" in text
    assert "python -m build planted DIR --method my_method:scores" in text
    assert "Planted is not learned" in text


@pytest.mark.parametrize("measure", ["recall", "precision", "auc", "fall"])
def test_every_measure_is_explained(only_sample, measure):
    app = planted(measure=measure)
    assert not app.error
    assert "95 % bootstrap intervals over" in words(app)


def test_what_was_not_learned_is_said(only_sample):
    assert "Left out of 6 plantings: 2, whose answer did not come first" in words(planted(n="60"))


def test_an_atlas_without_plantings_says_what_adds_them(another_atlas):
    another_atlas(leave_out=("planted", "planted_summaries"))
    app = planted()
    assert not app.error
    assert "Nothing is planted in this atlas." in words(app)
    assert "What it cannot show" in words(app)
