"""Section 5 of the report: what the neurons are like in every mode, and how much thresholds decide."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from atlas.refinement import MODES as REFINEMENTS
from build.report import charts
from build.report.figures import Figure
from build.report.findings import Findings
from build.report.lines import ComparedNumber, at, comparison, explain_missing, having
from build.report.numbers import in_unit
from build.report.page import Block, Heading, Paragraph, Pictures, Table, escape_marks
from build.report.paper_values import PAPER_VALUES, REPLICATION_VALUES

_MODES = ("stored", "default", "paper", "replication")
# Column of `statistics` → its words, unit and name among the published values.
_ROWS: dict[str, tuple[str, str, str]] = {
    "mean_neurons": ("neurons a fact, mean", "count", "neurons"),
    "median_neurons": ("neurons a fact, median", "count", ""),
    "most_neurons": ("neurons a fact, most", "whole", ""),
    "n_empty": ("facts without a neuron", "whole", ""),
    "within": ("shared within a relation", "count", "within"),
    "across": ("shared across relations", "count", "across"),
    "same_object": ("shared within a relation, same answer", "count", ""),
    "other_object": ("shared within a relation, other answers", "count", ""),
    "identical": ("facts with another fact's set", "share", ""),
    "commonest": ("facts with the commonest neuron", "share", "commonest"),
    "hubs": ("facts with one of the 20 commonest", "share", "hubs"),
}


def statistics_section(findings: Sequence[Findings]) -> list[Block]:
    counted = having(findings, "statistics.neurons")
    return [
        Heading(2, "5 Statistics"),
        Paragraph(
            "What the stored knowledge neurons are like. What two facts share is a mean over pairs of facts, "
            "relations (or pairs of relations) counting alike."
        ),
        comparison(_lines(), findings),
        *charts.side_by_side(counted, "layers", "Share of the neurons by layer", charts.draw_layers),
        *charts.side_by_side(counted, "neurons", "Facts by their number of neurons", charts.draw_sizes),
        *charts.side_by_side(counted, "sharing", "Neurons that relations share", charts.draw_sharing),
        Heading(3, "Modes and thresholds"),
        Paragraph(
            "The same stored scores, refined in three ways: by the paper's rule, by the replication's, "
            "and by this project's default. A coarse neuron has at least t of its prompt's largest "
            "score; a knowledge neuron is coarse in at least p of a fact's prompts."
        ),
        *(
            block
            for found in findings
            if found.statistics.modes is not None
            for block in (_modes(found), *_target(found))
        ),
        *explain_missing(findings, "statistics.modes", "statistics"),
        *_sensitivity(having(findings, "statistics.grid")),
    ]


def _lines() -> list[ComparedNumber]:
    return [
        ComparedNumber(
            "Neurons a fact",
            at("statistics.neurons"),
            "neurons",
            note=lambda found: (
                f"median {found.statistics.median:g}, most {found.statistics.most:,}; "
                f"{found.statistics.n_empty:,} facts have none"
            ),
        ),
        ComparedNumber("Shared by two facts of a relation", at("statistics.within"), "within"),
        ComparedNumber("Shared by two facts of different relations", at("statistics.across"), "across"),
        ComparedNumber(
            "Shared by two facts of a relation with the same answer",
            at("statistics.same_object"),
            controls=(("with different answers", at("statistics.other_object")),),
            claim="answer-shared",
        ),
        ComparedNumber(
            "Share of the (fact, neuron) pairs in the upper layers (five of twelve)",
            at("statistics.upper"),
            "upper_layers",
            note=lambda found: (
                f"{found.statistics.n_upper} of {len(found.statistics.layers)} layers; spread evenly they "
                f"would hold {in_unit(found.statistics.n_upper / len(found.statistics.layers), 'share')}"
            ),
            paper="most in the topmost layers\n*section 4.1, no number*",
        ),
        ComparedNumber(
            "Facts that have the commonest neuron",
            at("statistics.commonest"),
            "commonest",
            note=lambda found: f"`{found.statistics.commonest_neuron}`",
        ),
        ComparedNumber("Facts that have one of the 20 commonest neurons", at("statistics.hubs"), "hubs"),
        ComparedNumber(
            "Facts whose set of neurons another fact has, too", at("statistics.identical"), claim="identical"
        ),
    ]


# Modes and thresholds --------------------------------------------------------------------------------


def _modes(found: Findings) -> Table:
    """Every mode of one atlas beside the published numbers."""
    modes = {row["mode"]: row for row in found.statistics.modes.to_dict("records")}
    names = [mode for mode in _MODES if mode in modes]
    if _same(modes.get("stored"), modes.get("default")):
        names.remove("stored")
    rows = [
        (
            words,
            PAPER_VALUES[published].number if published in PAPER_VALUES else "",
            REPLICATION_VALUES[published].number if published in REPLICATION_VALUES else "",
            *(_shown(modes[mode][column], unit) for mode in names),
        )
        for column, (words, unit, published) in _ROWS.items()
    ]
    thresholds = [f"{modes[mode]['threshold']:.2g}" for mode in names]
    shares = [_shown(modes[mode]["share"], "count", "fitted") for mode in names]
    upper = found.statistics.n_upper
    layers = [modes[mode]["layer_shares"] for mode in names]
    facts = [f"{int(modes[mode]['n_facts']):,}" for mode in names]
    rows += [
        (
            "pairs in the upper layers",
            "",
            REPLICATION_VALUES["upper_layers"].number,
            *("" if each is None else in_unit(float(sum(each[-upper:])), "share") for each in layers),
        ),
        ("t", "0.2", "0.3", *thresholds),
        ("p", "fitted", "0.3", *shares),
        ("n facts", "", "27,610", *facts),
    ]
    return Table(
        ("", "paper, published", "replication, published", *(f"mode {name}" for name in names)),
        tuple(rows),
        f"{escape_marks(found.atlas_id)}: modes side by side",
        wide=True,
    )


def _target(found: Findings) -> list[Block]:
    """Whether the paper's rule, which is fitted to find 2 to 5 neurons a fact, does so here."""
    modes = found.statistics.modes
    means = modes.loc[modes["mode"] == "paper", "mean_neurons"].dropna()
    if not len(means):
        return []
    mean, (low, high) = float(means.iloc[0]), REFINEMENTS["paper"].target
    said = (
        f"{escape_marks(found.atlas_id)}: the mode `paper` moves p, relation by relation, until a fact has "
        f"{low:g} to {high:g} neurons on average. Over all facts it has {in_unit(mean, 'count')}"
    )
    if low <= mean <= high:
        return [Paragraph(f"{said}.")]
    return [
        Paragraph(f"{said}: **it misses its target**, as relations have none of the p tried that reach it.")
    ]


def _same(one: dict | None, other: dict | None) -> bool:
    """Whether two modes give the same numbers."""
    if one is None or other is None:
        return False
    return all(one[column] == other[column] for column in _ROWS)


def _shown(value: float | None, unit: str, missing: str = "") -> str:
    if value is None or pd.isna(value):
        return missing
    return f"{int(value):,}" if unit == "whole" else in_unit(float(value), unit)


def _sensitivity(findings: Sequence[Findings]) -> list[Block]:
    if not findings:
        return []
    figures = [
        Figure(
            f"thresholds-{name}--{found.atlas_id}",
            f"{words} under other thresholds in {found.atlas_id}.",
            charts.draw_thresholds(found, column, words, form),
        )
        for column, name, words, form in (
            ("mean_neurons", "neurons", "Neurons a fact (mean)", ",.1f"),
            ("commonest", "commonest", "Facts with the commonest neuron (%)", ".0%"),
        )
        for found in findings
    ]
    return [Pictures(tuple(figures), "How much the thresholds decide. The default is outlined.")]
