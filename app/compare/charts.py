"""Pictures of two things side by side: the first, A, is blue, the second, B, orange, and both green.

    layout.draw_chart(overlap_bars(overlap), "Neurons of A only, of both, of B only")

As in `atlas.charts.look`: each function takes rows of `atlas.queries.comparison` and gives an `alt.Chart`.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from atlas.charts.look import BLUE, GREEN, GREY, ORANGE, SMALL, neuron_names
from atlas.queries.comparison import Overlap

# The same words as on the page: `A only`, `both`, `B only`.
PLACES = {"a": "A only", "both": "both", "b": "B only"}
_DOMAIN = list(PLACES.values())
_LEGEND = alt.Legend(title=None, orient="top", direction="horizontal", columns=3)
_COLOUR = alt.Color("place:N", scale=alt.Scale(domain=_DOMAIN, range=[BLUE, GREEN, ORANGE]), legend=_LEGEND)
_SHAPE = alt.Shape(
    "place:N",
    scale=alt.Scale(domain=_DOMAIN, range=["triangle-up", "circle", "triangle-down"]),
    legend=_LEGEND,
)


def overlap_bars(overlap: Overlap, noun: str) -> alt.LayerChart:
    """How many are in A only, in both, in B only, and how many chance would put into both."""
    rows = [
        ("A only", overlap.only_a, None),
        ("both", overlap.both, None),
        ("B only", overlap.only_b, None),
    ]
    if overlap.chance is not None:
        rows.append(("both, by chance", overlap.chance, overlap.spread))
    frame = pd.DataFrame(rows, columns=["place", "n", "spread"])
    frame["text"] = [f"{n:,.0f}" if n >= 10 or n == int(n) else f"{n:,.1f}" for n in frame["n"]]
    most = max(float(frame["n"].max()), 1.0)
    base = alt.Chart(frame, title=f"{noun.capitalize()} in common").encode(
        y=alt.Y("place:N", title=None, sort=None, axis=alt.Axis(labelLimit=120)),
        x=alt.X(
            "n:Q",
            title=f"{noun.capitalize()} (number)",
            scale=alt.Scale(domain=[0, 1.2 * most], nice=False),
            axis=alt.Axis(tickCount=5, format="~s"),
        ),
        tooltip=[
            alt.Tooltip("place:N", title="Where"),
            alt.Tooltip("n:Q", title=noun.capitalize(), format=",.1f"),
            alt.Tooltip("spread:Q", title="Standard deviation by chance", format=".1f"),
        ],
    )
    bars = base.mark_bar(size=26).encode(
        color=alt.Color(
            "place:N",
            scale=alt.Scale(domain=[*_DOMAIN, "both, by chance"], range=[BLUE, GREEN, ORANGE, GREY]),
            legend=None,
        )
    )
    text = base.mark_text(align="left", dx=4, color=GREY).encode(text=alt.Text("text:N"))
    return (bars + text).properties(height=44 * len(frame) + 70)


def layer_bars(
    rows: pd.DataFrame, expected: pd.DataFrame | None = None, *, n_layers: int | None = None
) -> alt.Chart:
    """Neurons by layer, in A only, in both, in B only; layers without any have their place too.

    `rows`: with layer and `where`; `expected`: as `comparison.chance_by_layer`, for the tooltips.
    """
    layers = list(range(n_layers or int(rows["layer"].max()) + 1))
    counts = rows.groupby(["layer", "where"], as_index=False).size()
    counts["place"] = counts["where"].map(PLACES)
    counts["order"] = counts["where"].map({"both": 0, "a": 1, "b": 2})
    if expected is not None:
        counts = counts.merge(expected, on="layer", how="left")
        tip = [alt.Tooltip("expected:Q", title="In both by chance", format=".2f")]
    else:
        tip = []
    return (
        alt.Chart(counts, title="By layer")
        .mark_bar()
        .encode(
            x=alt.X(
                "layer:O",
                title="Layer",
                scale=alt.Scale(domain=layers),
                axis=alt.Axis(labelAngle=0, labelOverlap="parity"),
            ),
            y=alt.Y("size:Q", title="Neurons (number)", axis=alt.Axis(tickCount=4)),
            color=_COLOUR,
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("layer:O", title="Layer"),
                alt.Tooltip("place:N", title="Where"),
                alt.Tooltip("size:Q", title="Neurons", format=","),
                *tip,
            ],
        )
        .properties(height=SMALL)
    )


def neuron_points(rows: pd.DataFrame, *, measure: str, title: str, percent: bool = False) -> alt.Chart:
    """Each neuron by a measure in A (across) and in B (up); missing is 0: it is not that one's neuron.

    `rows`: with layer, neuron, `where`, and the columns `<measure>_a` and `<measure>_b`.
    """
    frame = rows.assign(
        name=neuron_names(rows),
        place=rows["where"].map(PLACES),
        a=rows[f"{measure}_a"].fillna(0.0),
        b=rows[f"{measure}_b"].fillna(0.0),
    )[["name", "place", "a", "b"]]
    form = ".0%" if percent else ".4f"
    axis = alt.Axis(tickCount=4, format=".0%") if percent else alt.Axis(tickCount=4)
    return (
        alt.Chart(frame, title="Neuron by neuron")
        .mark_point(filled=True, size=45, opacity=0.7)
        .encode(
            x=alt.X("a:Q", title=f"{title} in A", axis=axis),
            y=alt.Y("b:Q", title=f"{title} in B", axis=axis),
            color=_COLOUR,
            shape=_SHAPE,
            tooltip=[
                alt.Tooltip("name:N", title="Neuron"),
                alt.Tooltip("place:N", title="Where"),
                alt.Tooltip("a:Q", title=f"{title} in A", format=form),
                alt.Tooltip("b:Q", title=f"{title} in B", format=form),
            ],
        )
        .properties(height=560)
    )


def cross_bars(effects: pd.DataFrame, side: str) -> alt.LayerChart:
    """Change of the answer's probability on one side's prompts, by whose neurons are suppressed.

    `effects`: rows of `app.compare.crossing.effect_rows` with these prompts.
    """
    names = {"A": "A's neurons", "B": "B's neurons", "both": "those of both"}
    rows = effects.melt(
        ["neurons", "n_neurons", "n_prompts", "before"],
        ["change", "random"],
        var_name="which",
        value_name="changed",
    )
    rows = rows.dropna(subset="changed").assign(whose=lambda each: each["neurons"].map(names))
    rows["colour"] = rows["neurons"].where(rows["which"] == "change", "random")
    rows["text"] = ["±0%" if abs(value) < 0.005 else f"{value:+.0%}" for value in rows["changed"]]
    rows["what"] = rows["which"].map({"change": "these", "random": "as many random ones"})
    least, most = min(float(rows["changed"].min()), 0.0), max(float(rows["changed"].max()), 0.0)
    room = 0.22 * max(most - least, 0.1)
    base = alt.Chart(rows, title=f"On the prompts of {side}").encode(
        y=alt.Y("whose:N", title=None, sort=list(names.values()), axis=alt.Axis(labelLimit=120)),
        yOffset=alt.YOffset("what:N", sort=["these", "as many random ones"]),
        x=alt.X(
            "changed:Q",
            title="Change of the mean probability (%)",
            scale=alt.Scale(domain=[least - room, most + room], nice=False),
            axis=alt.Axis(format="+.0%", tickCount=4),
        ),
        tooltip=[
            alt.Tooltip("whose:N", title="Suppressed"),
            alt.Tooltip("what:N", title="These or random ones"),
            alt.Tooltip("n_neurons:Q", title="Neurons", format=","),
            alt.Tooltip("n_prompts:Q", title="Prompts"),
            alt.Tooltip("before:Q", title="Mean probability before", format=".4f"),
            alt.Tooltip("changed:Q", title="Change", format="+.1%"),
        ],
    )
    colours = {"A": BLUE, "B": ORANGE, "both": GREEN, "random": GREY}
    bars = base.mark_bar().encode(
        color=alt.Color(
            "colour:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None
        )
    )
    left = base.transform_filter(alt.datum.changed < 0).mark_text(align="right", dx=-4, color=GREY)
    right = base.transform_filter(alt.datum.changed >= 0).mark_text(align="left", dx=4, color=GREY)
    texts = [each.encode(text=alt.Text("text:N")) for each in (left, right)]
    return (bars + texts[0] + texts[1]).properties(height=60 * effects["neurons"].nunique() + 70)


def pair_bars(values: dict[str, float | None]) -> alt.LayerChart:
    """Mean number of neurons that two facts share: what kind of pair → mean."""
    rows = pd.DataFrame({"pair": list(values), "shared": list(values.values())}).dropna()
    colours = dict(zip(values, (BLUE, GREEN, ORANGE, GREY), strict=False))
    base = alt.Chart(rows, title="Neurons that two facts share").encode(
        y=alt.Y("pair:N", title=None, sort=None, axis=alt.Axis(labelLimit=140)),
        x=alt.X(
            "shared:Q",
            title="Neurons in common (mean)",
            scale=alt.Scale(domain=[0, 1.25 * max(float(rows["shared"].max()), 1e-9)], nice=False),
            axis=alt.Axis(tickCount=5),
        ),
        tooltip=[
            alt.Tooltip("pair:N", title="Two facts"),
            alt.Tooltip("shared:Q", title="Neurons in common (mean)", format=".3f"),
        ],
    )
    bars = base.mark_bar(size=26).encode(
        color=alt.Color(
            "pair:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None
        )
    )
    text = base.mark_text(align="left", dx=4, color=GREY).encode(text=alt.Text("shared:Q", format=".2f"))
    return (bars + text).properties(height=44 * len(rows) + 70)


def relation_bars(facts: pd.DataFrame, *, limit: int = 12) -> alt.Chart:
    """Facts of two neurons by relation. `facts`: as `comparison.facts_of_neurons`."""
    named = facts.assign(name=facts["label"].fillna(facts["relation_id"]))
    largest = named["name"].value_counts().head(limit).index
    counts = named[named["name"].isin(largest)].groupby(["name", "where"], as_index=False).size()
    counts["place"] = counts["where"].map(PLACES)
    counts["order"] = counts["where"].map({"both": 0, "a": 1, "b": 2})
    return (
        alt.Chart(counts, title="Facts by relation")
        .mark_bar()
        .encode(
            y=alt.Y(
                "name:N", title=None, sort=list(largest), axis=alt.Axis(labelLimit=150, labelOverlap=False)
            ),
            x=alt.X("size:Q", title="Facts (number)", axis=alt.Axis(tickCount=5)),
            color=_COLOUR,
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("name:N", title="Relation"),
                alt.Tooltip("place:N", title="Where"),
                alt.Tooltip("size:Q", title="Facts", format=","),
            ],
        )
        .properties(height=24 * len(largest) + 130)
    )


def depth_bars(layers: pd.DataFrame, model: str, *, second: bool, highest: float) -> alt.Chart:
    """Where a fact's neurons lie in the depth of a model: models of other depths can stand beside it.

    `layers`: as `comparison.layers_of_fact`; `second` is B's colour, `highest` the axis' end (a share).
    """
    return (
        alt.Chart(layers.assign(share=layers["share"].fillna(0.0)), title=f"Its neurons in {model}")
        .mark_bar(color=ORANGE if second else BLUE)
        .encode(
            x=alt.X(
                "depth_from:Q",
                title="Depth in the model (%)",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format=".0%", tickCount=5),
            ),
            x2=alt.X2("depth_to:Q"),
            y2=alt.datum(0),
            y=alt.Y(
                "share:Q",
                title="Share of its neurons (%)",
                scale=alt.Scale(domain=[0, highest or 1.0]),
                axis=alt.Axis(format=".0%", tickCount=4),
            ),
            tooltip=[
                alt.Tooltip("layer:O", title="Layer"),
                alt.Tooltip("n_neurons:Q", title="Its neurons"),
                alt.Tooltip("share:Q", title="Share of them", format=".1%"),
            ],
        )
        .properties(height=260)
    )
