"""Update: give a fact another answer by editing its neurons' value vectors, and see what else changes.

Dai et al. (ACL 2022), section 5.1, with the measures of papers on editing. Up to `sample` edits a relation:

1. *Valid edits.* A fact that the model answers correctly (rank 1) on a held-out prompt, one of those drawn;
   the fact need not be known on most prompts. The new answer is the object of a random other fact of the
   relation. Neurons that more than 10 % of the relation's facts have are dropped; a fact without others has
   no valid edit.
2. *Groups.* Its own neurons so filtered; *all* of its neurons; random others of the same layers, as many as
   its own; for the edited prompt also as many as all. λ = (1, 8) as in the paper, and (1, 2).
3. *Prompts.* The edited one; *paraphrases*, the fact's other held-out prompts; one held-out prompt each of 5
   facts of the *same relation* and 5 that differ in *relation* and object, none of them with the old or the
   new answer, first those that the model answers correctly: only a correct answer can be lost. And of up to
   5 facts of the relation with the *same object*, the old answer: the neighbourhood of Meng et al. (2022),
   CounterFact, which is the hardest to spare.
4. *Symmetry.* Where the relation has an inverse (`INVERSES`): after the edit X → Z, Z's answer to the
   inverse relation should be X. If Z is the subject of a fact of the inverse relation, its held-out prompts
   are used, and its object is the old answer. Else the wording of a fact of the inverse relation is used,
   with Z in its subject's place, and the old answer is the subject of the fact that Z was taken from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas.neuron import Neuron, Prompt
from atlas.queries.rates import Rate, measure_rate
from atlas.queries.sharing import COMMON_SHARE
from build.evidence.evaluate import RECORD
from build.evidence.setting import AtlasFact, Setting, StoredPrompt, chunks, draw_one

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas
    from atlas.surgery.subject import Prediction

STRENGTHS = ((1.0, 8.0), (1.0, 2.0))
EDITED_GROUPS = ("own", "all", "random", "random_all")
OTHERS = 5
_FACTS_A_SHARD = 4
INVERSES = {
    "P36": "P1376",  # capital – capital of
    "P1376": "P36",
    "P36-state": "P1376-state",
    "P1376-state": "P36-state",
    "P38": "P38-country",  # currency – country of a currency
    "P38-country": "P38",
    "P246": "P246-element",  # symbol of an element – element of a symbol
    "P246-element": "P246",
    "P361": "P527",  # part of – has part
    "P527": "P361",
    "P47": "P47",  # shares a border with
    "P190": "P190",  # twinned with
}
"""Relation → its inverse relation."""


# Step 1: valid edits ---------------------------------------------------------------------------------


def units(setting: Setting) -> list[tuple[str, ...]]:
    """The facts to edit, a few of a relation at a time."""
    return [
        unit
        for relation_id in setting.by_relation
        for unit in chunks(facts_to_edit(setting, relation_id), _FACTS_A_SHARD)
    ]


def facts_to_edit(setting: Setting, relation_id: str) -> list[str]:
    valid = valid_facts(setting, relation_id)
    order = setting.generator("update", relation_id).permutation(len(valid))[: setting.sample]
    return sorted(valid[index].fact_id for index in order)


def valid_facts(setting: Setting, relation_id: str) -> list[AtlasFact]:
    """The relation's facts that have a valid edit."""
    facts = setting.by_relation[relation_id]
    common = common_neurons(facts)
    return [
        fact
        for fact in facts
        if correct_prompts(fact)
        and not common.issuperset(fact.neurons)
        and any(other.answer != fact.answer for other in facts)
    ]


def common_neurons(facts: Sequence[AtlasFact]) -> set[Neuron]:
    """Neurons that more than a tenth of a relation's facts have."""
    counts = Counter(neuron for fact in facts for neuron in fact.neurons)
    # Of fewer than ten facts, a tenth is less than one, and a neuron of a single fact is not common.
    return {neuron for neuron, count in counts.items() if count > max(1, COMMON_SHARE * len(facts))}


def correct_prompts(fact: AtlasFact) -> list[StoredPrompt]:
    """The held-out prompts of a fact that the model answers correctly."""
    return [each for each in fact.held_out if each.rank == 1]


# Steps 2 to 4: groups and prompts --------------------------------------------------------------------


@dataclass(frozen=True)
class EditPrompt:
    """A prompt with its own answer, and the answer that the edit should give it, if any."""

    kind: str
    prompt: Prompt
    wanted: str | None = None

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (
            (self.prompt,) if self.wanted is None else (self.prompt, replace(self.prompt, answer=self.wanted))
        )


@dataclass(frozen=True)
class PlannedEdit:
    """A fact's edit: its new answer, the prompts that measure it, and the groups of neurons to edit."""

    fact: AtlasFact
    new: str
    prompts: tuple[EditPrompt, ...]
    groups: dict[str, tuple[Neuron, ...]]


def plan_edit(setting: Setting, fact: AtlasFact) -> PlannedEdit | None:
    """The edit of a fact; None where the model takes no other answer of the relation."""
    generator = setting.generator("update", fact.fact_id)
    edited = draw_one(correct_prompts(fact), generator)
    donor = _draw_donor(setting, fact, edited.prompt, generator)
    if donor is None:
        return None
    new = donor.fact.object
    prompts = [EditPrompt("edited", edited.prompt, new)]
    prompts += [EditPrompt("paraphrase", each.prompt, new) for each in fact.held_out if each is not edited]
    others = [
        other for other in setting.facts if other.held_out and other.answer not in (fact.answer, donor.answer)
    ]
    for kind, wanted in (("same_relation", new), ("other_relation", None)):
        near = [
            other for other in others if (other.relation_id == fact.relation_id) == (kind == "same_relation")
        ]
        prompts += [EditPrompt(kind, prompt, wanted) for prompt in draw_neighbours(near, generator)]
    prompts += symmetry_prompts(setting, fact, donor, generator)
    alike = [
        other
        for other in setting.by_relation[fact.relation_id]
        if other.held_out and other.answer == fact.answer and other.fact_id != fact.fact_id
    ]
    prompts += [EditPrompt("same_object", prompt, new) for prompt in draw_neighbours(alike, generator)]
    own = tuple(sorted(set(fact.neurons) - common_neurons(setting.by_relation[fact.relation_id])))
    return PlannedEdit(
        fact,
        new,
        tuple(each for each in prompts if all(map(setting.subject.can_be_asked, each.prompts))),
        {
            "own": own,
            "all": tuple(sorted(fact.neurons)),
            "random": setting.random_neurons(own, "update", fact.fact_id, avoid=fact.neurons),
            "random_all": setting.random_neurons(fact.neurons, "update all", fact.fact_id),
        },
    )


def _draw_donor(
    setting: Setting, fact: AtlasFact, prompt: Prompt, generator: np.random.Generator
) -> AtlasFact | None:
    """A random other fact of the relation, whose object becomes the new answer."""
    others = [each for each in setting.by_relation[fact.relation_id] if each.answer != fact.answer]
    shuffled = (others[index] for index in generator.permutation(len(others)))
    usable = (
        each for each in shuffled if setting.subject.can_be_asked(replace(prompt, answer=each.fact.object))
    )
    return next(usable, None)


def draw_neighbours(facts: Sequence[AtlasFact], generator: np.random.Generator) -> Iterator[Prompt]:
    """A held-out prompt each of a few facts, where possible one that the model answers correctly."""
    shuffled = (facts[index] for index in generator.permutation(len(facts)))
    for fact in sorted(shuffled, key=lambda fact: not correct_prompts(fact))[:OTHERS]:
        yield draw_one(correct_prompts(fact) or fact.held_out, generator).prompt


def symmetry_prompts(
    setting: Setting, fact: AtlasFact, donor: AtlasFact, generator: np.random.Generator
) -> list[EditPrompt]:
    """The inverse relation's prompts about the new answer (step 4)."""
    subject, new, old = fact.fact.subject, donor.fact.object, donor.fact.subject
    inverse = setting.by_relation.get(INVERSES.get(fact.relation_id, ""), ())
    stored = [
        other for other in inverse if other.held_out and other.fact.subject.casefold() == new.casefold()
    ]
    if stored:
        prompts = [each.prompt for each in stored[0].held_out]
    else:
        worded = [
            other
            for other in inverse
            if other.held_out and all(p.prompt.text.count(other.fact.subject) == 1 for p in other.held_out)
        ]
        if not worded:
            return []
        model = draw_one(worded, generator)
        prompts = [
            Prompt(
                donor.fact_id,
                each.prompt.template_id,
                each.prompt.text.replace(model.fact.subject, new),
                old,
            )
            for each in model.held_out
        ]
    return [
        EditPrompt("symmetry", prompt, subject)
        for prompt in prompts
        if prompt.answer.casefold() != subject.casefold()
    ]


def measure(setting: Setting, unit: Sequence[str]) -> list[dict[str, Any]]:
    from atlas.interventions import Edit

    edits = [edit for fact_id in unit if (edit := plan_edit(setting, setting.by_id[fact_id]))]
    measured = [
        (edit, group, strengths, prompt)
        for edit in edits
        for group in edit.groups
        for strengths in STRENGTHS
        for prompt in edit.prompts
        if group != "random_all" or prompt.kind == "edited"
    ]
    unedited = [(edit, prompt) for edit in edits for prompt in edit.prompts]
    predictions = iter(setting.predict([each for _, prompt in unedited for each in prompt.prompts]))
    before = {
        (edit.fact.fact_id, prompt): [next(predictions) for _ in prompt.prompts] for edit, prompt in unedited
    }
    changes = [
        Edit(edit.groups[group], edit.fact.fact.object, edit.new, *strengths)
        for edit, group, strengths, prompt in measured
        for _ in prompt.prompts
    ]
    predictions = iter(setting.predict([each for *_, prompt in measured for each in prompt.prompts], changes))
    return [
        {
            "fact_id": edit.fact.fact_id,
            "new_object": edit.new,
            "remove": strengths[0],
            "add": strengths[1],
            "group": group,
            "kind": prompt.kind,
            "prompt_fact_id": prompt.prompt.fact_id,
            "template_id": prompt.prompt.template_id,
            "n_neurons": len(edit.groups[group]),
            **answer_columns(before[edit.fact.fact_id, prompt], [next(predictions) for _ in prompt.prompts]),
        }
        for edit, group, strengths, prompt in measured
    ]


def answer_columns(before: Sequence[Prediction], after: Sequence[Prediction]) -> dict[str, Any]:
    """The predictions of a prompt's own answer, then of the one that the edit should give, if any."""
    columns: dict[str, Any] = {"top_changed": before[0].top_token != after[0].top_token}
    for answer, pair in zip(("old", "new"), zip(before, after, strict=True), strict=False):
        for when, prediction in zip(("before", "after"), pair, strict=True):
            columns[f"p_{answer}_{when}"] = prediction.probability
            columns[f"rank_{answer}_{when}"] = prediction.rank
    return columns


# Summary ---------------------------------------------------------------------------------------------

# Measure → (kind of prompts, whether only prompts count whose own answer was first, what is counted)
RATES = {
    "the answer is another": ("edited", False, "rank_old_after > 1"),
    "success: the new answer is first": ("edited", False, "rank_new_after == 1"),
    "  among the first five": ("edited", False, "rank_new_after <= 5"),
    "efficacy: likelier than the old": ("edited", False, "p_new_after > p_old_after"),
    "paraphrases: the new answer is first": ("paraphrase", False, "rank_new_after == 1"),
    "same object: right answers kept": ("same_object", True, "rank_old_after == 1"),
    "same relation: right answers kept": ("same_relation", True, "rank_old_after == 1"),
    "other relations: right answers kept": ("other_relation", True, "rank_old_after == 1"),
    "symmetry: the new answer is first": ("symmetry", False, "rank_new_after == 1"),
    "  before the edit: the old one is": ("symmetry", False, "rank_old_before == 1"),
}
PERPLEXITIES = {
    "same relation: Δ perplexity": "same_relation",
    "other relations: Δ perplexity": "other_relation",
}


def perplexity(probabilities: pd.Series) -> float:
    floored = np.maximum(probabilities.astype(float), np.finfo(np.float32).tiny)
    return float(np.exp(-np.log(floored).mean()))


def score_edits(rows: pd.DataFrame) -> dict[str, Rate | float | None]:
    """Every measure of rows of `edits` of one group and one pair of strengths."""
    measures: dict[str, Rate | float | None] = {}
    for name, (kind, were_first, hit) in RATES.items():
        part = rows[rows["kind"] == kind]
        part = part[part["rank_old_before"] == 1] if were_first else part
        measures[name] = measure_rate(part.eval(hit), part["fact_id"])
    for name, kind in PERPLEXITIES.items():
        part = rows[rows["kind"] == kind]
        measures[name] = (
            perplexity(part["p_old_after"]) - perplexity(part["p_old_before"]) if len(part) else None
        )
    return measures


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query("SELECT * FROM edits")
    lines = [
        f"{rows['fact_id'].nunique():,} facts of {_n_relations(atlas)} relations edited; "
        f"{without_rare_neurons(atlas):,} others are answered rightly, too, but each of their neurons is one "
        f"of more than {COMMON_SHARE:.0%} of their relation's facts"
    ]
    for remove, add in STRENGTHS:
        part = rows[(rows["remove"] == remove) & (rows["add"] == add)]
        groups = [group for group in EDITED_GROUPS if (part["group"] == group).any()]
        cards = [score_edits(part[part["group"] == group]) for group in groups]
        sizes = [part.loc[part["group"] == group, "n_neurons"].mean() for group in groups]
        heads = (f"{group} ({size:.1f} neurons)" for group, size in zip(groups, sizes, strict=True))
        lines.append(
            f"{f'strengths ({remove:g}, {add:g}) (prompts)':<48}"
            + "".join(f"{head:<26}" for head in heads).rstrip()
        )
        for name in (*RATES, *PERPLEXITIES):
            values = [card[name] for card in cards]
            if any(value is not None for value in values):
                cells = "".join(f"{_cell(value):<26}" for value in values)
                lines.append(f"  {name + _n_prompts(values):<46}{cells}".rstrip())
    return lines


def _n_prompts(values: Sequence[Rate | float | None]) -> str:
    """The number of prompts behind the rates, the same for every group."""
    return next((f" ({value.n_prompts:,})" for value in values if isinstance(value, Rate)), "")


def _cell(value: Rate | float | None) -> str:
    if isinstance(value, Rate):
        return f"{value.share:.1%} [{value.low:.1%}, {value.high:.1%}]"
    return "" if value is None else f"{value:+.4g}"


def _n_relations(atlas: Atlas) -> int:
    sql = "SELECT count(DISTINCT relation_id) AS n FROM facts SEMI JOIN edits USING (fact_id)"
    return int(atlas.query(sql)["n"][0])


def without_rare_neurons(atlas: Atlas) -> int:
    """How many facts, answered correctly on a held-out prompt, have only neurons that an edit drops."""
    record = atlas.manifest.method.options.get(RECORD, {}).get("update", {})
    return int(
        atlas.query(
            """
            WITH taken AS (FROM facts WHERE $all_facts OR NOT coalesce(contested OR guessable, false)),
            pairs AS (FROM knowledge_neurons WHERE fact_id IN (SELECT fact_id FROM taken)),
            rare AS (
                SELECT relation_id, layer, neuron
                FROM pairs
                JOIN (SELECT relation_id, count(*) AS n FROM taken GROUP BY ALL) USING (relation_id)
                GROUP BY relation_id, layer, neuron, n HAVING count(*) <= $share * n
            )
            SELECT count(*) AS n FROM taken
            WHERE fact_id IN (SELECT fact_id FROM prompts WHERE held_out AND rank = 1)
              AND fact_id IN (SELECT fact_id FROM pairs)
              AND fact_id NOT IN (SELECT fact_id FROM pairs JOIN rare USING (relation_id, layer, neuron))
            """,
            {"share": COMMON_SHARE, "all_facts": bool(record.get("all_facts"))},
        )["n"][0]
    )
