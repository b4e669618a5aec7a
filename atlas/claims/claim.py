"""What a claim is, and how the numbers judge it.

    report = judge([measure(atlas) for atlas in atlases])
    report.against                                # what speaks against the thesis, first things first

1. *Measure.* A claim reads one number from an atlas's tables, and others to stand beside it.
2. *Judge.* The interval decides: it lies on the claim's side of the threshold (*holds*), on the other side
   (*does not hold*), or on both (*undecided*). Nothing is rounded before.
3. *Correct.* Over all claims × models, the false discovery rate is kept at 5 % (Benjamini and Hochberg 1995).
   What only an uncorrected test would decide is undecided.
4. *Order.* First what speaks against the thesis; see `AGAINST_FIRST`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from atlas.claims.estimate import Estimate, in_unit
from atlas.models import known_model, title_of
from atlas.store.atlas import Atlas

FALSE_DISCOVERIES = 0.05
FEWEST = 20
"""Fewer facts, edits or relations than this decide nothing."""

Read = Callable[[Atlas], Estimate | None]
"""A number from the tables of an atlas; None where they do not have it."""

HOW_JUDGED = (
    "A claim has one number a model and one threshold. It **holds** where the whole 95 % interval lies on "
    "the claim's side of the threshold, **does not hold** where all of it lies on the other side, and is "
    f"**undecided** where the interval straddles it or n is below {FEWEST}. Numbers are compared before they "
    "are rounded. The p-value of each number comes from its interval by the normal approximation. Over all "
    "claims and models together, the false discovery rate is kept at 5 % (Benjamini and Hochberg): a verdict "
    "that does not survive is undecided."
)
AGAINST_FIRST = (
    "First come the claims that do not hold: those of the largest share of the models that measured them "
    "lead; among equals, the one that lies most standard errors beyond its threshold."
)


class Verdict(StrEnum):
    """What an interval says to a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Beside:
    """A number that stands beside a claim's and is not judged. meaning: a key of `charts.palette.PALETTE`."""

    words: str
    meaning: str
    read: Read


@dataclass(frozen=True)
class Claim:
    """One sentence of the thesis, the number that tests it, and its threshold.

    words: what the number is of, in short. source: where the claim stands; paper: what is said there, with
    its number; paper_value: the number that can be drawn beside ours. side: 'above' or 'below' the threshold.
    axis: what the number is, with its unit. how: how it was measured. note: more on one atlas.
    """

    name: str
    words: str
    says: str
    source: str
    paper: str
    side: str
    threshold: float
    axis: str
    how: str
    read: Read
    unit: str = "share"
    paper_value: float | None = None
    beside: tuple[Beside, ...] = ()
    note: Callable[[Atlas], str] | None = None

    @property
    def bound(self) -> str:
        """`above 34.4 %`."""
        digits = None if round(100 * self.threshold) != 100 * self.threshold else 0
        return f"{self.side} {in_unit(self.threshold, self.unit, digits)}"


# Measure ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What one atlas says to one claim. beside: (words, meaning, number)."""

    estimate: Estimate | None
    beside: tuple[tuple[str, str, Estimate], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """One atlas's numbers, by the names of the claims. about: what its model is, in short."""

    atlas_id: str
    title: str
    about: str
    n_facts: int
    readings: dict[str, Reading]


def measure(atlas: Atlas, claims: Sequence[Claim]) -> Measured:
    """Every number of an atlas that the claims name."""
    readings = {}
    for claim in claims:
        beside = [(each.words, each.meaning, each.read(atlas)) for each in claim.beside]
        found = claim.read(atlas)
        note = claim.note(atlas) if claim.note is not None and found is not None else ""
        readings[claim.name] = Reading(
            found, tuple((words, meaning, number) for words, meaning, number in beside if number), note
        )
    n_facts = atlas.query_row("SELECT count(*) AS n FROM facts")["n"]
    title = title_of(atlas.manifest.model.name)
    known = known_model(atlas.manifest.model.name)
    about = "" if known is None else f"{'a toy' if known.is_toy else 'real'}: {known.in_short}"
    if atlas.manifest.method.options.get("published"):
        title += ", published"
    return Measured(atlas.atlas_id, title, about, n_facts, readings)


# Judge -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """A claim in one model."""

    measured: Measured
    reading: Reading
    verdict: Verdict
    p: float | None = None

    @property
    def text(self) -> str:
        """The verdict and the numbers, in one line."""
        estimate = self.reading.estimate
        return self.verdict if estimate is None else f"{self.verdict}: {estimate.text()}"


@dataclass(frozen=True)
class Row:
    """A claim in every model, in their order."""

    claim: Claim
    cells: tuple[Judged, ...]

    def having(self, verdict: Verdict) -> list[Judged]:
        """The models that have this verdict."""
        return [cell for cell in self.cells if cell.verdict == verdict]

    @property
    def beside(self) -> list[tuple[str, list[str]]]:
        """What stands beside the claim's number: words, and the number in every model ("" where none)."""
        found: dict[str, list[str]] = {}
        for place, cell in enumerate(self.cells):
            for words, _, number in cell.reading.beside:
                found.setdefault(words, [""] * len(self.cells))[place] = number.text()
        return list(found.items())

    @property
    def beyond(self) -> tuple[float, float]:
        """How much speaks against the claim: see `AGAINST_FIRST`."""
        failing = self.having(Verdict.FAILS)
        n_measured = len(self.cells) - len(self.having(Verdict.NOT_MEASURED))
        errors = [_errors_beyond(cell.reading.estimate, self.claim.threshold) for cell in failing]
        return len(failing) / max(1, n_measured), max(errors, default=0.0)


def _errors_beyond(estimate: Estimate | None, threshold: float) -> float:
    """The distance from the threshold in half intervals, those that face it."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return 0.0
    half = abs(estimate.value - (estimate.low if threshold < estimate.value else estimate.high))
    return abs(estimate.value - threshold) / half if half else float("inf")


@dataclass(frozen=True)
class Report:
    """Every claim in every model."""

    models: tuple[Measured, ...]
    rows: tuple[Row, ...]

    @property
    def against(self) -> list[Row]:
        """The claims that do not hold somewhere, by the rule `AGAINST_FIRST`."""
        return sorted(self.with_verdict(Verdict.FAILS), key=lambda row: row.beyond, reverse=True)

    def with_verdict(self, verdict: Verdict) -> list[Row]:
        """The claims that some model has this verdict on."""
        return [row for row in self.rows if row.having(verdict)]

    @property
    def unmeasured(self) -> list[Row]:
        """The claims that no model has numbers for."""
        return [row for row in self.rows if len(row.having(Verdict.NOT_MEASURED)) == len(row.cells)]


def judge(measured: Sequence[Measured], claims: Sequence[Claim]) -> Report:
    """The verdicts of all claims in all models, corrected together."""
    titles = Counter(each.title for each in measured)
    measured = [
        replace(each, title=f"{each.title} ({each.atlas_id})") if titles[each.title] > 1 else each
        for each in measured
    ]
    found = {
        (claim.name, each.atlas_id): estimate.p_value(claim.threshold)
        for claim in claims
        for each in measured
        if (estimate := each.readings[claim.name].estimate) is not None and estimate.n >= FEWEST
    }
    highest = highest_discovery([p for p in found.values() if p is not None])
    rows = []
    for claim in claims:
        cells = []
        for each in measured:
            reading, p = each.readings[claim.name], found.get((claim.name, each.atlas_id))
            survives = p is not None and p <= highest
            cells.append(Judged(each, reading, verdict_of(claim, reading.estimate, survives), p))
        rows.append(Row(claim, tuple(cells)))
    return Report(tuple(measured), tuple(rows))


def verdict_of(claim: Claim, estimate: Estimate | None, survives: bool) -> Verdict:
    """What the interval says. survives: whether it does after the correction, too."""
    if estimate is None:
        return Verdict.NOT_MEASURED
    if not survives or estimate.low is None or estimate.high is None:
        return Verdict.UNDECIDED
    if estimate.low <= claim.threshold <= estimate.high:
        return Verdict.UNDECIDED
    return Verdict.HOLDS if (estimate.value > claim.threshold) == (claim.side == "above") else Verdict.FAILS


def highest_discovery(p_values: Sequence[float], rate: float = FALSE_DISCOVERIES) -> float:
    """The largest p-value that counts at this false discovery rate; −1 where none does."""
    n = len(p_values)
    counting = [p for place, p in enumerate(sorted(p_values), 1) if p <= rate * place / n]
    return max(counting, default=-1.0)
