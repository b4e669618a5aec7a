"""A number as the report prints it: with its unit, its interval and how many it was taken over.

    Measurement(-0.845, -0.852, -0.837, n=1903, of="facts").text()        # "−84.5 % [−85.2, −83.7]"
    mean_of([0.2, 0.4, 0.1], unit="share")                             # a mean with its bootstrap interval

Intervals hold 95 %: what was measured is drawn again, 1,000 times, always with the same random numbers. Where
none of n has something, or all have it, drawing again would show nothing else: there it is Wilson's interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from build.evidence.intervals import BOOTSTRAP_DRAWS, draw_weights, wilson

RESAMPLING_SEED = 0
_FEWEST_FOR_INTERVAL = 2
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

# Unit → (factor, format, what stands behind the number).
_UNITS: dict[str, tuple[float, str, str]] = {
    "change": (100, "+.1f", "\u00a0%"),
    "share": (100, ".1f", "\u00a0%"),
    "count": (1, ".2f", ""),
    "overlap": (1, ".3f", ""),
    "difference": (1, "+.2f", ""),
}


@dataclass(frozen=True)
class Measurement:
    """A number, its interval (None where there is none), and the n of what it was taken over.

    unit: 'change' and 'share' are printed in per cent, the others as they are.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    of: str = "facts"
    unit: str = "change"

    def text(self) -> str:
        """The number and its interval."""
        interval = self.interval()
        return self.number() + (f" {interval}" if interval else "")

    def number(self) -> str:
        return in_unit(self.value, self.unit)

    def interval(self) -> str:
        if self.low is None or self.high is None:
            return ""
        factor, form, _ = _UNITS[self.unit]
        return f"[{_number(self.low * factor, form)}, {_number(self.high * factor, form)}]"

    def counted(self) -> str:
        """`n = 1,903 facts`, or nothing."""
        return "" if self.n is None else f"n\u00a0=\u00a0{format_count(self.n, self.of)}"

    def full(self) -> str:
        """The number, its interval and its n, for a sentence."""
        return self.text() + (f" ({self.counted()})" if self.n is not None else "")

    @property
    def above_zero(self) -> bool:
        """Whether all of the interval, or the number where it has none, is above zero."""
        return (self.value if self.low is None else self.low) > 0

    @property
    def below_zero(self) -> bool:
        return (self.value if self.high is None else self.high) < 0


def in_unit(value: float, unit: str, digits: int | None = None) -> str:
    """A bare number as the report prints it, or with other digits behind the point."""
    factor, form, behind = _UNITS[unit]
    if digits is not None:
        form = form.partition(".")[0] + f".{digits}f"
    return _number(value * factor, form) + behind


def format_count(n: int, of: str) -> str:
    """`1 fact`, `2 facts`."""
    return f"{n:,} {of if n != 1 else of.removesuffix('s')}"


def _number(value: float, form: str) -> str:
    if not np.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1e6:
        mantissa, exponent = format(value, form[:-2] + "1e").split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")
    if abs(value) >= 1000:
        form = form.partition(".")[0] + ",.0f"
    text = format(value, form)
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


# Means and their intervals ---------------------------------------------------------------------------


def mean_of(values: Sequence[float] | np.ndarray, *, unit: str, of: str = "facts") -> Measurement | None:
    """The mean of the values that are there, with a bootstrap interval; None without any."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = _interval(values[:, None], lambda sums: sums[:, 0] / len(values))
    if unit == "share":
        low, high = _bounds(values, low, high)
    return Measurement(float(values.mean()), low, high, len(values), of, unit)


def ratio_of(
    above: Sequence[float] | np.ndarray,
    below: Sequence[float] | np.ndarray,
    *,
    unit: str,
    less: float = 0.0,
    of: str = "facts",
) -> Measurement | None:
    """Σ above ÷ Σ below, less `less`, with a bootstrap interval; None where the sum below is zero."""
    pairs = np.column_stack([np.asarray(above, dtype=float), np.asarray(below, dtype=float)])
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if not len(pairs) or pairs[:, 1].sum() == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _interval(pairs, lambda sums: sums[:, 0] / sums[:, 1] - less)
    value = pairs[:, 0].sum() / pairs[:, 1].sum() - less
    if unit == "share":
        low, high = _bounds(pairs[:, 0] / np.where(pairs[:, 1] == 0, 1, pairs[:, 1]), low, high)
    return Measurement(float(value), low, high, len(pairs), of, unit)


def _bounds(shares: np.ndarray, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """The interval of a mean of shares; where all are 0, or all 1, drawing again would show nothing."""
    if not ((shares == 0).all() or (shares == 1).all()):
        return low, high
    low, high = (float(end) for end in wilson(float(shares[0]), len(shares)))
    return (low, 1.0) if shares[0] else (0.0, high)


def _interval(rows: np.ndarray, statistic) -> tuple[float | None, float | None]:
    """The interval of a statistic of the rows' sums. rows: (n, n_columns)."""
    n = len(rows)
    if n < _FEWEST_FOR_INTERVAL:
        return None, None
    generator = np.random.default_rng(RESAMPLING_SEED)
    # A hundred draws at a time, for n may be large.
    drawn = [statistic(draw_weights(generator, n, 100) @ rows) for _ in range(BOOTSTRAP_DRAWS // 100)]
    low, high = np.nanquantile(np.concatenate(drawn), [0.025, 0.975])
    return float(low), float(high)
