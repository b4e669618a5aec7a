"""Pictures: each function takes a DataFrame of `atlas.queries.facts` and gives an `alt.Chart`.

    st.altair_chart(layer_bars(queries.layer_histogram(a)))

Colours are Okabe and Ito's, which colour-blind readers can tell apart, in shades that hold on light and on
dark ground; the same thing has the same colour everywhere: own neurons blue, random ones orange, those
nearest in activity pink, the most active ones green, unrelated facts grey. Every axis has a title with its
unit, every mark a tooltip, and position says what colour says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
from altair.utils import schemapi

from atlas.neuron import Neuron

# Parts of charts need no check as they are made: the tests check whole ones, see `Ready`.
schemapi.disable_debug_mode()

BLUE, ORANGE, GREY, GREEN, PINK = "#2E86C1", "#E69F00", "#8A8F98", "#009E73", "#CC79A7"

# Whose neurons were changed, or (unrelated facts) who was asked while its own were; in the table's order.
GROUPS = {
    "own": "its own",
    "random": "random",
    "matched": "nearest in activity",
    "baseline": "most active",
    "unrelated": "unrelated facts",
}
GROUP_COLOURS = {"own": BLUE, "random": ORANGE, "matched": PINK, "baseline": GREEN, "unrelated": GREY}
INTERVENTIONS = {"suppress": "×0", "amplify": "×2"}
SMALL = 300
# Marks that are there for comparison with a chosen one.
FAINT = 0.35

# Groups are named on the axis: no legend to look up, and colour only repeats what position says.
_WHAT = alt.Y(
    "what:N",
    title=None,
    sort=[f"{kind}, {group}" for kind in INTERVENTIONS.values() for group in GROUPS.values()],
    axis=alt.Axis(labelLimit=140, labelOverlap=False),
)
_GROUP_COLOUR = alt.Color(
    "group:N",
    scale=alt.Scale(domain=list(GROUPS), range=[GROUP_COLOURS[group] for group in GROUPS]),
    legend=None,
)
_LEGEND = alt.Legend(title=None, orient="bottom", direction="horizontal", columns=3, labelLimit=160)


# What a clicked mark is found under; see `clickable`.
CLICK = "click"


class Ready:
    """A chart as Streamlit takes it, made quickly.

    st.altair_chart(Ready(chart))
    st.altair_chart(clickable(chart, "name"), on_select=…)

    Altair spends as long on checking a chart against Vega-Lite's schema, and on copying it for a selection,
    as all queries of a page take together. So charts are checked by the tests (`checked`), and the selection
    is put into what the chart becomes.
    """

    checked = False

    def __init__(self, chart: Any, fields: Sequence[str] = ()) -> None:
        self._chart = chart
        self._fields = list(fields)

    def to_dict(self) -> dict[str, Any]:
        spec = self._chart.to_dict(validate=self.checked)
        if self._fields:
            view = spec
            while "layer" in view:
                view = view["layer"][0]
            select = {"type": "point", "fields": self._fields, "toggle": False, "clear": False}
            view["params"] = [*view.get("params", []), {"name": CLICK, "select": select}]
            spec.setdefault("config", {})["mark"] = {"cursor": "pointer"}
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


# Layers ----------------------------------------------------------------------------------------------


def layer_bars(
    layers: pd.DataFrame, *, title: str = "Where knowledge neurons lie", chosen: int | None = None
) -> alt.Chart:
    """Share of the (fact, neuron) pairs in each layer. `layers`: as `queries.layer_histogram`.

    All layers but the `chosen` one are faint, if one is.
    """
    rows = layers.assign(pair_share=layers["pair_share"].fillna(0.0), look=1.0)
    if chosen is not None:
        rows["look"] = rows["look"].where(rows["layer"] == chosen, FAINT)
    return (
        alt.Chart(rows, title=title)
        .mark_bar(color=BLUE)
        .encode(
            x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap="parity")),
            y=alt.Y("pair_share:Q", title="Share of pairs (%)", axis=alt.Axis(format=".0%", tickCount=4)),
            opacity=alt.Opacity("look:Q", scale=None),
            tooltip=[
                alt.Tooltip("layer:O", title="Layer"),
                alt.Tooltip("pair_share:Q", title="Share of (fact, neuron) pairs", format=".1%"),
                alt.Tooltip("n_neurons:Q", title="Different neurons", format=","),
                alt.Tooltip("n_facts:Q", title="Facts", format=","),
            ],
        )
        .properties(height=SMALL)
    )


# Sharing ---------------------------------------------------------------------------------------------


def sharing_bars(within: float, across: float) -> alt.LayerChart:
    """Mean number of neurons two facts share, of one relation and of two."""
    rows = pd.DataFrame({"pair": ["same relation", "different relations"], "shared": [within, across]})
    base = alt.Chart().encode(
        y=alt.Y("pair:N", title=None, sort=None, axis=alt.Axis(labelLimit=160)),
        x=alt.X("shared:Q", title="Neurons (mean)", scale=_room_for_text(rows["shared"])),
        tooltip=[
            alt.Tooltip("pair:N", title="Two facts of"),
            alt.Tooltip("shared:Q", title="Neurons in common (mean)", format=".3f"),
        ],
    )
    colour = alt.Color(
        "pair:N", scale=alt.Scale(domain=list(rows["pair"]), range=[BLUE, GREY]), legend=None, sort=None
    )
    bars = base.mark_bar(size=34).encode(color=colour)
    values = _values(base, "shared", ".2f")
    return alt.layer(bars, *values, data=rows, title="Neurons that two facts share", height=SMALL)


# Effects ---------------------------------------------------------------------------------------------


def effect_bars(effects: pd.DataFrame, *, title: str = "What changing them does") -> alt.LayerChart:
    """Change of the answer's probability, by intervention. `effects`: as `queries.effect_summary`."""
    rows = _labelled(effects)
    base = alt.Chart().encode(
        y=_WHAT,
        x=alt.X(
            "ratio_of_means:Q",
            title="Change of the mean probability (%)",
            axis=alt.Axis(format="+.0%", tickCount=4),
            scale=_room_for_text(rows["ratio_of_means"]),
        ),
        tooltip=[
            alt.Tooltip("what:N", title="Change"),
            alt.Tooltip("ratio_of_means:Q", title="Change of the mean probability", format="+.1%"),
            alt.Tooltip("mean_relative_change:Q", title="Mean of the changes", format="+.1%"),
            alt.Tooltip("mean_before:Q", title="Mean probability before", format=".3f"),
            alt.Tooltip("mean_after:Q", title="and after", format=".3f"),
            alt.Tooltip("n_prompts:Q", title="Prompts", format=","),
        ],
    )
    bars = base.mark_bar().encode(color=_GROUP_COLOUR)
    values = _values(base, "ratio_of_means", "+.0%")
    return alt.layer(bars, *values, data=rows, title=title, height=SMALL)


def effect_moves(effects: pd.DataFrame, *, title: str) -> alt.LayerChart:
    """The answer's mean probability before and after, own neurons beside the controls.

    `effects`: as `queries.effects_of_fact`; means are over its prompts.
    """
    groups = effects.groupby(["intervention", "group"])
    means = groups[["p_before", "p_after"]].mean()
    means = means.set_axis(["before", "after"], axis="columns").assign(n=groups.size()).reset_index()
    means["change"] = means["after"] / means["before"] - 1
    base = alt.Chart().encode(
        y=_WHAT,
        color=_GROUP_COLOUR,
        tooltip=[
            alt.Tooltip("what:N", title="Change"),
            alt.Tooltip("before:Q", title="Mean probability before", format=".4f"),
            alt.Tooltip("after:Q", title="and after", format=".4f"),
            alt.Tooltip("change:Q", title="Change", format="+.1%"),
            alt.Tooltip("n:Q", title="Prompts"),
        ],
    )
    x = {
        "scale": alt.Scale(domain=[0, 1]),
        "title": "P(answer): ○ before, ● after",
        "axis": alt.Axis(tickCount=5),
    }
    lines = base.mark_rule(strokeWidth=3).encode(x=alt.X("before:Q", **x), x2=alt.X2("after:Q"))
    before = base.mark_point(size=70, strokeWidth=2).encode(x=alt.X("before:Q", **x))
    after = base.mark_point(size=90, filled=True, opacity=1).encode(x=alt.X("after:Q", **x))
    return alt.layer(
        *(lines, before, after),
        data=_labelled(means),
        title=title,
        height=110 + 26 * len(means),
    )


# Value vectors ---------------------------------------------------------------------------------------


def token_bars(pairs: pd.DataFrame, *, title: str, colour: str = BLUE) -> alt.Chart:
    """Tokens and logits of one value vector. Columns: token, logit."""
    rows = pairs.assign(place=range(1, len(pairs) + 1))
    # The place keeps two tokens apart that look alike.
    rows["label"] = [f"{place}. {token}" for place, token in zip(rows["place"], rows["token"], strict=True)]
    return (
        alt.Chart(rows, title=title)
        .mark_bar(color=colour)
        .encode(
            y=alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=160)),
            x=alt.X("logit:Q", title="Logit added per unit of activation", axis=alt.Axis(tickCount=5)),
            tooltip=[
                alt.Tooltip("token:N", title="Token"),
                alt.Tooltip("logit:Q", title="Logit", format="+.3f"),
            ],
        )
        .properties(height=24 * len(rows) + 90)
    )


# Parts -----------------------------------------------------------------------------------------------


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Each row's intervention and group in words, as on the axis: `×0, its own`."""
    pairs = zip(rows["intervention"], rows["group"], strict=True)
    return rows.assign(what=[f"{INTERVENTIONS.get(i, i)}, {GROUPS.get(g, g)}" for i, g in pairs])


def _percent_axis() -> alt.Axis:
    return alt.Axis(format=".0%", tickCount=5)


def _room_for_text(values: pd.Series) -> alt.Scale:
    """A domain with room for a number beyond the longest bar on either side."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    room = 0.22 * ((high - low) or 1.0)
    return alt.Scale(domain=[low - room if low < 0 else 0.0, high + room], nice=False)


def _values(base: alt.Chart, column: str, form: str) -> tuple[alt.Chart, alt.Chart]:
    """The numbers at the ends of bars: right of positive ones, left of negative ones."""
    # What is rounded to nothing has no sign: Vega would write −0%.
    shown = f"replace(format(datum.{column}, '{form}'), /^[+−-]0%$/, '±0%')"
    text = alt.Text("shown:N")
    base = base.transform_calculate(shown=shown)
    right = base.transform_filter(f"datum.{column} >= 0").mark_text(align="left", dx=4, color=GREY)
    left = base.transform_filter(f"datum.{column} < 0").mark_text(align="right", dx=-4, color=GREY)
    return right.encode(text=text), left.encode(text=text)
