"""What rewriting weights does: edits of facts, and relations erased neuron by neuron.

layout.draw(edit_bars(rates), "…")
layout.draw(dose_lines(evidence.erasure_doses(a, "P36")), "…")
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from atlas.charts.look import TALL, label_axis, legend, percent_axis, power_axis, tooltip
from atlas.charts.marks import bars, lines
from atlas.charts.palette import encoded

WHOSE = {"own": "its own neurons", "random": "as many random ones"}

# Edits -----------------------------------------------------------------------------------------------

# Group of the table `edits` → what it means, in the chart's order.
_EDIT_MEANINGS = {"own": "own", "all": "shared", "random": "random"}
EDIT_GROUP_NAMES = {"own": "its own, not common ones", "all": "all its own", "random": "random ones"}
EDIT_MEASURES = {
    "changed": "old answer gone",
    "success": "new answer first",
    "top_5": "among the first 5",
    "paraphrase": "paraphrases follow",
    "symmetry": "inverse follows",
    "same_object": "same answer kept",
    "same_relation": "same relation kept",
    "other_relation": "others kept",
}


def edit_bars(rates: pd.DataFrame) -> alt.LayerChart:
    """Shares of prompts by the neurons that were edited; the number of prompts stands on the axis.

    rates: as `evidence.edit_rates`, of one pair of strengths.
    """
    rows = rates[rates["group"].isin(list(_EDIT_MEANINGS))]
    counts = rows.groupby("measure")["n_prompts"].max()
    labels = {
        measure: f"{words} ({counts[measure]:,})"
        for measure, words in EDIT_MEASURES.items()
        if measure in counts
    }
    rows = rows.assign(
        what=rows["measure"].map(labels),
        meaning=rows["group"].map(_EDIT_MEANINGS),
        whose=rows["group"].map(EDIT_GROUP_NAMES),
        shown=[f"{share:.0%}" for share in rows["share"]],
    )
    names = {
        meaning: EDIT_GROUP_NAMES[group]
        for group, meaning in _EDIT_MEANINGS.items()
        if (rows["group"] == group).any()
    }
    beside = alt.YOffset("whose:N", sort=list(names.values()))
    y = {"title": None, "sort": list(labels.values()), "axis": label_axis(170)}
    layers = bars(
        rows,
        "share",
        names=names,
        x={
            "title": "Share of prompts (%)",
            "scale": alt.Scale(domain=[0, 1.14], nice=False),
            "axis": percent_axis(values=[0, 0.25, 0.5, 0.75, 1]),
        },
        y=y,
        beside=beside,
        legend=legend(),
        tooltip=tooltip(
            ("what:N", "Counted"),
            ("whose:N", "Neurons edited"),
            ("share:Q", "Share of prompts", ".1%"),
            ("n_prompts:Q", "Prompts", ","),
            ("n_edits:Q", "Edits", ","),
        ),
    )
    height = (14 * len(names) + 8) * len(labels)
    return alt.layer(*layers, data=rows, title="Prompts that say what they should", height=height)


# Erasures --------------------------------------------------------------------------------------------


def dose_lines(doses: pd.DataFrame, *, measure: str = "accuracy") -> alt.LayerChart:
    """The relation's own prompts over the number of its neurons that were erased, beside before.

    doses: as `evidence.erasure_doses`; measure: accuracy or perplexity.
    """
    rows = doses.assign(meaning=doses["group"], whose=doses["group"].map(WHOSE))
    if measure == "accuracy":
        y: dict[str, Any] = {
            "title": "Prompts answered right (%)",
            "scale": alt.Scale(domain=[0, 1]),
            "axis": percent_axis(),
        }
    else:
        both = pd.concat([rows["perplexity_before"], rows["perplexity_after"]])
        y = {"title": "Perplexity (log scale)", "scale": alt.Scale(type="log"), "axis": power_axis(both)}
    x = _dose_axis("n_neurons", rows["n_neurons"])
    names = WHOSE | {"before": "before"}
    look = encoded(names, "color", legend=legend()) | encoded(names, "strokeDash")
    level = alt.Chart().transform_calculate(meaning="'before'").mark_line(strokeWidth=1.5)
    level = level.encode(x=x, y=alt.Y(f"{measure}_before:Q", **y), **look)
    tips = _erased_tooltip(("whose:N", "Erased"), ("n_neurons:Q", "Neurons"))
    drawn = lines(x, alt.Y(f"{measure}_after:Q", **y), names=names, legend=legend(), tooltip=tips)
    title = "Its own prompts, by neurons erased"
    return alt.layer(level, *drawn, data=rows, title=title, height=TALL)


def _dose_axis(field: str, doses: pd.Series) -> alt.X:
    """Numbers of erased neurons, on a log scale with a tick at each."""
    steps = sorted({int(n) for n in doses})
    return alt.X(
        f"{field}:Q",
        title="Neurons erased (number, log scale)",
        scale=alt.Scale(type="log", domain=[steps[0], max(steps[-1], steps[0] + 1)], nice=False),
        axis=alt.Axis(values=steps, format="d", grid=False, labelOverlap="greedy"),
    )


def elsewhere_strip(rows: pd.DataFrame, *, measure: str = "accuracy") -> alt.Chart:
    """What erasing one relation's neurons does to each relation: a mark each, the erased one larger.

    rows: as `evidence.erasure_elsewhere`; measure: accuracy or perplexity.
    """
    n = int(rows["n_neurons"].iloc[0])
    names = {"own": "itself", "unrelated": "other relations"}
    rows = rows.assign(
        whose=rows["group"].map(WHOSE),
        meaning=["own" if each else "unrelated" for each in rows["itself"]],
        points=100 * (rows["accuracy_after"] - rows["accuracy_before"]),
        times=rows["perplexity_after"] / rows["perplexity_before"],
    )
    if measure == "accuracy":
        ends = [min(-10.0, rows["points"].min()) - 4, max(5.0, rows["points"].max()) + 4]
        x = alt.X(
            "points:Q",
            title="Right answers (percentage points)",
            axis=alt.Axis(format="+d", tickCount=5),
            scale=alt.Scale(domain=ends),
        )
    else:
        x = alt.X(
            "times:Q",
            title="Perplexity ÷ before (log scale)",
            axis=power_axis(rows["times"]),
            scale=alt.Scale(type="log"),
        )
    size = alt.Size("meaning:N", scale=alt.Scale(domain=list(names), range=[190, 70]), legend=None)
    return (
        alt.Chart(rows, title=f"Every relation, {n} {'neuron' if n == 1 else 'neurons'} erased")
        .mark_point(filled=True)
        .encode(
            x=x,
            y=alt.Y("whose:N", title=None, sort=list(WHOSE.values()), axis=label_axis(140)),
            yOffset=alt.YOffset("meaning:N", sort=list(names)),
            opacity=alt.condition(alt.datum.itself, alt.value(1), alt.value(0.6)),
            **encoded(names, "color", "shape", legend=legend()),
            size=size,
            tooltip=_erased_tooltip(("label:N", "Relation asked"), ("whose:N", "Erased")),
        )
        .properties(height=70 * rows["whose"].nunique())
    )


def _erased_tooltip(*first: tuple[str, ...]) -> list[alt.Tooltip]:
    return tooltip(
        *first,
        ("accuracy_before:Q", "Right before", ".1%"),
        ("accuracy_after:Q", "and after", ".1%"),
        ("perplexity_before:Q", "Perplexity before", ",.1f"),
        ("perplexity_after:Q", "and after", ",.1f"),
        ("n_prompts:Q", "Prompts"),
    )
