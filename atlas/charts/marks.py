"""The three pictures that most charts are: bars with intervals, lines, and moves from before to after.

    alt.layer(*bars(rows, "share", names={"own": "its own neurons"}, …), data=rows, title="…")

Each function gives layers. Rows have `what`, the label on the axis, and `meaning`, a key of `PALETTE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from atlas.charts.look import HALO, INTERVAL, label_axis
from atlas.charts.palette import encoded


def bars(
    rows: pd.DataFrame,
    value: str,
    *,
    names: Mapping[str, str],
    x: Mapping[str, Any],
    tooltip: Sequence[alt.Tooltip],
    interval: tuple[str, str] | None = None,
    beside: alt.YOffset | None = None,
    y: Mapping[str, Any] | None = None,
    legend: alt.Legend | None = None,
    **mark: Any,
) -> list[alt.Chart]:
    """Bars, their intervals, and their numbers beyond the end of either.

    rows: with what, meaning, `value` and the ends of `interval`; where they are there, `shown`, the number in
    words, and `look`, an opacity. names: meaning → words of the legend; x, y: what the axes are like;
    beside: the offset of bars with one label; mark: what all bars are like.
    """
    y = {"title": None, "sort": None, "axis": label_axis()} | dict(y or {})
    places = {"y": alt.Y("what:N", **y)} | ({} if beside is None else {"yOffset": beside})
    base = alt.Chart().encode(**places)
    looks = {"opacity": alt.Opacity("look:Q", scale=None)} if "look" in rows else {}
    layers = [
        base.mark_bar(**mark).encode(
            x=alt.X(f"{value}:Q", **x), **encoded(names, "color", legend=legend), **looks, tooltip=tooltip
        )
    ]
    if interval is not None:
        layers += intervals(base, *interval)
    if "shown" in rows:
        layers += numbers(base, rows, value, interval)
    return layers


def intervals(base: alt.Chart, low: str, high: str) -> list[alt.Chart]:
    """Dark on white: to be seen on a bar and beside it, on light and on dark ground."""
    return [
        base.mark_rule(color=shade, strokeWidth=width, strokeCap="round").encode(
            x=alt.X(f"{low}:Q"), x2=alt.X2(f"{high}:Q")
        )
        for shade, width in ((HALO, 4), (INTERVAL, 1.6))
    ]


def numbers(
    base: alt.Chart, rows: pd.DataFrame, value: str, interval: tuple[str, str] | None
) -> list[alt.Chart]:
    """The column `shown`, right of positive bars and left of negative ones; adds the column `end` to rows."""
    low, high = (rows[end].fillna(rows[value]) for end in interval or (value, value))
    rows["end"] = high.clip(lower=0).where(rows[value] >= 0, low.clip(upper=0))
    return [
        base.transform_filter(f"datum.{value} {side} 0")
        .mark_text(align=align, dx=dx)
        .encode(x=alt.X("end:Q"), text=alt.Text("shown:N"))
        for side, align, dx in ((">=", "left", 6), ("<", "right", -6))
    ]


def lines(
    x: alt.X,
    y: alt.Y,
    *,
    names: Mapping[str, str],
    tooltip: Sequence[alt.Tooltip],
    legend: alt.Legend,
    band: tuple[str, str] | None = None,
    size: int = 50,
) -> list[alt.Chart]:
    """Lines with a point at each row; their intervals, the columns `band`, lie behind them."""
    base = alt.Chart().encode(x=x, y=y)
    layers = []
    if band is not None:
        area = alt.Chart().mark_area(opacity=0.2).encode(x=x, **encoded(names, "color", legend=legend))
        layers.append(area.encode(y=alt.Y(f"{band[0]}:Q", title=y["title"]), y2=alt.Y2(band[1])))
    points = encoded(names, "color", "shape", legend=legend)
    return [
        *layers,
        base.mark_line(strokeWidth=2.5).encode(
            **encoded(names, "color", legend=legend), **encoded(names, "strokeDash")
        ),
        base.mark_point(filled=True, size=size, opacity=1).encode(**points, tooltip=tooltip),
    ]


def moves(
    before: str,
    after: str,
    *,
    names: Mapping[str, str],
    y: alt.Y,
    tooltip: Sequence[alt.Tooltip],
    beside: alt.YOffset | None = None,
    legend: alt.Legend | None = None,
) -> list[alt.Chart]:
    """Probabilities before (a ring) and after (a point), with the way between them."""
    x = {
        "scale": alt.Scale(domain=[0, 1]),
        "title": "Probability: ○ before, ● after",
        "axis": alt.Axis(tickCount=5),
    }
    places = {"y": y} | ({} if beside is None else {"yOffset": beside})
    base = alt.Chart().encode(**places, **encoded(names, "color", legend=legend), tooltip=tooltip)
    shape = encoded(names, "shape", legend=legend)
    start, end = alt.X(f"{before}:Q", **x), alt.X(f"{after}:Q", **x)
    return [
        base.mark_rule(strokeWidth=3).encode(x=start, x2=alt.X2(f"{after}:Q")),
        base.mark_point(size=65, strokeWidth=2).encode(x=start, **shape),
        base.mark_point(size=85, filled=True, opacity=1).encode(x=end, **shape),
    ]
