"""95 % intervals, as `atlas.intervals` has them."""

from atlas.intervals import BOOTSTRAP_DRAWS, bootstrap_interval, draw_weights, wilson

__all__ = ["BOOTSTRAP_DRAWS", "bootstrap_interval", "draw_weights", "wilson"]
