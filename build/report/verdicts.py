"""A plain verdict on our number beside a published one: sign first, then size, then what a control does.

compare(ours, PAPER["suppress"], [("random", control)])        # "same sign, stronger"
"""

from __future__ import annotations

from collections.abc import Sequence

from build.report.numbers import NOT_MEASURED, Estimate, in_unit
from build.report.paper_values import Published, Range

# Numbers are about the same within this factor, and of one order of magnitude within that one.
_ALIKE, _ORDER = 1.5, 10**0.5
# From these factors on a change is not just stronger than another.
_MANY_TIMES, _ORDERS = 10, 1000
# A control that does at least this share of it casts doubt.
_MUCH = 0.5


def compare(
    ours: Estimate | None, published: Published | Range, controls: Sequence[tuple[str, Estimate]] = ()
) -> str:
    """A plain verdict on our number beside a published one, and beside its own controls, by name."""
    if ours is None:
        return NOT_MEASURED
    if isinstance(published, Range):
        place = (
            "below" if ours.value < published.low else "above" if ours.value > published.high else "within"
        )
        return f"{place} the published range" + _doubt(ours, controls)
    signed = published.unit in ("change", "difference")
    verdict = _compare_signed(ours, published) if signed else _compare_sizes(ours, published)
    return verdict if verdict.startswith("not") else verdict + _doubt(ours, controls)


def _compare_signed(ours: Estimate, published: Published) -> str:
    if not (ours.above_zero or ours.below_zero):
        return "not reproduced: no change that could be told from none"
    if (ours.value > 0) != (published.value > 0):
        return "not reproduced: the opposite sign"
    ratio = abs(ours.value / published.value)
    if ratio >= _ORDERS:
        return "same sign, many orders of magnitude larger: not comparable"
    if ratio >= _MANY_TIMES:
        return f"same sign, {ratio:,.0f} times as large"
    size = "stronger" if ratio > _ALIKE else "weaker" if ratio < 1 / _ALIKE else "about as strong"
    return f"same sign, {size}"


def _compare_sizes(ours: Estimate, published: Published) -> str:
    if in_unit(ours.value, published.unit, published.digits) == published.number:
        return "the same number"
    if published.value == 0 or ours.value <= 0:
        return "not reproduced: none here" if ours.value <= 0 else "not reproduced: some here"
    ratio = ours.value / published.value
    if 1 / _ALIKE <= ratio <= _ALIKE:
        return "about the same"
    if 1 / _ORDER <= ratio <= _ORDER:
        return f"same order of magnitude, {'more' if ratio > 1 else 'less'}"
    times = f"{ratio:,.0f} times as much" if ratio > 1 else f"1/{1 / ratio:,.0f} of it"
    return f"another order of magnitude ({times}); not comparable: another model"


def _doubt(ours: Estimate, controls: Sequence[tuple[str, Estimate]]) -> str:
    if not controls or ours.value == 0:
        return ""
    name, control = max(controls, key=lambda each: each[1].value / ours.value)
    share = control.value / ours.value
    return f", but a control does {share:.0%} of it ({name})" if share >= _MUCH else ""
