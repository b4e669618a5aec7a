"""The look of the report's pictures: colours, letters, axes, and bars in groups.

    Figure("suppress--sample", "…", finished(chart, title="…", atlas_id="…", text="…", height=200)).svg

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and the same thing has the same colour
everywhere: a fact's own neurons blue, random ones orange, nearest in activity green, the most active ones
purple, unrelated facts grey. Shape or position says what colour says. Every chart is as wide as a phone, so
two stand side by side on a desk. Text and axes are drawn in `INK`, which the page exchanges for the colour
of its own text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import altair as alt
import numpy as np
import pandas as pd

from build.report.numbers import Estimate

BLUE, ORANGE, GREEN, PURPLE, GREY = "#2E86C1", "#E69F00", "#009E73", "#CC79A7", "#8A8F98"
VERMILION = "#D55E00"
INK, PAPER_WHITE = "#1D232B", "#FFFFFF"
WIDTH = 400
# Characters of a line below a title.
_LINE = 64
ROW = 19
OWN, RANDOM = "its own neurons", "random neurons"
LEGEND = alt.Legend(
    title=None, orient="bottom", direction="horizontal", columns=2, labelLimit=190, symbolOpacity=1
)
LEGEND_COLUMN = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=190)
# Relations as rows: long names are cut, so that the bars keep their room.
LABELS = alt.Axis(labelLimit=165, labelFontSize=11, labelOverlap=False)

# Where changes reach farther than this (× 4), the axis is squeezed.
_FAR = 3.0
_FAR_TICKS = (-1, 0, 1, 5, 20, 100, 500, 2500)


def finished(
    chart: alt.Chart | alt.LayerChart, *, title: str, atlas_id: str, text: str, height: int
) -> alt.LayerChart:
    """The chart with its title, its atlas, what it shows in smaller lines, its size and the report's look.

    height: without the lines.
    """
    lines = [atlas_id, *textwrap.wrap(text, _LINE)]
    return (
        chart.properties(
            title=alt.TitleParams(
                title,
                subtitle=lines,
                anchor="start",
                limit=WIDTH,
                fontSize=15,
                subtitleFontSize=12,
                subtitleLineHeight=15,
                offset=10,
            ),
            width=WIDTH,
            height=height + 15 * len(lines),
            autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        )
        # The picture as a whole has a name for those who cannot see it; a name for each mark is mere weight.
        .configure(aria=False, background=PAPER_WHITE, font="Arial, Helvetica, sans-serif", padding=6)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            domainColor=INK,
            tickColor=INK,
            gridColor=INK,
            gridOpacity=0.13,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=200,
        )
        .configure_title(color=INK, subtitleColor=INK)
        .configure_legend(labelColor=INK, titleColor=INK, labelFontSize=12, titleFontSize=12)
        .configure_text(color=INK, fontSize=12)
    )


# Parts -----------------------------------------------------------------------------------------------


def percent(sign: str = "+", values: Sequence[float] | None = None) -> alt.Axis:
    # Vega would write +0%.
    label = f"datum.value === 0 ? '0%' : format(datum.value, '{sign},.0%')"
    return (
        alt.Axis(labelExpr=label, tickCount=5) if values is None else alt.Axis(labelExpr=label, values=values)
    )


def change_scale(values: Iterable[float], *, room: float) -> tuple[alt.Scale, alt.Axis]:
    """A scale for changes, with room on either side, and its axis; squeezed where some reach very far."""
    found = [float(each) for each in values if each is not None and np.isfinite(each)]
    low, high = min(0.0, *found), max(0.0, *found)
    if high > _FAR:
        scale = alt.Scale(type="symlog", constant=0.5, domain=[low * 1.1, high * 1.5], nice=False)
        return scale, percent(values=[each for each in _FAR_TICKS if low * 1.1 <= each <= high * 1.5])
    span = (high - low) or 1.0
    scale = alt.Scale(domain=[low - room * span if low < 0 else 0, high + room * span], nice=False)
    return scale, percent()


def bars(
    rows: pd.DataFrame,
    *,
    colours: dict[str, str],
    order: Sequence[str],
    x_title: str,
    axis: alt.Axis,
    form: str,
    extra: Sequence[alt.Chart] = (),
) -> alt.LayerChart:
    """Bars in groups, with intervals. Columns: what (the group), name (the bar), value, low, high, n, of."""
    names = [name for name in colours if name in set(rows["name"])]
    what = alt.Y("what:N", title=None, sort=list(order), axis=alt.Axis(labelLimit=190, labelOverlap=False))
    offset = alt.YOffset("name:N", sort=names, scale=alt.Scale(paddingInner=0.1))
    tips = [
        alt.Tooltip("what:N", title="What"),
        alt.Tooltip("name:N", title="Of"),
        alt.Tooltip("value:Q", title="Value", format=form),
        alt.Tooltip("low:Q", title="95 % interval from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
        alt.Tooltip("n:Q", title="n", format=","),
        alt.Tooltip("of:N", title="n counts"),
    ]
    colour = alt.Color(
        "name:N",
        scale=alt.Scale(domain=names, range=[colours[name] for name in names]),
        legend=LEGEND if len(names) > 1 else None,
    )
    bars = (
        alt.Chart(rows)
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title=x_title, axis=axis), y=what, yOffset=offset, color=colour, tooltip=tips
        )
    )
    intervals = (
        alt.Chart(rows)
        .mark_rule(color=INK, strokeWidth=1.5)
        .encode(x="low:Q", x2="high:Q", y=what, yOffset=offset, tooltip=tips)
    )
    zero = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=INK).encode(x="zero:Q")
    return alt.layer(bars, zero, intervals, *extra)


def bar_row(what: str, name: str, number: Estimate | None) -> list[dict]:
    if number is None:
        return []
    return [
        {
            "what": what,
            "name": name,
            "value": number.value,
            "low": number.value if number.low is None else number.low,
            "high": number.value if number.high is None else number.high,
            "n": number.n,
            "of": number.of,
        }
    ]
