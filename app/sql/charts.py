"""A picture of whatever a query gave, when its columns suit one.

across, up = suitable(frame)                 # what to draw over, what to draw; the likeliest first
answer_chart(frame, across[0], up[0])        # ('intervention', 'group'), 'mean_change'
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd
from pandas.api import types

from atlas.charts.look import SMALL, label_axis
from atlas.charts.palette import colour

MOST_LABELS = 60
MOST_POINTS = 5_000
_LONGEST_NAME = 3
_STEP = 20

# Numbers that name something and measure nothing.
_NAMES = ("layer", "neuron", "rank")


def suitable(frame: pd.DataFrame) -> tuple[list[tuple[str, ...]], list[str]]:
    """Columns to draw over, alone or together, and columns to draw; both empty where nothing suits.

    First comes what names every row: one column of labels, or the first few of them together.
    """
    labels = [name for name in frame.columns if _names_something(frame[name])]
    measures = [name for name in frame.columns if _is_number(frame[name]) and name not in labels]
    # Shares and means say more than counts.
    measures.sort(key=lambda name: not types.is_float_dtype(frame[name]))
    across = [(name,) for name in labels] + [(name,) for name in measures[1:]]
    if len(frame) < 2 or not measures or not across:
        return [], []
    for n in range(1, _LONGEST_NAME + 1):
        name = tuple(labels[:n])
        if len(name) == n and not frame.duplicated(list(name)).any():
            across = [name, *(other for other in across if other != name)]
            break
    return across, measures


def _is_number(column: pd.Series) -> bool:
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


def _names_something(column: pd.Series) -> bool:
    if _is_number(column):
        return column.name in _NAMES
    return types.is_bool_dtype(column) or types.is_string_dtype(column.dropna())


def answer_chart(frame: pd.DataFrame, across: Sequence[str], up: str) -> alt.Chart:
    """`up` over `across`: bars where every row has another label, ticks where labels repeat, else points.

    Names of columns are a visitor's: the chart's own fields are called x and y.
    """
    rows = _drawn(frame, across, up)
    title = ", ".join(across)
    base = alt.Chart(rows, title=f"{up} by {title}")
    if not _is_labelled(frame, across):
        x = alt.X("x:Q", title=title, scale=alt.Scale(zero=False))
        y = alt.Y("y:Q", title=up, scale=alt.Scale(zero=False))
        tooltip = [alt.Tooltip("x:Q", title=title, format=",.4~g"), _value(up)]
        return (
            base.mark_circle(color=colour("own"), opacity=0.6)
            .encode(x=x, y=y, tooltip=tooltip)
            .properties(height=SMALL)
        )
    y = alt.Y("x:N", title=title, sort=None, axis=label_axis(180))
    tooltip = [alt.Tooltip("x:N", title=title), _value(up)]
    mark = (
        base.mark_tick(color=colour("own"), opacity=0.6, thickness=2)
        if rows["x"].duplicated().any()
        else base.mark_bar(color=colour("own"))
    )
    return mark.encode(x=alt.X("y:Q", title=up), y=y, tooltip=tooltip).properties(height=alt.Step(_STEP))


def left_out(frame: pd.DataFrame, across: Sequence[str]) -> int:
    """How many rows the picture has no room for."""
    return len(frame) - len(_drawn(frame, across, None))


def _drawn(frame: pd.DataFrame, across: Sequence[str], up: str | None) -> pd.DataFrame:
    if _is_labelled(frame, across):
        x = frame[across[0]].map(str).astype(object)
        for name in across[1:]:
            x = x + ", " + frame[name].map(str).astype(object)
        x = x[x.isin(x.drop_duplicates().head(MOST_LABELS))]
    else:
        x = frame[across[0]].astype("float64")
    x = x.head(MOST_POINTS)
    return pd.DataFrame({"x": x, "y": frame[up][x.index].astype("float64") if up else 0.0})


def _is_labelled(frame: pd.DataFrame, across: Sequence[str]) -> bool:
    return len(across) > 1 or _names_something(frame[across[0]])


def _value(title: str) -> alt.Tooltip:
    return alt.Tooltip("y:Q", title=title, format=",.4~g")
