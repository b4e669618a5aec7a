"""How figures are shown and kept: a Markdown table, a JSON file, a summary of many certificates."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from atlas.attribution.attribution import Attribution


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The rows as a Markdown table, the columns after the first to the right."""
    table = Table(box=MARKDOWN)
    for place, head in enumerate(heads):
        table.add_column(Text(head), no_wrap=True, justify="right" if place else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=10_000)
    console.print(table)
    return console.file.getvalue().strip("\n ")


def format_rows(rows: Iterable[Mapping[str, Any]], *cells: str) -> list[list[str]]:
    """Each row as cells, written such as ``"{seconds:.3f}"``."""
    return [[cell.format(**row) for cell in cells] for row in rows]


def write_json(path: Path | None, figures: Any) -> None:
    """The figures as JSON, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) else str(value)


def certificates(found: Iterable[Attribution]) -> list[tuple[float, float, float]]:
    """(points a layer, share of layers that converged, largest gap) of each prompt."""
    return [(float(a.n_points.mean()), float(a.converged.mean()), a.max_gap) for a in found]


def summary_of(certificates: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Means over prompts, and the largest gap of all as a share of the largest |score|."""
    points, converged, gaps = zip(*certificates, strict=True)
    return {
        "points_per_layer": statistics.fmean(points),
        "converged_share": statistics.fmean(converged),
        "max_gap": max(gaps),
    }


def shown_bytes(peak: dict[str, int | None]) -> str:
    """The GPU's peak where there is one, for the process holds only copies there."""
    return f"{(peak['device'] or peak['process']) / 1e9:.2f} GB"
