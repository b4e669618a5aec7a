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
    example_facts,
    fact,
    fact_asked_by,
    facts_sharing_neurons,
    neurons_of_fact,
    prompts_of_fact,
    random_fact,
    rethreshold,
    scores_by_prompt,
    telling_fact,
    telling_text,
)
from atlas.queries.neurons import (
    activating_prompts_of_neuron,
    activations_of_neuron,
    example_neurons,
    facts_of_neuron,
    hub_neurons,
    neuron,
    neurons_named,
)
from atlas.queries.search import Hits, facts_matching
from atlas.queries.sharing import COMMON_SHARE, relation_neurons, relation_overlap, uncommon_neurons
from atlas.queries.summary import (
    Overview,
    Summary,
    atlas_summary,
    effect_summary,
    layer_histogram,
    layers_by_relation,
    overview,
    relations,
    unmeasured,
)
from atlas.queries.writing import generations_of_fact, lens_of_fact

__all__ = [
    "COMMON_SHARE",
    "Hits",
    "Overview",
    "Summary",
    "activating_prompts_of_neuron",
    "activations_of_neuron",
    "atlas_summary",
    "attributions_of_fact",
    "effect_summary",
    "effects_of_fact",
    "example_facts",
    "example_neurons",
    "fact",
    "fact_asked_by",
    "facts_matching",
    "facts_of_neuron",
    "facts_sharing_neurons",
    "generations_of_fact",
    "hub_neurons",
    "layer_histogram",
    "layers_by_relation",
    "lens_of_fact",
    "neuron",
    "neurons_named",
    "neurons_of_fact",
    "overview",
    "prompts_of_fact",
    "random_fact",
    "relation_neurons",
    "relation_overlap",
    "relations",
    "rethreshold",
    "scores_by_prompt",
    "telling_fact",
    "telling_text",
    "uncommon_neurons",
    "unmeasured",
]
