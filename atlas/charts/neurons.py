"""Where neurons lie, the scores of a fact's, and what one of them says and belongs to.

    layout.draw(layer_bars(queries.layer_histogram(a)), "…")
    layout.draw(score_map(queries.attributions_of_fact(a, fact_id), n_layers=12, n_neurons=3072), "…")

Each function takes a DataFrame of `atlas.queries` and gives an `alt.Chart`. What a neuron is to the fact has
a colour and a shape: its own, added or removed by other thresholds, or in too few prompts.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from atlas.charts.look import (
    FAINT,
    SMALL,
    TALL,
    label_axis,
    legend,
    neuron_names,
    percent_axis,
    tooltip,
)
from atlas.charts.marks import bars, lines
from atlas.charts.palette import colour, encoded
from atlas.neuron import OBJECT_SLOT

OWN, ADDED, REMOVED, OTHER = "knowledge neuron", "added", "removed", "in too few prompts"
_KINDS = {"own": OWN, "after": ADDED, "before": REMOVED, "unrelated": OTHER}
_ROW_HEIGHT = 30
_BLANK = "____"
RELATIONS_SHOWN = 12


# Layers ----------------------------------------------------------------------------------------------


def layer_bars(
    layers: pd.DataFrame,
    *,
    title: str = "Where knowledge neurons lie",
    chosen: int | None = None,
    upper_from: int | None = None,
) -> alt.Chart:
    """Share of the (fact, neuron) pairs in each layer. layers: as `queries.layer_histogram`.

    All layers but the `chosen` one, or those below `upper_from`, are faint.
    """
    rows = layers.assign(pair_share=layers["pair_share"].fillna(0.0), look=1.0)
    if chosen is not None:
        rows["look"] = rows["look"].where(rows["layer"] == chosen, FAINT)
    if upper_from is not None:
        rows["look"] = rows["look"].where(rows["layer"] >= upper_from, FAINT)
    return (
        alt.Chart(rows, title=title)
        .mark_bar(color=colour("own"))
        .encode(
            x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap="parity")),
            y=alt.Y("pair_share:Q", title="Share of pairs (%)", axis=percent_axis(ticks=4)),
            opacity=alt.Opacity("look:Q", scale=None),
            tooltip=tooltip(
                ("layer:O", "Layer"),
                ("pair_share:Q", "Share of (fact, neuron) pairs", ".1%"),
                ("n_neurons:Q", "Different neurons", ","),
                ("n_facts:Q", "Facts", ","),
            ),
        )
        .properties(height=SMALL)
    )


def lens_lines(layers: pd.DataFrame) -> alt.LayerChart:
    """The answer's probability after each layer of the model, and the share of the fact's neurons in it.

    layers: as `queries.lens_of_fact`, of one prompt, with the likeliest words in a column `says`.
    """
    names = {"answer": "probability of the answer", "own": "share of the fact's neurons"}
    rows = layers.assign(
        meaning="answer",
        neuron_share=layers["n_neurons"] / max(1, layers["n_neurons"].sum()),
    )
    x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap="parity"))
    share = {"scale": alt.Scale(domain=[0, 1]), "axis": percent_axis(ticks=4), "title": "Share (%)"}
    tips = tooltip(
        ("layer:O", "After layer"),
        ("probability:Q", "Probability of the answer", ".3f"),
        ("rank:Q", "Its rank", ","),
        ("says:N", "Likeliest words"),
        ("n_neurons:Q", "The fact's neurons in the layer"),
    )
    bars = (
        alt.Chart()
        .transform_calculate(meaning="'own'")
        .mark_bar(opacity=0.55)
        .encode(
            x=x,
            y=alt.Y("neuron_share:Q", **share),
            **encoded(names, "color", legend=legend()),
            tooltip=tips,
        )
    )
    line = lines(x, alt.Y("probability:Q", **share), names=names, tooltip=tips, legend=legend())
    return alt.layer(bars, *line, data=rows, title="After each layer", height=TALL)


def relation_layers(layers: pd.DataFrame, *, n_layers: int | None, named: bool = False) -> alt.Chart:
    """Relations down, layers across, stronger where more of a relation's neurons lie.

    layers: as `queries.layers_by_relation`. Small, or with a row for each relation's name.
    """
    rows = layers.assign(what=layers["label"].fillna(layers["relation_id"]))
    n_layers = n_layers or int(rows["layer"].max()) + 1
    row = alt.Y(
        "relation_id:N", title="Relation", sort=None, axis=alt.Axis(labels=False, ticks=False, domain=False)
    )
    if named:
        row = alt.Y("what:N", title=None, sort=None, axis=label_axis(140, labelFlush=False))
    return (
        alt.Chart(rows, title="Where their neurons lie" if named else "Where its neurons lie")
        .mark_rect(color=colour("own"))
        .encode(
            x=alt.X(
                "layer:O",
                title="Layer",
                scale=alt.Scale(domain=list(range(n_layers))),
                axis=alt.Axis(labelAngle=0, labelOverlap="parity", ticks=False, domain=False),
            ),
            y=row,
            opacity=alt.Opacity("pair_share:Q", scale=alt.Scale(type="sqrt", range=[0, 1]), legend=None),
            tooltip=tooltip(
                ("what:N", "Relation"),
                ("layer:O", "Layer"),
                ("pair_share:Q", "Share of the relation's (fact, neuron) pairs", ".1%"),
                ("n_pairs:Q", "Pairs", ","),
            ),
        )
        .properties(height=18 * rows["what"].nunique() if named else SMALL)
    )


# Scores ----------------------------------------------------------------------------------------------


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
    rows = _with_kinds(scores)
    rows = rows.assign(
        name=neuron_names(scores),
        meaning=rows["kind"].map({kind: meaning for meaning, kind in _KINDS.items()}),
        top=scores["layer"] + 0.85 * scores["mean_score"].clip(lower=0) / tallest,
    )
    named = _spaced(rows[rows["kind"].isin((OWN, ADDED)) | (rows["name"] == chosen)], 0.14 * n_neurons)
    rows["label"] = rows["name"].where(rows.index.isin(named), "")
    # Most marks are of neurons in too few prompts: fainter, they leave the others and their names readable.
    rows["look"] = [0.55 if kind == OTHER else 1.0 for kind in rows["kind"]]
    names = {meaning: kind for meaning, kind in _KINDS.items() if (rows["meaning"] == meaning).any()}
    below = legend(3, limit=160)
    x = alt.X(
        "neuron:Q",
        title="Neuron (index in its layer)",
        scale=alt.Scale(domain=[0, n_neurons], nice=False),
        axis=alt.Axis(format="d", tickCount=6, grid=False),
    )
    layers = alt.Axis(values=list(range(n_layers)), format="d", labelOverlap="greedy")
    y = alt.Y("layer:Q", title="Layer", scale=alt.Scale(domain=[0, n_layers], nice=False), axis=layers)
    base = alt.Chart().encode(
        x=x,
        tooltip=tooltip(
            ("name:N", "Neuron"),
            ("kind:N", "What"),
            ("mean_score:Q", "Mean score (probability)", ".4f"),
            ("max_score:Q", "Largest score", ".4f"),
            ("max_relative:Q", "Largest, of the prompt's maximum", ".0%"),
            ("n_prompts:Q", "Prompts where stored"),
        ),
    )
    coloured = base.encode(**encoded(names, "color", legend=below))
    # The marks are small: what can be clicked is larger than what is seen.
    targets = base.mark_point(filled=True, size=260, opacity=0).encode(y=alt.Y("top:Q"))
    seen = coloured.encode(opacity=alt.Opacity("look:Q", scale=None))
    bars = seen.mark_rule(strokeWidth=2).encode(y=y, y2=alt.Y2("top:Q"))
    tips = seen.mark_point(filled=True, size=30).encode(
        y=alt.Y("top:Q"), **encoded(names, "shape", legend=below)
    )
    ring = (
        base.transform_filter(alt.datum.name == (chosen or ""))
        # Without a chosen neuron it is empty, and has nothing to tell a screen reader.
        .mark_point(size=240, strokeWidth=2.5, stroke=colour("chosen"), filled=False, aria=False)
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
        height=max(TALL, 18 * n_layers),
    )


def _with_kinds(scores: pd.DataFrame) -> pd.DataFrame:
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
    rows = _with_kinds(scores).assign(name=neuron_names(scores))
    prompts = sorted(rows["template_id"].unique())
    wordings = dict(zip(rows["template_id"], rows["text"], strict=True))
    shown = {
        t: f"{place}. {(wordings[t] or t).replace(OBJECT_SLOT, _BLANK)}" for place, t in enumerate(prompts, 1)
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
            axis=label_axis(190),
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
        tooltip=tooltip(
            ("name:N", "Neuron"),
            ("kind:N", "What"),
            ("prompt:N", "Prompt"),
            ("score:Q", "Score (probability)", ".4f"),
            ("relative:Q", "Of the prompt's largest", ".0%"),
            ("counts:N", "Counts"),
        ),
    )
    frame = base.transform_filter(alt.datum.name == (chosen or "")).mark_rect(
        fill=None, stroke=colour("chosen"), strokeWidth=3, aria=False
    )
    return alt.layer(
        cells, frame, data=rows, title="Scores prompt by prompt", height=_ROW_HEIGHT * len(prompts)
    )


# One neuron ------------------------------------------------------------------------------------------


def token_bars(pairs: pd.DataFrame, *, title: str) -> alt.LayerChart:
    """Tokens and logits of one value vector. Columns: token, logit."""
    # The place keeps two tokens apart that look alike.
    labels = [f"{place}. {token}" for place, token in enumerate(pairs["token"], 1)]
    rows = pairs.assign(what=labels, meaning="own")
    layers = bars(
        rows,
        "logit",
        names={"own": title},
        x={"title": "Logit added per unit of activation", "axis": alt.Axis(tickCount=5)},
        tooltip=tooltip(("token:N", "Token"), ("logit:Q", "Logit", "+.3f")),
    )
    return alt.layer(*layers, data=rows, title=title, height=24 * len(rows))


def activation_bars(activations: pd.DataFrame, *, n_bars: int = 24) -> alt.Chart:
    """How a neuron's mean activation spreads over its facts.

    activations: as `queries.activations_of_neuron`; not empty.
    """
    values = activations["mean_activation"].to_numpy(dtype=float)
    low, high = min(0.0, values.min()), max(0.0, values.max())
    # Zero is where two bars meet: a bar has one sign.
    step = ((high - low) or 1.0) / n_bars
    edges = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    counts, _ = np.histogram(values, edges)
    rows = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": counts})
    rows["meaning"] = np.where(rows["high"] > step / 2, "above", "below")
    rows = rows[rows["n"] > 0]
    names = {"above": "above zero", "below": "below zero"}
    names = {meaning: text for meaning, text in names.items() if (rows["meaning"] == meaning).any()}
    return (
        alt.Chart(rows, title="Its activation on its facts")
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("low:Q", bin="binned", title="Mean activation", axis=alt.Axis(tickCount=6)),
            x2=alt.X2("high:Q"),
            y=alt.Y("n:Q", title="Facts", axis=alt.Axis(tickCount=4, format="d")),
            **encoded(names, "color", legend=legend(2, limit=160)),
            tooltip=tooltip(("low:Q", "From", "+.3f"), ("high:Q", "to", "+.3f"), ("n:Q", "Facts", ",")),
        )
        .properties(height=SMALL)
    )


def neuron_relation_bars(
    counts: pd.DataFrame, *, chosen: str | None = None, limit: int = RELATIONS_SHOWN
) -> alt.LayerChart:
    """How a neuron's facts spread over relations, and the share each would have by chance.

    counts: as `selectivity.relations_of_neuron`; all but the `chosen` relation are faint, if one is.
    """
    rows = counts.head(limit)
    rows = rows.assign(
        what=[label or relation for label, relation in zip(rows["label"], rows["relation_id"], strict=True)],
        look=[1.0 if chosen in (None, relation) else FAINT for relation in rows["relation_id"]],
        meaning="own",
    )
    names = {"own": "its facts", "random": "by chance"}
    tips = tooltip(
        ("what:N", "Relation"),
        ("relation_id:N", "Id"),
        ("n_facts:Q", "Facts with this neuron", ","),
        ("fact_share:Q", "Share of the neuron's facts", ".1%"),
        ("expected_share:Q", "The relation's share of all facts", ".1%"),
        ("relation_share:Q", "Share of the relation's facts", ".1%"),
    )
    x = {"title": "Share of its facts (%)", "axis": percent_axis()}
    layers = bars(rows, "fact_share", names=names, x=x, tooltip=tips, legend=legend(2, limit=160))
    by_chance = (
        alt.Chart()
        .transform_calculate(meaning="'random'")
        .mark_tick(thickness=3, size=16)
        .encode(
            y=alt.Y("what:N"),
            x=alt.X("expected_share:Q"),
            **encoded(names, "color", legend=legend(2, limit=160)),
            tooltip=tips,
        )
    )
    title = "Its facts by relation"
    return alt.layer(*layers, by_chance, data=rows, title=title, height=24 * len(rows))
