"""The palette: how each thing that charts show looks, everywhere. One colour, one meaning.

    PALETTE["random"].colour                                # "#CC8400"
    base.mark_bar().encode(**encoded({"own": "its own neurons", "random": "random neurons"}, "color"))

Charts name what they draw by the keys of `PALETTE`, in a column `meaning`. Hues follow Okabe and Ito. Each
colour has a contrast of 3:1 or more to white and to the app's dark ground; those that are drawn together stay
apart for colour-blind readers, and lines differ by dash, points by shape, too. Neutral parts (numbers, axes,
reference lines) have the colour of text, see `look`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import altair as alt

COLUMN = "meaning"
SOLID = (1, 0)


@dataclass(frozen=True)
class Meaning:
    """What a colour stands for, and the dash of its lines and the shape of its points."""

    means: str
    colour: str
    dash: tuple[int, ...] = SOLID
    shape: str = "circle"


PALETTE: Mapping[str, Meaning] = MappingProxyType(
    {
        "own": Meaning("the neurons, fact or relation that the chart is about", "#2E86C1"),
        "random": Meaning("what chance gives: random neurons, a random order", "#CC8400", (6, 3), "square"),
        "matched": Meaning("neurons matched in activation or contribution", "#B54A98", (4, 2), "triangle-up"),
        "baseline": Meaning(
            "the most active neurons, the paper's baseline", "#009E73", (2, 2), "triangle-down"
        ),
        "unrelated": Meaning(
            "what does not belong to it: unrelated facts, other relations, neurons of too few prompts",
            "#8A8F98",
            (8, 3, 2, 3),
            "diamond",
        ),
        "relation": Meaning(
            "other facts of the same relation, and what they lose, too", "#6A4FC4", (2, 3), "triangle-right"
        ),
        "paraphrase": Meaning("held-out paraphrases of the fact", "#3F7D3A", (5, 2), "triangle-up"),
        "shared": Meaning("neurons or facts held in common with others", "#807E38", (4, 2), "circle"),
        "first": Meaning("A of a comparison, not B", "#0A7E70", SOLID, "triangle-up"),
        "second": Meaning("B of a comparison, not A", "#C2557A", (6, 3), "triangle-down"),
        "method": Meaning("neurons that another attribution method finds", "#6B5B95", (4, 2), "square"),
        "before": Meaning("the state before a change", "#9C5A3C", (2, 3), "cross"),
        "after": Meaning("what a change adds", "#4E9F2F", SOLID, "triangle-up"),
        "published": Meaning("a published value, of another model", "#C25604", SOLID, "cross"),
        "chosen": Meaning("the reader's choice", "#D81B60"),
        "answer": Meaning(
            "the answer: while the model arrives at it, and other facts that share it", "#C9474F"
        ),
        "above": Meaning("activations above zero", "#D2622A"),
        "below": Meaning("activations below zero", "#4A74D0"),
    }
)

_CHANNELS = {
    "color": (alt.Color, lambda meaning: meaning.colour),
    "strokeDash": (alt.StrokeDash, lambda meaning: list(meaning.dash)),
    "shape": (alt.Shape, lambda meaning: meaning.shape),
}


def colour(meaning: str) -> str:
    """The colour of a mark that stands for one thing only."""
    return PALETTE[meaning].colour


def encoded(
    names: Mapping[str, str], *channels: str, legend: alt.Legend | None = None
) -> dict[str, alt.Color | alt.StrokeDash | alt.Shape]:
    """Channels (color, strokeDash, shape) by the column `meaning`; no legend unless one is given.

    names: meaning → its words in the legend, in the legend's order.
    """
    if legend is not None:
        words = json.dumps(dict(names), ensure_ascii=False)
        legend = alt.Legend(labelExpr=f"{words}[datum.label]", **legend.to_dict())
    return {
        channel: _CHANNELS[channel][0](
            f"{COLUMN}:N",
            scale=alt.Scale(
                domain=list(names), range=[_CHANNELS[channel][1](PALETTE[meaning]) for meaning in names]
            ),
            legend=legend,
        )
        for channel in channels
    }
