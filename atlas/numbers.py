"""Format numbers the same way in charts, pages, reports and on the command line."""

from __future__ import annotations

import math

NOT_MEASURED = "not measured in this atlas"


def signed_percent(change: float | None, *, missing: str = "not measured") -> str:
    """A relative change as a percentage with its sign: −0.05 is "−5%", zero after rounding "±0%".

    "−100%" means that nothing is left; large changes are factors, "×101". None and NaN give `missing`.
    """
    if change is None or math.isnan(change):
        return missing
    if -1 < change < -0.995:
        return f"−{min(-100 * change, 99.9):.1f}%"
    if change >= 100:
        return f"×{change + 1:,.0f}"
    rounded = round(100 * change)
    return f"{rounded:+,d}%".replace("-", "−") if rounded else "±0%"
