"""The report's pictures of edits, erasures, contexts and thesis checks; the look is that of `charts`.

    Figure("update--sample", "…", scorecard(found)).svg

Own neurons are blue bars or circles, what stands beside them orange or grey, everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from build.report.charts import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LABELS,
    ORANGE,
    PAPER_WHITE,
    PURPLE,
    ROW,
    VERMILION,
    finished,
    percent,
)
from build.report.findings import Findings
from build.report.numbers import Estimate
from build.report.paper_values import CLAIMED_LOSS, PAPER, PAPER_MODEL
from build.report.studies import CONTEXTS, METHOD_NAMES, PAPER_DOSE

_LEGEND = alt.Legend(
    title=None, orient="bottom", direction="horizontal", columns=2, labelLimit=190, symbolOpacity=1
)
# Beside long labels there is room for one entry in a row only.
_BELOW = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=190)
OWN, RANDOM = "its own neurons", "random neurons"


def _bars(
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
        legend=_LEGEND if len(names) > 1 else None,
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


def _row(what: str, name: str, number: Estimate | None) -> list[dict]:
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


# 2. Update -------------------------------------------------------------------------------------------

_MEASURES = {
    "change": "old answer gone",
    "success": "new answer first",
    "top_five": "new answer in first five",
    "paraphrase": "… on other wordings",
    "same_kept": "kept, same relation",
    "other_kept": "kept, other relations",
    "symmetry": "symmetry",
}


def scorecard(found: Findings) -> alt.LayerChart:
    """What edits of own and of random neurons do, at the paper's strengths."""
    edits = found.edits
    rows = []
    for group, name in (("own", OWN), ("random", RANDOM)):
        scores = edits.of_group(group)
        for measure, words in _MEASURES.items():
            rows += _row(words, name, None if scores is None else getattr(scores, measure))
    published = pd.DataFrame(
        {
            "what": [_MEASURES["change"], _MEASURES["success"]],
            "name": OWN,
            "value": [PAPER["edit_change"].value, PAPER["edit_success"].value],
        }
    )
    crosses = (
        alt.Chart(published)
        .mark_point(shape="cross", color=VERMILION, size=60, filled=True, opacity=1)
        .encode(
            x="value:Q",
            y=alt.Y("what:N", sort=list(_MEASURES.values())),
            yOffset=alt.YOffset("name:N", sort=[OWN, RANDOM]),
            tooltip=[alt.Tooltip("value:Q", title=f"The paper ({PAPER_MODEL})", format=".1%")],
        )
    )
    strengths = edits.strengths[0]
    return finished(
        _bars(
            pd.DataFrame(rows),
            colours={OWN: BLUE, RANDOM: ORANGE},
            order=list(_MEASURES.values()),
            x_title="Share of prompts (%)",
            axis=percent(""),
            form=".1%",
            extra=[crosses],
        ),
        title="Updating facts",
        atlas_id=found.atlas_id,
        text=(
            f"{edits.n_edits:,} edits in {edits.n_relations} relations, λ = ({strengths[0]:g}, "
            f"{strengths[1]:g}). Lines: 95 % intervals. Cross: the paper's value, for another model."
        ),
        height=120 + 38 * len({row["what"] for row in rows}),
    )


# 3. Erase --------------------------------------------------------------------------------------------


def erase_doses(found: Findings) -> alt.LayerChart:
    """Right answers lost by the number of neurons erased."""
    doses = found.erasures.doses
    names = {"own": "its most frequent neurons", "random": RANDOM}
    most = doses["n"].max()
    # Relations with few neurons end at doses of their own, which are no means over relations.
    rows = doses[doses["n"] * 2 >= most].assign(name=lambda each: each["group"].map(names))
    scale = alt.Scale(domain=list(names.values()), range=[BLUE, ORANGE])
    x = alt.X(
        "dose:Q",
        title="Neurons erased (count, logarithmic)",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=sorted(set(rows["dose"])), grid=False),
    )
    tips = [
        alt.Tooltip("name:N", title="Erased"),
        alt.Tooltip("dose:Q", title="Neurons"),
        alt.Tooltip("lost:Q", title="Right answers lost", format=".1%"),
        alt.Tooltip("lost_low:Q", title="95 % interval from", format=".1%"),
        alt.Tooltip("lost_high:Q", title="to", format=".1%"),
        alt.Tooltip("worse:Q", title="Perplexity grows by", format="+.1%"),
        alt.Tooltip("n:Q", title="Relations"),
    ]
    base = alt.Chart(rows)
    bands = base.mark_area(opacity=0.2).encode(
        x=x,
        y=alt.Y("lost_low:Q", title="Right answers lost (%)", axis=percent("")),
        y2="lost_high:Q",
        color=alt.Color("name:N", scale=scale, legend=_LEGEND),
    )
    lines = base.mark_line(strokeWidth=2).encode(
        x=x, y="lost:Q", color=alt.Color("name:N", scale=scale, legend=_LEGEND)
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=x,
        y="lost:Q",
        color=alt.Color("name:N", scale=scale, legend=_LEGEND),
        shape=alt.Shape(
            "name:N",
            scale=alt.Scale(domain=list(names.values()), range=["circle", "triangle-up"]),
            legend=_LEGEND,
        ),
        tooltip=tips,
    )
    claimed = (
        alt.Chart(
            pd.DataFrame({"dose": [PAPER_DOSE], "low": [CLAIMED_LOSS.low], "high": [CLAIMED_LOSS.high]})
        )
        .mark_rule(color=VERMILION, strokeWidth=4)
        .encode(
            x="dose:Q",
            y="low:Q",
            y2="high:Q",
            tooltip=[
                alt.Tooltip("low:Q", title="Claimed, from", format=".0%"),
                alt.Tooltip("high:Q", title="to", format=".0%"),
            ],
        )
    )
    return finished(
        alt.layer(bands, lines, claimed, points),
        title="Erasing a relation, by dose",
        atlas_id=found.atlas_id,
        text=(
            f"Asked of the relation itself; mean of up to {most} relations, with 95 % intervals. "
            f"Thick line: the claim in question, {PAPER_DOSE} neurons take {CLAIMED_LOSS.number}."
        ),
        height=310,
    )


def erase_by_relation(found: Findings) -> alt.LayerChart:
    """How much worse each relation's answers, and all others', become: growth of perplexity."""
    relations = found.erasures.relations
    names = {
        ("own", "own"): "its own prompts",
        ("own", "others"): "others' prompts",
        ("random", "own"): "its own, random neurons",
    }
    parts = [
        pd.DataFrame(
            {
                "label": [found.label(each) for each in relations["relation_id"]],
                "name": name,
                "factor": np.exp(relations[f"growth_{group}_{asked}"]),
                "one": 1.0,
                "before": relations[f"perplexity_before_{group}_{asked}"],
                "after": relations[f"perplexity_after_{group}_{asked}"],
                "n_neurons": relations["n_neurons"],
                "n": relations["n_prompts"],
            }
        ).dropna(subset=["factor"])
        for (group, asked), name in names.items()
        if f"growth_{group}_{asked}" in relations
    ]
    rows = pd.concat(parts, ignore_index=True)
    own = rows[rows["name"] == names["own", "own"]]
    beside = rows[(rows["name"] != names["own", "own"]) & rows["label"].isin(set(own["label"]))]
    order = own.sort_values(["factor", "label"], ascending=[False, True])["label"].tolist()
    published = pd.DataFrame(
        {
            "label": [found.label(each) for each in ("P19", "P106")],
            "factor": [1 + PAPER["erase_P19"].value, 1 + PAPER["erase_P106"].value],
        }
    )
    published = published[published["label"].isin(order)]
    scale = alt.Scale(type="log", nice=False, domain=_around([*rows["factor"], *published["factor"]]))
    axis = alt.Axis(format="~g", tickCount=4, grid=False)
    x = alt.X("factor:Q", title="Perplexity, × (logarithmic)", axis=axis, scale=scale)
    y = alt.Y("label:N", title=None, sort=order, axis=LABELS)
    tips = [
        alt.Tooltip("label:N", title="Erased"),
        alt.Tooltip("name:N", title="Asked"),
        alt.Tooltip("factor:Q", title="Perplexity after ÷ before", format=",.3f"),
        alt.Tooltip("before:Q", title="Perplexity before", format=",.2f"),
        alt.Tooltip("after:Q", title="and after", format=",.2f"),
        alt.Tooltip("n_neurons:Q", title="Neurons erased"),
        alt.Tooltip("n:Q", title="Prompts of the relation"),
    ]
    shown = list(names.values())[1:]
    bars = alt.Chart(own).mark_bar(height=11, color=BLUE).encode(x=x, x2="one:Q", y=y, tooltip=tips)
    points = (
        alt.Chart(beside)
        .mark_point(filled=True, size=45, opacity=1, stroke=PAPER_WHITE, strokeWidth=0.7)
        .encode(
            x=x,
            y=y,
            color=alt.Color("name:N", scale=alt.Scale(domain=shown, range=[GREY, ORANGE]), legend=_BELOW),
            shape=alt.Shape(
                "name:N", scale=alt.Scale(domain=shown, range=["diamond", "circle"]), legend=_BELOW
            ),
            tooltip=tips,
        )
    )
    crosses = (
        alt.Chart(published)
        .mark_point(shape="cross", color=VERMILION, size=60, filled=True, opacity=1)
        .encode(x=x, y=y, tooltip=[alt.Tooltip("factor:Q", title=f"The paper ({PAPER_MODEL})", format=".2f")])
    )
    same = alt.Chart(pd.DataFrame({"one": [1.0]})).mark_rule(color=INK).encode(x=alt.X("one:Q", scale=scale))
    return finished(
        alt.layer(bars, same, points, crosses),
        title="Erasing each relation",
        atlas_id=found.atlas_id,
        text=(
            f"Its {PAPER_DOSE} most frequent neurons. Bar: its own prompts. Points: beside it. Cross: "
            "the paper's value, for another model."
        ),
        height=155 + ROW * len(order),
    )


def _around(factors: Sequence[float]) -> list[float]:
    """The smallest and the largest of factors, and one, with room on a logarithmic axis."""
    found = [*(each for each in factors if np.isfinite(each) and each > 0), 1.0]
    room = (max(found) / min(found)) ** 0.04 * 1.01
    return [min(found) / room, max(found) * room]


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
            rows += _row(_CONTEXT_NAMES[context], name, found.contexts.relative.get((context, group)))
    return finished(
        _bars(
            pd.DataFrame(rows),
            colours={OWN: BLUE, RANDOM: ORANGE},
            order=list(_CONTEXT_NAMES.values()),
            x_title="Activation (1: as where they were found)",
            axis=alt.Axis(tickCount=5),
            form=".3f",
        ),
        title="What activates them",
        atlas_id=found.atlas_id,
        text=f"{max(row['n'] for row in rows):,} facts, held-out wordings. Lines: 95 % intervals.",
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
        rows += _row(words, words, getattr(stability, which))
    chart = _bars(
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
        text=f"{len(stability.rows):,} facts. Lines: 95 % intervals.",
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
        x=x, y=y, color=alt.Color("name:N", scale=scale, legend=_LEGEND)
    )
    points = base.mark_point(filled=True, size=30, opacity=1).encode(
        x=x,
        y=y,
        color=alt.Color("name:N", scale=scale, legend=_LEGEND),
        shape=alt.Shape(
            "name:N",
            scale=alt.Scale(domain=list(names.values()), range=["circle", "triangle-up"]),
            legend=_LEGEND,
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


def method_bars(found: Findings) -> alt.LayerChart:
    """What suppressing as many neurons of each method does."""
    colours = dict(zip(METHOD_NAMES, (BLUE, GREEN, ORANGE, PURPLE), strict=True))
    rows = []
    for method, words in METHOD_NAMES.items():
        numbers = found.methods.rows.get((method, "count"))
        rows += _row(words, words, None if numbers is None else numbers.suppressed)
    chart = _bars(
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
        text=(
            f"As many neurons each; {max((row['n'] for row in rows), default=0):,} facts, held-out "
            "prompts. Lines: 95 % intervals."
        ),
        height=230,
    )
