"""Choose an experiment's prompts: a fact's own, and controls of other facts, which should not change.

    prompts = choose_prompts(atlas, fact_id, seed=0)
    prompts = (*typed, *control_prompts(atlas, answers=["Paris"]))      # not a fact of the atlas

Queries only, no model. Groups of prompts (Dai et al., ACL 2022, sections 4.2 and 5): `asked` (the neurons
were found on them), `paraphrases` (held-out templates of the same fact), `neighbours` (other facts of the
relation with other objects), `unrelated` (facts that differ in relation and object).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from atlas.neuron import ExperimentPrompt, Neuron, Prompt

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas


def experiment_prompts(atlas: Atlas, fact_id: str) -> tuple[ExperimentPrompt, ...]:
    """A fact's prompts: its discovery templates are `asked`, its held-out ones `paraphrases`."""
    rows = atlas.query(
        """
        SELECT p.template_id, p.text, p.held_out, f.object
        FROM prompts AS p JOIN facts AS f USING (fact_id)
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
    """One prompt, held out if possible, of each `neighbours` and `unrelated` fact that the seed draws.

    Neighbours share the fact's relation and have another object; unrelated facts differ in both. Without a
    fact, all facts whose object is not in `answers` count as unrelated. With `causal`, only prompts that end
    with the answer. Facts that the model knows come first: an unknown answer cannot be suppressed.
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
        WITH others AS (
            SELECT fact_id, object, coalesce(known, true) AS known,
                   relation_id IS NOT DISTINCT FROM $relation AS near
            FROM facts WHERE NOT list_contains($avoided, lower(trim(object)))
        ), drawn AS (
            SELECT *, row_number() OVER (
                PARTITION BY near ORDER BY known DESC, hash(fact_id || $seed)) AS place
            FROM others
        )
        SELECT fact_id, object, near, place,
               first(template_id ORDER BY held_out DESC, hash(template_id || $seed)) AS template_id,
               first(text ORDER BY held_out DESC, hash(template_id || $seed)) AS text
        FROM drawn JOIN prompts USING (fact_id)
        WHERE (NOT $causal OR regexp_matches(text, $ending))
          AND place <= CASE WHEN near THEN $neighbours ELSE $unrelated END
        GROUP BY fact_id, object, near, place
        ORDER BY near DESC, place
        """,
        {
            "relation": relation or "",
            "avoided": avoided,
            "seed": str(seed),
            "causal": causal,
            "ending": r"\[Y\]\s*\.?\s*$",
            "neighbours": neighbours,
            "unrelated": unrelated,
        },
    )
    return tuple(
        ExperimentPrompt(
            "neighbours" if row.near else "unrelated",
            Prompt(row.fact_id, row.template_id, row.text, row.object),
        )
        for row in rows.itertuples()
    )


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
