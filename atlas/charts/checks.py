"""Checks of the thesis on samples of facts: fewer neurons, other wordings, other sentences, other methods.

    layout.draw(subset_lines(evidence.subset_curve(a, fact_id)), "…")

Each shows one fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from atlas.charts.changes import WHOSE
from atlas.charts.look import TALL, label_axis, legend, room_scale, tooltip
from atlas.charts.marks import bars, lines

_ORDERS = {"score": "own", "random": "random"}
_ORDER_NAMES = {"own": "largest score first", "random": "in a random order"}
CONTEXT_NAMES = {
    "fact": "the fact is asked for",
    "subject": "its subject is mentioned",
    "relation": "others of its relation are",
    "random": "unrelated facts are",
}
_PAIRS = {
    "same": ("own", "the same fact"),
    "relation": ("relation", "another of its relation"),
    "random": ("unrelated", "an unrelated fact"),
}
# The paper's baseline is the choice by activation.
_METHOD_MEANINGS = {"integrated_gradients": "own", "activation": "baseline", "random": "random"}


def subset_lines(curve: pd.DataFrame) -> alt.LayerChart:
    """The answer's probability over the number of its neurons that are suppressed.

    curve: as `evidence.subset_curve`.
    """
    before = curve["p_before"].where(curve["p_before"] > 0)
    rows = _ordered(curve).assign(change=curve["p_after"] / before - 1)
    x = alt.X(
        "k:Q",
        title="Neurons suppressed (number)",
        scale=alt.Scale(domain=[0, int(rows["n_neurons"].max())], nice=False),
        axis=alt.Axis(format="d", tickMinStep=1, tickCount=8, grid=False),
    )
    y = alt.Y("p_after:Q", title="P(answer), mean", scale=alt.Scale(domain=[0, 1]))
    tips = tooltip(
        ("which:N", "Suppressed"),
        ("k:Q", "Neurons"),
        ("p_after:Q", "P(answer), mean", ".4f"),
        ("change:Q", "Change", "+.1%"),
    )
    return _suppressed(rows, x, y, tips)


def _ordered(curve: pd.DataFrame) -> pd.DataFrame:
    meanings = curve["order"].map(_ORDERS)
    return curve.assign(meaning=meanings, which=meanings.map(_ORDER_NAMES))


def _suppressed(rows: pd.DataFrame, x: alt.X, y: alt.Y, tips: list[alt.Tooltip]) -> alt.LayerChart:
    layers = lines(x, y, names=_ORDER_NAMES, legend=legend(), tooltip=tips)
    title = "With the first k of its neurons suppressed"
    return alt.layer(*layers, data=rows, title=title, height=TALL)


def jaccard_rows(found: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of `stability_bars` of one fact. found: as `evidence.stability_of_fact`."""
    values = [found["jaccard"], found["jaccard_relation"], found["jaccard_random"]]
    return pd.DataFrame({"pair": list(_PAIRS), "jaccard": values}).dropna().astype({"jaccard": float})


def stability_bars(rows: pd.DataFrame) -> alt.LayerChart:
    """The Jaccard index of the held-out half's neurons with three facts' own.

    rows: pair ('same', 'relation', 'random'), jaccard.
    """
    rows = rows.assign(
        meaning=[_PAIRS[pair][0] for pair in rows["pair"]],
        what=[_PAIRS[pair][1] for pair in rows["pair"]],
        shown=[f"{value:.2f}" for value in rows["jaccard"]],
    )
    layers = bars(
        rows,
        "jaccard",
        names=dict(_PAIRS.values()),
        x={
            "title": "Neurons in both ÷ in either (Jaccard)",
            "scale": alt.Scale(domain=[0, 1.14], nice=False),
            "axis": alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g"),
        },
        tooltip=tooltip(("what:N", "With the neurons of"), ("jaccard:Q", "Jaccard index", ".3f")),
        size=26,
    )
    title = "Neurons found on held-out wordings, beside those of"
    return alt.layer(*layers, data=rows, title=title, height=46 * len(rows))


def context_bars(contexts: pd.DataFrame) -> alt.LayerChart:
    """How active a fact's neurons are, as a share of what they are on the prompts that found them.

    contexts: as `evidence.contexts_of_fact`.
    """
    rows = contexts[contexts["relative"].notna()]
    rows = rows.assign(
        meaning=rows["group"],
        whose=rows["group"].map(WHOSE),
        what=rows["context"].map(CONTEXT_NAMES),
        shown=[f"{value:.2f}".replace("-", "−") for value in rows["relative"]],
    )
    order = [CONTEXT_NAMES[context] for context in CONTEXT_NAMES if (rows["context"] == context).any()]
    layers = bars(
        rows,
        "relative",
        names=WHOSE,
        x={
            "title": "Activation (1: where found)",
            "scale": room_scale(rows["relative"]),
            "axis": alt.Axis(tickCount=5, format="~g"),
        },
        y={"sort": order, "axis": label_axis(170)},
        beside=alt.YOffset("whose:N", sort=list(WHOSE.values())),
        tooltip=tooltip(
            ("what:N", "Where"),
            ("whose:N", "Neurons"),
            ("relative:Q", "Of the discovery prompts'", ".2f"),
            ("activation:Q", "Mean activation", ".4f"),
            ("magnitude:Q", "Mean |activation|", ".4f"),
            ("n_neurons:Q", "Neurons"),
            ("n_prompts:Q", "Sentences"),
        ),
        legend=legend(),
    )
    return alt.layer(*layers, data=rows, title="How active they are where", height=42 * len(order))


def planted_bars(board: pd.DataFrame, names: Mapping[str, str], measure: str, title: str) -> alt.LayerChart:
    """A measure of each method for one number of planted neurons, the best first.

    board: as `atlas.queries.planted.leaderboard`; names: method → its words; measure: recall, precision, auc
    or fall; title: what the measure is.
    """
    rows = board.sort_values(measure, ascending=False)
    rows = rows.assign(
        what=[names.get(method, method) for method in rows["method"]],
        meaning=[_METHOD_MEANINGS.get(method, "method") for method in rows["method"]],
        shown=[f"{value:.2f}" for value in rows[measure]],
        low=rows[f"{measure}_low"],
        high=rows[f"{measure}_high"],
        n=rows["n_plantings"],
    )
    layers = bars(
        rows,
        measure,
        names={
            "own": "certified integrated gradients",
            "method": "other methods",
            "baseline": "activation",
            "random": "random order",
        },
        x={"title": title, "axis": alt.Axis(tickCount=5, format="~g"), "scale": room_scale(rows["high"])},
        y={"axis": label_axis(230)},
        tooltip=tooltip(
            ("what:N", "Method"),
            (f"{measure}:Q", title, ".3f"),
            ("low:Q", "95 % interval from", ".3f"),
            ("high:Q", "to", ".3f"),
            ("n:Q", "n", ","),
        ),
        interval=("low", "high"),
    )
    heading = f"{int(rows['n_planted'].iloc[0])} planted neurons"
    return alt.layer(*layers, data=rows, title=heading, height=36 * len(rows))
