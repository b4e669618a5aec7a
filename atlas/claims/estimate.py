"""A number with its 95 % interval and its n, and how likely it lies on the other side of a threshold.

    found = resampled(per_edit[["right", "asked"]], ratio, unit="share", of="edits")
    found.text()                                  # "93.4 % [90.9, 95.7], n = 350 edits"
    found.p_value(0.344)                          # two-sided, against a threshold

Intervals are bootstrapped: facts (or edits, or relations) are drawn again 1,000 times, always with the same
random numbers. Where none of n has something, or all have it, it is Wilson's interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.intervals import BOOTSTRAP_DRAWS, bootstrap_interval, draw_weights, wilson

_SEED = 0
_BATCH = 100
_NORMAL = 1.959964
# Unit → (format of 100 × the number, what stands behind it).
UNITS = {"change": ("+.1f", " %"), "share": (".1f", " %"), "points": ("+.1f", " points")}


@dataclass(frozen=True)
class Estimate:
    """value, low, high: as fractions, the interval None where nothing can be drawn again; n counts `of`.

    unit: 'change' (relative, signed), 'share', or 'points' (the difference of two shares).
    """

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    of: str = "facts"

    def p_value(self, threshold: float) -> float | None:
        """Two-sided, by the normal approximation; None without an interval.

        The end of the interval that faces the threshold is 1.96 standard errors from the value, so p is below
        0.05 exactly where the interval leaves the threshold out.
        """
        if self.low is None or self.high is None:
            return None
        error = abs(self.value - (self.low if threshold < self.value else self.high)) / _NORMAL
        away = abs(self.value - threshold)
        if error == 0:
            return 0.0 if away else 1.0
        return math.erfc(away / error / math.sqrt(2))

    def number(self) -> str:
        """The value alone: `−72.1 %`."""
        return in_unit(self.value, self.unit)

    def interval(self) -> str:
        """`[−76.6, −67.9]`, or nothing."""
        if self.low is None or self.high is None:
            return ""
        form = UNITS[self.unit][0]
        return f"[{_signed(self.low, form)}, {_signed(self.high, form)}]"

    def counted(self) -> str:
        """`n = 80 known facts`."""
        return f"n = {self.n:,} {self.of if self.n != 1 else self.of.removesuffix('s')}"

    def text(self) -> str:
        """The number, its interval and its n."""
        return f"{' '.join(filter(None, [self.number(), self.interval()]))}, {self.counted()}"


def in_unit(value: float, unit: str, digits: int | None = None) -> str:
    """A bare number as a report prints it; digits: behind the point, if not the unit's own."""
    form, behind = UNITS[unit]
    return _signed(value, form if digits is None else f"{form.partition('.')[0]}.{digits}f") + behind


def _signed(value: float, form: str) -> str:
    text = format(100 * value, form)
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", "−")


Statistic = Callable[[np.ndarray], np.ndarray]
"""From the columns' sums, (n_draws, n_columns), to a number a draw."""


def resampled(rows: Any, statistic: Statistic, *, unit: str, of: str) -> Estimate | None:
    """A statistic of the sums of rows, (n, n_columns), each of which may be drawn again; None without rows.

    Rows that lack a number are left out. A statistic that is not finite is none.
    """
    rows = np.asarray(rows, dtype=float)
    rows = rows[np.isfinite(rows).all(axis=1)]
    n = len(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(rows.sum(axis=0, keepdims=True))[0]) if n else math.nan
        if not math.isfinite(value):
            return None
        if unit == "share" and value in (0.0, 1.0):
            low, high = wilson(value, n)
            return Estimate(value, 0.0 if value == 0 else low, 1.0 if value == 1 else high, n, unit, of)
        if n < 2:
            return Estimate(value, None, None, n, unit, of)
        generator = np.random.default_rng(_SEED)
        drawn = np.concatenate(
            [statistic(draw_weights(generator, n, _BATCH) @ rows) for _ in range(BOOTSTRAP_DRAWS // _BATCH)]
        )
    return Estimate(value, *bootstrap_interval(drawn[np.isfinite(drawn)]), n, unit, of)


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first column's sum ÷ the second's; sums: (n_draws, n_columns)."""
    return sums[:, 0] / sums[:, 1]


def change(sums: np.ndarray) -> np.ndarray:
    """The same, less one: the relative change from the second to the first. sums: (n_draws, n_columns)."""
    return ratio(sums) - 1


def difference(sums: np.ndarray) -> np.ndarray:
    """(first − second) ÷ third: the difference of two shares of the same. sums: (n_draws, n_columns)."""
    return (sums[:, 0] - sums[:, 1]) / sums[:, 2]


def mean_of(values: Any, *, unit: str, of: str) -> Estimate | None:
    """The mean of the values that are there."""
    values = np.asarray(values, dtype=float)
    return resampled(np.column_stack([values, np.ones(len(values))]), ratio, unit=unit, of=of)


def share_of(value: float, n: int, of: str) -> Estimate | None:
    """A share that was counted elsewhere, with Wilson's interval; None of nothing."""
    return Estimate(value, *wilson(value, n), n, "share", of) if n and math.isfinite(value) else None
