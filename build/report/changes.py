"""Sections 2 and 3 of the report: facts that are updated and relations that are erased."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from atlas.numbers import NOT_MEASURED
from build.report import charts
from build.report.findings import Findings
from build.report.lines import ComparedNumber, NumberOf, at, comparison, explain_missing, having
from build.report.numbers import Measurement, in_unit
from build.report.page import Block, Heading, Paragraph, Table, escape_marks
from build.report.paper_values import CLAIMED_LOSS

# Measure of `EditScores` → its words, published name, claim, and whether a control can cast doubt on it.
_SCORECARD: dict[str, tuple[str, str, str, bool]] = {
    "change": ("Change rate: the old answer is no longer first", "edit_change", "", True),
    "success": ("Success rate: the new answer is first", "edit_success", "", True),
    "efficacy": ("Efficacy: the new answer is likelier than the old", "", "", True),
    "top_five": ("The new answer is among the first five", "", "", True),
    "paraphrase": ("Paraphrase: the new answer is first on other wordings", "", "edit-paraphrase", True),
    "alike_kept": (
        "Neighbourhood: right answers of facts with the same answer that stay",
        "",
        "edit-alike",
        False,
    ),
    "same_kept": ("Specificity: right answers of the same relation that stay", "", "edit-same", False),
    "other_kept": ("Specificity: right answers of other relations that stay", "", "edit-other", False),
    "symmetry": (
        "Symmetry: the inverse relation answers as the edit demands, where it answered before",
        "",
        "edit-symmetry",
        True,
    ),
    "same_perplexity": ("Perplexity of the same relation: change", "perplexity_within", "", False),
    "other_perplexity": ("Perplexity of other relations: change", "perplexity_across", "", False),
}
_EDITED = {
    "own": "its own, without those that more than 10 % of the relation's facts have",
    "all": "all of its own",
    "random": "random neurons",
    "random_all": "random neurons, as many as all",
}


# 2. Update -------------------------------------------------------------------------------------------


def update_section(findings: Sequence[Findings]) -> list[Block]:
    measured = having(findings, "edits")
    return [
        Heading(2, "2 Update"),
        Paragraph(
            "A fact that the model answers rightly is given another answer: the value vectors of its "
            "neurons lose the old answer's embedding and gain the new one's, with the paper's strengths "
            "λ = (1, 8) where they were tried. The new answer is the object of another fact of the "
            "relation. Neurons that more than 10 % of the relation's facts have are left alone. Random "
            "neurons of the same layers stand beside it."
        ),
        comparison(_update_lines(), findings),
        *explain_missing(findings, "edits", "update"),
        *charts.side_by_side(
            measured, "update", "Scorecard of edits of own and of random neurons", charts.draw_edits
        ),
        *(_strengths(found) for found in measured),
    ]


def _update_lines() -> list[ComparedNumber]:
    return [
        ComparedNumber(
            words,
            at("edits.judged", "own", measure),
            published,
            controls=(("random neurons", at("edits.judged", "random", measure)),),
            claim=claim,
            doubts=doubts,
            note=_answered_before if measure == "symmetry" else None,
            missing=_answered_before if measure == "symmetry" else None,
        )
        for measure, (words, published, claim, doubts) in _SCORECARD.items()
    ]


def _answered_before(found: Findings) -> str:
    """How many of the inverse relation's prompts were answered before the edit."""
    answered = found.number("edits.judged", "own", "symmetry_before")
    if answered is None:
        return NOT_MEASURED
    before = f"answered before the edit: {answered.full()}"
    return before if found.number("edits.judged", "own", "symmetry") else f"does not apply\n{before}"


def _strengths(found: Findings) -> Table:
    """The whole scorecard: every group at every strength."""
    columns, cards = [], []
    for strengths in found.edits.strengths:
        for group, words in _EDITED.items():
            scores = found.edits.of_group(group, strengths)
            if scores is not None:
                columns.append(f"λ = ({strengths[0]:g}, {strengths[1]:g})\n{words}")
                cards.append(scores)
    rows = []
    for measure, (words, *_) in _SCORECARD.items():
        numbers = [scores[measure] for scores in cards]
        rows.append(
            (
                words,
                *("not asked" if each is None else f"{each.text()}\n{each.counted()}" for each in numbers),
            )
        )
    return Table(
        ("", *columns),
        tuple(rows),
        f"{escape_marks(found.atlas_id)}: {found.edits.n_edits} edits in {found.edits.n_relations} relations",
        wide=True,
        folded=True,
    )


# 3. Erase --------------------------------------------------------------------------------------------


def erase_section(findings: Sequence[Findings]) -> list[Block]:
    measured = having(findings, "erasures")
    return [
        Heading(2, "3 Erase"),
        Paragraph(
            "The value vectors of a relation's most frequent neurons, 20 as in the paper, become zero, and "
            "the relation's own prompts and all others' are asked. The claim in question: the model loses "
            f"{CLAIMED_LOSS.number} of that relation, and little of others. Perplexity is a mean in which "
            "relations count alike; right answers lost are a share of all right answers, so that relations "
            "count by how many they had."
        ),
        comparison(_erase_lines(), findings),
        *explain_missing(findings, "erasures", "erase"),
        *charts.side_by_side(
            measured, "erase-doses", "Right answers lost by number of neurons erased", charts.draw_doses
        ),
        *charts.side_by_side(
            measured,
            "erase-by-relation",
            "Growth of perplexity of each erased relation and of the others",
            charts.draw_erasures,
        ),
        *(_relations(found) for found in measured),
    ]


def _growth(relation_id: str, group: str, asked: str) -> NumberOf:
    def number(found: Findings) -> Measurement | None:
        row = _relation(found, relation_id)
        growth = None if row is None else row.get(f"growth_{group}_{asked}")
        if growth is None or pd.isna(growth):
            return None
        return Measurement(math.expm1(growth), n=int(row["n_prompts"]), of="prompts", unit="change")

    return number


def _relation(found: Findings, relation_id: str) -> pd.Series | None:
    if found.erasures is None:
        return None
    rows = found.erasures.relations
    rows = rows[rows["relation_id"] == relation_id]
    return rows.iloc[0] if len(rows) else None


def _perplexities(relation_id: str) -> Callable[[Findings], str]:
    def words(found: Findings) -> str:
        row = _relation(found, relation_id)
        before, after = row["perplexity_before_own_own"], row["perplexity_after_own_own"]
        return f"perplexity {in_unit(before, 'count')} → {in_unit(after, 'count')}"

    return words


def _erase_lines() -> list[ComparedNumber]:
    return [
        *(
            ComparedNumber(
                f"Erasing {relation_id} ({words}): perplexity of its own prompts",
                _growth(relation_id, "own", "own"),
                f"erase_{relation_id}",
                controls=(
                    ("random neurons", _growth(relation_id, "random", "own")),
                    ("other relations", _growth(relation_id, "own", "others")),
                ),
                note=_perplexities(relation_id),
            )
            for relation_id, words in (("P19", "place of birth"), ("P106", "occupation"))
        ),
        ComparedNumber(
            "Perplexity of the erased relation's prompts, all relations",
            at("erasures.worse", ("own", "own")),
            controls=(("random neurons", at("erasures.worse", ("random", "own"))),),
        ),
        ComparedNumber(
            "Perplexity of other relations' prompts",
            at("erasures.worse", ("own", "others")),
            "erase_others",
            controls=(("random neurons", at("erasures.worse", ("random", "others"))),),
            doubts=False,
        ),
        ComparedNumber(
            "Right answers that the erased relation loses",
            at("erasures.lost", ("own", "own")),
            "erase_lost",
            controls=(("random neurons", at("erasures.lost", ("random", "own"))),),
        ),
        ComparedNumber(
            "Right answers that other relations lose",
            at("erasures.lost", ("own", "others")),
            controls=(("random neurons", at("erasures.lost", ("random", "others"))),),
            claim="erase-others",
            paper="little\n*the claim in question*",
        ),
    ]


def _relations(found: Findings) -> Table:
    """Every erased relation: accuracy and perplexity before and after, others' and random neurons' beside."""
    rows = []
    for row in found.erasures.relations.to_dict("records"):
        rows.append(
            (
                escape_marks(found.label(row["relation_id"])),
                f"{int(row['n_neurons'])}",
                f"{int(row['n_prompts']):,}",
                _moved(row, "accuracy", "own", "own", "share"),
                _moved(row, "accuracy", "random", "own", "share"),
                _moved(row, "accuracy", "own", "others", "share"),
                _moved(row, "perplexity", "own", "own", "count"),
                *(
                    _grown(row, group, asked)
                    for group, asked in (("own", "own"), ("random", "own"), ("own", "others"))
                ),
            )
        )
    return Table(
        (
            "relation erased",
            "neurons",
            "n prompts",
            "right answers",
            "with random neurons",
            "other relations",
            "perplexity",
            "its growth",
            "with random neurons",
            "other relations",
        ),
        tuple(rows),
        f"{escape_marks(found.atlas_id)}: every relation erased",
        wide=True,
        folded=True,
    )


def _moved(row: dict, measure: str, group: str, asked: str, unit: str) -> str:
    before, after = (row.get(f"{measure}_{when}_{group}_{asked}") for when in ("before", "after"))
    if before is None or pd.isna(before):
        return "not measured"
    return f"{in_unit(before, unit)} → {in_unit(after, unit)}"


def _grown(row: dict, group: str, asked: str) -> str:
    growth = row.get(f"growth_{group}_{asked}")
    return "not measured" if growth is None or pd.isna(growth) else in_unit(math.expm1(growth), "change")
