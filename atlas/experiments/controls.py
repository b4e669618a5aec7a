"""Choose an experiment's prompts: a fact's own, and controls of other facts, which should not change.

    prompts = choose_prompts(atlas, fact_id, seed=0)
    prompts = (*typed, *control_prompts(atlas, answers=["Paris"]))      # not a fact of the atlas

Queries only, no model. Groups of prompts (Dai et al., ACL 2022, sections 4.5 and 5): `asked` (the neurons
were found on them), `paraphrases` (held-out templates of the same fact), `neighbours` (other facts of the
relation with other objects), `unrelated` (facts that differ in relation and object).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from atlas.neuron import ENDS_WITH_OBJECT, ExperimentPrompt, Neuron, Prompt

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas


def experiment_prompts(atlas: Atlas, fact_id: str) -> tuple[ExperimentPrompt, ...]:
    """A fact's prompts: its discovery templates are `asked`, its held-out ones `paraphrases`."""
    rows = atlas.query(
        """
        SELECT p.template_id, p.text, p.held_out, f.object
        FROM fact_prompts AS p JOIN facts AS f USING (fact_id)
        WHERE p.fact_id = $fact_id ORDER BY p.held_out, p.template_id
        """,
        {"fact_id": fact_id},
    )
    return tuple(
        ExperimentPrompt(
            "paraphrases" if row.held_out else "asked", Prompt(fact_id, row.template_id, row.text, row.object)
        )
        for row in rows.itertuples()
    )


def control_prompts(
    atlas: Atlas,
    *,
    fact_id: str | None = None,
    answers: Sequence[str] = (),
    causal: bool = False,
    neighbours: int = 6,
    unrelated: int = 12,
    seed: int = 0,
) -> tuple[ExperimentPrompt, ...]:
    """One prompt that the atlas's model answers right of each other fact that the seed draws.

    Only a right answer (rank 1; where the atlas has no ranks, any) can be lost. Of a fact's prompts, the one
    whose template was used least is taken, a held-out one first. There are `neighbours` and `unrelated` ones,
    or fewer where no more are answered right.

    Neighbours share the fact's relation and have another object; unrelated facts differ in both. Without a
    fact, all facts whose object is not in `answers` count as unrelated. With `causal`, only prompts that end
    with the answer.
    """
    avoided = [answer.strip().casefold() for answer in answers]
    relation = None
    if fact_id is not None:
        own = atlas.query_one(
            "SELECT relation_id, object FROM facts WHERE fact_id = $fact_id", {"fact_id": fact_id}
        )
        if own is None:
            return ()
        relation = own["relation_id"]
        avoided.append(own["object"].strip().casefold())
    rows = atlas.query(
        """
        WITH answered_right AS (
            SELECT fact_id, object, template_id, text, coalesce(held_out, false) AS held_out,
                   facts.relation_id IS NOT DISTINCT FROM $relation AS near
            FROM fact_prompts JOIN facts USING (fact_id)
            WHERE coalesce(rank, 1) = 1 AND NOT list_contains($avoided, lower(trim(object)))
              AND (NOT $causal OR regexp_matches(text, $ending))
        )
        SELECT *, dense_rank() OVER (PARTITION BY near ORDER BY hash(fact_id || $seed), fact_id) AS place
        FROM answered_right QUALIFY place <= CASE WHEN near THEN $neighbours ELSE $unrelated END
        ORDER BY near DESC, place, hash(template_id || fact_id || $seed), template_id
        """,
        {
            "relation": relation or "",
            "avoided": avoided,
            "seed": str(seed),
            "causal": causal,
            "ending": ENDS_WITH_OBJECT.pattern,
            "neighbours": neighbours,
            "unrelated": unrelated,
        },
    )
    chosen, used = [], Counter[str]()
    for _, of_fact in groupby(rows.itertuples(), key=lambda row: row.fact_id):
        # A wording that found neurons counts as used once more.
        row = min(of_fact, key=lambda row: (used[row.template_id] + (not row.held_out), not row.held_out))
        used[row.template_id] += 1
        prompt = Prompt(row.fact_id, row.template_id, row.text, row.object)
        chosen.append(ExperimentPrompt("neighbours" if row.near else "unrelated", prompt))
    return tuple(chosen)


def choose_prompts(
    atlas: Atlas,
    fact_id: str,
    *,
    causal: bool = False,
    seed: int = 0,
    neighbours: int = 6,
    unrelated: int = 12,
) -> tuple[ExperimentPrompt, ...]:
    """All prompts of an experiment on a fact: its own, then the controls drawn by the seed."""
    own = experiment_prompts(atlas, fact_id)
    if causal:
        own = tuple(item for item in own if item.prompt.ends_with_answer)
    controls = control_prompts(
        atlas, fact_id=fact_id, causal=causal, neighbours=neighbours, unrelated=unrelated, seed=seed
    )
    return (*own, *controls)


# The name in notebooks and scripts of earlier versions.
asked_of_fact = choose_prompts


def random_match(
    neurons: Iterable[Neuron],
    n_neurons: int,
    generator: np.random.Generator,
    *,
    avoid: Iterable[Neuron] = (),
) -> dict[Neuron, Neuron]:
    """Draw a random neuron of the same layer for each neuron, none of these and none of `avoid`.

    n_neurons: a layer's. Where a layer has too few others, its last neurons have no match.
    """
    own, others = sorted(set(neurons)), set(avoid)
    match: dict[Neuron, Neuron] = {}
    for layer in sorted({neuron.layer for neuron in own}):
        here = [neuron for neuron in own if neuron.layer == layer]
        taken = [neuron.neuron for neuron in (*here, *others) if neuron.layer == layer]
        free = np.setdiff1d(np.arange(n_neurons), taken)
        drawn = generator.choice(free, size=min(len(here), len(free)), replace=False)
        match |= {neuron: Neuron(layer, int(index)) for neuron, index in zip(here, drawn, strict=False)}
    return match
