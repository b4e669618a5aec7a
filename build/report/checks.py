"""Sections 4 and 6 of the report: what activates the neurons, and checks of the thesis itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from build.report import charts
from build.report.findings import Findings
from build.report.lines import ComparedNumber, at, comparison, explain_missing, having
from build.report.numbers import format_count
from build.report.page import Block, Heading, Paragraph, Table, escape_marks
from build.report.samples import CONTEXT_ORDER, FEWEST_KNOWN, METHOD_NAMES, Methods

_CONTEXTS = {
    "fact": "Prompts that ask for the fact (held out)",
    "relation": "Prompts that ask the same of other subjects",
    "subject": "Sentences that mention its subject only",
    "random": "Prompts that share neither",
}
_CLAIMS = {"relation": "active-relation", "subject": "active-subject", "random": "active-random"}
_KNOWN = (
    f"Known facts alone count where the sample has {FEWEST_KNOWN} or more of them; all of its facts stand in "
    "the tables of details."
)
_PLAIN = {"fact": "asked for", "relation": "asked of others", "subject": "subject only", "random": "neither"}
_PAPER_CONTEXTS = "prompts that state the fact activate them most\n*section 4.3, no number here*"


# 4. What activates them ------------------------------------------------------------------------------


def contexts_section(findings: Sequence[Findings]) -> list[Block]:
    measured = having(findings, "contexts")
    return [
        Heading(2, "4 What activates them"),
        Paragraph(
            "How active a fact's neurons are on sentences that ask for it, or do not. 1 is as active, "
            "and in the same direction, as on the prompts that found them; 0 is not at all. As many "
            "random neurons of the same layers stand beside them: they show how much any neuron is "
            "active there. The paper says only that a fact's neurons are less active where it is not asked "
            f"for; that a tenth at most is left is this project's stricter wording. {_KNOWN}"
        ),
        comparison(_context_lines(), findings),
        *_all_facts(_context_lines()[:-1], findings, "contexts"),
        *explain_missing(findings, "contexts", "contexts"),
        *charts.side_by_side(
            measured, "contexts", "Activation by what a sentence says", charts.draw_contexts
        ),
        *_plain_means(measured),
    ]


def _plain_means(measured: Sequence[Findings]) -> list[Block]:
    """The paper's own measure, and the same whatever the sign."""
    if not measured:
        return []
    return [
        Heading(3, "The plain mean of activation"),
        Paragraph(
            "The paper's own measure is the plain mean. Activations that pass a gate, as in models like "
            "Llama, carry knowledge with either sign: there a plain mean adds up what cancels, and may fall "
            "where neurons become more active. The measure above turns each neuron's sign to what it is "
            "where the neuron was found; the size here leaves the sign out."
        ),
        comparison(_plain_lines(), measured),
        *(Paragraph(_order(found), "finding" if _reversed(found) else "") for found in measured),
        *_all_facts(_plain_lines(), measured, "contexts"),
    ]


def _plain_lines() -> list[ComparedNumber]:
    return [
        ComparedNumber(
            f"{words}: {_CONTEXTS[context]}",
            at(f"contexts.{measure}", (context, "own")),
            controls=(("random neurons", at(f"contexts.{measure}", (context, "random"))),),
            paper=(_PAPER_CONTEXTS if context == "fact" else "less") if measure == "activation" else "",
        )
        for measure, words in (("activation", "Plain mean"), ("magnitude", "Mean size"))
        for context in CONTEXT_ORDER
    ]


def _reversed(found: Findings) -> list[str]:
    """The contexts in which the plain mean is larger than where the fact is asked for."""
    means = found.contexts.activation
    asked = means.get(("fact", "own"))
    others = {context: means.get((context, "own")) for context in CONTEXT_ORDER if context != "fact"}
    return [name for name, mean in others.items() if asked and mean and mean.value >= asked.value]


def _order(found: Findings) -> str:
    """In words, whether the plain mean has the paper's order, and whether the size has it."""
    larger = _reversed(found)
    n_others = len(CONTEXT_ORDER) - 1
    plain, size = (
        ", ".join(
            f"{words} {number.number()}"
            for context, words in _PLAIN.items()
            if (number := getattr(found.contexts, measure).get((context, "own"))) is not None
        )
        for measure in ("activation", "magnitude")
    )
    name = escape_marks(found.atlas_id)
    if not larger:
        return f"{name}: the plain mean is largest where the fact is asked for, as in the paper ({plain})."
    how = (
        "goes the other way than the paper's order: it is smallest where the fact is asked for"
        if len(larger) == n_others
        else "does not have the paper's order: it is not largest where the fact is asked for"
    )
    return f"**{name}: the paper's own measure, the plain mean, {how}** ({plain}). Mean size: {size}."


def _all_facts(lines: Sequence[ComparedNumber], findings: Sequence[Findings], part: str) -> list[Block]:
    """The lines over all facts of a sample, where those above count known ones."""
    every = [
        replace(found, **{part: getattr(found, part).whole})
        for found in findings
        if getattr(found, part) is not None and getattr(found, part).whole is not None
    ]
    if not every:
        return []
    return [
        Table(
            ("what", *(escape_marks(found.atlas_id) for found in every)),
            tuple((line.what, *(line.cell(found) for found in every)) for line in lines),
            "The same of all facts of the sample, known or not",
            wide=True,
            folded=True,
        )
    ]


def _context_lines() -> list[ComparedNumber]:
    return [
        *(
            ComparedNumber(
                words,
                at("contexts.relative", (context, "own")),
                controls=(("random neurons", at("contexts.relative", (context, "random"))),),
                claim=_CLAIMS.get(context, ""),
                paper=_PAPER_CONTEXTS if context == "fact" else "less",
            )
            for context, words in _CONTEXTS.items()
        ),
        ComparedNumber(
            "Of the prompts on which a neuron is most active, those that ask for a fact that has it",
            at("activating.top"),
            controls=(
                ("where it is least active", at("activating.bottom")),
                ("by chance", at("activating.chance")),
            ),
        ),
    ]


# 6. Thesis checks ------------------------------------------------------------------------------------


def checks_section(findings: Sequence[Findings]) -> list[Block]:
    return [
        Heading(2, "6 Thesis checks"),
        Paragraph(_KNOWN),
        *_stability(findings),
        *_subsets(findings),
        *_methods(findings),
    ]


def _stability(findings: Sequence[Findings]) -> list[Block]:
    lines = [
        ComparedNumber(
            "Jaccard index of a fact's neurons from the two halves of its templates",
            at("stability.same"),
            controls=(
                ("with another fact of the relation", at("stability.relation")),
                ("with an unrelated fact", at("stability.random")),
            ),
            note=lambda found: (
                f"the other half finds none for {format_count(found.stability.n_empty, 'facts')}"
            ),
            claim="stable",
        ),
        ComparedNumber(
            "Change of the answer's probability when neurons of the other half are suppressed",
            at("stability.fall_held_out"),
            controls=(("neurons of the same half", at("stability.fall")),),
            claim="stable-effect",
        ),
    ]
    measured = having(findings, "stability")
    return [
        Heading(3, "Do other wordings find the same neurons?"),
        Paragraph(
            "If a fact's neurons carry the fact, the held-out half of its templates should find them "
            "again. The Jaccard index is the number found by both halves over the number found by "
            "either: 1 is all, 0 none."
        ),
        comparison(lines, findings),
        *_all_facts(lines, findings, "stability"),
        *explain_missing(findings, "stability", "stability"),
        *charts.side_by_side(
            measured, "stability", "Overlap of the halves beside other facts", charts.draw_stability
        ),
    ]


def _subsets(findings: Sequence[Findings]) -> list[Block]:
    lines = [
        ComparedNumber(
            "Neurons that give half of the effect of all, those of the largest score first",
            at("subsets.k_half", "score"),
            controls=(("in a random order", at("subsets.k_half", "random")),),
            note=lambda found: f"{found.subsets.n_without:,} facts fall too little to say",
        ),
        ComparedNumber(
            "The same as a share of the fact's neurons",
            at("subsets.share", "score"),
            controls=(("in a random order", at("subsets.share", "random")),),
        ),
        ComparedNumber(
            "Facts for which a single neuron gives half of the effect",
            at("subsets.single", "score"),
            controls=(("a random one of them", at("subsets.single", "random")),),
        ),
    ]
    measured = having(findings, "subsets")
    return [
        Heading(3, "How few neurons are enough?"),
        Paragraph(
            "A fact's neurons are suppressed one after the other, and the answer is read off each time."
        ),
        comparison(lines, findings),
        *_all_facts(lines, findings, "subsets"),
        *explain_missing(findings, "subsets", "subsets"),
        *charts.side_by_side(
            measured, "subsets", "What is left of the answer, neuron by neuron", charts.draw_subsets
        ),
    ]


def _methods(findings: Sequence[Findings]) -> list[Block]:
    measured = having(findings, "methods")
    return [
        Heading(3, "Do other methods find the same neurons?"),
        Paragraph(
            "Neurons chosen by other scores: their activation (the paper's baseline), gradient × "
            "activation, and log-probability increase (Yu and Ananiadou, 2024). In the mode `count` "
            "every method chooses at most as many as the default of integrated gradients has. A slow method "
            "was given fewer facts; what integrated gradients' choice does on these stands beside it."
        ),
        *explain_missing(findings, "methods", "methods"),
        *charts.side_by_side(measured, "methods", "What each method's neurons do", charts.draw_methods),
        *(_method_table(found, found.methods) for found in measured),
        *(_method_table(found, found.methods.whole) for found in measured if found.methods.whole is not None),
    ]


def _method_table(found: Findings, methods: Methods) -> Table:
    whole = methods is not found.methods
    rows = []
    modes = sorted({mode for _, mode in methods.rows}, key=lambda mode: (mode != "count", mode))
    for mode in modes:
        for method, words in METHOD_NAMES.items():
            numbers = methods.rows.get((method, mode))
            if numbers is None:
                continue
            rows.append(
                (
                    words,
                    mode,
                    *(
                        "none" if each is None else each.text()
                        for each in (
                            numbers.neurons,
                            numbers.overlap,
                            numbers.suppressed,
                            numbers.gradients,
                            numbers.amplified,
                        )
                    ),
                    "" if numbers.neurons is None else format_count(numbers.neurons.n, numbers.neurons.of),
                )
            )
    return Table(
        (
            "method",
            "mode",
            "neurons a fact",
            "Jaccard index with\nintegrated gradients",
            "suppressed",
            "the same facts, integrated gradients'",
            "amplified",
            "n",
        ),
        tuple(rows),
        f"{escape_marks(found.atlas_id)}: change of the answer's probability on held-out prompts, by method"
        + (", all facts of the sample" if whole else ""),
        wide=True,
        folded=whole,
    )
