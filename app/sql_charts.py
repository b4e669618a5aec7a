"""A picture of whatever a query gave, when two of its columns suit one.

across, up = suitable(frame)                 # names of columns, the likeliest first
answer_chart(frame, across[0], up[0])
"""

from __future__ import annotations

import altair as alt
import pandas as pd
from pandas.api import types

from app.charts import BLUE, SMALL

MOST_BARS = 60
MOST_POINTS = 5_000
_BAR_STEP = 20

# Numbers that name something and measure nothing.
_NAMES = ("layer", "neuron", "rank", "fact_id", "template_id", "relation_id")


def suitable(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Columns to draw over and columns to draw, the likeliest first; both empty when none suit."""
    if len(frame) < 2:
        return [], []
    plain = [name for name in frame.columns if _is_number(frame[name]) or _is_label(frame[name])]
    measures = [name for name in plain if _is_number(frame[name])]
    measures.sort(key=lambda name: name in _NAMES)
    labels = sorted(plain, key=lambda name: _is_number(frame[name]) and name not in _NAMES)
    # What has another value in each row says best what the row is.
    labels.sort(key=lambda name: not frame[name].is_unique)
    labels.sort(key=lambda name: bool(measures) and name == measures[0])
    return (labels, measures) if measures and len(labels) > 1 else ([], [])


def _is_number(column: pd.Series) -> bool:
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


def _is_label(column: pd.Series) -> bool:
    return types.is_bool_dtype(column) or types.is_string_dtype(column)


def answer_chart(frame: pd.DataFrame, across: str, up: str) -> alt.Chart:
    """`up` over `across`: bars where every row has another label, else a point a row.

    Names of columns are a visitor's: the chart's own fields are called x and y.
    """
    rows = pd.DataFrame({"x": frame[across], "y": frame[up].astype("float64")})
    labelled = not _is_number(frame[across]) or across in _NAMES
    bars = labelled and frame[across].is_unique
    rows = rows.head(MOST_BARS if bars else MOST_POINTS)
    if labelled:
        rows["x"] = rows["x"].map(str)
    base = alt.Chart(rows, title=f"{up} by {across}")
    tooltip = [
        alt.Tooltip("x:N" if labelled else "x:Q", title=across),
        alt.Tooltip("y:Q", title=up, format=",.4~g"),
    ]
    if not labelled:
        mark = base.mark_circle(color=BLUE, opacity=0.6)
        x = alt.X("x:Q", title=across, scale=alt.Scale(zero=False))
        y = alt.Y("y:Q", title=up, scale=alt.Scale(zero=False))
        return mark.encode(x=x, y=y, tooltip=tooltip).properties(height=SMALL)
    y = alt.Y("x:N", title=across, sort=None, axis=alt.Axis(labelLimit=180, labelOverlap=False))
    x = alt.X("y:Q", title=up)
    mark = base.mark_bar(color=BLUE) if bars else base.mark_tick(color=BLUE, opacity=0.6, thickness=2)
    return mark.encode(x=x, y=y, tooltip=tooltip).properties(height=alt.Step(_BAR_STEP))


def left_out(frame: pd.DataFrame, across: str) -> int:
    """How many rows the picture has no room for."""
    labelled = not _is_number(frame[across]) or across in _NAMES
    most = MOST_BARS if labelled and frame[across].is_unique else MOST_POINTS
    return max(0, len(frame) - most)
