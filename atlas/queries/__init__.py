"""Queries: one function for each question to an atlas; every docstring states the columns it returns.

    from atlas import queries
    queries.facts_matching(a, "capital azerb")          # hits.total, hits.rows
    queries.neurons_of_fact(a, fact_id)

Each is a SQL query over the tables of `atlas.store.schema` and the views of `views.sql`; values are always
parameters. Many rows are a DataFrame, one row is a dict. A table that the atlas lacks is empty;
`a.measured(table)` tells "none" from "not measured".
"""

from atlas.queries.facts import (
    attributions_of_fact,
    effects_of_fact,
    fact,
    facts_sharing_neurons,
    neurons_of_fact,
    prompts_of_fact,
    random_fact,
    rethreshold,
    scores_by_prompt,
    telling_fact,
    telling_text,
)
from atlas.queries.neurons import activating_prompts_of_neuron, facts_of_neuron, hub_neurons, neuron
from atlas.queries.search import Hits, facts_matching
from atlas.queries.sharing import relation_neurons, relation_overlap
from atlas.queries.summary import (
    Overview,
    Summary,
    atlas_summary,
    effect_summary,
    layer_histogram,
    overview,
    relation_layers,
    relations,
    unmeasured,
)

__all__ = [
    "Hits",
    "Overview",
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
    "overview",
    "prompts_of_fact",
    "random_fact",
    "relation_layers",
    "relation_neurons",
    "relation_overlap",
    "relations",
    "rethreshold",
    "scores_by_prompt",
    "telling_fact",
    "telling_text",
    "unmeasured",
]
