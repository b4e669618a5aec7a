"""The refinement modes in plain Python, from their definitions alone: loops, sets and whole numbers.

    facts = plain_facts(atlas, relations=["P36", "P37"])
    neurons = plain_mode("paper", facts)              # fact id → set of (layer, neuron)

Nothing of `atlas.refinement` is used, so that tests may compare it with this.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

Found = dict[str, set[tuple[int, int]]]


@dataclass
class PlainFact:
    """A fact's attributed discovery prompts, each with its stored scores: (layer, neuron) → score."""

    fact_id: str
    relation_id: str
    prompts: dict[str, dict[tuple[int, int], float]] = field(default_factory=dict)


def plain_facts(atlas, relations=None) -> list[PlainFact]:
    """The facts of these relations, or all, with the scores that the atlas stores."""
    facts = {
        row.fact_id: PlainFact(row.fact_id, row.relation_id)
        for row in atlas.query("SELECT fact_id, relation_id FROM facts").itertuples()
        if relations is None or row.relation_id in relations
    }
    prompts = atlas.query("SELECT fact_id, template_id, held_out, max_score FROM prompts")
    for row in prompts.itertuples():
        if row.fact_id in facts and not row.held_out and row.max_score == row.max_score:
            facts[row.fact_id].prompts[row.template_id] = {}
    scores = atlas.query(
        "SELECT fact_id, template_id, layer, neuron, score::DOUBLE AS score FROM attributions"
    )
    for row in scores[scores["fact_id"].isin(list(facts))].itertuples():
        if row.template_id in facts[row.fact_id].prompts:
            facts[row.fact_id].prompts[row.template_id][row.layer, row.neuron] = row.score
    return list(facts.values())


def plain_mode(mode: str, facts: list[PlainFact]) -> Found:
    """Fact id → its knowledge neurons in 'default', 'paper' or 'replication'."""
    if mode == "default":
        return plain_neurons(facts, threshold=0.2, percent=50, at_least=2)
    if mode == "replication":
        return {
            fact.fact_id: {
                neuron
                for neuron, n in coarse_counts(fact, 0.3, reaching=False).items()
                if 100 * n > 30 * len(fact.prompts)
            }
            for fact in facts
        }
    found: Found = {}
    by_relation = defaultdict(list)
    for fact in facts:
        by_relation[fact.relation_id].append(fact)
    for members in by_relation.values():
        found |= plain_neurons(members, threshold=0.2, percent=paper_percent(members), at_least=3)
    return found


def paper_percent(members: list[PlainFact]) -> int:
    """Where a relation's share ends: from 70 % by 5, until a fact has 2 to 5 neurons; try 6 stands."""
    percent = 70
    for _ in range(5):
        found = plain_neurons(members, threshold=0.2, percent=percent, at_least=3)
        total = sum(len(neurons) for neurons in found.values())
        if total < 2 * len(members):
            percent -= 5
        elif total > 5 * len(members):
            percent += 5
        else:
            break
    return percent


def plain_neurons(facts: list[PlainFact], *, threshold: float, percent: int, at_least: int) -> Found:
    """Fact id → neurons that reach the threshold in so many per cent of its prompts, and in so many."""
    return {
        fact.fact_id: {
            neuron
            for neuron, n in coarse_counts(fact, threshold, reaching=True).items()
            if 100 * n >= percent * len(fact.prompts) and n >= at_least
        }
        for fact in facts
    }


def coarse_counts(fact: PlainFact, threshold: float, *, reaching: bool) -> Counter:
    """In how many prompts each neuron reaches, or passes, the threshold × the prompt's largest score."""
    count: Counter = Counter()
    for scores in fact.prompts.values():
        largest = max(scores.values(), default=0.0)
        for neuron, score in scores.items():
            limit = threshold * largest
            if largest > 0 and (score >= limit if reaching else score > limit):
                count[neuron] += 1
    return count
