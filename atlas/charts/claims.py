"""The picture of a claim: its number in every model, what stands beside it, and the threshold.

claim_intervals(claim_rows(row), threshold=-0.1, side="below", axis="Change of … (%)")
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from atlas.charts.look import TEXT, change_scale, label_axis, percent_axis, tooltip
from atlas.charts.marks import intervals
from atlas.charts.palette import encoded
from atlas.claims.claim import Claim, Row
from atlas.claims.registry import PAPER_MODEL

_ROW_HEIGHT, _LABELS = 20, 165
_COLUMNS = ["model", "what", "meaning", "value", "low", "high", "text", "verdict"]


def claim_rows(row: Row) -> pd.DataFrame:
    """What the picture of a claim shows, one row a number; the claim's own number first in each model.

    Columns: model, what, meaning (of the palette), value, low, high, text, verdict.
    """
    rows: list[tuple] = []
    if row.claim.paper_value is not None:
        value = row.claim.paper_value
        rows.append(("the paper", PAPER_MODEL, "published", value, value, value, "", "published"))
    for cell in row.cells:
        found = [(row.claim.words, "own", cell.reading.estimate), *cell.reading.beside]
        rows += [
            (cell.measured.title, what, meaning, each.value, each.low, each.high, each.text(), verdict)
            for what, meaning, each in found
            if each is not None
            for verdict in [str(cell.verdict) if each is cell.reading.estimate else "not judged"]
        ]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    ends = ["low", "high"]
    return frame.assign(**{end: frame[end].astype(float).fillna(frame["value"]) for end in ends})


def claim_scale(claim: Claim) -> dict[str, Any]:
    """What `claim_intervals` needs to know of a claim."""
    signed = claim.unit != "share"
    return {name: getattr(claim, name) for name in ("threshold", "side", "bound", "axis")} | {
        "signed": signed
    }


def claim_intervals(
    rows: pd.DataFrame, *, threshold: float, side: str, bound: str, axis: str, signed: bool
) -> alt.LayerChart:
    """Numbers with their 95 % intervals, below their model; the claim's side of the threshold is tinted.

    rows: as `claim_rows`; the rest: as `claim_scale`.
    """
    order: list[str] = []
    for model, part in rows.groupby("model", sort=False):
        order += [str(model), *(f"{model}|{what}" for what in part["what"])]
    sizes = {"not judged": 60}
    rows = rows.assign(place=rows["model"] + "|" + rows["what"], size=rows["verdict"].map(sizes).fillna(110))
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
            _LABELS,
            minExtent=_LABELS + 10,
            labelExpr=f"{bar} < 0 ? datum.label : slice(datum.label, {bar} + 1)",
            labelFontWeight=alt.condition(f"{bar} < 0", alt.value("bold"), alt.value("normal")),
            ticks=False,
            labelFlush=False,
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
        .mark_point(filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            size=alt.Size("size:Q", scale=None),
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
        title=f"Claimed: {bound} (tinted)",
        height=_ROW_HEIGHT * max(1, len(order)),
    )
