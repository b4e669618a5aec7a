"""95 % intervals of means, ratios and shares."""

from __future__ import annotations

import math

import numpy as np

BOOTSTRAP_DRAWS = 1000


def bootstrap_interval(drawn: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of a statistic over bootstrap draws, (n_draws,)."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def draw_weights(generator: np.random.Generator, n: int, draws: int = BOOTSTRAP_DRAWS) -> np.ndarray:
    """How often each of n observations is drawn, draw by draw: (draws, n)."""
    return generator.multinomial(n, np.full(n, 1 / n), size=draws)


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share of `n` independent observations (Wilson 1927)."""
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # By rounding, a bound may pass the share itself.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
