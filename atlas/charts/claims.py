"""The picture of a claim: its number in every model, what stands beside it, and the threshold.

claim_intervals(claim_rows(row), threshold=-0.1, side="below", axis="Change of … (%)")
"""

from __future__ import annotations

import altair as alt
import pandas as pd

from atlas.charts.look import TEXT, change_scale, label_axis, percent_axis, tooltip
from atlas.charts.marks import intervals
from atlas.charts.palette import encoded
from atlas.claims.claim import Row
from atlas.claims.registry import PAPER_MODEL

_ROW_HEIGHT = 21
_COLUMNS = ["model", "what", "meaning", "value", "low", "high", "text", "verdict"]


def claim_rows(row: Row) -> pd.DataFrame:
    """What the picture of a claim shows, one row a number; the claim's own number first in each model.

    Columns: model, what, meaning (of the palette), value, low, high, text, verdict.
    """
    rows: list[tuple] = []
    if row.claim.paper_value is not None:
        value = row.claim.paper_value
        rows.append((f"the paper, {PAPER_MODEL}", "published", "published", value, value, value, "", ""))
    for cell in row.cells:
        found = [("the claim's number", "own", cell.reading.estimate), *cell.reading.beside]
        rows += [
            (cell.measured.title, what, meaning, each.value, each.low, each.high, each.text(), verdict)
            for what, meaning, each in found
            if each is not None
            for verdict in [str(cell.verdict) if each is cell.reading.estimate else "not judged"]
        ]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    ends = ["low", "high"]
    return frame.assign(**{end: frame[end].astype(float).fillna(frame["value"]) for end in ends})


def claim_intervals(rows: pd.DataFrame, *, threshold: float, side: str, axis: str) -> alt.LayerChart:
    """Numbers with their 95 % intervals, below their model; the claim's side of the threshold is tinted.

    rows: as `claim_rows`; a bold label is a model.
    """
    order: list[str] = []
    for model, part in rows.groupby("model", sort=False):
        order += [str(model), *(f"{model}|{what}" for what in part["what"])]
    rows = rows.assign(place=rows["model"] + "|" + rows["what"], look=1.0)
    rows.loc[rows["verdict"] == "not judged", "look"] = 0.75
    signed = bool((rows["value"] < 0).any() or threshold < 0 or "hange" in axis)
    scale, axis_x = change_scale([*rows["low"], *rows["high"], threshold], room=0.05)
    if not signed:
        axis_x = percent_axis()
    low, high = scale["domain"]
    bar = "indexof(datum.label, '|')"
    y = alt.Y(
        "place:N",
        title=None,
        scale=alt.Scale(domain=order),
        axis=label_axis(
            170,
            labelExpr=f"{bar} < 0 ? datum.label : slice(datum.label, {bar} + 1)",
            labelFontWeight=alt.condition(f"{bar} < 0", alt.value("bold"), alt.value("normal")),
            ticks=False,
        ),
    )
    x = alt.X("value:Q", title=axis, scale=scale, axis=axis_x)
    ground = pd.DataFrame(
        [{"from": low, "to": threshold} if side == "below" else {"from": threshold, "to": high}]
    )
    claimed = (
        alt.Chart(ground)
        .mark_rect(color=TEXT, opacity=0.13)
        .encode(x=alt.X("from:Q", title=axis, scale=scale, axis=axis_x), x2="to:Q")
    )
    limit = alt.Chart(pd.DataFrame({"at": [threshold]})).mark_rule(strokeDash=[4, 3], strokeWidth=1.5)
    names = dict.fromkeys(rows["meaning"], "")
    points = (
        alt.Chart()
        .mark_point(filled=True, size=70)
        .encode(
            x=x,
            y=y,
            opacity=alt.Opacity("look:Q", scale=None),
            **encoded(names, "color", "shape"),
            tooltip=tooltip(
                ("model:N", "Model"),
                ("what:N", "Number"),
                ("text:N", "With its interval"),
                ("verdict:N", "Verdict"),
            ),
        )
    )
    base = alt.Chart().encode(y=y)
    return alt.layer(
        claimed,
        limit.encode(x=alt.X("at:Q", scale=scale)),
        *intervals(base, "low", "high"),
        points,
        data=rows,
        height=_ROW_HEIGHT * max(1, len(order)),
    )
