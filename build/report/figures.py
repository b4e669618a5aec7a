"""Figures as files: SVG and PNG for documents, HTML for exploring, and the SVG that a page takes in.

    drawn = figure_of(row)                              # a claim, judged
    drawn.svg, drawn.png, drawn.html, drawn.inlined()

`vl-convert-python` draws them, with no browser and no network. An interactive chart is a small page beside
`vega.js`, which holds Vega once for all of them.
"""

from __future__ import annotations

import html
import json
import re
import struct
import zlib
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

SCRIPT = "vega.js"
_PNG_SCALE = 2
_WIDTH = 460

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 1rem auto; max-width: 60rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif;
        color: #1D232B; background: #FFFFFF; }}
#chart {{ max-width: 100%; }}
#chart svg {{ max-width: 100%; height: auto; }}
a {{ color: #1F5F8B; }}
</style>
</head>
<body>
<p><a href="../report.html">Back to the report</a></p>
<div id="chart" role="img" aria-label="{alt}"></div>
<script src="{script}"></script>
<script>
const actions = {{export: true, source: false, compiled: false, editor: false}};
vegaEmbed("#chart", {spec}, {{renderer: "svg", actions}});
</script>
</body>
</html>
"""


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


def script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script for all interactive charts."""
    return converter().javascript_bundle(vl_version=_version())


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
        return _squeezed(converter().vegalite_to_png(self.spec, vl_version=_version(), scale=_PNG_SCALE))

    @cached_property
    def html(self) -> str:
        # "</script>" in a label must not end the page's script.
        spec = json.dumps(self.spec, ensure_ascii=False, sort_keys=True).replace("</", "<\\/")
        return _PAGE.format(
            title=html.escape(self.name), alt=html.escape(self.alt, quote=True), script=SCRIPT, spec=spec
        )

    def inlined(self) -> str:
        """The SVG for a page: in the colour of the page's text, no ground, its ids its own."""
        text = re.sub(r"^.*?(?=<svg)", "", self.svg, flags=re.DOTALL)
        text = text.replace(f'fill="{WHITE}"', 'fill="none"').replace(INK, "currentColor")
        names = re.findall(r'\bid="([^"]+)"', text)
        text = _renamed(text, {name: f"{self.name}-{name}" for name in names})
        label = html.escape(self.alt, quote=True)
        return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _squeezed(png: bytes) -> bytes:
    """The same picture in a third of the bytes: what draws it packs for speed."""
    head, place, packed, rest = png[:8], 8, b"", []
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, content = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        if kind == b"IDAT":
            packed += content
        else:
            rest.append((kind, content))
        place += 12 + length
    rest.insert(-1, (b"IDAT", zlib.compress(zlib.decompress(packed), 9)))
    chunks = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in rest
    )
    return head + b"".join(chunks)


def _renamed(svg: str, names: dict[str, str]) -> str:
    """An SVG with other ids, and what refers to them."""

    def other(match: re.Match) -> str:
        return f"{match[1]}{names.get(match[2], match[2])}{match[3]}"

    return re.sub(r'(\bid="|url\(#|href="#)([^")]+)(["\)])', other, svg)
