"""The Lab's pictures: each function takes a DataFrame of `app.lab.tables` and gives an `alt.Chart`."""

from __future__ import annotations

import altair as alt
import pandas as pd

from atlas.charts.look import SMALL, TALL, label_axis, legend, tooltip
from atlas.charts.marks import lines, moves
from atlas.charts.palette import colour, encoded
from atlas.neuron import PROMPT_GROUPS

# Why a prompt is given → what it means in charts.
_MEANINGS = {"asked": "own", "paraphrases": "paraphrase", "neighbours": "relation", "unrelated": "unrelated"}


# Before and after ------------------------------------------------------------------------------------


def before_and_after(summary: pd.DataFrame) -> alt.LayerChart:
    """Mean probability before and after a change, and with random neurons, by group of prompts.

    summary: as `app.lab.tables.summary`.
    """
    rows = summary.melt(
        ["label", "n_prompts", "before"], ["after", "random"], var_name="kind", value_name="probability"
    )
    names = {"own": "these neurons", "random": "random neurons"}
    rows["meaning"] = ["own" if kind == "after" else "random" for kind in rows["kind"]]
    rows["whose"] = rows["meaning"].map(names)
    rows["change"] = rows["probability"] / rows["before"] - 1
    layers = moves(
        "before",
        "probability",
        names=names,
        y=alt.Y("label:N", title=None, sort=None, axis=label_axis(150)),
        beside=alt.YOffset("whose:N", sort=list(names.values())),
        legend=legend(limit=180),
        tooltip=tooltip(
            ("label:N", "Prompts"),
            ("whose:N", "Changed"),
            ("before:Q", "Mean probability before", ".4f"),
            ("probability:Q", "and after", ".4f"),
            ("change:Q", "Change", "+.1%"),
            ("n_prompts:Q", "Prompts"),
        ),
    )
    return alt.layer(*layers, data=rows, title="Before and after", height=52 * len(summary))


# Dose and response -----------------------------------------------------------------------------------


def factor_lines(doses: pd.DataFrame) -> alt.LayerChart:
    """Mean probability over the factor, by group of prompts; random neurons as a band of all draws.

    doses: as `app.lab.tables.dose_rows`.
    """
    rows = doses.assign(meaning=doses["group"].map(_MEANINGS))
    present = [group for group in PROMPT_GROUPS if (rows["group"] == group).any()]
    factors = sorted(rows["factor"].unique())
    x = alt.X(
        "factor:Q",
        title="Factor (0: suppressed, 1: as they are)",
        scale=alt.Scale(domain=[factors[0], factors[-1]], nice=False),
        axis=alt.Axis(values=factors, format="g", labelOverlap="greedy", grid=False),
    )
    y = {"title": "P(answer), mean", "scale": alt.Scale(domain=[0, 1])}
    names = {_MEANINGS[group]: PROMPT_GROUPS[group] for group in present} | {"random": "random neurons"}
    below = legend(2, limit=150)
    drawn = lines(
        x,
        alt.Y("probability:Q", **y),
        names=names,
        legend=below,
        tooltip=tooltip(
            ("label:N", "Prompts"),
            ("factor:Q", "Factor"),
            ("probability:Q", "P(answer), mean", ".4f"),
            ("random:Q", "with random neurons", ".4f"),
            ("rank_1:Q", "Prompts with the answer at rank 1"),
            ("n_prompts:Q", "of"),
        ),
        size=35,
    )
    of_random = rows[rows["random"].notna() & (rows["group"] == present[0])].assign(meaning="random")
    random = alt.Chart(of_random).encode(x=x, **encoded(names, "color", legend=below))
    behind = [
        alt.Chart(pd.DataFrame({"factor": [1.0]})).mark_rule(strokeDash=[2, 2]).encode(x=x),
        random.mark_area(opacity=0.25).encode(y=alt.Y("random_low:Q", **y), y2="random_high:Q"),
        random.mark_line(strokeWidth=2).encode(y=alt.Y("random:Q", **y), **encoded(names, "strokeDash")),
    ]
    return alt.layer(*behind, *drawn, data=rows, title="Dose and response", height=TALL)


# The path --------------------------------------------------------------------------------------------


def path_line(path: pd.DataFrame, layer: int) -> alt.Chart:
    """P(α) along one layer's path. path: as `app.lab.tables.path_rows`."""
    several = path["token"].nunique() > 1
    return (
        alt.Chart(path, title=f"The path of layer {layer}")
        .mark_line(color=colour("own"), point=alt.OverlayMarkDef(color=colour("own"), size=30))
        .encode(
            x=alt.X("alpha:Q", title="α (share of the layer's activations)", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("probability:Q", title="P(answer)", scale=alt.Scale(domainMin=0)),
            **({"strokeDash": alt.StrokeDash("token:N", title="Answer token")} if several else {}),
            tooltip=tooltip(
                ("alpha:Q", "α", ".3f"),
                ("probability:Q", "P(answer)", ".4f"),
                ("token:N", "Answer token"),
            ),
        )
        .properties(height=SMALL)
    )
