"""The whole report as blocks: what it is about, its summary, then section by section.

    blocks = report_blocks(findings)

Atlases stand side by side as columns. What an atlas does not have is said to be not measured, never left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas.numbers import NOT_MEASURED
from build.report import changes, checks, effects, provenance, statistics
from build.report.claims import CLAIMS, RULE, Judgement, judge, outcomes, strongest
from build.report.findings import Findings
from build.report.page import Block, Bullets, Heading, Paragraph, Table, escape_marks
from build.report.paper_values import PAPER_LINK, PAPER_MODEL, REPLICATION_LINK, REPLICATION_MODEL

TITLE = "Knowledge neurons: what was measured beside what was published"
_MARK = {"holds": "✓", "in part": "◐", "does not hold": "✗"}


def report_blocks(findings: Sequence[Findings]) -> list[Block]:
    return [
        *_opening(findings),
        *_summary(findings),
        *effects.effects_section(findings),
        *changes.update_section(findings),
        *changes.erase_section(findings),
        *checks.contexts_section(findings),
        *statistics.statistics_section(findings),
        *checks.checks_section(findings),
        *provenance.provenance_section(findings),
    ]


def _opening(findings: Sequence[Findings]) -> list[Block]:
    models = ", ".join(sorted({f"`{found.manifest.model.name}`" for found in findings}))
    return [
        Heading(1, TITLE),
        Paragraph(
            f"The paper is [Dai et al., 2022]({PAPER_LINK}), which measured {PAPER_MODEL}. The "
            f"replication is [EleutherAI's]({REPLICATION_LINK}), which published neurons of "
            f"{REPLICATION_MODEL}, and what suppressing and enhancing them does; its numbers here are "
            "statistics of the neurons."
        ),
        Paragraph(
            f"**Published numbers are for other models than ours.** Here: {models}. Verdicts compare "
            "signs and orders of magnitude, nothing finer. Brackets hold 95 % intervals: what was "
            "measured is drawn again 1,000 times. Every number says its n.",
            "note",
        ),
        Table(
            ("atlas", "model", "data", "facts", "known to the model", "facts with neurons"),
            tuple(
                (
                    escape_marks(found.atlas_id),
                    f"`{found.manifest.model.name}`",
                    escape_marks(found.manifest.dataset.id),
                    f"{found.n_facts:,}",
                    NOT_MEASURED if found.n_known is None else f"{found.n_known:,}",
                    f"{found.n_facts - found.statistics.n_empty:,}",
                )
                for found in findings
            ),
        ),
    ]


# 0. Summary ------------------------------------------------------------------------------------------


def _summary(findings: Sequence[Findings]) -> list[Block]:
    judged = {found.atlas_id: judge(found) for found in findings}
    blocks: list[Block] = [Heading(2, "0 Summary"), Paragraph(RULE), *_everywhere(judged)]
    for found in findings:
        verdicts = judged[found.atlas_id]
        holds, in_part, not_at_all = (n for _, n in outcomes(verdicts))
        blocks += [
            Heading(3, found.atlas_id),
            Paragraph(
                f"Of {len(verdicts)} claims that this atlas has numbers for, {holds} hold, {in_part} hold in "
                f"part, and {not_at_all} do not."
            ),
            Paragraph(_finding(strongest(verdicts)), "finding"),
        ]
        holding = [each for each in verdicts if each.outcome == "holds"]
        failing = sorted(
            (each for each in verdicts if each.outcome == "does not hold"), key=lambda each: -each.against
        )
        if holding:
            blocks += [
                Paragraph("What holds:"),
                Bullets(tuple(_sentence(each.claim.says, each.detail) for each in holding)),
            ]
        if failing:
            blocks += [
                Paragraph("What does not:"),
                Bullets(tuple(_sentence(each.claim.fails, each.detail) for each in failing)),
            ]
    rows = []
    for claim in CLAIMS:
        of_claim = [claim.judge(found) for found in findings]
        if any(each is not None for each in of_claim):
            rows.append((claim.says, *map(_outcome, of_claim)))
    columns = ("claim", *(escape_marks(found.atlas_id) for found in findings))
    return [
        *blocks,
        Heading(3, "Every claim"),
        Table(
            columns,
            tuple(rows),
            "The number behind an outcome says how much speaks against the claim: 0 nothing, 1 all of it.",
            widths=(28,),
        ),
    ]


def _everywhere(judged: dict[str, list[Judgement]]) -> list[Block]:
    """What holds, and what does not, in every atlas that measured it, where there are several."""
    if len(judged) < 2:
        return []
    blocks: list[Block] = []
    for outcome, words in (("holds", "Holds in all"), ("does not hold", "Holds in none")):
        claims = []
        for claim in CLAIMS:
            said = [each for verdicts in judged.values() for each in verdicts if each.claim is claim]
            if len(said) > 1 and all(each.outcome == outcome for each in said):
                claims.append(claim.says)
        where = "of the atlases that measured it (two or more)"
        blocks += [
            Paragraph(f"{words} {where}:" if claims else f"{words} {where}: nothing."),
            *([Bullets(tuple(claims))] if claims else []),
        ]
    return blocks


def _finding(found: Judgement | None) -> str:
    if found is None:
        return (
            "**No finding against the thesis.** Every claim that could be tested here holds by these rules."
        )
    return f"**The strongest finding against the thesis.** {_sentence(found.claim.fails, found.detail)}"


def _sentence(says: str, detail: str) -> str:
    return f"{says.removesuffix('.')}: {detail}."


def _outcome(judged: Judgement | str | None) -> str:
    """A cell: an outcome, why the claim does not apply, or that nothing was measured."""
    if judged is None:
        return NOT_MEASURED
    if isinstance(judged, str):
        return f"does not apply\n{judged}"
    return f"{_MARK[judged.outcome]} **{judged.outcome}** ({judged.against:.2f})\n{judged.detail}"
