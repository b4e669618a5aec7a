"""Pictures of a fact's scores and of one neuron's facts.

    layout.draw(score_map(queries.attributions_of_fact(a, fact_id), n_layers=12, n_neurons=3072), "…")

As in `atlas.charts.look`: each function takes a DataFrame of `atlas.queries.facts` and gives an `alt.Chart`.
What a neuron is to the fact has a colour and a shape: its own, added or removed by other thresholds, or in
too few prompts.
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from atlas.charts.look import BLUE, FAINT, GREEN, GREY, ORANGE, neuron_names
from atlas.neuron import OBJECT_SLOT

OWN, ADDED, REMOVED, OTHER = "knowledge neuron", "added", "removed", "in too few prompts"
_COLOURS = {OWN: BLUE, ADDED: GREEN, REMOVED: GREY, OTHER: ORANGE}
_SHAPES = {OWN: "circle", ADDED: "triangle-up", REMOVED: "cross", OTHER: "diamond"}
_LEGEND = alt.Legend(title=None, orient="bottom", direction="horizontal", columns=3, labelLimit=160)
ROW_HEIGHT = 30
BLANK = "____"
RELATIONS_SHOWN = 12


def score_map(
    scores: pd.DataFrame, *, n_layers: int | None, n_neurons: int | None, chosen: str | None = None
) -> alt.LayerChart:
    """Attribution scores on the model's plan: neuron index across, layers from the first at the bottom up.

    `scores`: as `queries.attributions_of_fact`, and `kind` where the set is another than the atlas's. A
    neuron stands on its layer, as high as its mean score (the largest nearly reaches the next line). The
    largest of the set are named; a ring is around the `chosen` one (L9.N2141).
    """
    n_layers = n_layers or int(scores["layer"].max()) + 1
    n_neurons = n_neurons or int(scores["neuron"].max()) + 1
    tallest = max(float(scores["mean_score"].max()), 1e-12)
    rows = with_kinds(scores).assign(
        name=neuron_names(scores),
        top=scores["layer"] + 0.85 * scores["mean_score"].clip(lower=0) / tallest,
    )
    named = _spaced(rows[rows["kind"].isin((OWN, ADDED)) | (rows["name"] == chosen)], 0.14 * n_neurons)
    rows["label"] = rows["name"].where(rows.index.isin(named), "")
    # Most marks are of neurons in too few prompts: fainter, they leave the others and their names readable.
    rows["look"] = [0.55 if kind == OTHER else 1.0 for kind in rows["kind"]]
    present = [kind for kind in _COLOURS if (rows["kind"] == kind).any()]
    x = alt.X(
        "neuron:Q",
        title="Neuron (index in its layer)",
        scale=alt.Scale(domain=[0, n_neurons], nice=False),
        axis=alt.Axis(format="d", tickCount=6, grid=False),
    )
    layers = alt.Axis(values=list(range(n_layers)), format="d", labelOverlap="greedy")
    y = alt.Y("layer:Q", title="Layer", scale=alt.Scale(domain=[0, n_layers], nice=False), axis=layers)
    colours = alt.Scale(domain=present, range=[_COLOURS[kind] for kind in present])
    shapes = alt.Scale(domain=present, range=[_SHAPES[kind] for kind in present])
    base = alt.Chart().encode(
        x=x,
        tooltip=[
            alt.Tooltip("name:N", title="Neuron"),
            alt.Tooltip("kind:N", title="What"),
            alt.Tooltip("mean_score:Q", title="Mean score (probability)", format=".4f"),
            alt.Tooltip("max_score:Q", title="Largest score", format=".4f"),
            alt.Tooltip("max_relative:Q", title="Largest, of the prompt's maximum", format=".0%"),
            alt.Tooltip("n_prompts:Q", title="Prompts where stored"),
        ],
    )
    coloured = base.encode(color=alt.Color("kind:N", scale=colours, legend=_LEGEND))
    # The marks are small: what can be clicked is larger than what is seen.
    targets = base.mark_point(filled=True, size=260, opacity=0).encode(y=alt.Y("top:Q"))
    seen = coloured.encode(opacity=alt.Opacity("look:Q", scale=None))
    bars = seen.mark_rule(strokeWidth=2).encode(y=y, y2=alt.Y2("top:Q"))
    tips = seen.mark_point(filled=True, size=30).encode(
        y=alt.Y("top:Q"), shape=alt.Shape("kind:N", scale=shapes, legend=_LEGEND)
    )
    ring = (
        base.transform_filter(alt.datum.name == (chosen or ""))
        .mark_point(size=240, strokeWidth=2.5, stroke=GREY, filled=False)
        .encode(y=alt.Y("top:Q"))
    )
    names = (
        coloured.transform_filter(alt.datum.label != "")
        .mark_text(dy=-11, fontSize=11, fontWeight="bold")
        .encode(y=alt.Y("top:Q"), text=alt.Text("label:N"))
    )
    return alt.layer(
        targets,
        bars,
        tips,
        ring,
        names,
        data=rows,
        title="Scores (height: mean score)",
        height=max(330, 18 * n_layers + 130),
    )


def with_kinds(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows with what each neuron is to the fact, after the atlas's own set unless `kind` says it."""
    if "kind" in scores:
        return scores
    return scores.assign(kind=[OWN if known else OTHER for known in scores["is_knowledge_neuron"]])


def _spaced(rows: pd.DataFrame, apart: float, *, limit: int = 5) -> list[int]:
    """Index of the rows with the largest scores whose names would not run into each other."""
    kept: list[tuple[int, float, float]] = []
    largest = rows.sort_values("mean_score", ascending=False)
    for place, neuron, top in zip(largest.index, largest["neuron"], largest["top"], strict=True):
        if all(abs(neuron - n) >= apart or abs(top - t) >= 1 for _, n, t in kept):
            kept.append((place, neuron, top))
        if len(kept) == limit:
            break
    return [place for place, _, _ in kept]


def score_grid(scores: pd.DataFrame, *, threshold: float, chosen: str | None = None) -> alt.LayerChart:
    """Prompts down, neurons across, colour for the score: the prompts that speak for each neuron.

    `scores`: as `queries.scores_by_prompt`, with `kind` if the set is another than the atlas's. Scores under
    `threshold` × the prompt's maximum, which do not count, are faint; the `chosen` neuron is framed.
    """
    rows = with_kinds(scores).assign(name=neuron_names(scores))
    prompts = sorted(rows["template_id"].unique())
    wordings = dict(zip(rows["template_id"], rows["text"], strict=True))
    shown = {
        t: f"{place}. {(wordings[t] or t).replace(OBJECT_SLOT, BLANK)}" for place, t in enumerate(prompts, 1)
    }
    rows["prompt"] = rows["template_id"].map(shown)
    rows["counts"] = [relative >= threshold for relative in rows["relative"]]
    rows["look"] = [1.0 if counts else FAINT for counts in rows["counts"]]
    in_order = list(dict.fromkeys(rows.sort_values(["layer", "neuron"])["name"]))
    base = alt.Chart().encode(
        x=alt.X(
            "name:N",
            title="Neuron (by layer)",
            sort=in_order,
            axis=alt.Axis(labelAngle=-90, labelFontSize=10, labelOverlap=True),
        ),
        y=alt.Y(
            "prompt:N",
            title=None,
            sort=list(shown.values()),
            axis=alt.Axis(labelLimit=190, labelOverlap=False),
        ),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "relative:Q",
            title="% of the prompt's largest",
            scale=alt.Scale(scheme="viridis", domain=[0, 1]),
            legend=alt.Legend(orient="bottom", gradientLength=140, format=".0%"),
        ),
        opacity=alt.Opacity("look:Q", scale=None),
        tooltip=[
            alt.Tooltip("name:N", title="Neuron"),
            alt.Tooltip("kind:N", title="What"),
            alt.Tooltip("prompt:N", title="Prompt"),
            alt.Tooltip("score:Q", title="Score (probability)", format=".4f"),
            alt.Tooltip("relative:Q", title="Of the prompt's largest", format=".0%"),
            alt.Tooltip("counts:N", title="Counts"),
        ],
    )
    frame = base.transform_filter(alt.datum.name == (chosen or "")).mark_rect(
        fill=None, stroke=ORANGE, strokeWidth=2.5
    )
    return alt.layer(
        cells, frame, data=rows, title="Scores prompt by prompt", height=ROW_HEIGHT * len(prompts) + 230
    )


def neuron_relation_bars(
    counts: pd.DataFrame, *, chosen: str | None = None, limit: int = RELATIONS_SHOWN
) -> alt.LayerChart:
    """How a neuron's facts spread over relations, and the share each would have by chance.

    `counts`: as `selectivity.relations_of_neuron`; all but the `chosen` relation are faint, if one is.
    """
    rows = counts.head(limit)
    rows = rows.assign(
        name=[label or relation for label, relation in zip(rows["label"], rows["relation_id"], strict=True)],
        look=[1.0 if chosen in (None, relation) else FAINT for relation in rows["relation_id"]],
        kind="its facts",
        chance="all facts",
    )
    base = alt.Chart().encode(
        y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=140, labelOverlap=False)),
        tooltip=[
            alt.Tooltip("name:N", title="Relation"),
            alt.Tooltip("relation_id:N", title="Id"),
            alt.Tooltip("n_facts:Q", title="Facts with this neuron", format=","),
            alt.Tooltip("fact_share:Q", title="Share of the neuron's facts", format=".1%"),
            alt.Tooltip("expected_share:Q", title="The relation's share of all facts", format=".1%"),
            alt.Tooltip("relation_share:Q", title="Share of the relation's facts", format=".1%"),
        ],
    )
    kinds = alt.Scale(domain=["its facts", "all facts"], range=[BLUE, ORANGE])
    bars = base.mark_bar().encode(
        x=alt.X("fact_share:Q", title="Share of its facts (%)", axis=alt.Axis(format=".0%", tickCount=5)),
        color=alt.Color("kind:N", scale=kinds, legend=_LEGEND),
        opacity=alt.Opacity("look:Q", scale=None),
    )
    expected = base.mark_tick(thickness=3, size=16).encode(
        x=alt.X("expected_share:Q"), color=alt.Color("chance:N", scale=kinds, legend=_LEGEND)
    )
    return alt.layer(bars, expected, data=rows, title="Its facts by relation", height=24 * len(rows) + 130)
