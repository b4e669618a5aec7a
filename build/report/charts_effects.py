"""The report's pictures of suppressing and amplifying: figures 3 and 4 of the paper, and all groups at once.

    Figure("suppress--sample", "…", effect_bars(found, "suppress")).svg

The look is that of `charts`.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from build.report.charts import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LABELS,
    LEGEND_COLUMN,
    ORANGE,
    OWN,
    PAPER_WHITE,
    PURPLE,
    RANDOM,
    ROW,
    VERMILION,
    change_scale,
    finished,
)
from build.report.findings import ALL, GROUPS, Findings
from build.report.paper_values import PAPER, PAPER_MODEL

GROUP_NAMES = {
    "own": OWN,
    "random": RANDOM,
    "matched": "nearest in activity",
    "baseline": "the most active ones",
    "unrelated": "own, unrelated facts",
}
_COLOURS = {"own": BLUE, "random": ORANGE, "matched": GREEN, "baseline": PURPLE, "unrelated": GREY}
_SHAPES = {
    "own": "circle",
    "random": "circle",
    "matched": "triangle-up",
    "baseline": "square",
    "unrelated": "diamond",
}
VERBS = {"suppress": "Suppressing (× 0)", "amplify": "Amplifying (× 2)"}


def effect_bars(found: Findings, intervention: str) -> alt.LayerChart:
    """The mean change of every group: held-out prompts as bars, discovery prompts as rings."""
    effects, facts = found.effects, found.effects.facts
    rows = []
    for group in GROUPS:
        for templates in ("held-out", "discovery"):
            row = effects.row(intervention, group, templates, facts)
            if row is not None:
                rows.append(
                    {
                        "group": group,
                        "name": GROUP_NAMES[group],
                        "templates": templates,
                        "change": row.paper_change,
                        "low": row.paper_low,
                        "high": row.paper_high,
                        "replication": row.replication_change,
                        "n_facts": row.n_facts,
                        "n_prompts": row.n_prompts,
                        "shown": f"{row.paper_change:+.1%}".replace("-", "−"),
                    }
                )
    frame = pd.DataFrame(rows)
    held_out = frame[frame["templates"] == "held-out"]
    discovery = frame[frame["templates"] == "discovery"]
    held_out = held_out.assign(ring=held_out["name"].map(discovery.set_index("name")["change"]))
    published = pd.DataFrame(
        {
            "name": [GROUP_NAMES["own"], GROUP_NAMES["baseline"]],
            "change": [PAPER[intervention].value, PAPER[intervention].control],
        }
    )
    scale, axis = change_scale([*frame["low"], *frame["high"], *published["change"]], room=0.28)
    x = alt.X("change:Q", title="Change of the answer's probability (%)", axis=axis, scale=scale)
    y = alt.Y(
        "name:N",
        title=None,
        sort=[GROUP_NAMES[group] for group in GROUPS if group in set(frame["group"])],
        axis=alt.Axis(labelLimit=150),
    )
    tips = [
        alt.Tooltip("name:N", title="Changed"),
        alt.Tooltip("templates:N", title="Prompts"),
        alt.Tooltip("change:Q", title="Change (paper's ratio)", format="+.2%"),
        alt.Tooltip("low:Q", title="95 % interval from", format="+.2%"),
        alt.Tooltip("high:Q", title="to", format="+.2%"),
        alt.Tooltip("replication:Q", title="Change (replication's ratio)", format="+.2%"),
        alt.Tooltip("n_facts:Q", title="Facts", format=","),
        alt.Tooltip("n_prompts:Q", title="Prompts asked", format=","),
    ]
    bars = alt.Chart(held_out).mark_bar(height=16).encode(x=x, y=y, color=_group_colour(None), tooltip=tips)
    intervals = (
        alt.Chart(held_out)
        .mark_rule(color=INK, strokeWidth=1.5)
        .encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, tooltip=tips)
    )
    rings = (
        alt.Chart(discovery)
        .mark_point(color=INK, size=45, strokeWidth=1.5, filled=False, opacity=1)
        .encode(x=x, y=y, tooltip=tips)
    )
    crosses = (
        alt.Chart(published)
        .mark_point(shape="cross", color=VERMILION, size=60, filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            tooltip=[alt.Tooltip("change:Q", title=f"The paper's value ({PAPER_MODEL})", format="+.2%")],
        )
    )
    zero = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=INK).encode(x=alt.X("zero:Q", scale=scale))
    return finished(
        alt.layer(bars, zero, intervals, rings, crosses, *_bar_values(held_out, scale, y)),
        title=VERBS[intervention],
        atlas_id=found.atlas_id,
        text=(
            f"Bar: held-out prompts, {_facts(facts)}, with 95 % interval. Ring: discovery prompts. "
            "Cross: the paper's value, for another model."
        ),
        height=90 + 30 * held_out["group"].nunique(),
    )


def effects_by_relation(found: Findings, intervention: str) -> alt.LayerChart:
    """Figures 3 and 4 of the paper: the change in every relation, its controls as points."""
    effects = found.effects
    facts = effects.facts
    rows = effects.by_relation(intervention, "held-out", facts)
    counts = dict(rows.loc[rows["group"] == "own", ["relation_id", "n_facts"]].itertuples(index=False))
    rows = rows.assign(
        label=[f"{counts.get(each, 0):,} · {found.label(each)}" for each in rows["relation_id"]],
        name=rows["group"].map(GROUP_NAMES),
    ).rename(columns={"paper_change": "change", "paper_low": "low", "paper_high": "high"})
    own = rows[rows["group"] == "own"]
    # Unrelated facts may be known where the relation's own are not.
    rows = rows[rows["relation_id"].isin(set(own["relation_id"]))]
    order = own.sort_values(["change", "label"], ascending=[intervention == "suppress", True])[
        "label"
    ].tolist()
    scale, axis = change_scale([*rows["change"], *own["low"], *own["high"]], room=0.03)
    x = alt.X("change:Q", title="Change of the answer's probability (%)", axis=axis, scale=scale)
    y = alt.Y("label:N", title=None, sort=order, axis=LABELS)
    tips = [
        alt.Tooltip("label:N", title="Relation"),
        alt.Tooltip("name:N", title="Changed"),
        alt.Tooltip("change:Q", title="Change (paper's ratio)", format="+.1%"),
        alt.Tooltip("low:Q", title="95 % interval from", format="+.1%"),
        alt.Tooltip("high:Q", title="to", format="+.1%"),
        alt.Tooltip("replication_change:Q", title="Change (replication's ratio)", format="+.1%"),
        alt.Tooltip("top_changed:Q", title="Likeliest token changed", format=".1%"),
        alt.Tooltip("n_facts:Q", title="Facts", format=","),
        alt.Tooltip("n_prompts:Q", title="Prompts", format=","),
    ]
    bars = alt.Chart(own).mark_bar(height=11, color=BLUE).encode(x=x, y=y, tooltip=tips)
    intervals = (
        alt.Chart(own)
        .mark_rule(color=INK)
        .encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, tooltip=tips)
    )
    controls = (
        alt.Chart(rows)
        .transform_filter("datum.group != 'own'")
        .mark_point(filled=True, size=40, opacity=1, stroke=PAPER_WHITE, strokeWidth=0.7)
        .encode(
            x=x,
            y=y,
            color=_group_colour(LEGEND_COLUMN, rows),
            shape=_group_shape(rows),
            tooltip=tips,
        )
    )
    zero = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=INK).encode(x=alt.X("zero:Q", scale=scale))
    figure = {"suppress": "3", "amplify": "4"}[intervention]
    return finished(
        alt.layer(bars, zero, intervals, controls),
        title=f"{VERBS[intervention]}, by relation",
        atlas_id=found.atlas_id,
        text=(
            f"As figure {figure} of the paper. Held-out prompts, {_facts(facts)}. Bar: its own "
            "neurons, with 95 % interval. Points: controls. Before a name: facts."
        ),
        height=190 + ROW * len(order),
    )


def _facts(facts: str) -> str:
    return "all facts" if facts == ALL else f"{facts} facts"


def _group_colour(legend: alt.Legend | None, rows: pd.DataFrame | None = None) -> alt.Color:
    groups = [g for g in GROUPS if rows is None or g in set(rows["group"])]
    names = [GROUP_NAMES[group] for group in groups]
    return alt.Color(
        "name:N", scale=alt.Scale(domain=names, range=[_COLOURS[group] for group in groups]), legend=legend
    )


def _group_shape(rows: pd.DataFrame) -> alt.Shape:
    groups = [g for g in GROUPS if g in set(rows["group"])]
    names = [GROUP_NAMES[group] for group in groups]
    return alt.Shape(
        "name:N",
        scale=alt.Scale(domain=names, range=[_SHAPES[group] for group in groups]),
        legend=LEGEND_COLUMN,
    )


def _bar_values(rows: pd.DataFrame, scale: alt.Scale, y: alt.Y) -> list[alt.Chart]:
    """The numbers beyond the ends of bars, intervals and rings."""
    layers = []
    rows = rows.assign(high=rows[["high", "ring"]].max(axis=1), low=rows[["low", "ring"]].min(axis=1))
    for side, align, dx, end in (
        (rows["change"] >= 0, "left", 5, "high"),
        (rows["change"] < 0, "right", -5, "low"),
    ):
        part = rows[side].assign(end=rows.loc[side, end])
        if len(part):
            layers.append(
                alt.Chart(part)
                .mark_text(align=align, dx=dx)
                .encode(x=alt.X("end:Q", scale=scale), y=y, text="shown:N")
            )
    return layers
