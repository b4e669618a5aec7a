"""The report's pictures of edits and erasures; the look is that of `charts`.

Figure("update--sample", "…", scorecard(found)).svg
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from build.report.charts import (
    BLUE,
    GREY,
    INK,
    LABELS,
    LEGEND,
    LEGEND_COLUMN,
    ORANGE,
    OWN,
    PAPER_WHITE,
    RANDOM,
    ROW,
    VERMILION,
    bar_row,
    bars,
    finished,
    percent,
)
from build.report.findings import Findings
from build.report.paper_values import CLAIMED_LOSS, PAPER, PAPER_MODEL
from build.report.studies import PAPER_DOSE

# 2. Update -------------------------------------------------------------------------------------------

_MEASURES = {
    "change": "old answer gone",
    "success": "new answer first",
    "efficacy": "new likelier than old",
    "top_five": "new answer in first five",
    "paraphrase": "… on other wordings",
    "alike_kept": "kept, same answer",
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
            rows += bar_row(words, name, None if scores is None else getattr(scores, measure))
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
        bars(
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
        color=alt.Color("name:N", scale=scale, legend=LEGEND),
    )
    lines = base.mark_line(strokeWidth=2).encode(
        x=x, y="lost:Q", color=alt.Color("name:N", scale=scale, legend=LEGEND)
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=x,
        y="lost:Q",
        color=alt.Color("name:N", scale=scale, legend=LEGEND),
        shape=alt.Shape(
            "name:N",
            scale=alt.Scale(domain=list(names.values()), range=["circle", "triangle-up"]),
            legend=LEGEND,
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
    own_bars = alt.Chart(own).mark_bar(height=11, color=BLUE).encode(x=x, x2="one:Q", y=y, tooltip=tips)
    points = (
        alt.Chart(beside)
        .mark_point(filled=True, size=45, opacity=1, stroke=PAPER_WHITE, strokeWidth=0.7)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "name:N", scale=alt.Scale(domain=shown, range=[GREY, ORANGE]), legend=LEGEND_COLUMN
            ),
            shape=alt.Shape(
                "name:N", scale=alt.Scale(domain=shown, range=["diamond", "circle"]), legend=LEGEND_COLUMN
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
        alt.layer(own_bars, same, points, crosses),
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
