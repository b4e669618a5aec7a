"""The report's pictures of contexts and of the checks of the thesis; the look is that of `charts`.

Figure("stability--sample", "…", stability_bars(found)).svg
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from build.report.charts import (
    BLUE,
    GREEN,
    GREY,
    LEGEND,
    ORANGE,
    OWN,
    PURPLE,
    RANDOM,
    bar_row,
    bars,
    finished,
    percent,
)
from build.report.findings import Findings
from build.report.samples import CONTEXTS, METHOD_NAMES

# 4. What activates them ------------------------------------------------------------------------------

_CONTEXT_NAMES = {
    "fact": "asks for the fact",
    "relation": "asks it of other subjects",
    "subject": "mentions its subject",
    "random": "neither",
}


def context_bars(found: Findings) -> alt.LayerChart:
    """How active neurons are, by what the sentence says."""
    rows = []
    for context in CONTEXTS:
        for group, name in (("own", OWN), ("random", RANDOM)):
            rows += bar_row(_CONTEXT_NAMES[context], name, found.contexts.relative.get((context, group)))
    return finished(
        bars(
            pd.DataFrame(rows),
            colours={OWN: BLUE, RANDOM: ORANGE},
            order=list(_CONTEXT_NAMES.values()),
            x_title="Activation (1: as where they were found)",
            axis=alt.Axis(tickCount=5),
            form=".3f",
        ),
        title="What activates them",
        atlas_id=found.atlas_id,
        text=f"{max(row['n'] for row in rows):,} {rows[0]['of']}, held-out wordings. Lines: 95 % intervals.",
        height=270,
    )


# 6. Thesis checks ------------------------------------------------------------------------------------


def stability_bars(found: Findings) -> alt.LayerChart:
    """Overlap of the neurons from the held-out half with the fact's own and with other facts'."""
    stability = found.stability
    names = {
        "same": "the fact itself",
        "relation": "another of its relation",
        "random": "an unrelated fact",
    }
    rows = []
    for which, words in names.items():
        rows += bar_row(words, words, getattr(stability, which))
    chart = bars(
        pd.DataFrame(rows),
        colours=dict(zip(names.values(), (BLUE, ORANGE, GREY), strict=True)),
        order=list(names.values()),
        x_title="Jaccard index (1: the same neurons)",
        axis=alt.Axis(tickCount=5),
        form=".3f",
    )
    # Names stand on the axis: no legend to look up, no place to share.
    return finished(
        _without_legend(chart),
        title="Found again by other wordings?",
        atlas_id=found.atlas_id,
        text=f"{len(stability.rows):,} {rows[0]['of'] if rows else 'facts'}. Lines: 95 % intervals.",
        height=190,
    )


def _without_legend(chart: alt.LayerChart) -> alt.LayerChart:
    for layer in chart.layer:
        if layer.encoding.yOffset is not alt.Undefined:
            layer.encoding.yOffset = alt.Undefined
        if layer.encoding.color is not alt.Undefined:
            layer.encoding.color.legend = None
    return chart


def subset_curve(found: Findings) -> alt.LayerChart:
    """What is left of the answer's probability as a fact's neurons are suppressed one after the other."""
    names = {"score": "largest score first", "random": "in a random order"}
    curve = found.subsets.curve
    rows = curve.assign(name=curve["order"].map(names))
    scale = alt.Scale(domain=list(names.values()), range=[BLUE, ORANGE])
    base = alt.Chart(rows)
    x = alt.X("part:Q", title="Suppressed, of the fact's neurons (%)", axis=percent(""))
    y = alt.Y(
        "left:Q",
        title="Left of the answer's probability (%)",
        axis=percent(""),
        scale=alt.Scale(domainMin=0),
    )
    lines = base.mark_line(strokeWidth=2).encode(
        x=x, y=y, color=alt.Color("name:N", scale=scale, legend=LEGEND)
    )
    points = base.mark_point(filled=True, size=30, opacity=1).encode(
        x=x,
        y=y,
        color=alt.Color("name:N", scale=scale, legend=LEGEND),
        shape=alt.Shape(
            "name:N",
            scale=alt.Scale(domain=list(names.values()), range=["circle", "triangle-up"]),
            legend=LEGEND,
        ),
        tooltip=[
            alt.Tooltip("name:N", title="Order"),
            alt.Tooltip("part:Q", title="Suppressed", format=".0%"),
            alt.Tooltip("left:Q", title="Left of the probability", format=".1%"),
            alt.Tooltip("n:Q", title="Facts", format=","),
        ],
    )
    return finished(
        alt.layer(lines, points),
        title="How few are enough?",
        atlas_id=found.atlas_id,
        text=f"Mean over {int(curve['n'].max()):,} facts, held-out prompts.",
        height=300,
    )


def _counts(rows: list[dict]) -> str:
    """`60 known facts`, or `20 to 60 known facts` where a slow method was given fewer."""
    counts = sorted({row["n"] for row in rows})
    if not counts:
        return "no facts"
    few = f"{counts[0]:,} to " if len(counts) > 1 else ""
    return f"{few}{counts[-1]:,} {rows[0]['of']}"


def method_bars(found: Findings) -> alt.LayerChart:
    """What suppressing as many neurons of each method does."""
    colours = dict(zip(METHOD_NAMES, (BLUE, GREEN, ORANGE, PURPLE), strict=True))
    rows = []
    for method, words in METHOD_NAMES.items():
        numbers = found.methods.rows.get((method, "count"))
        rows += bar_row(words, words, None if numbers is None else numbers.suppressed)
    chart = bars(
        pd.DataFrame(rows, columns=["what", "name", "value", "low", "high", "n", "of"]),
        colours={METHOD_NAMES[method]: colour for method, colour in colours.items()},
        order=list(METHOD_NAMES.values()),
        x_title="Change of the answer's probability (%)",
        axis=percent(),
        form="+.1%",
    )
    return finished(
        _without_legend(chart),
        title="Other methods' neurons",
        atlas_id=found.atlas_id,
        text=(f"As many neurons each; {_counts(rows)}, held-out prompts. Lines: 95 % intervals."),
        height=230,
    )
