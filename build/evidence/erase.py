"""Erase: what a relation loses with its most frequent neurons' value vectors, and what all others lose.

Dai et al. (ACL 2022), section 5.2. For every relation that has knowledge neurons:

1. *Neurons.* The k that most facts of the relation have, k in `DOSES` (or all, where it has fewer); beside
   them as many random others of the same layers. Their value vectors become zero, for every token.
2. *Asked.* Up to `sample` facts of a relation, those that the model knows first, whether or not they have
   neurons, with one held-out prompt each, all drawn by seed. Every dose is asked for the relation's own;
   the dose `OTHERS_DOSE`, the paper's, for those of all other relations, too: the first `OTHER_FACTS` of the
   same facts each, fewer because there are thirty relations of them.
3. *Measures.* Accuracy (rank 1: greedy decoding says the answer), perplexity over answer tokens, and the
   mean probability of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.neuron import Neuron, Prompt
from build.evidence.ground import Ground

if TYPE_CHECKING:
    import pandas as pd

    from atlas.store.atlas import Atlas
    from atlas.surgery.subject import Prediction

DOSES = (1, 2, 5, 10, 20, 50, 100, 200)
OTHERS_DOSE = 20
OTHER_FACTS = 6
PAPER = ("P19", "P27", "P106", "P937")
"""The relations that the paper erases."""


# Step 1: neurons -------------------------------------------------------------------------------------


def units(ground: Ground) -> list[tuple[str, int]]:
    """Each relation with each of its doses."""
    return [
        (relation_id, dose)
        for relation_id in ground.by_relation
        if asked(ground, relation_id)
        for dose in doses(len(frequent_neurons(ground.atlas, relation_id)))
    ]


def doses(n_neurons: int) -> list[int]:
    """What a relation with so many neurons can be given, each dose once."""
    return sorted({min(dose, n_neurons) for dose in DOSES} - {0})


def frequent_neurons(atlas: Atlas, relation_id: str) -> tuple[Neuron, ...]:
    """The neurons that most facts of the relation have, as many as the largest dose takes.

    Of two that as many have, the one of the larger mean score comes first.
    """
    rows = atlas.query(
        """SELECT layer, neuron FROM relation_neurons WHERE relation_id = ?
           ORDER BY n_facts DESC, mean_score DESC NULLS LAST, layer, neuron LIMIT ?""",
        [relation_id, max(DOSES)],
    )
    return tuple(Neuron(int(row.layer), int(row.neuron)) for row in rows.itertuples())


# Step 2: asked ---------------------------------------------------------------------------------------


def asked(ground: Ground, relation_id: str) -> list[Prompt]:
    """What is asked of a relation: a held-out prompt each of facts, known ones first."""
    generator = ground.generator("erase", relation_id)
    facts = [fact for fact in ground.by_relation[relation_id] if fact.held_out]
    shuffled = (facts[index] for index in generator.permutation(len(facts)))
    drawn = sorted(shuffled, key=lambda fact: not fact.known)
    return [
        fact.held_out[int(generator.integers(len(fact.held_out)))].prompt for fact in drawn[: ground.sample]
    ]


def measure(ground: Ground, unit: tuple[str, int]) -> list[dict[str, Any]]:
    from atlas.surgery.interventions import Erase

    relation_id, dose = unit
    frequent = frequent_neurons(ground.atlas, relation_id)
    own = frequent[:dose]
    sets = {relation_id: asked(ground, relation_id)}
    if dose == min(OTHERS_DOSE, len(frequent)):
        others = {other: asked(ground, other)[:OTHER_FACTS] for other in ground.by_relation}
        sets = {other: prompts for other, prompts in others.items() if prompts} | sets
    groups = {"own": own, "random": ground.stand_ins(own, "erase", f"{relation_id}/{dose}")}
    if len(groups["random"]) < len(own):  # more than half of a layer: there are not enough others
        del groups["random"]
    questions = [
        (group, other, prompt) for group in groups for other, prompts in sets.items() for prompt in prompts
    ]
    said = iter(
        ground.predict(
            [prompt for _, _, prompt in questions], [Erase(groups[group]) for group, _, _ in questions]
        )
    )
    return [
        {
            "relation_id": relation_id,
            "group": group,
            "n_neurons": len(neurons),
            "asked_relation_id": other,
            "n_prompts": len(prompts),
            **scores(ground.before(prompts), "before"),
            **scores([next(said) for _ in prompts], "after"),
        }
        for group, neurons in groups.items()
        for other, prompts in sets.items()
    ]


# Step 3: measures ------------------------------------------------------------------------------------


def scores(said: Sequence[Prediction], when: str) -> dict[str, float]:
    """Accuracy, perplexity and mean probability of the answers, as columns 'before' or 'after'."""
    tokens = np.concatenate([each.token_probabilities for each in said])
    # What has underflowed to zero would make the perplexity of a whole relation infinite.
    logarithms = np.log(np.maximum(tokens, np.finfo(np.float32).tiny))
    return {
        f"accuracy_{when}": float(np.mean([each.rank == 1 for each in said])),
        f"perplexity_{when}": float(np.exp(-logarithms.mean())),
        f"mean_{when}": float(np.mean([each.probability for each in said])),
    }


def summary(atlas: Atlas) -> list[str]:
    """Means over relations, each counting alike; perplexity as the geometric mean of its factors."""
    rows = atlas.query("SELECT * FROM erasures").astype({"n_neurons": int})
    rows["factor"] = np.log(rows["perplexity_after"] / rows["perplexity_before"])
    own = rows[rows["relation_id"] == rows["asked_relation_id"]]
    others = rows[rows["relation_id"] != rows["asked_relation_id"]]
    lines = [
        f"mean over relations{'':<27}own neurons: accuracy, perplexity    random ones: accuracy, perplexity"
    ]
    for dose in DOSES:
        part = own[own["n_neurons"] == dose]
        if len(part):
            lines.append(_line(f"{_counted(dose)}, {_relations(part)}", part))
    if len(others):
        lines.append(_line(f"other relations at {OTHERS_DOSE}", others))
    for relation_id in PAPER:
        part = own[(own["relation_id"] == relation_id) & (own["n_neurons"] == OTHERS_DOSE)]
        if len(part):
            lines.append(_line(f"{relation_id} at {OTHERS_DOSE}", part))
            lines.append(_line("  other relations", others[others["relation_id"] == relation_id]))
    return lines


def _counted(dose: int) -> str:
    return f"{dose:>3} neuron{'s' if dose > 1 else ''}"


def _relations(part: pd.DataFrame) -> str:
    count = part["relation_id"].nunique()
    return f"{count} relation{'s' if count > 1 else ''}"


def _line(label: str, rows: pd.DataFrame) -> str:
    cells = []
    for group in ("own", "random"):
        of_group = rows[rows["group"] == group]
        if len(of_group):
            before, after = of_group["accuracy_before"].mean(), of_group["accuracy_after"].mean()
            factor = np.exp(of_group["factor"].mean())
            cells.append(f"{before:6.1%} → {after:6.1%}  × {factor:<12.4g}")
    return f"  {label:<42}  " + "    ".join(cells).rstrip()
