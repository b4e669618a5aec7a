"""Reads what a chart's drawn specification says in colours, dashes and shapes, and holds it to the palette.

meanings = check_palette(clickable(chart, "name").to_dict())      # {'own', 'random'}, or an AssertionError
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from atlas.charts import look
from atlas.charts.palette import COLUMN, PALETTE

NEUTRAL = {look.INTERVAL, look.HALO, look.ON_LIGHT, look.ON_DARK, look.WHITE, look.INK, look.TEXT}
_LOOKS = {
    "color": lambda meaning: meaning.colour,
    "strokeDash": lambda meaning: list(meaning.dash),
    "shape": lambda meaning: meaning.shape,
}


def views(spec: dict) -> list[dict]:
    """The chart's layers, and theirs; the chart itself when it has none."""
    return [view for layer in spec["layer"] for view in views(layer)] if "layer" in spec else [spec]


def check_palette(spec: dict[str, Any]) -> set[str]:
    """The meanings that the chart draws; each with the colour, dash and shape of `PALETTE`."""
    drawn = set()
    for view in views(spec):
        for channel, look_of in _LOOKS.items():
            encoding = view.get("encoding", {}).get(channel, {})
            if encoding.get("field") != COLUMN:
                continue
            scale = encoding["scale"]
            assert scale["range"] == [look_of(PALETTE[meaning]) for meaning in scale["domain"]]
            drawn |= set(scale["domain"]) if channel == "color" else set()
        encoding = view.get("encoding", {}).get("color", {})
        if encoding.get("type") == "nominal" and encoding["field"] != COLUMN:
            assert set(encoding["scale"]["range"]) <= NEUTRAL
        drawn |= set(_constant(view))
    rows = [row for data in spec.get("datasets", {}).values() for row in data]
    assert {row[COLUMN] for row in rows if row.get(COLUMN) is not None} <= set(PALETTE)
    return drawn


def _constant(view: dict) -> Iterator[str]:
    """The meanings of colours that all marks of a view have."""
    mark = view["mark"] if isinstance(view["mark"], dict) else {}
    named = {meaning.colour: name for name, meaning in PALETTE.items()}
    points = mark["point"] if isinstance(mark.get("point"), dict) else {}
    for part in (mark, points):
        for colour in (part.get(each) for each in ("color", "fill", "stroke")):
            if colour is not None and colour not in NEUTRAL:
                yield named[colour]
