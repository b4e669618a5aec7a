"""Pictures of two things side by side: A, B, and what both have, each in its own colour.

    layout.draw_chart(overlap_bars(overlap, "neurons"), "Neurons of A only, of both, of B only")

Each function takes rows of `atlas.queries.comparison` and gives an `alt.Chart`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from atlas.charts.look import (
    SMALL,
    change_scale,
    label_axis,
    neuron_names,
    percent_axis,
    room_scale,
    tooltip,
)
from atlas.charts.marks import bars
from atlas.charts.neurons import RELATIONS_SHOWN
from atlas.charts.palette import colour, encoded
from atlas.numbers import signed_percent
from atlas.queries.comparison import Overlap

# The same words as on the page.
PLACES = {"a": "A only", "both": "both", "b": "B only"}
_MEANINGS = {"a": "first", "both": "shared", "b": "second"}
_NAMES = {_MEANINGS[where]: words for where, words in PLACES.items()}


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", direction="horizontal", columns=3)


def _placed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the words and the meaning of `where`; those of both come first in a stack."""
    return rows.assign(
        place=rows["where"].map(PLACES),
        meaning=rows["where"].map(_MEANINGS),
        order=rows["where"].map({"both": 0, "a": 1, "b": 2}),
    )


def overlap_bars(overlap: Overlap, noun: str) -> alt.LayerChart:
    """How many are in A only, in both, in B only, and how many chance would put into both."""
    rows = [
        ("A only", "first", overlap.only_a, None),
        ("both", "shared", overlap.both, None),
        ("B only", "second", overlap.only_b, None),
    ]
    if overlap.chance is not None:
        rows.append(("both, by chance", "random", overlap.chance, overlap.spread))
    frame = pd.DataFrame(rows, columns=["what", "meaning", "n", "spread"])
    frame["shown"] = [f"{n:,.0f}" if n >= 10 or n == int(n) else f"{n:,.1f}" for n in frame["n"]]
    most = max(float(frame["n"].max()), 1.0)
    layers = bars(
        frame,
        "n",
        names=dict(zip(frame["meaning"], frame["what"], strict=True)),
        x={
            "title": f"{noun.capitalize()} (number)",
            "scale": room_scale([most]),
            "axis": alt.Axis(tickCount=5, format="~s"),
        },
        y={"axis": label_axis(120)},
        tooltip=tooltip(
            ("what:N", "Where"),
            ("n:Q", noun.capitalize(), ",.1f"),
            ("spread:Q", "Standard deviation by chance", ".1f"),
        ),
        size=26,
    )
    title = f"{noun.capitalize()} in common"
    return alt.layer(*layers, data=frame, title=title, height=44 * len(frame))


def shared_by_layer(
    rows: pd.DataFrame, expected: pd.DataFrame | None = None, *, n_layers: int | None = None
) -> alt.Chart:
    """Neurons by layer, in A only, in both, in B only; layers without any have their place too.

    rows: with layer and `where`; expected: as `comparison.chance_by_layer`, for the tooltips.
    """
    layers = list(range(n_layers or int(rows["layer"].max()) + 1))
    counts = rows.groupby(["layer", "where"], as_index=False).size()
    if expected is not None:
        counts = counts.merge(expected, on="layer", how="left")
    x = alt.X(
        "layer:O",
        title="Layer",
        scale=alt.Scale(domain=layers),
        axis=alt.Axis(labelAngle=0, labelOverlap="parity"),
    )
    y = alt.Y("size:Q", title="Neurons (number)", axis=alt.Axis(tickCount=4))
    tips = (("layer:O", "Layer"), ("size:Q", "Neurons", ","), ("expected:Q", "In both by chance", ".2f"))
    return _stacked(counts, x, y, tips, title="By layer", height=SMALL)


def _stacked(
    counts: pd.DataFrame, x: alt.X, y: alt.Y, tips: Sequence[tuple[str, ...]], **look: Any
) -> alt.Chart:
    """Bars of how many (`size`) are in both, in A only, in B only."""
    rows = _placed(counts)
    first, *others = tips
    return (
        alt.Chart(rows, **look)
        .mark_bar()
        .encode(
            x=x,
            y=y,
            **encoded(_NAMES, "color", legend=_legend()),
            order=alt.Order("order:Q"),
            tooltip=tooltip(first, ("place:N", "Where"), *others, of=rows),
        )
    )


def neuron_points(rows: pd.DataFrame, *, measure: str, title: str, percent: bool = False) -> alt.Chart:
    """Each neuron by a measure in A (across) and in B (up); missing is 0: it is not that one's neuron.

    rows: with layer, neuron, `where`, and the columns `<measure>_a` and `<measure>_b`.
    """
    frame = _placed(rows).assign(
        name=neuron_names(rows), a=rows[f"{measure}_a"].fillna(0.0), b=rows[f"{measure}_b"].fillna(0.0)
    )[["name", "place", "meaning", "a", "b"]]
    form = ".0%" if percent else ".4f"
    axis = percent_axis(ticks=4) if percent else alt.Axis(tickCount=4)
    return (
        alt.Chart(frame, title="Neuron by neuron")
        .mark_point(filled=True, size=45, opacity=0.7)
        .encode(
            x=alt.X("a:Q", title=f"{title} in A", axis=axis),
            y=alt.Y("b:Q", title=f"{title} in B", axis=axis),
            **encoded(_NAMES, "color", "shape", legend=_legend()),
            tooltip=tooltip(
                ("name:N", "Neuron"),
                ("place:N", "Where"),
                ("a:Q", f"{title} in A", form),
                ("b:Q", f"{title} in B", form),
            ),
        )
        .properties(height=480)
    )


def cross_bars(effects: pd.DataFrame, side: str) -> alt.LayerChart:
    """Change of the answer's probability on one side's prompts, by whose neurons are suppressed.

    effects: rows of `app.compare.crossing.effect_rows` with these prompts.
    """
    whose = {"A": "A's neurons", "B": "B's neurons", "both": "those of both"}
    meanings = {"A": "first", "B": "second", "both": "shared"}
    names = {meanings[each]: words for each, words in whose.items()} | {"random": "as many random ones"}
    rows = effects.melt(
        ["neurons", "n_neurons", "n_prompts", "before"],
        ["change", "random"],
        var_name="which",
        value_name="changed",
    ).dropna(subset="changed")
    kinds = {"change": "these", "random": names["random"]}
    rows = rows.assign(
        what=rows["neurons"].map(whose),
        meaning=rows["neurons"].map(meanings).where(rows["which"] == "change", "random"),
        kind=rows["which"].map(kinds),
        shown=rows["changed"].map(signed_percent),
    )
    scale, axis = change_scale(rows["changed"])
    layers = bars(
        rows,
        "changed",
        names=names,
        x={"title": "Change of the mean probability (%)", "scale": scale, "axis": axis},
        y={"sort": list(whose.values()), "axis": label_axis(120)},
        beside=alt.YOffset("kind:N", sort=list(kinds.values())),
        tooltip=tooltip(
            ("what:N", "Suppressed"),
            ("kind:N", "These or random ones"),
            ("n_neurons:Q", "Neurons", ","),
            ("n_prompts:Q", "Prompts"),
            ("before:Q", "Mean probability before", ".4f"),
            ("changed:Q", "Change", "+.1%"),
        ),
    )
    height = 60 * effects["neurons"].nunique()
    return alt.layer(*layers, data=rows, title=f"On the prompts of {side}", height=height)


def relation_bars(facts: pd.DataFrame) -> alt.Chart:
    """Facts of two neurons by relation. facts: as `comparison.facts_of_neurons`."""
    named = facts.assign(name=facts["label"].fillna(facts["relation_id"]))
    largest = named["name"].value_counts().head(RELATIONS_SHOWN).index
    counts = named[named["name"].isin(largest)].groupby(["name", "where"], as_index=False).size()
    x = alt.X("size:Q", title="Facts (number)", axis=alt.Axis(tickCount=5))
    y = alt.Y("name:N", title=None, sort=list(largest), axis=label_axis(150))
    tips = (("name:N", "Relation"), ("size:Q", "Facts", ","))
    return _stacked(counts, x, y, tips, title="Facts by relation", height=24 * len(largest))


def depth_bars(layers: pd.DataFrame, model: str, *, second: bool, highest: float) -> alt.Chart:
    """Where a fact's neurons lie in the depth of a model: models of other depths can stand beside it.

    layers: as `comparison.layers_of_fact`; second: whether it is B's; highest: the axis' end (a share).
    """
    return (
        alt.Chart(layers.assign(share=layers["share"].fillna(0.0)), title=f"Its neurons in {model}")
        .mark_bar(color=colour("second" if second else "first"))
        .encode(
            x=alt.X(
                "depth_from:Q",
                title="Depth in the model (%)",
                scale=alt.Scale(domain=[0, 1]),
                axis=percent_axis(),
            ),
            x2=alt.X2("depth_to:Q"),
            y2=alt.datum(0),
            y=alt.Y(
                "share:Q",
                title="Share of its neurons (%)",
                scale=alt.Scale(domain=[0, highest or 1.0]),
                axis=percent_axis(ticks=4),
            ),
            tooltip=tooltip(
                ("layer:O", "Layer"),
                ("n_neurons:Q", "Its neurons"),
                ("share:Q", "Share of them", ".1%"),
            ),
        )
        .properties(height=SMALL)
    )
