"""Erase: what a relation and the others lose when its most frequent neurons' value vectors are zeroed.

Dai et al. (ACL 2022), section 5.2. For every relation that has knowledge neurons:

1. *Neurons.* The k that most facts of the relation have, k in `DOSES` (or all, where it has fewer); beside
   them as many random others of the same layers. Their value vectors become zero, for every token.
2. *Prompts.* One held-out prompt each of up to `sample` facts of a relation, with or without neurons, known
   facts first, drawn by seed. Every dose is measured on the relation's own prompts; the dose `OTHERS_DOSE`,
   the paper's, also on those of all other relations: the first `OTHER_FACTS` each, for there are thirty
   relations of them.
3. *Measures.* Accuracy (rank 1: greedy decoding gives the answer), perplexity over answer tokens, and the
   mean probability of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.neuron import Neuron, Prompt
from build.evidence.setting import Setting, draw_one

if TYPE_CHECKING:
    import pandas as pd

    from atlas.store.atlas import Atlas
    from atlas.surgery.subject import Prediction

DOSES = (1, 2, 5, 10, 20, 50, 100, 200)
OTHERS_DOSE = 20
OTHER_FACTS = 6
PAPER_RELATIONS = ("P19", "P27", "P106", "P937")
"""The relations that the paper erases."""


# Step 1: neurons -------------------------------------------------------------------------------------


def units(setting: Setting) -> list[tuple[str, int]]:
    """Each relation with each of its doses."""
    return [
        (relation_id, dose)
        for relation_id in setting.by_relation
        if draw_prompts(setting, relation_id)
        for dose in choose_doses(len(frequent_neurons(setting.atlas, relation_id)))
    ]


def choose_doses(n_neurons: int) -> list[int]:
    """The doses of a relation with so many neurons, each once."""
    return sorted({min(dose, n_neurons) for dose in DOSES} - {0})


def frequent_neurons(atlas: Atlas, relation_id: str) -> tuple[Neuron, ...]:
    """The neurons that most facts of the relation have, up to the largest dose; ties by mean score."""
    rows = atlas.query(
        """SELECT layer, neuron FROM relation_neurons WHERE relation_id = ?
           ORDER BY n_facts DESC, mean_score DESC NULLS LAST, layer, neuron LIMIT ?""",
        [relation_id, max(DOSES)],
    )
    return tuple(Neuron(int(row.layer), int(row.neuron)) for row in rows.itertuples())


# Step 2: prompts -------------------------------------------------------------------------------------


def draw_prompts(setting: Setting, relation_id: str) -> list[Prompt]:
    """A held-out prompt each of at most `sample` facts of a relation, known ones first."""
    generator = setting.generator("erase", relation_id)
    facts = [fact for fact in setting.by_relation[relation_id] if fact.held_out]
    shuffled = (facts[index] for index in generator.permutation(len(facts)))
    drawn = sorted(shuffled, key=lambda fact: not fact.known)
    return [draw_one(fact.held_out, generator).prompt for fact in drawn[: setting.sample]]


def measure(setting: Setting, unit: tuple[str, int]) -> list[dict[str, Any]]:
    from atlas.interventions import Erase

    relation_id, dose = unit
    frequent = frequent_neurons(setting.atlas, relation_id)
    own = frequent[:dose]
    sets = {relation_id: draw_prompts(setting, relation_id)}
    if dose == min(OTHERS_DOSE, len(frequent)):
        others = {other: draw_prompts(setting, other)[:OTHER_FACTS] for other in setting.by_relation}
        sets = {other: prompts for other, prompts in others.items() if prompts} | sets
    groups = {"own": own, "random": setting.random_neurons(own, "erase", f"{relation_id}/{dose}")}
    if len(groups["random"]) < len(own):  # more than half of a layer: there are not enough others
        del groups["random"]
    pairs = [(Erase(groups[group]), prompt) for group in groups for each in sets.values() for prompt in each]
    predictions = setting.predict_changed(pairs)
    return [
        {
            "relation_id": relation_id,
            "group": group,
            "n_neurons": len(neurons),
            "asked_relation_id": other,
            "n_prompts": len(prompts),
            **score_predictions(setting.before(prompts), "before"),
            **score_predictions([next(predictions) for _ in prompts], "after"),
        }
        for group, neurons in groups.items()
        for other, prompts in sets.items()
    ]


# Step 3: measures ------------------------------------------------------------------------------------


def score_predictions(predictions: Sequence[Prediction], when: str) -> dict[str, float]:
    """Accuracy, perplexity and mean probability of the answers, as columns 'before' or 'after'."""
    tokens = np.concatenate([each.token_probabilities for each in predictions])
    # A probability that underflows to zero would make the perplexity of the whole relation infinite.
    logarithms = np.log(np.maximum(tokens, np.finfo(np.float32).tiny))
    return {
        f"accuracy_{when}": float(np.mean([each.rank == 1 for each in predictions])),
        f"perplexity_{when}": float(np.exp(-logarithms.mean())),
        f"mean_{when}": float(np.mean([each.probability for each in predictions])),
    }


def summary(atlas: Atlas) -> list[str]:
    """Means over relations of equal weight; of perplexities the geometric mean of their ratios."""
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
    for relation_id in PAPER_RELATIONS:
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
