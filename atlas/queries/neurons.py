"""Queries about neurons: all rows of one neuron, and hub neurons. Each docstring states the columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from atlas.errors import QueryError
from atlas.neuron import Neuron
from atlas.queries.sides import pushed
from atlas.store.atlas import Atlas


def neuron(atlas: Atlas, layer: int, index: int) -> dict[str, Any]:
    """One neuron: layer, neuron, n_facts, n_relations, fires (mean activation on its facts), sign_mixed,
    label, label_score, value_norm, promoted, suppressed (as it acts where it fires so).

    A neuron that no fact has has counts of 0 and nulls. Raises `QueryError` for a neuron that the model does
    not have.
    """
    model = atlas.manifest.model
    if (
        min(layer, index) < 0
        or (model.n_layers is not None and layer >= model.n_layers)
        or (model.n_neurons is not None and index >= model.n_neurons)
    ):
        raise QueryError(
            f"The model {model.name} has no neuron {Neuron(layer, index)}. "
            f"It has {model.n_layers} layers of {model.n_neurons} neurons, both counted from 0."
        )
    return atlas.query_row(
        f"""
        SELECT $layer::INTEGER AS layer, $neuron::INTEGER AS neuron, counted.*, n.sign_mixed, n.label,
               n.label_score, n.value_norm, {pushed("counted.fires")}
        FROM (SELECT count(*) AS n_facts, count(DISTINCT relation_id) AS n_relations,
                     avg(mean_activation) AS fires FROM knowledge_neurons
              WHERE layer = $layer AND neuron = $neuron) AS counted
        LEFT JOIN (SELECT * FROM neurons WHERE layer = $layer AND neuron = $neuron) AS n ON true
        """,
        {"layer": layer, "neuron": index},
    )


def facts_of_neuron(
    atlas: Atlas,
    layer: int,
    index: int,
    *,
    relation: str | None = None,
    limit: int = 200,
    offset: int = 0,
) -> pd.DataFrame:
    """The facts that have this knowledge neuron, those with the largest mean score first.

    `relation` is a relation id.
    Columns: fact_id, relation_id, label, subject, object, known, share, mean_score, max_score,
    mean_activation.
    """
    return atlas.query(
        """
        SELECT f.fact_id, f.relation_id, f.label, f.subject, f.object, f.known, f.share, f.mean_score,
               f.max_score, k.mean_activation
        FROM neuron_facts AS f JOIN knowledge_neurons AS k USING (fact_id, layer, neuron)
        WHERE layer = $layer AND neuron = $neuron AND ($relation IS NULL OR f.relation_id = $relation)
        ORDER BY f.mean_score DESC, f.share DESC, fact_id LIMIT $limit OFFSET $offset
        """,
        {"layer": layer, "neuron": index, "relation": relation, "limit": limit, "offset": offset},
    )


def activations_of_neuron(atlas: Atlas, layer: int, index: int) -> pd.DataFrame:
    """The neuron's mean activation on each of its facts; no rows where it was not measured.

    Columns: fact_id, mean_activation.
    """
    return atlas.query(
        """
        SELECT fact_id, mean_activation FROM knowledge_neurons
        WHERE layer = $layer AND neuron = $neuron AND mean_activation IS NOT NULL ORDER BY fact_id
        """,
        {"layer": layer, "neuron": index},
    )


def activating_prompts_of_neuron(atlas: Atlas, layer: int, index: int) -> pd.DataFrame:
    """The prompts on which the neuron is most and least active.

    Columns: side ('top' or 'bottom'), rank, activation, fact_id, relation_id, template_id, text, subject,
    object, tokens and activations (one of each a token, null in older atlases), answer_position (from 0).
    """
    return atlas.query(
        """
        SELECT a.side, a.rank, a.activation, a.fact_id, f.relation_id, a.template_id, p.text, f.subject,
               f.object, a.tokens, a.activations, a.answer_position
        FROM activating_prompts AS a
        LEFT JOIN prompts AS p ON p.fact_id = a.fact_id AND p.template_id = a.template_id
        LEFT JOIN facts AS f ON f.fact_id = a.fact_id
        WHERE a.layer = $layer AND a.neuron = $neuron
        ORDER BY a.side DESC, a.rank
        """,
        {"layer": layer, "neuron": index},
    )


def hub_neurons(atlas: Atlas, *, limit: int = 50) -> pd.DataFrame:
    """Neurons of more than one relation, those of most relations first.

    Columns: layer, neuron, n_facts, n_relations, fact_share (of all facts with neurons), label, value_norm,
    promoted, suppressed (as it acts on its facts).
    """
    return atlas.query(
        f"""
        WITH fires AS (
            SELECT layer, neuron, avg(mean_activation) AS fires FROM knowledge_neurons GROUP BY layer, neuron
        )
        SELECT h.*, n.label, n.value_norm, {pushed("fires.fires")}
        FROM hub_neurons AS h JOIN fires USING (layer, neuron) LEFT JOIN neurons AS n USING (layer, neuron)
        ORDER BY h.n_relations DESC, h.n_facts DESC, h.layer, h.neuron LIMIT $limit
        """,
        {"limit": limit},
    )


def example_neurons(atlas: Atlas, *, limit: int = 3) -> pd.DataFrame:
    """Neurons to begin with, of different names, which their activation bears out; else those of most facts.

    Columns: layer, neuron, label.
    """
    return atlas.query(
        """
        SELECT layer, neuron, label FROM neurons
        QUALIFY row_number() OVER (
            PARTITION BY coalesce(split_part(label, ' · ', 1), layer || ' ' || neuron)
            ORDER BY label_score DESC, n_facts DESC, layer, neuron
        ) = 1
        ORDER BY label_score DESC NULLS LAST, n_facts DESC, layer, neuron LIMIT $limit
        """,
        {"limit": limit},
    )


def neurons_named(atlas: Atlas, chosen: Sequence[Neuron]) -> pd.DataFrame:
    """These neurons in their order. Columns: layer, neuron, n_facts (0 where no fact has it), label."""
    return atlas.query(
        """
        SELECT layer, neuron, coalesce(n_facts, 0) AS n_facts, label
        FROM (SELECT unnest($layers::INTEGER[]) AS layer, unnest($neurons::INTEGER[]) AS neuron,
                     unnest(range(len($layers))) AS place)
        LEFT JOIN neurons USING (layer, neuron) ORDER BY place
        """,
        {"layers": [each.layer for each in chosen], "neurons": [each.neuron for each in chosen]},
    )
