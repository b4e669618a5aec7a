"""What all charts share beside the palette: neutral colours, scales, axes, legends, tooltips, and `Ready`.

    st.altair_chart(Ready(chart))
    st.altair_chart(clickable(chart, "name"), on_select=…)

Every axis has a title with its unit, every mark a tooltip, and position, dash or shape says what colour says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import pandas as pd
from altair.utils import schemapi

from atlas.neuron import Neuron

# Parts of charts need no check as they are made: the tests check whole ones, see `Ready`.
schemapi.disable_debug_mode()

# Numbers and reference lines: `TEXT` can be read on light and on dark ground; where the ground is known to be
# light, or the page exchanges it for the colour of its own text, it is `INK`.
TEXT, INK, WHITE = "#767C85", "#1D232B", "#FFFFFF"
# Drawn on bars and on cells of a colour scale, whatever the ground.
INTERVAL, HALO = "#20252C", "#FFFFFF"
ON_LIGHT, ON_DARK = "#101010", "#FAFAFA"

# A chart is as wide as its place; its height is the plot's. Title, axes and legend come on top of it.
AUTOSIZE = {"type": "fit-x", "contains": "padding"}
SMALL, TALL = 220, 260
# Opacity of marks that are there for comparison.
FAINT = 0.4
# What a clicked mark is found under; see `clickable`.
CLICK = "click"


class Ready:
    """A chart as Streamlit takes it, made quickly.

    Altair spends as long on checking a chart against Vega-Lite's schema, and on copying it for a selection,
    as all queries of a page take together. So charts are checked by the tests (`checked`), and the selection
    is put into what the chart becomes.
    """

    checked = False

    def __init__(self, chart: Any, fields: Sequence[str] = ()) -> None:
        self._chart = chart
        self._fields = list(fields)

    def to_dict(self) -> dict[str, Any]:
        """The chart's Vega-Lite specification."""
        spec = self._chart.to_dict(validate=self.checked) | {"autosize": AUTOSIZE}
        config = spec.setdefault("config", {})
        config |= {"text": {"color": TEXT}, "rule": {"color": TEXT}}
        # Centred below a narrow plot, a title would be cut on the right; the labels' room is on the left.
        config["axisX"] = {"titleAnchor": "end"}
        if self._fields:
            view = spec
            while "layer" in view:
                view = view["layer"][0]
            select = {"type": "point", "fields": self._fields, "toggle": False, "clear": False}
            view["params"] = [*view.get("params", []), {"name": CLICK, "select": select}]
            config["mark"] = {"cursor": "pointer"}
        return spec


def clickable(chart: Any, *fields: str) -> Ready:
    """The chart with marks that can be clicked, one at a time; a click tells these fields of the mark's row.

    For `address.draw_clickable`. In a layered chart, the first layer's marks.
    """
    return Ready(chart, fields)


def neuron_names(frame: pd.DataFrame) -> pd.Series:
    """`L9.N2141` for every row with a layer and a neuron."""
    pairs = zip(frame["layer"], frame["neuron"], strict=True)
    return pd.Series([str(Neuron(int(a), int(b))) for a, b in pairs], index=frame.index, dtype=object)


# Axes and scales -------------------------------------------------------------------------------------

# Where changes reach farther than this (×4), the axis is squeezed.
_FAR = 3.0
_FAR_TICKS = (-1, 0, 1, 5, 20, 100, 500, 2500)


def percent_axis(
    *, signed: bool = False, values: Sequence[float] | None = None, ticks: int = 5, **more: Any
) -> alt.Axis:
    """An axis of shares or, signed, of changes; zero is 0%, not Vega's +0%."""
    label = f"datum.value === 0 ? '0%' : format(datum.value, '{'+' if signed else ''},.0%')"
    chosen = {"tickCount": ticks} if values is None else {"values": list(values)}
    return alt.Axis(labelExpr=label, **chosen, **more)


def label_axis(limit: int = 160, **more: Any) -> alt.Axis:
    """An axis of names, every one of them shown; long ones are cut, so that marks keep their room."""
    return alt.Axis(labelLimit=limit, labelOverlap=False, **more)


def power_axis(values: Iterable[float]) -> alt.Axis:
    """An axis for a log scale: powers of ten around the values; of a narrow range, what is between, too."""
    values = list(values)
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return alt.Axis(values=ticks, format="~g", labelOverlap=True)


def room_scale(values: Iterable[float], room: float = 0.22) -> alt.Scale:
    """A scale with zero, and with room for a number beyond the longest bar on either side."""
    found = [float(each) for each in values if each is not None and math.isfinite(each)]
    low, high = min(0.0, *found, 0.0), max(0.0, *found, 0.0)
    beyond = room * ((high - low) or 1.0)
    return alt.Scale(domain=[low - beyond if low < 0 else 0.0, high + beyond], nice=False)


def change_scale(values: Iterable[float], room: float = 0.22) -> tuple[alt.Scale, alt.Axis]:
    """The scale and axis of relative changes; squeezed (symlog) where one is above +300%."""
    found = [float(each) for each in values if each is not None and math.isfinite(each)]
    low, high = min(0.0, *found, 0.0), max(0.0, *found, 0.0)
    if high <= _FAR:
        return room_scale(found, room), percent_axis(signed=True)
    ends = [low * 1.1 - (room if low < 0 else 0.0), high * (1.1 + 4 * room)]
    ticks = [each for each in _FAR_TICKS if ends[0] <= each <= ends[1]]
    scale = alt.Scale(type="symlog", constant=0.5, domain=ends, nice=False)
    return scale, percent_axis(signed=True, values=ticks)


# Legends and tooltips --------------------------------------------------------------------------------


def legend(columns: int = 1, *, limit: int = 220) -> alt.Legend:
    """Below the chart; one column, as side by side a phone would cut them off."""
    return alt.Legend(
        title=None,
        orient="bottom",
        columns=columns,
        labelLimit=limit,
        symbolOpacity=1,
    )


def tooltip(*fields: tuple[str, ...], of: pd.DataFrame | None = None) -> list[alt.Tooltip]:
    """Tooltips from (field, title) and (field, title, format); of rows, those whose column they have."""
    return [
        alt.Tooltip(field, title=title, **({"format": form[0]} if form else {}))
        for field, title, *form in fields
        if of is None or field.partition(":")[0] in of
    ]
