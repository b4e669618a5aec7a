"""A line of comparison: a published number, and ours with its n, its interval, its controls and a verdict.

ComparedNumber("Neurons a fact", lambda found: found.statistics.neurons, "neurons").row(findings)
comparison(lines, findings)                     # a table; atlases are columns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from atlas.numbers import NOT_MEASURED
from build.report.claims import judge
from build.report.findings import Findings
from build.report.numbers import Measurement, in_unit
from build.report.page import Block, Paragraph, Table, escape_marks
from build.report.paper_values import (
    PAPER_VALUES,
    RANGES,
    REPLICATED,
    REPLICATION_VALUES,
    PublishedValue,
    Range,
    paper,
    replication,
)

NumberOf = Callable[[Findings], Measurement | None]


def at(*path: Any) -> NumberOf:
    """The number at a path of the findings (`Findings.number`)."""
    return lambda found: found.number(*path)


@dataclass(frozen=True)
class ComparedNumber:
    """One row of a comparison.

    published: its name in `paper_values`; controls: (name, number); note: a further line of the cell; claim:
    the claim whose outcome is the verdict where nothing was published; doubts: whether a control that does
    as much speaks against the number (it does not where the number is a harm). paper: in place of a number;
    missing: what a cell without a number says in place of "not measured"; beside: words behind a control.
    """

    what: str
    ours: NumberOf
    published: str = ""
    controls: tuple[tuple[str, NumberOf], ...] = ()
    note: Callable[[Findings], str] | None = None
    claim: str = ""
    doubts: bool = True
    paper: str = ""
    missing: Callable[[Findings], str] | None = None
    beside: Callable[[Findings, str], str] | None = None

    def row(self, findings: Sequence[Findings]) -> tuple[str, ...]:
        return (
            self.what,
            self.paper or paper(self.published),
            replication(self.published),
            *(self.cell(found) for found in findings),
        )

    def cell(self, found: Findings) -> str:
        ours = self.ours(found)
        if ours is None:
            return NOT_MEASURED if self.missing is None else self.missing(found)
        controls = [(name, number(found)) for name, number in self.controls]
        controls = [(name, number) for name, number in controls if number is not None]
        lines = [
            f"**{ours.number()}** {ours.interval()}".strip(),
            ours.counted(),
            "" if self.note is None else self.note(found),
            *(
                f"{name}: {number.text()}" + ("" if self.beside is None else self.beside(found, name))
                for name, number in controls
            ),
            self.verdict(found, ours, controls),
        ]
        return "\n".join(line for line in lines if line)

    def verdict(self, found: Findings, ours: Measurement, controls: list[tuple[str, Measurement]]) -> str:
        controls = controls if self.doubts else []
        theirs = REPLICATION_VALUES.get(self.published)
        if theirs is not None and found.manifest.model.name == REPLICATED:
            return f"*beside the replication: {compare_published(ours, theirs, controls)}*"
        published = PAPER_VALUES.get(self.published) or RANGES.get(self.published) or theirs
        if published is not None:
            return f"*{compare_published(ours, published, controls)}*"
        if not self.claim:
            return ""
        outcomes = [each.outcome for each in judge(found) if each.claim.name == self.claim]
        return f"*{outcomes[0] if outcomes else 'does not apply'}*"


def comparison(lines: Sequence[ComparedNumber], findings: Sequence[Findings], caption: str = "") -> Table:
    """The lines as a table: the paper, the replication, then every atlas."""
    columns = ("what", "paper", "replication", *(escape_marks(found.atlas_id) for found in findings))
    return Table(columns, tuple(line.row(findings) for line in lines), caption, widths=(20, 15, 12))


def having(findings: Sequence[Findings], part: str) -> list[Findings]:
    """The atlases of which this part was measured."""
    return [found for found in findings if attrgetter(part)(found) is not None]


def explain_missing(findings: Sequence[Findings], part: str, experiment: str) -> list[Block]:
    """A sentence on each atlas of which this part was not measured, and what would do it."""
    blocks: list[Block] = []
    for found in findings:
        if attrgetter(part)(found) is not None:
            continue
        if found.manifest.model.weights_sha256 is None:
            how = "It holds neurons that others published, and no model to measure them with."
        else:
            how = f"`python -m build evaluate DIR --experiments {experiment}` measures it."
        blocks.append(Paragraph(f"{escape_marks(found.atlas_id)}: {NOT_MEASURED}. {how}"))
    return blocks


# Beside published numbers -----------------------------------------------------------------------------

# Numbers are about the same within this factor, and of one order of magnitude within that one.
_ALIKE, _ORDER = 1.5, 10**0.5
# From these factors on a change is not just stronger than another.
_MANY_TIMES, _ORDERS = 10, 1000
# A control that does at least this share of it casts doubt.
_MUCH = 0.5


def compare_published(
    ours: Measurement | None,
    published: PublishedValue | Range,
    controls: Sequence[tuple[str, Measurement]] = (),
) -> str:
    """A plain verdict on our number beside a published one, and beside its own controls, by name."""
    if ours is None:
        return NOT_MEASURED
    if isinstance(published, Range):
        place = (
            "below" if ours.value < published.low else "above" if ours.value > published.high else "within"
        )
        return f"{place} the published range" + _doubt(ours, controls)
    signed = published.unit in ("change", "difference")
    verdict = _compare_signed(ours, published) if signed else _compare_sizes(ours, published)
    return verdict if verdict.startswith("not") else verdict + _doubt(ours, controls)


def _compare_signed(ours: Measurement, published: PublishedValue) -> str:
    if not (ours.above_zero or ours.below_zero):
        return "not reproduced: no significant change"
    if (ours.value > 0) != (published.value > 0):
        return "not reproduced: the opposite sign"
    ratio = abs(ours.value / published.value)
    if ratio >= _ORDERS:
        return "same sign, many orders of magnitude larger: not comparable"
    if ratio >= _MANY_TIMES:
        return f"same sign, {ratio:,.0f} times as large"
    size = "stronger" if ratio > _ALIKE else "weaker" if ratio < 1 / _ALIKE else "about as strong"
    return f"same sign, {size}"


def _compare_sizes(ours: Measurement, published: PublishedValue) -> str:
    if in_unit(ours.value, published.unit, published.digits) == published.number:
        return "the same number"
    if published.value == 0 or ours.value <= 0:
        return "not reproduced: none here" if ours.value <= 0 else "not reproduced: some here"
    ratio = ours.value / published.value
    if 1 / _ALIKE <= ratio <= _ALIKE:
        return "about the same"
    if 1 / _ORDER <= ratio <= _ORDER:
        return f"same order of magnitude, {'more' if ratio > 1 else 'less'}"
    times = f"{ratio:,.0f} times as much" if ratio > 1 else f"1/{1 / ratio:,.0f} of it"
    return f"another order of magnitude ({times}); not comparable: another model"


def _doubt(ours: Measurement, controls: Sequence[tuple[str, Measurement]]) -> str:
    if not controls or ours.value == 0:
        return ""
    name, control = max(controls, key=lambda each: each[1].value / ours.value)
    share = control.value / ours.value
    return f", but a control does {share:.0%} of it ({name})" if share >= _MUCH else ""
