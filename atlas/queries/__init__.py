"""Questions that people ask of an atlas, a function each; every docstring states the columns it gives.

    from atlas import queries
    queries.facts_matching(a, "capital azerb")          # hits.total, hits.rows
    queries.neurons_of_fact(a, fact_id)

Facts, neurons and relations are in `facts`; `search`, `evidence`, `comparison`, `selectivity`, `sharing` and
`subsets` have a module each.
"""

from atlas.queries.facts import (
    Summary,
    activating_prompts_of_neuron,
    atlas_summary,
    attributions_of_fact,
    effect_summary,
    effects_of_fact,
    fact,
    facts_of_neuron,
    facts_sharing_neurons,
    hub_neurons,
    layer_histogram,
    neuron,
    neurons_of_fact,
    prompts_of_fact,
    random_fact,
    relation_neurons,
    relation_overlap,
    relations,
    rethreshold,
    scores_by_prompt,
    telling_fact,
)
from atlas.queries.search import Hits, facts_matching

__all__ = [
    "Hits",
    "Summary",
    "activating_prompts_of_neuron",
    "atlas_summary",
    "attributions_of_fact",
    "effect_summary",
    "effects_of_fact",
    "fact",
    "facts_matching",
    "facts_of_neuron",
    "facts_sharing_neurons",
    "hub_neurons",
    "layer_histogram",
    "neuron",
    "neurons_of_fact",
    "prompts_of_fact",
    "random_fact",
    "relation_neurons",
    "relation_overlap",
    "relations",
    "rethreshold",
    "scores_by_prompt",
    "telling_fact",
]
