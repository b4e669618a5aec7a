"""Figures as files: SVG and PNG for documents, and the SVG that a page takes in.

    drawn = figure_of(row)                              # a claim, judged
    drawn.svg, drawn.png, drawn.inlined()

`vl-convert-python` draws them, with no browser and no network.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

from atlas.charts.claims import claim_intervals, claim_rows, claim_scale
from atlas.charts.look import AUTOSIZE, INK, WHITE
from atlas.claims import Row
from atlas.errors import BuildError

if TYPE_CHECKING:
    import altair as alt

_PNG_SCALE = 2
_WIDTH = 460


def converter() -> ModuleType:
    """The package that draws. Raises `BuildError` when it is not installed."""
    try:
        import vl_convert
    except ImportError:
        raise BuildError(
            "Charts are drawn with vl-convert-python, which is not installed. "
            'Install what requirements-dev.txt lists, or `pip install ".[build]"`.'
        ) from None
    return vl_convert


def _version() -> str:
    import altair

    # 'v6.4.1' → '6.4'
    return ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def has_numbers(row: Row) -> bool:
    """Whether there is anything to draw."""
    return any(cell.reading.estimate or cell.reading.beside for cell in row.cells)


def figure_of(row: Row) -> Figure:
    """The figure of a claim."""
    claim = row.claim
    chart = claim_intervals(claim_rows(row), **claim_scale(claim)).properties(width=_WIDTH, autosize=AUTOSIZE)
    # The picture as a whole has a name for those who cannot see it; a name for each mark is mere weight.
    chart = chart.configure(aria=False, background=WHITE, font="Arial, Helvetica, sans-serif", padding=6)
    ink = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12}
    lines = {"domainColor": INK, "tickColor": INK, "gridColor": INK, "gridOpacity": 0.13}
    chart = chart.configure_axis(**ink, **lines, titleFontWeight="normal").configure_view(stroke=None)
    words = f"{claim.says} Its number in each model, with 95 % intervals; the claim's side is tinted."
    chart = chart.configure_title(color=INK, fontSize=13, fontWeight="normal", anchor="start")
    return Figure(claim.name, words, chart.configure_rule(color=INK))


@dataclass(frozen=True)
class Figure:
    """One chart: the name of its files, a sentence for those who cannot see it, the chart."""

    name: str
    alt: str
    chart: alt.Chart

    @cached_property
    def spec(self) -> dict[str, Any]:
        return self.chart.to_dict()

    @cached_property
    def svg(self) -> str:
        # Vega numbers gradients and the like through everything that a process draws.
        drawn = converter().vegalite_to_svg(self.spec, vl_version=_version())
        names = dict.fromkeys(re.findall(r'\bid="([^"]+)"', drawn))
        return _renamed(drawn, {name: f"part{place}" for place, name in enumerate(names)})

    @cached_property
    def png(self) -> bytes:
        return converter().vegalite_to_png(self.spec, vl_version=_version(), scale=_PNG_SCALE)

    def inlined(self) -> str:
        """The SVG for a page: in the colour of the page's text, no ground, its ids its own."""
        text = re.sub(r"^.*?(?=<svg)", "", self.svg, flags=re.DOTALL)
        text = text.replace(f'fill="{WHITE}"', 'fill="none"').replace(INK, "currentColor")
        names = re.findall(r'\bid="([^"]+)"', text)
        text = _renamed(text, {name: f"{self.name}-{name}" for name in names})
        label = html.escape(self.alt, quote=True)
        return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _renamed(svg: str, names: dict[str, str]) -> str:
    """An SVG with other ids, and what refers to them."""

    def other(match: re.Match) -> str:
        return f"{match[1]}{names.get(match[2], match[2])}{match[3]}"

    return re.sub(r'(\bid="|url\(#|href="#)([^")]+)(["\)])', other, svg)
