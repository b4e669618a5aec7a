"""The Lab's pictures: each function takes a DataFrame of `app.lab.tables` and gives an `alt.Chart`.

Colours are those of `atlas.charts.look`: the neurons in question blue, random ones orange, unrelated facts
grey.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from atlas.charts.look import BLUE, GREEN, GREY, ORANGE
from atlas.neuron import GROUPS

_LEGEND = alt.Legend(title=None, orient="bottom", direction="horizontal", columns=2, labelLimit=180)
_LINES = alt.Legend(
    title=None,
    orient="bottom",
    direction="vertical",
    labelLimit=180,
    symbolType="stroke",
    symbolSize=500,
    symbolStrokeWidth=3,
)
# Line styles say what colours say.
_DASHES = {"asked": [1, 0], "paraphrases": [6, 3], "neighbours": [2, 3], "unrelated": [8, 3, 2, 3]}
_COLOURS = {"asked": BLUE, "paraphrases": GREEN, "neighbours": "#CC79A7", "unrelated": GREY}


# Before and after ------------------------------------------------------------------------------------


def moves(summary: pd.DataFrame) -> alt.LayerChart:
    """Mean probability before and after a change, and with random neurons, by group of prompts.

    `summary`: as `app.lab.tables.summary`.
    """
    rows = summary.melt(
        ["label", "n_prompts", "before"], ["after", "random"], var_name="kind", value_name="probability"
    )
    rows["whose"] = ["these" if kind == "after" else "random" for kind in rows["kind"]]
    rows["change"] = rows["probability"] / rows["before"] - 1
    kinds = ["these", "random"]
    base = alt.Chart(rows).encode(
        y=alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=150)),
        yOffset=alt.YOffset("whose:N", sort=kinds),
        color=alt.Color("whose:N", scale=alt.Scale(domain=kinds, range=[BLUE, ORANGE]), legend=_LEGEND),
        tooltip=[
            alt.Tooltip("label:N", title="Asked"),
            alt.Tooltip("whose:N", title="Changed"),
            alt.Tooltip("before:Q", title="Mean probability before", format=".4f"),
            alt.Tooltip("probability:Q", title="and after", format=".4f"),
            alt.Tooltip("change:Q", title="Change", format="+.1%"),
            alt.Tooltip("n_prompts:Q", title="Prompts"),
        ],
    )
    x = {
        "scale": alt.Scale(domain=[0, 1]),
        "title": "P(answer): ○ before, ● after",
        "axis": alt.Axis(tickCount=5),
    }
    shape = alt.Shape("whose:N", scale=alt.Scale(domain=kinds, range=["circle", "diamond"]), legend=_LEGEND)
    lines = base.mark_rule(strokeWidth=3).encode(x=alt.X("before:Q", **x), x2=alt.X2("probability:Q"))
    before = base.mark_point(size=60, strokeWidth=2).encode(x=alt.X("before:Q", **x), shape=shape)
    after = base.mark_point(size=80, filled=True, opacity=1).encode(
        x=alt.X("probability:Q", **x), shape=shape
    )
    return (lines + before + after).properties(title="Before and after", height=52 * len(summary) + 90)


# Dose and response -----------------------------------------------------------------------------------


def dose_lines(doses: pd.DataFrame) -> alt.LayerChart:
    """Mean probability over the factor, by group of prompts; random neurons as a band of all draws.

    `doses`: as `app.lab.tables.dose_rows`.
    """
    names = [GROUPS[group] for group in GROUPS if (doses["group"] == group).any()]
    groups = [group for group in GROUPS if (doses["group"] == group).any()]
    factors = sorted(doses["factor"].unique())
    x = alt.X(
        "factor:Q",
        title="Factor (0: suppressed, 1: as they are)",
        scale=alt.Scale(domain=[factors[0], factors[-1]], nice=False),
        axis=alt.Axis(values=factors, format="g", labelOverlap="greedy", grid=False),
    )
    y = alt.Y("probability:Q", title="P(answer), mean", scale=alt.Scale(domain=[0, 1]))
    colour = alt.Color(
        "label:N",
        scale=alt.Scale(domain=names, range=[_COLOURS[group] for group in groups]),
        legend=_LINES,
    )
    base = alt.Chart(doses).encode(
        x=x,
        y=y,
        color=colour,
        tooltip=[
            alt.Tooltip("label:N", title="Asked"),
            alt.Tooltip("factor:Q", title="Factor"),
            alt.Tooltip("probability:Q", title="P(answer), mean", format=".4f"),
            alt.Tooltip("random:Q", title="with random neurons", format=".4f"),
            alt.Tooltip("rank_1:Q", title="Prompts with the answer at rank 1"),
            alt.Tooltip("n_prompts:Q", title="of"),
        ],
    )
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash(
            "label:N",
            scale=alt.Scale(domain=names, range=[_DASHES[group] for group in groups]),
            legend=_LINES,
        )
    )
    points = base.mark_point(filled=True, size=35, opacity=1)
    asked = alt.Chart(doses[doses["random"].notna()].query(f"group == '{groups[0]}'"))
    random = asked.mark_line(color=ORANGE, strokeWidth=2).encode(x=x, y=alt.Y("random:Q"))
    band = asked.mark_area(color=ORANGE, opacity=0.25).encode(
        x=x, y=alt.Y("random_low:Q"), y2=alt.Y2("random_high:Q")
    )
    name = asked.transform_filter(f"datum.factor == {factors[-1]}").mark_text(
        text="random neurons", color=ORANGE, align="right", dy=-8
    )
    now = (
        alt.Chart(pd.DataFrame({"factor": [1.0]}))
        .mark_rule(color=GREY, strokeDash=[2, 2])
        .encode(x="factor:Q")
    )
    return (now + band + random + lines + points + name.encode(x=x, y=alt.Y("random:Q"))).properties(
        title="Dose and response", height=360
    )


# The path --------------------------------------------------------------------------------------------


def path_line(path: pd.DataFrame, layer: int) -> alt.Chart:
    """P(α) along one layer's path. `path`: as `app.lab.tables.path_rows`."""
    several = path["token"].nunique() > 1
    return (
        alt.Chart(path, title=f"The path of layer {layer}")
        .mark_line(color=BLUE, point=alt.OverlayMarkDef(color=BLUE, size=30))
        .encode(
            x=alt.X("alpha:Q", title="α (share of the layer's activations)", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("probability:Q", title="P(answer)", scale=alt.Scale(domainMin=0)),
            **({"strokeDash": alt.StrokeDash("token:N", title="Answer token")} if several else {}),
            tooltip=[
                alt.Tooltip("alpha:Q", title="α", format=".3f"),
                alt.Tooltip("probability:Q", title="P(answer)", format=".4f"),
                alt.Tooltip("token:N", title="Answer token"),
            ],
        )
        .properties(height=300)
    )
