"""The report as Markdown and as one HTML page that needs no other file, both from templates.

    render("report.md.j2", report, manifests, {"suppress": figure_of(row)})

The templates say in which order things come; the words of claims and verdicts are those of `atlas.claims`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from atlas import claims
from atlas.claims.registry import PAPER_LINK, PAPER_MODEL, REPLICATION_LINK
from atlas.store.manifest import Manifest
from build.report.figures import Figure
from build.report.provenance import provenance

_TEMPLATES = Path(__file__).parent / "templates"
FIGURES = "figures"


def render(
    template: str, report: claims.Report, manifests: Sequence[Manifest], figures: Mapping[str, Figure]
) -> str:
    """The report by a template; figures: claim → its figure."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"escaped": escape_marks, "bold": _bold}
    return environment.get_template(template).render(
        report=report,
        figures=figures,
        folder=FIGURES,
        verdicts=claims.Verdict,
        paper={"model": PAPER_MODEL, "link": PAPER_LINK, "replication": REPLICATION_LINK},
        how_judged=claims.HOW_JUDGED,
        against_first=claims.AGAINST_FIRST,
        manifests=manifests,
        provenance=provenance(manifests),
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
    )


def escape_marks(text: object) -> str:
    """Text from an atlas, such as its name, with Markdown's marks escaped."""
    return re.sub(r"([\\`*\[\]|<>])", r"\\\1", str(text))


def _bold(text: object) -> str:
    """Escaped text with its **bold** as HTML."""
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", str(text))
