"""The report's sections as blocks: each function takes the findings of all atlases and gives blocks.

    blocks = report(findings)

Atlases stand side by side as columns. What an atlas does not have is said to be not measured, never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from build.report import charts
from build.report.claims import RULE, Judgement, compare, judge, outcomes, strongest
from build.report.figures import Figure
from build.report.findings import ALL, GROUPS, INTERVENTIONS, Findings
from build.report.numbers import NOT_MEASURED, Estimate
from build.report.page import Block, Bullets, Heading, Pictures, Table, Text, escape
from build.report.paper_values import (
    PAPER,
    PAPER_LINK,
    PAPER_MODEL,
    REPLICATION,
    REPLICATION_LINK,
    REPLICATION_MODEL,
    Published,
    paper,
    replication,
)

_MARK = {"holds": "✓", "in part": "◐", "does not hold": "✗"}


@dataclass(frozen=True)
class Line:
    """One row of a comparison: a published number, and ours with its control for each atlas.

    ours and control take an atlas's findings; a control is named, for it stands in the same cell.
    """

    what: str
    ours: Callable[[Findings], Estimate | None]
    published: str = ""
    control: Callable[[Findings], Estimate | None] | None = None
    control_name: str = "control"
    note: Callable[[Findings], str] | None = None
    against: Published | None = None

    def row(self, findings: Sequence[Findings]) -> tuple[str, ...]:
        return (
            self.what,
            paper(self.published),
            replication(self.published),
            *(self.cell(found) for found in findings),
        )

    def cell(self, found: Findings) -> str:
        ours = self.ours(found)
        if ours is None:
            return NOT_MEASURED
        control = None if self.control is None else self.control(found)
        lines = [f"**{ours.number()}** {ours.interval()}".strip(), ours.counted()]
        if self.note is not None:
            lines.append(self.note(found))
        if control is not None:
            lines.append(f"{self.control_name}: {control.text()}")
        elif self.control is not None:
            lines.append(f"{self.control_name}: not measured")
        lines.append(self.verdict(ours, control))
        return "\n".join(line for line in lines if line)

    def verdict(self, ours: Estimate, control: Estimate | None) -> str:
        published = self.against or PAPER.get(self.published) or REPLICATION.get(self.published)
        return f"*{compare(ours, published, control)}*" if published else ""


def comparison(lines: Sequence[Line], findings: Sequence[Findings], caption: str = "") -> Table:
    columns = ("what", "paper", "replication", *(escape(found.atlas_id) for found in findings))
    return Table(columns, tuple(line.row(findings) for line in lines), caption)


def report(findings: Sequence[Findings]) -> list[Block]:
    """The whole report."""
    return [
        *_opening(findings),
        *_summary(findings),
        *_effects(findings),
        *_statistics(findings),
        *_how(findings),
    ]


def title(findings: Sequence[Findings]) -> str:
    return "Knowledge neurons: what was measured beside what was published"


def _opening(findings: Sequence[Findings]) -> list[Block]:
    models = ", ".join(sorted({f"`{found.manifest.model.name}`" for found in findings}))
    return [
        Heading(1, title(findings)),
        Text(
            f"The paper is [Dai et al., 2022]({PAPER_LINK}), which measured {PAPER_MODEL}. The "
            f"replication is [EleutherAI's]({REPLICATION_LINK}), which published neurons of "
            f"{REPLICATION_MODEL}; its numbers here are statistics of those."
        ),
        Text(
            f"**Published numbers are for other models than ours.** Here: {models}. Where models differ, "
            "a verdict compares signs and orders of magnitude and nothing finer. Brackets hold 95 % intervals: "
            "what was measured is drawn again 1,000 times. Every number says its n.",
            "note",
        ),
        Table(
            ("atlas", "model", "data", "facts", "known to the model", "facts with neurons"),
            tuple(
                (
                    escape(found.atlas_id),
                    f"`{found.manifest.model.name}`",
                    escape(found.manifest.dataset.id),
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
    blocks: list[Block] = [Heading(2, "0 Summary"), Text(RULE)]
    judged = {found.atlas_id: judge(found) for found in findings}
    for found in findings:
        verdicts = judged[found.atlas_id]
        holds, in_part, not_at_all = (n for _, n in outcomes(verdicts))
        blocks += [
            Heading(3, found.atlas_id),
            Text(
                f"Of {len(verdicts)} claims that this atlas has numbers for, {holds} hold, {in_part} hold in "
                f"part, and {not_at_all} do not."
            ),
            Text(_finding(strongest(verdicts)), "finding"),
        ]
        holding = [each for each in verdicts if each.outcome == "holds"]
        failing = sorted(
            (each for each in verdicts if each.outcome == "does not hold"), key=lambda each: -each.against
        )
        if holding:
            blocks += [
                Text("What holds:"),
                Bullets(tuple(_sentence(each.claim.says, each.detail) for each in holding)),
            ]
        if failing:
            blocks += [
                Text("What does not:"),
                Bullets(tuple(_sentence(each.claim.fails, each.detail) for each in failing)),
            ]
    rows = []
    for claim in dict.fromkeys(each.claim for verdicts in judged.values() for each in verdicts):
        cells = []
        for found in findings:
            of_claim = [each for each in judged[found.atlas_id] if each.claim is claim]
            cells.append(_outcome(of_claim[0]) if of_claim else NOT_MEASURED)
        rows.append((claim.says, *cells))
    columns = ("claim", *(escape(found.atlas_id) for found in findings))
    return [
        *blocks,
        Heading(3, "Every claim"),
        Table(
            columns,
            tuple(rows),
            "The number behind an outcome says how much speaks against the claim: 0 nothing, 1 all of it.",
        ),
    ]


def _finding(found: Judgement | None) -> str:
    if found is None:
        return (
            "**No finding against the thesis.** Every claim that could be tested here holds by these rules."
        )
    return f"**The strongest finding against the thesis.** {_sentence(found.claim.fails, found.detail)}"


def _sentence(says: str, detail: str) -> str:
    return f"{says.removesuffix('.')}: {detail}."


def _outcome(judged: Judgement) -> str:
    return f"{_MARK[judged.outcome]} **{judged.outcome}** ({judged.against:.2f})\n{judged.detail}"


# 1. Suppress and amplify -----------------------------------------------------------------------------


def _effects(findings: Sequence[Findings]) -> list[Block]:
    blocks: list[Block] = [
        Heading(2, "1 Suppress and amplify"),
        Text(
            "A fact's knowledge neurons are switched off (× 0) or doubled (× 2) at the answer's position, and "
            "the answer's probability is read off. Discovery prompts found the neurons; held-out prompts did "
            "not. The paper's ratio is the mean change over the mean probability of a relation's prompts; "
            "the replication's is the mean of each prompt's own ratio. Both are then averaged over relations, "
            "each counting alike. The paper does not hold prompts out."
        ),
    ]
    measured = [found for found in findings if found.effects is not None]
    blocks.append(comparison(_effect_lines(), findings))
    for intervention in INTERVENTIONS:
        if not measured:
            break
        blocks += [
            Heading(3, charts.VERBS[intervention]),
            Pictures(
                tuple(
                    Figure(
                        f"{intervention}--{found.atlas_id}",
                        f"Bars: what {intervention}ing own neurons and controls does in {found.atlas_id}.",
                        charts.effect_bars(found, intervention),
                    )
                    for found in measured
                )
            ),
            Pictures(
                tuple(
                    Figure(
                        f"{intervention}-by-relation--{found.atlas_id}",
                        f"Bars: the same for each relation of {found.atlas_id}.",
                        charts.effects_by_relation(found, intervention),
                    )
                    for found in measured
                )
            ),
            *(_effect_table(found, intervention) for found in measured),
        ]
    return blocks


def _effect_lines() -> list[Line]:
    lines = []
    for intervention, verb in (("suppress", "Suppressing"), ("amplify", "Amplifying")):
        for templates, facts, words in (
            ("discovery", ALL, "as in the paper: all facts, the prompts that found the neurons"),
            ("held-out", "known", "known facts, held-out prompts"),
        ):
            lines.append(
                Line(
                    f"{verb}: change of the answer's probability\n{words}",
                    _effect(intervention, "own", templates, facts),
                    published=intervention,
                    control=_effect(intervention, "baseline", templates, facts),
                    control_name="activation baseline",
                    note=_other_controls(intervention, templates, facts),
                )
            )
    return lines


def _effect(intervention: str, group: str, templates: str, facts: str):
    def number(found: Findings) -> Estimate | None:
        return None if found.effects is None else found.effects.of(intervention, group, templates, facts)

    return number


def _other_controls(intervention: str, templates: str, facts: str):
    def words(found: Findings) -> str:
        parts = []
        for group in ("random", "matched", "unrelated"):
            control = found.effects.of(intervention, group, templates, facts)
            if control is not None:
                parts.append(f"{charts.GROUP_NAMES[group]}: {control.text()}")
        return "\n".join(parts)

    return words


def _effect_table(found: Findings, intervention: str) -> Table:
    rows = []
    for group in GROUPS:
        for templates in ("held-out", "discovery"):
            for facts in ("known", "unknown", ALL):
                row = found.effects.row(intervention, group, templates, facts)
                if row is None:
                    continue
                paper_ratio = found.effects.of(intervention, group, templates, facts)
                other_ratio = found.effects.of(intervention, group, templates, facts, ratio="replication")
                changed = found.effects.top_changed(intervention, group, templates, facts)
                rows.append(
                    (
                        charts.GROUP_NAMES[group],
                        templates,
                        facts,
                        paper_ratio.text(),
                        other_ratio.text(),
                        "not measured" if changed is None else changed.number(),
                        f"{row.mean_before:.3f} → {row.mean_after:.3f}",
                        f"{row.n_facts:,}",
                        f"{row.n_prompts:,}",
                    )
                )
    return Table(
        (
            "changed",
            "prompts",
            "facts",
            "paper's ratio",
            "replication's ratio",
            "top answer changes",
            "probability",
            "n facts",
            "n prompts",
        ),
        tuple(rows),
        f"{charts.VERBS[intervention]} in {escape(found.atlas_id)}",
        wide=True,
    )


# 5. Statistics ---------------------------------------------------------------------------------------


def _statistics(findings: Sequence[Findings]) -> list[Block]:
    return [
        Heading(2, "5 Statistics"),
        Text(
            "What the stored knowledge neurons are like. Sharing is the mean number of neurons that two facts "
            "have in common, relations weighted alike."
        ),
        comparison(_statistics_lines(), findings),
        Pictures(_each(findings, "layers", "Share of the neurons in each layer", charts.layer_bars)),
        Pictures(_each(findings, "neurons", "How many facts have how many neurons", charts.neuron_counts)),
        Pictures(_each(findings, "sharing", "Neurons that relations share", charts.sharing_matrix)),
    ]


def _each(findings: Sequence[Findings], name: str, words: str, chart) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"{name}--{found.atlas_id}", f"{words}: {found.atlas_id}.", chart(found)) for found in findings
    )


def _statistics_lines() -> list[Line]:
    def of(name: str):
        return lambda found: getattr(found.statistics, name)

    return [
        Line(
            "Neurons a fact",
            of("neurons"),
            "neurons",
            note=lambda found: (
                f"median {found.statistics.median:g}, most {found.statistics.most:,}; "
                f"{found.statistics.n_empty:,} facts have none"
            ),
        ),
        Line("Shared by two facts of a relation", of("within"), "within"),
        Line("Shared by two facts of different relations", of("across"), "across"),
        Line("Shared by two facts of a relation with the same answer", of("same_object")),
        Line("Shared by two facts of a relation with different answers", of("other_object")),
        Line(
            "Share of the (fact, neuron) pairs in the upper layers, five of twelve",
            of("upper"),
            "upper_layers",
            note=lambda found: f"{found.statistics.n_upper} of {len(found.statistics.layers)} layers",
        ),
        Line(
            "Facts that have the commonest neuron",
            of("commonest"),
            "commonest",
            note=lambda found: f"`{found.statistics.commonest_neuron}`",
        ),
        Line("Facts that have one of the 20 commonest neurons", of("hubs"), "hubs"),
        Line("Facts whose set of neurons another fact has, too", of("identical")),
    ]


# 7. How it was measured ------------------------------------------------------------------------------


def _how(findings: Sequence[Findings]) -> list[Block]:
    return [Heading(2, "7 How it was measured")]
