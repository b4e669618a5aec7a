"""Percentages with a sign."""

from atlas.numbers import signed_percent


def test_a_change_has_its_sign_and_is_never_overstated():
    written = {
        **{0.0: "±0%", -0.001: "±0%", -0.05: "−5%", -0.64: "−64%", 1.25: "+125%"},
        **{-0.9984: "−99.8%", -0.99999: "−99.9%", -1.0: "−100%", 100.0: "×101"},
    }
    assert {change: signed_percent(change) for change in written} == written


def test_a_missing_change_gives_the_callers_text():
    assert signed_percent(None) == signed_percent(float("nan")) == "not measured"
    assert signed_percent(None, missing="no effect") == "no effect"
