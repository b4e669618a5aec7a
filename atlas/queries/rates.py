"""Shares and mean changes with 95 % intervals: of prompts, where facts are drawn again.

    measure_rate(hits, fact_ids).low                        # a share of prompts
    mean_over(rows, "relation_id", "fact_id").value         # mean over relations of Σ top ÷ Σ bottom

The prompts of a fact resemble each other, so that it is the facts that are drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from atlas.intervals import BOOTSTRAP_DRAWS, bootstrap_interval, draw_weights, wilson


@dataclass(frozen=True)
class Rate:
    """A share of `n_prompts` prompts of `n_edits` edits, with its 95 % interval."""

    share: float
    low: float
    high: float
    n_prompts: int
    n_edits: int


def measure_rate(hits: pd.Series, edits: pd.Series, *, seed: int = 0) -> Rate | None:
    """The share of hits, and its interval over resampled edits.

    Wilson's interval where each edit has one prompt, and where every resample has the same share.
    """
    if not len(hits):
        return None
    counts = hits.astype(float).groupby(edits.to_numpy()).agg(["sum", "size"]).to_numpy()
    share = float(counts[:, 0].sum() / counts[:, 1].sum())
    if len(counts) == len(hits) or share in (0.0, 1.0):
        low, high = wilson(share, len(counts))
    else:
        drawn = draw_weights(np.random.default_rng([seed, len(counts)]), len(counts)) @ counts
        low, high = bootstrap_interval(drawn[:, 0] / drawn[:, 1])
    return Rate(share, low, high, len(hits), len(counts))


@dataclass(frozen=True)
class Mean:
    """A mean over groups of n units, and its value in each bootstrap draw, (n_draws,)."""

    value: float
    drawn: np.ndarray
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; NaN of fewer than two units."""
        return bootstrap_interval(self.drawn) if self.n > 1 else (np.nan, np.nan)


def mean_over(rows: pd.DataFrame, group: str, unit: str, *, seed: int = 0) -> Mean | None:
    """The mean over groups of Σ top ÷ Σ bottom, units drawn again within their group, and then groups.

    rows: with the columns top and bottom. None where no group has a sum of bottom above zero.
    """
    sums = rows.groupby([group, unit])[["top", "bottom"]].sum().astype(float)
    values, drawn, n = [], [], 0
    generator = np.random.default_rng([seed, len(sums)])
    for _, of_group in sums.groupby(level=0, sort=True):
        table = of_group.to_numpy()
        if not table[:, 1].sum() > 0:
            continue
        totals = draw_weights(generator, len(table)) @ table
        values.append(table[:, 0].sum() / table[:, 1].sum())
        # A draw without anything to divide by has the whole group's value.
        some = totals[:, 1] > 0
        drawn.append(np.where(some, totals[:, 0] / np.where(some, totals[:, 1], 1), values[-1]))
        n += len(table)
    if not values:
        return None
    again = generator.integers(len(values), size=(len(values), BOOTSTRAP_DRAWS))
    return Mean(float(np.mean(values)), np.take_along_axis(np.stack(drawn), again, axis=0).mean(axis=0), n)
