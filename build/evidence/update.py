"""Update: giving a fact another answer by editing its neurons' value vectors, and what else that changes.

Dai et al. (ACL 2022), section 5.1, with the scorecard of papers on editing. Up to `sample` edits a relation:

1. *Valid edits.* A fact that the model answers rightly (rank 1) on a held-out prompt, drawn of those that it
   does; the fact need not be known on most prompts. The new answer is the object of a random other fact of
   the relation. Neurons that more than 10 % of the relation's facts have are dropped; where none is left
   there is no valid edit.
2. *Groups.* Its own neurons so filtered; *all* of its neurons; random others of the same layers, as many as
   its own; for the prompt that judges the edit also as many as all. λ = (1, 8) as in the paper, and (1, 2).
3. *Questions.* The prompt; *paraphrases*, the fact's other held-out prompts; one held-out prompt each of 5
   facts of the *same relation* and 5 that differ in *relation* and object, none of them with the old or the
   new answer, those first that the model answers rightly: what is not right cannot be lost. And of up to
   5 facts of the relation with the *same object*, the old answer: the neighbourhood of Meng et al. (2022),
   CounterFact, which is the hardest to spare.
4. *Symmetry.* Where the relation has an inverse (`INVERSES`): X → Z was written, so Z's answer to the
   inverse relation should be X. If Z is the subject of a fact of the inverse relation, its held-out prompts
   are asked, and its object is the old answer. Else the wordings of a fact of the inverse relation are,
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
from build.evidence.ground import Ground, GroundFact, StoredPrompt, chunks

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas
    from atlas.surgery.subject import Prediction

STRENGTHS = ((1.0, 8.0), (1.0, 2.0))
GROUPS = ("own", "all", "random", "random_all")
COMMON_SHARE = 0.1
OTHERS = 5
FACTS_A_SHARD = 4
BOOTSTRAP_DRAWS = 1000
INVERSES = {
    "P36": "P1376",  # capital – capital of
    "P1376": "P36",
    "P361": "P527",  # part of – has part
    "P527": "P361",
    "P47": "P47",  # shares a border with
    "P190": "P190",  # twinned with
}
"""Relation → the relation that says the same the other way round."""


# Step 1: valid edits ---------------------------------------------------------------------------------


def units(ground: Ground) -> list[tuple[str, ...]]:
    """The facts to edit, a few of a relation at a time."""
    return [
        unit
        for relation_id in ground.by_relation
        for unit in chunks(facts_to_edit(ground, relation_id), FACTS_A_SHARD)
    ]


def facts_to_edit(ground: Ground, relation_id: str) -> list[str]:
    facts = ground.by_relation[relation_id]
    common = common_neurons(facts)
    valid = [
        fact
        for fact in facts
        if answered(fact)
        and not common.issuperset(fact.neurons)
        and any(other.answer != fact.answer for other in facts)
    ]
    order = ground.generator("update", relation_id).permutation(len(valid))[: ground.sample]
    return sorted(valid[index].fact_id for index in order)


def common_neurons(facts: Sequence[GroundFact]) -> set[Neuron]:
    """Neurons that more than a tenth of a relation's facts have."""
    counts = Counter(neuron for fact in facts for neuron in fact.neurons)
    # Of fewer than ten facts, a tenth is less than one: what a single fact has is common to none.
    return {neuron for neuron, count in counts.items() if count > max(1, COMMON_SHARE * len(facts))}


def answered(fact: GroundFact) -> list[StoredPrompt]:
    """The held-out prompts of a fact that the model answers rightly."""
    return [each for each in fact.held_out if each.rank == 1]


def some_of(items: Sequence[Any], generator: np.random.Generator) -> Any:
    return items[int(generator.integers(len(items)))]


# Steps 2 to 4: groups and questions ------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A prompt that asks for its own answer, and the answer that the edit wants there, if any."""

    kind: str
    prompt: Prompt
    wanted: str | None = None

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return (
            (self.prompt,) if self.wanted is None else (self.prompt, replace(self.prompt, answer=self.wanted))
        )


@dataclass(frozen=True)
class Update:
    """A fact's edit: its new answer, what is asked about it, and the groups of neurons it is made on."""

    fact: GroundFact
    new: str
    questions: tuple[Question, ...]
    groups: dict[str, tuple[Neuron, ...]]


def planned(ground: Ground, fact: GroundFact) -> Update | None:
    """The edit of a fact; None where the model can be asked for no other answer of the relation."""
    generator = ground.generator("update", fact.fact_id)
    edited = some_of(answered(fact), generator)
    giver = _giver(ground, fact, edited.prompt, generator)
    if giver is None:
        return None
    new = giver.fact.object
    questions = [Question("edited", edited.prompt, new)]
    questions += [Question("paraphrase", each.prompt, new) for each in fact.held_out if each is not edited]
    others = [
        other for other in ground.facts if other.held_out and other.answer not in (fact.answer, giver.answer)
    ]
    for kind, wanted in (("same_relation", new), ("other_relation", None)):
        near = [
            other for other in others if (other.relation_id == fact.relation_id) == (kind == "same_relation")
        ]
        questions += [Question(kind, prompt, wanted) for prompt in bystanders(near, generator)]
    questions += symmetric(ground, fact, giver, generator)
    alike = [
        other
        for other in ground.by_relation[fact.relation_id]
        if other.held_out and other.answer == fact.answer and other.fact_id != fact.fact_id
    ]
    questions += [Question("same_object", prompt, new) for prompt in bystanders(alike, generator)]
    own = tuple(sorted(set(fact.neurons) - common_neurons(ground.by_relation[fact.relation_id])))
    return Update(
        fact,
        new,
        tuple(each for each in questions if all(map(ground.subject.can_be_asked, each.prompts))),
        {
            "own": own,
            "all": tuple(sorted(fact.neurons)),
            "random": ground.stand_ins(own, "update", fact.fact_id, avoid=fact.neurons),
            "random_all": ground.stand_ins(fact.neurons, "update all", fact.fact_id),
        },
    )


def _giver(
    ground: Ground, fact: GroundFact, prompt: Prompt, generator: np.random.Generator
) -> GroundFact | None:
    """A random other fact of the relation, whose object becomes the new answer."""
    others = [each for each in ground.by_relation[fact.relation_id] if each.answer != fact.answer]
    shuffled = (others[index] for index in generator.permutation(len(others)))
    asked = ((each, replace(prompt, answer=each.fact.object)) for each in shuffled)
    return next((each for each, prompt in asked if ground.subject.can_be_asked(prompt)), None)


def bystanders(facts: Sequence[GroundFact], generator: np.random.Generator) -> Iterator[Prompt]:
    """A held-out prompt each of a few facts; where the model is right on some, one of those."""
    shuffled = (facts[index] for index in generator.permutation(len(facts)))
    for fact in sorted(shuffled, key=lambda fact: not answered(fact))[:OTHERS]:
        yield some_of(answered(fact) or fact.held_out, generator).prompt


def symmetric(
    ground: Ground, fact: GroundFact, giver: GroundFact, generator: np.random.Generator
) -> list[Question]:
    """The inverse relation's prompts about the new answer (step 4)."""
    subject, new, old = fact.fact.subject, giver.fact.object, giver.fact.subject
    inverse = ground.by_relation.get(INVERSES.get(fact.relation_id, ""), ())
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
        model = some_of(worded, generator)
        prompts = [
            Prompt(
                giver.fact_id,
                each.prompt.template_id,
                each.prompt.text.replace(model.fact.subject, new),
                old,
            )
            for each in model.held_out
        ]
    return [
        Question("symmetry", prompt, subject)
        for prompt in prompts
        if prompt.answer.casefold() != subject.casefold()
    ]


def measure(ground: Ground, unit: Sequence[str]) -> list[dict[str, Any]]:
    from atlas.surgery.interventions import Edit

    updates = [update for fact_id in unit if (update := planned(ground, ground.by_id[fact_id]))]
    asked = [
        (update, group, strengths, question)
        for update in updates
        for group in update.groups
        for strengths in STRENGTHS
        for question in update.questions
        if group != "random_all" or question.kind == "edited"
    ]
    first = [(update, question) for update in updates for question in update.questions]
    said = iter(ground.predict([prompt for _, question in first for prompt in question.prompts]))
    before = {
        (update.fact.fact_id, question): [next(said) for _ in question.prompts] for update, question in first
    }
    changes = [
        Edit(update.groups[group], update.fact.fact.object, update.new, *strengths)
        for update, group, strengths, question in asked
        for _ in question.prompts
    ]
    said = iter(ground.predict([prompt for *_, question in asked for prompt in question.prompts], changes))
    return [
        {
            "fact_id": update.fact.fact_id,
            "new_object": update.new,
            "remove": strengths[0],
            "add": strengths[1],
            "group": group,
            "kind": question.kind,
            "prompt_fact_id": question.prompt.fact_id,
            "template_id": question.prompt.template_id,
            "n_neurons": len(update.groups[group]),
            **_columns(before[update.fact.fact_id, question], [next(said) for _ in question.prompts]),
        }
        for update, group, strengths, question in asked
    ]


def _columns(before: Sequence[Prediction], after: Sequence[Prediction]) -> dict[str, Any]:
    """What was said of a question's prompts: of its own answer, then of the wanted one where there is one."""
    columns: dict[str, Any] = {"top_changed": before[0].top_token != after[0].top_token}
    for answer, said in zip(("old", "new"), zip(before, after, strict=True), strict=False):
        for when, prediction in zip(("before", "after"), said, strict=True):
            columns[f"p_{answer}_{when}"] = prediction.probability
            columns[f"rank_{answer}_{when}"] = prediction.rank
    return columns


# The scorecard ---------------------------------------------------------------------------------------

_EDITED, _PARAPHRASE, _ALIKE, _SAME, _OTHER, _SYMMETRY = (
    "edited",
    "paraphrase",
    "same_object",
    "same_relation",
    "other_relation",
    "symmetry",
)
# Measure → (kind of prompts, whether only those count whose own answer was first, what is counted)
RATES = {
    "the answer is another": (_EDITED, False, lambda rows: rows["rank_old_after"] > 1),
    "success: the new answer is first": (_EDITED, False, lambda rows: rows["rank_new_after"] == 1),
    "  among the first five": (_EDITED, False, lambda rows: rows["rank_new_after"] <= 5),
    "efficacy: likelier than the old": (
        _EDITED,
        False,
        lambda rows: rows["p_new_after"] > rows["p_old_after"],
    ),
    "paraphrases: the new answer is first": (_PARAPHRASE, False, lambda rows: rows["rank_new_after"] == 1),
    "same object: right answers kept": (_ALIKE, True, lambda rows: rows["rank_old_after"] == 1),
    "same relation: right answers kept": (_SAME, True, lambda rows: rows["rank_old_after"] == 1),
    "other relations: right answers kept": (_OTHER, True, lambda rows: rows["rank_old_after"] == 1),
    "symmetry: the new answer is first": (_SYMMETRY, False, lambda rows: rows["rank_new_after"] == 1),
    "  before the edit: the old one is": (_SYMMETRY, False, lambda rows: rows["rank_old_before"] == 1),
}
PERPLEXITIES = {"same relation: Δ perplexity": _SAME, "other relations: Δ perplexity": _OTHER}


@dataclass(frozen=True)
class Rate:
    """A share of `n_prompts` prompts of `n_edits` edits, with its 95 % interval."""

    share: float
    low: float
    high: float
    n_prompts: int
    n_edits: int


def rate(hits: pd.Series, edits: pd.Series, *, seed: int = 0) -> Rate | None:
    """The share of hits, and its interval: edits are drawn again.

    Wilson's interval where each edit has one prompt, and where drawing again could show no other share.
    """
    if not len(hits):
        return None
    counts = hits.astype(float).groupby(edits.to_numpy()).agg(["sum", "size"]).to_numpy()
    share = float(counts[:, 0].sum() / counts[:, 1].sum())
    if len(counts) == len(hits) or share in (0.0, 1.0):
        low, high = wilson(share, len(counts))
    else:
        n = len(counts)
        weights = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_DRAWS)
        drawn = weights @ counts
        low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return Rate(share, float(low), float(high), len(hits), len(counts))


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share of `n` independent trials."""
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def perplexity(probabilities: pd.Series) -> float:
    floored = np.maximum(probabilities.astype(float), np.finfo(np.float32).tiny)
    return float(np.exp(-np.log(floored).mean()))


def scorecard(rows: pd.DataFrame) -> dict[str, Rate | float | None]:
    """Every measure of rows of `edits` of one group and one pair of strengths."""
    card: dict[str, Rate | float | None] = {}
    for name, (kind, were_first, counted) in RATES.items():
        part = rows[rows["kind"] == kind]
        part = part[part["rank_old_before"] == 1] if were_first else part
        card[name] = rate(counted(part), part["fact_id"])
    for name, kind in PERPLEXITIES.items():
        part = rows[rows["kind"] == kind]
        card[name] = perplexity(part["p_old_after"]) - perplexity(part["p_old_before"]) if len(part) else None
    return card


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query("SELECT * FROM edits")
    lines = [
        f"{rows['fact_id'].nunique():,} facts of {_n_relations(atlas)} relations edited; "
        f"{without_rare_neurons(atlas):,} others are answered rightly, too, but each of their neurons is one "
        f"of more than {COMMON_SHARE:.0%} of their relation's facts"
    ]
    for remove, add in STRENGTHS:
        part = rows[(rows["remove"] == remove) & (rows["add"] == add)]
        groups = [group for group in GROUPS if (part["group"] == group).any()]
        cards = [scorecard(part[part["group"] == group]) for group in groups]
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
                lines.append(f"  {name + _asked(values):<46}{cells}".rstrip())
    return lines


def _asked(values: Sequence[Rate | float | None]) -> str:
    """How many prompts the rates are taken over; every group is asked the same."""
    return next((f" ({value.n_prompts:,})" for value in values if isinstance(value, Rate)), "")


def _cell(value: Rate | float | None) -> str:
    if isinstance(value, Rate):
        return f"{value.share:.1%} [{value.low:.1%}, {value.high:.1%}]"
    return "" if value is None else f"{value:+.4g}"


def _n_relations(atlas: Atlas) -> int:
    sql = "SELECT count(DISTINCT relation_id) AS n FROM facts SEMI JOIN edits USING (fact_id)"
    return int(atlas.query(sql)["n"][0])


def without_rare_neurons(atlas: Atlas) -> int:
    """How many facts, answered rightly on a held-out prompt, have only neurons that an edit drops."""
    return int(
        atlas.query(
            """
            WITH rare AS (
                SELECT k.relation_id, layer, neuron
                FROM knowledge_neurons AS k
                JOIN (SELECT relation_id, count(*) AS n FROM facts GROUP BY relation_id) AS size
                  USING (relation_id)
                GROUP BY k.relation_id, layer, neuron, n HAVING count(*) <= $share * n
            )
            SELECT count(*) AS n FROM facts
            WHERE fact_id IN (SELECT fact_id FROM prompts WHERE held_out AND rank = 1)
              AND fact_id IN (SELECT fact_id FROM knowledge_neurons)
              AND fact_id NOT IN (
                  SELECT fact_id FROM knowledge_neurons JOIN rare USING (relation_id, layer, neuron)
              )
            """,
            {"share": COMMON_SHARE},
        )["n"][0]
    )
