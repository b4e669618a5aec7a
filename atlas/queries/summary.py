"""Queries about the whole atlas: relations, layers, main numbers. Each docstring states the columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from atlas.queries.evidence import NEURON_GROUPS, effects
from atlas.queries.facts import telling_text
from atlas.store.atlas import Atlas


def relations(atlas: Atlas) -> pd.DataFrame:
    """All relations, with counts of their facts, known facts and neurons.

    Columns: relation_id, label, n_facts, n_templates, n_known and known_share (null where not measured),
    mean_probability, n_with_neurons, mean_neurons (over all of its facts).
    """
    return atlas.query(
        """
        SELECT r.relation_id, r.label, r.n_facts, r.n_templates,
               CASE WHEN count(f.known) > 0 THEN count_if(f.known)::BIGINT END AS n_known,
               n_known / count(f.known) AS known_share,
               avg(f.mean_probability) AS mean_probability,
               count(*) FILTER (f.n_neurons > 0) AS n_with_neurons, avg(f.n_neurons) AS mean_neurons
        FROM relations AS r LEFT JOIN facts AS f USING (relation_id)
        GROUP BY r.relation_id, r.label, r.n_facts, r.n_templates
        ORDER BY lower(r.label), r.relation_id
        """
    )


def layer_histogram(atlas: Atlas, *, relation: str | None = None) -> pd.DataFrame:
    """How the knowledge neurons spread over the layers, all of them listed; of one relation if given.

    Columns: layer, n_pairs ((fact, neuron) pairs), n_neurons (distinct), n_facts, pair_share.
    """
    return atlas.query(
        """
        WITH kept AS (SELECT * FROM knowledge_neurons WHERE $relation IS NULL OR relation_id = $relation),
        layers AS (
            SELECT unnest(range(greatest($n_layers, coalesce((SELECT max(layer) + 1 FROM kept), 0)))) AS layer
        )
        SELECT layers.layer, count(kept.fact_id) AS n_pairs, count(DISTINCT kept.neuron) AS n_neurons,
               count(DISTINCT kept.fact_id) AS n_facts,
               n_pairs / nullif((SELECT count(*) FROM kept), 0) AS pair_share
        FROM layers LEFT JOIN kept ON kept.layer = layers.layer
        GROUP BY layers.layer ORDER BY layers.layer
        """,
        {"relation": relation, "n_layers": atlas.manifest.model.n_layers or 0},
    )


def layers_by_relation(atlas: Atlas) -> pd.DataFrame:
    """Where each relation's neurons lie; relations of low layers first, layers without are absent.

    Columns: relation_id, label, layer, n_pairs ((fact, neuron) pairs), pair_share (of the relation's).
    """
    return atlas.query(
        """
        SELECT k.relation_id, r.label, k.layer, k.n_pairs,
               k.n_pairs / sum(k.n_pairs) OVER (PARTITION BY k.relation_id) AS pair_share
        FROM (SELECT relation_id, layer, count(*) AS n_pairs FROM knowledge_neurons GROUP BY ALL) AS k
        LEFT JOIN relations AS r ON r.relation_id = k.relation_id
        ORDER BY sum(k.layer * k.n_pairs) OVER (PARTITION BY k.relation_id)
                     / sum(k.n_pairs) OVER (PARTITION BY k.relation_id), k.relation_id, k.layer
        """
    )


@dataclass(frozen=True)
class Overview:
    """An atlas at a glance, for a page that shows several; None is "not measured".

    `layers` is `layers_by_relation`; `effects` is `evidence.effects` of known facts; `text` is
    `telling_text`.
    """

    n_facts: int
    n_relations: int
    n_known: int | None
    layers: pd.DataFrame
    effects: pd.DataFrame
    text: dict[str, Any] | None


def overview(atlas: Atlas) -> Overview:
    """What an atlas holds, in one answer."""
    row = atlas.query_row(
        """
        SELECT count(*) AS n_facts, count(DISTINCT relation_id) AS n_relations,
               CASE WHEN count(known) > 0 THEN count_if(known) END AS n_known
        FROM facts
        """
    )
    return Overview(
        **row,
        layers=layers_by_relation(atlas),
        effects=effects(atlas),
        text=telling_text(atlas),
    )


# What an atlas may lack → SQL: whether it has any.
_PARTS = {
    "prompts": "SELECT count(*) > 0 FROM fact_prompts",
    "known": "SELECT count(known) > 0 FROM facts",
    "lens": "SELECT count(*) > 0 FROM lens",
    "probabilities": "SELECT count(mean_probability) > 0 FROM facts",
    "scores": "SELECT count(*) > 0 FROM attributions",
    "effects": "SELECT count(*) > 0 FROM effects",
    "tokens": "SELECT count(promoted) > 0 FROM neurons",
    "activations": "SELECT count(*) > 0 FROM activating_prompts",
    "erasures": "SELECT count(*) > 0 FROM erasures",
    "edits": "SELECT count(*) > 0 FROM edits",
}


def unmeasured(atlas: Atlas) -> frozenset[str]:
    """What the atlas has of no fact and no neuron.

    Of: prompts, known, lens, probabilities, scores, effects, tokens (that neurons promote), activations,
    erasures, edits.
    """
    columns = ", ".join(f"({sql}) AS {part}" for part, sql in _PARTS.items())
    has = atlas.query_row(f"SELECT {columns}")
    return frozenset(part for part in _PARTS if not has[part])


@dataclass(frozen=True)
class Summary:
    """The atlas in numbers; None is "not measured".

    `effects` is `effect_summary` for known facts on held-out prompts, or on all where none is held out;
    `within` and `across` are the mean numbers of neurons that two facts of one relation share, and two facts
    of different relations.
    """

    n_relations: int
    n_facts: int
    n_known: int | None
    n_prompts: int
    n_held_out: int
    n_with_neurons: int
    mean_neurons: float | None
    median_neurons: float | None
    n_neurons: int
    converged_share: float | None
    within: float | None
    across: float | None
    effects: pd.DataFrame


def atlas_summary(atlas: Atlas) -> Summary:
    """The atlas in numbers: counts, known facts, neurons a fact, certificates, sharing, effects.

    `converged_share` is over (answer token, layer) paths of the prompts that were attributed.
    """
    row = atlas.query_row(
        """
        SELECT (SELECT count(*) FROM relations) AS n_relations, f.*, p.*, k.*, o.*
        FROM (SELECT count(*) AS n_facts, CASE WHEN count(known) > 0 THEN count_if(known) END AS n_known,
                     count(*) FILTER (n_neurons > 0) AS n_with_neurons, avg(n_neurons) AS mean_neurons,
                     median(n_neurons) AS median_neurons FROM facts) AS f,
             (SELECT count(*) AS n_prompts, count(*) FILTER (held_out) AS n_held_out,
                     1 - sum(n_unconverged) / nullif(sum(n_layers::BIGINT * n_answer_tokens)
                         FILTER (n_unconverged IS NOT NULL), 0) AS converged_share FROM prompts) AS p,
             (SELECT count(*) AS n_neurons FROM (SELECT DISTINCT layer, neuron FROM knowledge_neurons)) AS k,
             (SELECT sum(mean_shared * n_pairs) FILTER (within)
                         / nullif(sum(n_pairs) FILTER (within), 0) AS within,
                     sum(mean_shared * n_pairs) FILTER (NOT within)
                         / nullif(sum(n_pairs) FILTER (NOT within), 0) AS across
              FROM relation_overlap) AS o
        """
    )
    return Summary(effects=effect_summary(atlas, known=True, held_out=True), **row)


def effect_summary(
    atlas: Atlas, *, known: bool | None = None, held_out: bool | None = None, relation: str | None = None
) -> pd.DataFrame:
    """Mean effects of interventions, own neurons and controls; of all facts or of one relation's.

    `known` keeps prompts where both the changed fact and the fact asked for are known (or, if False, where
    the changed one is not; an unrelated fact that imported results do not name passes); `held_out` keeps one
    side of the split, or all where none is held out. Facts without neurons are left out.
    Columns: intervention, group, n_facts, n_prompts,
    mean_relative_change (mean over prompts of (p_after − p_before) / p_before),
    ratio_of_means (mean p_after / mean p_before − 1; a few improbable answers cannot dominate it),
    mean_before, mean_after, rank_1_before, rank_1_after (shares of prompts with rank 1).
    """
    return atlas.query(
        """
        SELECT e.intervention, e."group", count(DISTINCT e.fact_id) AS n_facts, count(*) AS n_prompts,
               avg(coalesce(e.change, (e.p_after::DOUBLE - e.p_before) / nullif(e.p_before, 0)))
                   AS mean_relative_change,
               sum(e.p_after::DOUBLE) / nullif(sum(e.p_before::DOUBLE), 0) - 1 AS ratio_of_means,
               avg(e.p_before) AS mean_before, avg(e.p_after) AS mean_after,
               -- Beside an imported change, a null rank is not the first.
               avg(coalesce(e.rank_before = 1, CASE WHEN e.change IS NOT NULL THEN false END)::INTEGER)
                   AS rank_1_before,
               avg(coalesce(e.rank_after = 1, CASE WHEN e.change IS NOT NULL THEN false END)::INTEGER)
                   AS rank_1_after
        FROM effects AS e
        LEFT JOIN facts AS changed ON changed.fact_id = e.fact_id
        LEFT JOIN facts AS asked ON asked.fact_id = e.prompt_fact_id
        WHERE coalesce(e.n_neurons, 1) > 0
          AND ($known IS NULL
               OR (changed.known = $known AND (NOT $known OR coalesce(asked.known, e.change IS NOT NULL))))
          AND ($held_out IS NULL OR e.held_out = ($held_out AND (SELECT bool_or(held_out) FROM effects)))
          AND ($relation IS NULL OR changed.relation_id = $relation)
        GROUP BY e.intervention, e."group"
        ORDER BY e.intervention DESC, list_position($groups, e."group")
        """,
        {"known": known, "held_out": held_out, "relation": relation, "groups": list(NEURON_GROUPS)},
    )
