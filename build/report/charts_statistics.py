"""The report's pictures of what neurons are like: layers, numbers, sharing, thresholds.

    Figure("layers--sample", "…", layer_bars(found)).svg

The look is that of `charts`.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from atlas.refinement import MODES
from build.report.charts import BLUE, GREY, INK, VERMILION, finished, percent
from build.report.findings import Findings, Statistics

ON_LIGHT, ON_DARK = "#101010", "#FAFAFA"


def layer_bars(found: Findings) -> alt.LayerChart:
    """Share of the (fact, neuron) pairs in each layer; the upper ones, as many as in the paper, dark."""
    statistics = found.statistics
    layers = statistics.layers
    first = len(layers) - statistics.n_upper
    rows = layers.assign(part=np.where(layers["layer"] >= first, "upper", "lower"))
    bars = (
        alt.Chart(rows)
        .mark_bar()
        .encode(
            x=alt.X(
                "layer:O",
                title="Layer (0 is next to the input)",
                axis=alt.Axis(labelAngle=0, values=list(range(0, len(rows), 5 if len(rows) > 15 else 1))),
            ),
            y=alt.Y("pair_share:Q", title="Share of (fact, neuron) pairs (%)", axis=percent(sign="")),
            color=alt.Color(
                "part:N", scale=alt.Scale(domain=["upper", "lower"], range=[BLUE, GREY]), legend=None
            ),
            tooltip=[
                alt.Tooltip("layer:O", title="Layer"),
                alt.Tooltip("pair_share:Q", title="Share of pairs", format=".1%"),
                alt.Tooltip("n_pairs:Q", title="Pairs", format=","),
                alt.Tooltip("n_neurons:Q", title="Different neurons", format=","),
                alt.Tooltip("n_facts:Q", title="Facts", format=","),
            ],
        )
    )
    upper = "" if statistics.upper is None else f": {statistics.upper.number()} of {_pairs(layers)}"
    return finished(
        bars,
        title="Where the neurons lie",
        atlas_id=found.atlas_id,
        text=f"Blue, the upper {_upper_layers(statistics)}{upper}.",
        height=270,
    )


def _upper_layers(statistics: Statistics) -> str:
    n = len(statistics.layers)
    return f"{statistics.n_upper} of {n} layers"


def _pairs(layers: pd.DataFrame) -> str:
    return f"{int(layers['n_pairs'].sum()):,} pairs"


def neuron_counts(found: Findings) -> alt.LayerChart:
    """How many facts have how many neurons."""
    sizes = found.statistics.sizes
    median = pd.DataFrame({"median": [found.statistics.median]})
    most = int(sizes["n_neurons"].max())
    width = max(1, int(np.ceil((most + 1) / 30)))
    binned = (
        sizes.assign(start=sizes["n_neurons"] // width * width)
        .groupby("start", as_index=False)["n"]
        .sum()
        .assign(end=lambda rows: rows["start"] + width)
    )
    binned["neurons"] = [
        f"{start}" if width == 1 else f"{start} to {start + width - 1}" for start in binned["start"]
    ]
    bars = (
        alt.Chart(binned)
        .mark_bar(color=BLUE, binSpacing=1)
        .encode(
            x=alt.X("start:Q", bin="binned", title="Neurons of a fact (count)", axis=alt.Axis(tickCount=6)),
            x2="end:Q",
            y=alt.Y("n:Q", title="Facts (count)", axis=alt.Axis(tickCount=5)),
            tooltip=[
                alt.Tooltip("neurons:N", title="Neurons"),
                alt.Tooltip("n:Q", title="Facts", format=","),
            ],
        )
    )
    rule = (
        alt.Chart(median)
        .mark_rule(color=INK, strokeDash=[4, 3])
        .encode(x="median:Q", tooltip=[alt.Tooltip("median:Q", title="Median")])
    )
    return finished(
        alt.layer(bars, rule),
        title="Neurons a fact",
        atlas_id=found.atlas_id,
        text=f"{found.n_facts:,} facts. Dashed: the median, {found.statistics.median:g}.",
        height=240,
    )


def sharing_matrix(found: Findings) -> alt.LayerChart:
    """Mean number of neurons that two facts share, for every pair of relations."""
    overlaps = found.statistics.overlaps
    rows = overlaps.assign(
        a=[found.label(each) for each in overlaps["relation_a"]],
        b=[found.label(each) for each in overlaps["relation_b"]],
    )
    ids = sorted(set(rows["relation_a"]), key=lambda each: found.label(each).casefold())
    order = [found.label(each) for each in ids]
    cells = (
        alt.Chart(rows)
        .mark_rect()
        .encode(
            x=alt.X(
                "relation_b:N",
                title="A fact of the relation (id)",
                sort=ids,
                axis=alt.Axis(labelAngle=-90, labelOverlap=False, labelFontSize=9),
            ),
            y=alt.Y(
                "a:N",
                title=None,
                sort=order,
                axis=alt.Axis(labelLimit=150, labelOverlap=False, labelFontSize=9),
            ),
            color=alt.Color(
                "mean_shared:Q",
                title="Neurons shared (mean)",
                scale=alt.Scale(scheme="viridis", type="sqrt"),
                legend=alt.Legend(orient="bottom", direction="horizontal", gradientLength=200, tickCount=4),
            ),
            tooltip=[
                alt.Tooltip("a:N", title="A fact of"),
                alt.Tooltip("b:N", title="and one of"),
                alt.Tooltip("mean_shared:Q", title="Neurons in common (mean)", format=".2f"),
                alt.Tooltip("n_pairs:Q", title="Pairs of facts", format=","),
            ],
        )
    )
    return finished(
        cells,
        title="Neurons that two facts share",
        atlas_id=found.atlas_id,
        text="Every pair of relations; the diagonal is within a relation.",
        height=170 + 11 * len(order),
    )


def sensitivity(found: Findings, column: str, words: str, form: str) -> alt.LayerChart:
    """One statistic under every pair of thresholds on the grid; the default is outlined."""
    grid = found.statistics.grid
    rows = pd.DataFrame(
        {
            "t": [f"{each:g}" for each in grid["threshold"].round(4)],
            "p": [f"{each:g}" for each in grid["share"].round(4)],
            "value": grid[column].astype(float),
            "n_empty": grid["n_empty"],
            "n_facts": grid["n_facts"],
        }
    )
    middle = (rows["value"].max() ** 0.5 + rows["value"].min() ** 0.5) ** 2 / 4
    default = MODES["default"]
    chosen = rows[(rows["t"] == f"{default.threshold:g}") & (rows["p"] == f"{default.share:g}")]
    x = alt.X(
        "p:O", title="p: share of a fact's prompts", axis=alt.Axis(labelAngle=0), sort=_ascending(rows["p"])
    )
    y = alt.Y("t:O", title="t: share of the largest score", sort=_ascending(rows["t"]))
    tips = [
        alt.Tooltip("t:O"),
        alt.Tooltip("p:O"),
        alt.Tooltip("value:Q", title=words, format=form),
        alt.Tooltip("n_empty:Q", title="Facts without a neuron", format=","),
        alt.Tooltip("n_facts:Q", title="Facts", format=","),
    ]
    cells = (
        alt.Chart(rows)
        .mark_rect()
        .encode(
            x=x,
            y=y,
            color=alt.Color("value:Q", scale=alt.Scale(scheme="viridis", type="sqrt"), legend=None),
            tooltip=tips,
        )
    )
    texts = [
        alt.Chart(rows[light == (rows["value"] > middle)])
        .mark_text(color=ON_LIGHT if light else ON_DARK)
        .encode(x=x, y=y, text=alt.Text("value:Q", format=form), tooltip=tips)
        for light in (True, False)
    ]
    outline = (
        alt.Chart(chosen)
        .mark_rect(fillOpacity=0, stroke=VERMILION, strokeWidth=3)
        .encode(x=x, y=y, tooltip=tips)
    )
    return finished(
        alt.layer(cells, *texts, outline),
        title=words,
        atlas_id=found.atlas_id,
        text=f"Stored scores refined with other thresholds; {int(rows['n_facts'].max()):,} facts.",
        height=300,
    )


def _ascending(values: pd.Series) -> list[str]:
    return sorted(set(values), key=float)
