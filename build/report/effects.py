"""Section 1 of the report: suppress and amplify, as figures 3 and 4 of the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from atlas.charts.effects import GROUP_NAMES
from atlas.queries.evidence import NEURON_GROUPS
from build.report import charts
from build.report.figures import Figure
from build.report.findings import ALL, Findings
from build.report.lines import ComparedNumber, NumberOf, comparison, explain_missing, having
from build.report.numbers import Measurement
from build.report.page import Block, Heading, Paragraph, Pictures, Table, escape_marks

_CONTROLS = {
    "baseline": "most active",
    "random": "random",
    "matched": "activation-matched",
    "unrelated": "unrelated facts",
}


def effects_section(findings: Sequence[Findings]) -> list[Block]:
    measured = having(findings, "effects")
    blocks: list[Block] = [
        Heading(2, "1 Suppress and amplify"),
        Paragraph(
            "A fact's knowledge neurons are switched off (× 0) or doubled (× 2) where the answer goes, "
            "and the answer's probability is read off. Discovery prompts found the neurons; held-out "
            "prompts did not. The paper holds no prompts out."
        ),
        Paragraph(
            "The paper's ratio is a relation's mean change of probability over its mean probability. The "
            "replication's is the mean of every prompt's own ratio. Both are averaged over relations, each "
            "counting alike. Controls: as many random neurons of the same layers, as many activation-"
            "matched ones, as many that are the most active (the paper's baseline), and the fact's own "
            "neurons on prompts of facts that differ in relation and answer. How active a control's "
            "neurons are where the fact's were found stands beside it, as a multiple of the fact's own."
        ),
        comparison(_lines(), findings),
        *explain_missing(findings, "effects", "effects"),
    ]
    for intervention in charts.VERBS if measured else ():
        blocks += [
            Heading(3, charts.VERBS[intervention]),
            Pictures(tuple(_overall(found, intervention) for found in measured)),
            *_by_relation(measured, intervention),
            *(_every_group(found, intervention) for found in measured),
        ]
    return blocks


def _lines() -> list[ComparedNumber]:
    return [
        ComparedNumber(
            f"{verb}: change of the answer's probability\n{words}",
            _effect(intervention, "own", templates, facts),
            published=intervention,
            controls=tuple(
                # Unrelated facts are asked on held-out prompts alone.
                (name, _effect(intervention, group, "held-out" if group == "unrelated" else templates, facts))
                for group, name in _CONTROLS.items()
            ),
            beside=_active(intervention, templates, facts),
        )
        for intervention, verb in (("suppress", "Suppressing"), ("amplify", "Amplifying"))
        for templates, facts, words in (
            ("discovery", ALL, "as in the paper: all facts, prompts that found the neurons"),
            ("held-out", "known", "known facts, held-out prompts"),
        )
    ]


def _effect(*keys: str) -> NumberOf:
    return lambda found: None if found.effects is None else found.effects.of(*keys)


def _active(intervention: str, templates: str, facts: str) -> Callable[[Findings, str], str]:
    """`, 0.41 × as active as its own`, behind a control; nothing in atlases that do not say."""

    def words(found: Findings, name: str) -> str:
        group = next(each for each, words in _CONTROLS.items() if words == name)
        active = found.effects.activity(intervention, group, templates, facts)
        return "" if active is None or group == "unrelated" else f", {active:.2f} × as active as its own"

    return words


def _overall(found: Findings, intervention: str) -> Figure:
    effects = found.effects
    said = [
        f"{GROUP_NAMES[group]} {number.number()}"
        for group in NEURON_GROUPS
        if (number := effects.of(intervention, group, "held-out", effects.facts)) is not None
    ]
    return Figure(
        f"{intervention}--{found.atlas_id}",
        f"{charts.VERBS[intervention]} in {found.atlas_id}, change of the answer's probability: "
        f"{'; '.join(said)}.",
        charts.draw_effects(found, intervention),
    )


def _by_relation(measured: Sequence[Findings], intervention: str) -> list[Pictures]:
    """The figures of the atlases that have effects on held-out prompts."""
    figures = []
    for found in measured:
        rows = found.effects.by_relation(intervention, "held-out", found.effects.facts)
        own = rows[rows["group"] == "own"]["paper_change"]
        if own.empty:
            continue
        spread = f"{Measurement(own.min()).number()} to {Measurement(own.max()).number()}"
        verb = charts.VERBS[intervention]
        figures.append(
            Figure(
                f"{intervention}-by-relation--{found.atlas_id}",
                f"{verb} in {found.atlas_id}, by relation ({len(own)} of them): {spread}.",
                charts.draw_effects_by_relation(found, intervention),
            )
        )
    return [Pictures(tuple(figures))] if figures else []


def _every_group(found: Findings, intervention: str) -> Table:
    rows = []
    for group in NEURON_GROUPS:
        for templates in ("held-out", "discovery"):
            for facts in ("known", "unknown", ALL):
                row = found.effects.row(intervention, group, templates, facts)
                if row is None:
                    continue
                ratios = [
                    found.effects.of(intervention, group, templates, facts, ratio=ratio)
                    for ratio in ("paper", "replication")
                ]
                means = f"{row.mean_before:.3f} → {row.mean_after:.3f}"
                changed = found.effects.top_changed(intervention, group, templates, facts)
                active = found.effects.activity(intervention, group, templates, facts)
                rows.append(
                    (
                        GROUP_NAMES[group],
                        templates,
                        facts,
                        *("not measured" if each is None else each.text() for each in ratios),
                        "not measured" if changed is None else changed.number(),
                        "not measured" if active is None else f"{active:.2f} ×",
                        "not measured" if ratios[0] is None else means,
                        f"{row.n_relations:,} · {row.n_facts:,} · {row.n_prompts:,}",
                    )
                )
    return Table(
        (
            "changed",
            "prompts",
            "facts",
            "paper's ratio",
            "replication's ratio",
            "likeliest token changes",
            "activity, its own 1",
            "probability",
            "n: relations · facts · prompts",
        ),
        tuple(rows),
        f"{charts.VERBS[intervention]} in {escape_marks(found.atlas_id)}, every group",
        wide=True,
        folded=True,
    )
