"""One function per question that people ask of an atlas; each docstring states the columns it gives.

    hits = facts_matching(a, "capital azerb")          # hits.total, hits.rows
    neurons_of_fact(a, fact_id)                        # its neurons, and how many other facts have each
    rethreshold(a, fact_id, t=0.3, p=0.7)              # other thresholds, no model

Everything is a SQL query over the tables of `atlas.store.schema` and the views of `views.sql`; values are
always parameters. Many rows come as a DataFrame, one row as a dict. Tables an atlas lacks are empty, so
a question about them gives no rows; ask `a.measured(table)` to tell "none" from "not measured".
Search is a module of its own, `atlas.queries.search`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from atlas.errors import QueryError
from atlas.neuron import Neuron
from atlas.queries.evidence import GROUPS
from atlas.queries.search import Hits as Hits
from atlas.queries.search import facts_matching as facts_matching
from atlas.refinement import STORED_FRACTION, negative_facts
from atlas.store.atlas import Atlas

# Facts -----------------------------------------------------------------------------------------------


def random_fact(atlas: Atlas, *, known: bool | None = None, seed: int | None = None) -> str | None:
    """The id of some fact with neurons (None if there is none); the same one for the same seed."""
    row = atlas.query_one(
        f"""
        SELECT fact_id FROM facts WHERE n_neurons > 0 AND ($known IS NULL OR known = $known)
        ORDER BY {"random()" if seed is None else "hash(fact_id || $seed)"} LIMIT 1
        """,
        {"known": known, **({} if seed is None else {"seed": str(seed)})},
    )
    return None if row is None else row["fact_id"]


def telling_fact(atlas: Atlas) -> dict[str, Any] | None:
    """A fact to begin with: suppressing its neurons lowers its probability, and random ones' does not.

    Of the known facts with neurons whose fall, less what the controls move, is at least half of the largest:
    the one whose subject is in most facts, as a well-known one is. Where effects were not measured, all
    known facts stand to choose. None when no fact has neurons. Columns: fact_id, relation_id, label, subject,
    object, known, mean_probability, n_neurons, before, after, random (mean probabilities on held-out
    prompts; null if not measured), text (the shortest prompt it gets right, held out if there is one).
    """
    return atlas.query_one(
        """
        WITH measured AS (
            SELECT fact_id, avg(p_before) FILTER ("group" = 'own') AS before,
                   avg(p_after) FILTER ("group" = 'own') AS after,
                   avg(p_after) FILTER ("group" = 'random') AS random,
                   avg(p_before - p_after) FILTER ("group" = 'unrelated') AS elsewhere
            FROM effects WHERE intervention = 'suppress' AND held_out GROUP BY fact_id
        ), named AS (
            SELECT unnest([subject, object]) AS name, count(*) AS n FROM facts GROUP BY name
        ), judged AS (
            SELECT f.*, m.before, m.after, m.random, named.n AS n_named, coalesce(
                       m.before - m.after - abs(m.before - m.random) - abs(coalesce(m.elsewhere, 0)), 0
                   ) AS effect
            FROM facts AS f JOIN named ON named.name = f.subject
            LEFT JOIN measured AS m ON m.fact_id = f.fact_id
            WHERE f.n_neurons > 0
        ), best AS (
            FROM judged
            ORDER BY known DESC NULLS LAST,
                     effect >= 0.5 * max(effect) OVER (PARTITION BY known) DESC,
                     n_named DESC, effect DESC, mean_probability DESC NULLS LAST, fact_id
            LIMIT 1
        )
        SELECT b.fact_id, b.relation_id, r.label, b.subject, b.object, b.known, b.mean_probability,
               b.n_neurons, b.before, b.after, b.random,
               (SELECT arg_min(text, (rank > 1, NOT held_out, length(text))) FROM prompts
                WHERE fact_id = b.fact_id) AS text
        FROM best AS b LEFT JOIN relations AS r ON r.relation_id = b.relation_id
        """
    )


# One fact --------------------------------------------------------------------------------------------


def fact(atlas: Atlas, fact_id: str) -> dict[str, Any]:
    """One fact: fact_id, relation_id, label, subject, object, known, mean_probability, n_prompts, n_neurons.

    Raises `QueryError` when the atlas has no such fact.
    """
    row = atlas.query_one(
        """
        SELECT f.fact_id, f.relation_id, r.label, f.subject, f.object, f.known, f.mean_probability,
               f.n_prompts, f.n_neurons
        FROM facts AS f LEFT JOIN relations AS r USING (relation_id) WHERE f.fact_id = $fact_id
        """,
        {"fact_id": fact_id},
    )
    if row is None:
        raise QueryError(f"The atlas {atlas.atlas_id} has no fact '{fact_id}'. Search for its subject.")
    return row


def prompts_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """The fact's prompts, discovery ones first. Columns: all of the table `prompts`."""
    return atlas.query(
        "SELECT * FROM prompts WHERE fact_id = $fact_id ORDER BY held_out, template_id", {"fact_id": fact_id}
    )


def neurons_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """The fact's knowledge neurons, the most shared first.

    Columns: layer, neuron, share, mean_score, max_score, n_facts and n_relations (that have the neuron,
    this fact included), value_norm, promoted, suppressed (lists of {token, logit}; null if not read out).
    """
    return atlas.query(
        """
        WITH mine AS (SELECT * FROM knowledge_neurons WHERE fact_id = $fact_id),
        everywhere AS (
            SELECT layer, neuron, count(*) AS n_facts, count(DISTINCT relation_id) AS n_relations
            FROM knowledge_neurons SEMI JOIN mine USING (layer, neuron)
            GROUP BY layer, neuron
        )
        SELECT mine.layer, mine.neuron, mine.share, mine.mean_score, mine.max_score,
               everywhere.n_facts, everywhere.n_relations, n.value_norm, n.promoted, n.suppressed
        FROM mine JOIN everywhere USING (layer, neuron) LEFT JOIN neurons AS n USING (layer, neuron)
        ORDER BY mine.share DESC, mine.mean_score DESC, mine.layer, mine.neuron
        """,
        {"fact_id": fact_id},
    )


def attributions_of_fact(atlas: Atlas, fact_id: str, *, template_id: str | None = None) -> pd.DataFrame:
    """The fact's stored scores by neuron, for the layer × neuron chart; of one prompt if asked.

    Columns: layer, neuron, n_prompts (where the score was stored), mean_score (over those), max_score,
    max_relative (largest score as a part of its prompt's maximum), is_knowledge_neuron.
    """
    return atlas.query(
        """
        SELECT a.layer, a.neuron, count(*) AS n_prompts, avg(a.score ORDER BY a.template_id) AS mean_score,
               max(a.score) AS max_score, max(a.score::DOUBLE / a.largest) AS max_relative,
               any_value(k.fact_id) IS NOT NULL AS is_knowledge_neuron
        FROM (SELECT *, max(score) OVER (PARTITION BY template_id) AS largest
              FROM attributions WHERE fact_id = $fact_id) AS a
        LEFT JOIN knowledge_neurons AS k
          ON k.fact_id = $fact_id AND k.layer = a.layer AND k.neuron = a.neuron
        WHERE $template_id IS NULL OR a.template_id = $template_id
        GROUP BY a.layer, a.neuron
        ORDER BY mean_score DESC, a.layer, a.neuron
        """,
        {"fact_id": fact_id, "template_id": template_id},
    )


def scores_by_prompt(
    atlas: Atlas, fact_id: str, *, only: Neuron | None = None, limit: int = 30
) -> pd.DataFrame:
    """The stored scores of the fact's prompts, one row a (prompt, neuron): of one neuron, or of the largest.

    Those `limit` neurons are kept that are knowledge neurons, then those with the largest summed `relative`.
    Columns: template_id, text, layer, neuron, score, relative (to the prompt's maximum), is_knowledge_neuron.
    """
    return atlas.query(
        """
        WITH scored AS (
            SELECT template_id, layer, neuron, score,
                   score::DOUBLE / max(score::DOUBLE) OVER (PARTITION BY template_id) AS relative
            FROM attributions WHERE fact_id = $fact_id
        ), kept AS (
            SELECT s.layer, s.neuron, any_value(k.fact_id) IS NOT NULL AS is_knowledge_neuron
            FROM scored AS s LEFT JOIN knowledge_neurons AS k
              ON k.fact_id = $fact_id AND k.layer = s.layer AND k.neuron = s.neuron
            WHERE $layer IS NULL OR (s.layer = $layer AND s.neuron = $neuron)
            GROUP BY s.layer, s.neuron
            ORDER BY is_knowledge_neuron DESC, sum(s.relative) DESC, s.layer, s.neuron LIMIT $limit
        )
        SELECT template_id, p.text, layer, neuron, score, relative, is_knowledge_neuron
        FROM scored JOIN kept USING (layer, neuron)
        LEFT JOIN (SELECT template_id, text FROM prompts WHERE fact_id = $fact_id) AS p USING (template_id)
        ORDER BY layer, neuron, template_id
        """,
        {
            "fact_id": fact_id,
            "layer": None if only is None else only.layer,
            "neuron": None if only is None else only.neuron,
            "limit": limit,
        },
    )


def facts_sharing_neurons(
    atlas: Atlas, fact_id: str, *, same_relation: bool | None = None, limit: int = 50
) -> pd.DataFrame:
    """Other facts by the number of knowledge neurons they have in common with this one.

    `same_relation` keeps facts of its relation, or (False) of all others. Columns: fact_id, relation_id,
    label, subject, object, known, n_neurons, n_shared, jaccard (shared by the neurons either fact has),
    same_relation.
    """
    return atlas.query(
        """
        WITH mine AS (SELECT layer, neuron FROM knowledge_neurons WHERE fact_id = $fact_id),
        shared AS (
            SELECT fact_id, count(*) AS n_shared FROM knowledge_neurons JOIN mine USING (layer, neuron)
            WHERE fact_id <> $fact_id GROUP BY fact_id
        ), sizes AS (
            SELECT fact_id, count(*) AS n FROM knowledge_neurons GROUP BY fact_id
        )
        SELECT f.fact_id, f.relation_id, r.label, f.subject, f.object, f.known, sizes.n AS n_neurons,
               shared.n_shared,
               shared.n_shared / (sizes.n + (SELECT count(*) FROM mine) - shared.n_shared) AS jaccard,
               f.relation_id = (SELECT relation_id FROM facts WHERE fact_id = $fact_id) AS same_relation
        FROM shared JOIN sizes USING (fact_id) JOIN facts AS f USING (fact_id)
        LEFT JOIN relations AS r ON r.relation_id = f.relation_id
        WHERE $same_relation IS NULL OR same_relation = $same_relation
        ORDER BY shared.n_shared DESC, jaccard DESC, f.subject, f.fact_id
        LIMIT $limit
        """,
        {"fact_id": fact_id, "same_relation": same_relation, "limit": limit},
    )


def effects_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """What changing the fact's neurons, or their stand-ins, did: prompts held out first, own neurons first.

    Columns: intervention, group, prompt_fact_id, template_id, text, held_out, n_neurons, p_before, p_after,
    relative_change ((p_after − p_before) / p_before), rank_before, rank_after.
    """
    return atlas.query(
        """
        SELECT e.intervention, e."group", e.prompt_fact_id, e.template_id, p.text, e.held_out, e.n_neurons,
               e.p_before, e.p_after,
               (e.p_after::DOUBLE - e.p_before) / nullif(e.p_before, 0) AS relative_change,
               e.rank_before, e.rank_after
        FROM effects AS e
        LEFT JOIN prompts AS p ON p.fact_id = e.prompt_fact_id AND p.template_id = e.template_id
        WHERE e.fact_id = $fact_id
        ORDER BY e.held_out DESC, e.intervention DESC, list_position($groups, e."group"), e.prompt_fact_id,
                 e.template_id
        """,
        {"fact_id": fact_id, "groups": list(GROUPS)},
    )


def rethreshold(
    atlas: Atlas, fact_id: str, t: float, p: float, *, at_least: int = 2, negatives: int = 0, seed: int = 0
) -> pd.DataFrame:
    """The fact's neurons under other thresholds: coarse ≥ `t` × the prompt's maximum, share ≥ `p`.

    A neuron must be coarse in at least `at_least` discovery prompts, as in the mode `default`; with
    `negatives`, those are left out that are coarse as often where so many other facts of the relation, with
    other answers, are asked for in the same words (`atlas.refinement`, step 4).
    Columns: layer, neuron, n_prompts (in which it is coarse), share, mean_score, max_score, and as the atlas
    has them (null where no fact has the neuron) n_facts, n_relations, value_norm, promoted, suppressed.
    """
    if not STORED_FRACTION <= t <= 1 or not 0 <= p <= 1:
        raise QueryError(
            f"Thresholds of {t:g} and {p:g} cannot be had: scores are stored from {STORED_FRACTION:g} × the "
            f"maximum up. Give t from {STORED_FRACTION:g} to 1 and p from 0 to 1."
        )
    return atlas.query(
        """
        WITH discovery AS (
            SELECT template_id FROM prompts
            WHERE fact_id = $fact_id AND NOT held_out AND max_score IS NOT NULL
        ), scored AS (
            SELECT template_id, layer, neuron, score::DOUBLE AS score,
                   max(score::DOUBLE) OVER (PARTITION BY template_id) AS largest
            FROM attributions SEMI JOIN discovery USING (template_id) WHERE fact_id = $fact_id
        ), kept AS (
            SELECT layer, neuron, count(*) FILTER (largest > 0 AND score >= $t * largest) AS n_prompts,
                   n_prompts / (SELECT count(*) FROM discovery) AS share,
                   avg(score ORDER BY template_id) AS mean_score, max(score) AS max_score
            FROM scored
            GROUP BY layer, neuron
            HAVING n_prompts >= greatest(ceil((SELECT count(*) FROM discovery) * $p - 1e-9), $at_least)
        ), negative AS (
            SELECT fact_id, template_id FROM prompts SEMI JOIN discovery USING (template_id)
            WHERE list_contains($others, fact_id) AND NOT held_out AND max_score IS NOT NULL
        ), theirs AS (
            SELECT fact_id, template_id, layer, neuron, score::DOUBLE AS score,
                   max(score::DOUBLE) OVER (PARTITION BY fact_id, template_id) AS largest
            FROM attributions SEMI JOIN negative USING (fact_id, template_id)
        ), answering AS (
            SELECT layer, neuron FROM theirs WHERE largest > 0 AND score >= $t * largest
            GROUP BY layer, neuron
            HAVING count(*) >= least((SELECT count(*) FROM negative),
                                     greatest(ceil((SELECT count(*) FROM negative) * $p - 1e-9), $at_least))
        )
        SELECT kept.*, n.n_facts, n.n_relations, n.value_norm, n.promoted, n.suppressed
        FROM kept ANTI JOIN answering USING (layer, neuron)
        LEFT JOIN neurons AS n ON n.layer = kept.layer AND n.neuron = kept.neuron
        ORDER BY share DESC, mean_score DESC, kept.layer, kept.neuron
        """,
        {
            "fact_id": fact_id,
            "t": float(t),
            "p": float(p),
            "at_least": at_least,
            "others": _negative_facts(atlas, fact_id, negatives, seed) if negatives else [],
        },
    )


def _negative_facts(atlas: Atlas, fact_id: str, n: int, seed: int) -> list[str]:
    rows = atlas.query(
        """
        SELECT fact_id, any_value(object) AS object FROM facts JOIN prompts USING (fact_id)
        WHERE NOT held_out AND max_score IS NOT NULL
          AND relation_id = (SELECT relation_id FROM facts WHERE fact_id = $fact_id)
        GROUP BY fact_id ORDER BY fact_id
        """,
        {"fact_id": fact_id},
    )
    members = list(zip(rows["fact_id"], rows["object"], strict=True))
    return negative_facts(members, fact_id, n, seed=seed) if fact_id in set(rows["fact_id"]) else []


# One neuron ------------------------------------------------------------------------------------------


def neuron(atlas: Atlas, layer: int, index: int) -> dict[str, Any]:
    """One neuron: layer, neuron, n_facts, n_relations, value_norm, promoted, suppressed.

    A neuron that no fact has gives zeros and nulls. Raises `QueryError` for one the model does not have.
    """
    model = atlas.manifest.model
    if (
        min(layer, index) < 0
        or (model.n_layers is not None and layer >= model.n_layers)
        or (model.n_neurons is not None and index >= model.n_neurons)
    ):
        raise QueryError(
            f"The model {model.name} has no neuron {Neuron(layer, index)}. "
            f"It has {model.n_layers} layers of {model.n_neurons}, counted from 0."
        )
    return atlas.query_one(
        """
        SELECT $layer::INTEGER AS layer, $neuron::INTEGER AS neuron, counted.n_facts, counted.n_relations,
               n.value_norm, n.promoted, n.suppressed
        FROM (SELECT count(*) AS n_facts, count(DISTINCT relation_id) AS n_relations FROM knowledge_neurons
              WHERE layer = $layer AND neuron = $neuron) AS counted
        LEFT JOIN (SELECT * FROM neurons WHERE layer = $layer AND neuron = $neuron) AS n ON true
        """,
        {"layer": layer, "neuron": index},
    )


_FACT_ORDERS = {
    "score": "mean_score DESC, share DESC",
    "share": "share DESC, mean_score DESC",
    "subject": "lower(strip_accents(subject))",
    "object": "lower(strip_accents(object)), mean_score DESC",
}


def facts_of_neuron(
    atlas: Atlas,
    layer: int,
    index: int,
    *,
    relation: str | None = None,
    order: str = "score",
    limit: int = 200,
    offset: int = 0,
) -> pd.DataFrame:
    """The facts that have this knowledge neuron, those with the largest mean score first.

    `relation` is a relation id; `order` is score, share, subject or object.
    Columns: fact_id, relation_id, label, subject, object, known, share, mean_score, max_score.
    """
    if order not in _FACT_ORDERS:
        raise QueryError(
            f"Facts cannot be put in the order '{order}'. Give one of: {', '.join(_FACT_ORDERS)}."
        )
    return atlas.query(
        f"""
        SELECT fact_id, relation_id, label, subject, object, known, share, mean_score, max_score
        FROM neuron_facts WHERE layer = $layer AND neuron = $neuron
          AND ($relation IS NULL OR relation_id = $relation)
        ORDER BY {_FACT_ORDERS[order]}, fact_id LIMIT $limit OFFSET $offset
        """,
        {"layer": layer, "neuron": index, "relation": relation, "limit": limit, "offset": offset},
    )


def activating_prompts_of_neuron(atlas: Atlas, layer: int, index: int) -> pd.DataFrame:
    """The prompts on which the neuron is most and least active.

    Columns: side ('top' or 'bottom'), rank, activation, fact_id, relation_id, template_id, text, subject,
    object.
    """
    return atlas.query(
        """
        SELECT a.side, a.rank, a.activation, a.fact_id, f.relation_id, a.template_id, p.text, f.subject,
               f.object
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

    Columns: layer, neuron, n_facts, n_relations, fact_share (of all facts with neurons), value_norm,
    promoted.
    """
    return atlas.query(
        """
        SELECT h.*, n.value_norm, n.promoted
        FROM hub_neurons AS h LEFT JOIN neurons AS n ON n.layer = h.layer AND n.neuron = h.neuron
        ORDER BY h.n_relations DESC, h.n_facts DESC, h.layer, h.neuron LIMIT $limit
        """,
        {"limit": limit},
    )


# Relations -------------------------------------------------------------------------------------------


def relations(atlas: Atlas) -> pd.DataFrame:
    """All relations, with what is known of their facts.

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


def relation_neurons(
    atlas: Atlas, relation_id: str, *, layer: int | None = None, limit: int = 50
) -> pd.DataFrame:
    """The neurons that the relation's facts share, the most shared first; of one layer if asked.

    Columns: layer, neuron, n_facts (of the relation), relation_share (of all its facts), mean_share,
    mean_score, n_relations (that have the neuron at all), value_norm, promoted, suppressed.
    """
    return atlas.query(
        """
        WITH top AS MATERIALIZED (
            SELECT * FROM relation_neurons
            WHERE relation_id = $relation_id AND ($layer IS NULL OR layer = $layer)
            ORDER BY n_facts DESC, mean_score DESC, layer, neuron LIMIT $limit
        ), everywhere AS (
            SELECT layer, neuron, count(DISTINCT relation_id) AS n_relations
            FROM knowledge_neurons SEMI JOIN top USING (layer, neuron) GROUP BY layer, neuron
        )
        SELECT top.layer, top.neuron, top.n_facts, top.relation_share, top.mean_share, top.mean_score,
               everywhere.n_relations, n.value_norm, n.promoted, n.suppressed
        FROM top JOIN everywhere USING (layer, neuron) LEFT JOIN neurons AS n USING (layer, neuron)
        ORDER BY top.n_facts DESC, top.mean_score DESC, top.layer, top.neuron
        """,
        {"relation_id": relation_id, "layer": layer, "limit": limit},
    )


def relation_overlap(atlas: Atlas) -> pd.DataFrame:
    """Mean number of neurons two different facts share, for all pairs of relations in both orders.

    Columns: relation_a, label_a, relation_b, label_b, within, n_pairs, mean_shared (null without pairs).
    """
    return atlas.query(
        """
        SELECT o.relation_a, a.label AS label_a, o.relation_b, b.label AS label_b, o.within, o.n_pairs,
               o.mean_shared
        FROM relation_overlap AS o
        LEFT JOIN relations AS a ON a.relation_id = o.relation_a
        LEFT JOIN relations AS b ON b.relation_id = o.relation_b
        ORDER BY o.relation_a, o.relation_b
        """
    )


def layer_histogram(atlas: Atlas, *, relation: str | None = None) -> pd.DataFrame:
    """How the knowledge neurons spread over the layers, all of them listed; of one relation if asked.

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


# The whole atlas -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """The atlas in numbers; None is "not measured".

    `effects` is `effect_summary` for known facts on held-out prompts; `within` and `across` are the mean
    numbers of neurons that two facts of one relation share, and two facts of different relations.
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
    row = atlas.query_one(
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
    """What interventions did on average, own neurons beside their controls; to one relation's facts if asked.

    `known` keeps prompts of which both the changed fact and the fact asked for are known (or, if False,
    the changed one is not); `held_out` keeps prompts on one side of the split. Facts without neurons are left
    out: nothing was changed. Columns: intervention, group, n_facts, n_prompts,
    mean_relative_change (mean over prompts of (p_after − p_before) / p_before),
    ratio_of_means (mean p_after / mean p_before − 1; a few improbable answers cannot dominate it),
    mean_before, mean_after, rank_1_before, rank_1_after (shares of prompts with rank 1).
    """
    return atlas.query(
        """
        SELECT e.intervention, e."group", count(DISTINCT e.fact_id) AS n_facts, count(*) AS n_prompts,
               avg((e.p_after::DOUBLE - e.p_before) / nullif(e.p_before, 0)) AS mean_relative_change,
               sum(e.p_after::DOUBLE) / nullif(sum(e.p_before::DOUBLE), 0) - 1 AS ratio_of_means,
               avg(e.p_before) AS mean_before, avg(e.p_after) AS mean_after,
               avg((e.rank_before = 1)::INTEGER) AS rank_1_before,
               avg((e.rank_after = 1)::INTEGER) AS rank_1_after
        FROM effects AS e
        LEFT JOIN facts AS changed ON changed.fact_id = e.fact_id
        LEFT JOIN facts AS asked ON asked.fact_id = e.prompt_fact_id
        WHERE coalesce(e.n_neurons, 1) > 0
          AND ($known IS NULL OR (changed.known = $known AND (NOT $known OR asked.known)))
          AND ($held_out IS NULL OR e.held_out = $held_out)
          AND ($relation IS NULL OR changed.relation_id = $relation)
        GROUP BY e.intervention, e."group"
        ORDER BY e.intervention DESC, list_position($groups, e."group")
        """,
        {"known": known, "held_out": held_out, "relation": relation, "groups": list(GROUPS)},
    )
