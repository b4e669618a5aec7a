"""Queries about facts: an example fact, and all rows of one fact. Each docstring states the columns.

neurons_of_fact(a, fact_id)                        # its neurons, and how many other facts have each
rethreshold(a, fact_id, t=0.3, p=0.7)              # other thresholds, no model
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from atlas.errors import QueryError
from atlas.neuron import OBJECT_SLOT, Neuron
from atlas.queries.evidence import NEURON_GROUPS
from atlas.queries.sides import pushed
from atlas.refinement import STORED_FRACTION, negative_facts
from atlas.store.atlas import Atlas


def random_fact(atlas: Atlas, *, known: bool | None = None, seed: int | None = None) -> str | None:
    """The id of a random fact with neurons, or None; the same for the same seed."""
    row = atlas.query_one(
        f"""
        SELECT fact_id FROM facts WHERE n_neurons > 0 AND ($known IS NULL OR known = $known)
        ORDER BY {"random()" if seed is None else "hash(fact_id || $seed)"} LIMIT 1
        """,
        {"known": known, **({} if seed is None else {"seed": str(seed)})},
    )
    return None if row is None else row["fact_id"]


def fact_asked_by(atlas: Atlas, sentence: str) -> str | None:
    """The id of the fact that a sentence asks about, as one of its prompts does, with or without its end.

    Case, white space and the mark that ends the sentence do not matter; the gap may be ``____``.
    """
    before, _, after = sentence.replace("____", OBJECT_SLOT).partition(OBJECT_SLOT)
    row = atlas.query_one(
        f"""
        SELECT fact_id FROM fact_prompts
        WHERE lower(trim(split_part(text, '{OBJECT_SLOT}', 1))) = lower(trim($before))
          AND rtrim(lower(split_part(text, '{OBJECT_SLOT}', 2)), '.?! ') = rtrim(lower($after), '.?! ')
        ORDER BY fact_id LIMIT 1
        """,
        {"before": before, "after": after},
    )
    return None if row is None else row["fact_id"]


def telling_fact(atlas: Atlas) -> dict[str, Any] | None:
    """An example fact: suppressing its neurons lowers its probability, suppressing random ones does not.

    Among the known facts whose fall, less the controls' change, is at least half of the largest, it is the
    one whose subject is in most facts. Where effects were not measured, any known fact may be taken. None
    when no fact has neurons. Columns: fact_id, relation_id, label, subject, object, known, mean_probability,
    n_neurons, before, after, random (mean probabilities on held-out prompts, or on all where none is held
    out; null if not measured), text (the shortest prompt it gets right, held out if there is one).
    """
    return atlas.query_one(
        """
        WITH measured AS (
            SELECT fact_id, avg(p_before) FILTER ("group" = 'own') AS before,
                   avg(p_after) FILTER ("group" = 'own') AS after,
                   avg(p_after) FILTER ("group" = 'random') AS random,
                   avg(p_before - p_after) FILTER ("group" = 'unrelated') AS elsewhere
            FROM effects
            WHERE intervention = 'suppress' AND held_out = (SELECT bool_or(held_out) FROM effects)
            GROUP BY fact_id
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
               (SELECT arg_min(text, (rank > 1, NOT held_out, length(text))) FROM fact_prompts
                WHERE fact_id = b.fact_id) AS text
        FROM best AS b LEFT JOIN relations AS r ON r.relation_id = b.relation_id
        """
    )


def example_facts(atlas: Atlas, *, limit: int = 3) -> pd.DataFrame:
    """Facts to begin with, of different relations: known ones about what most facts name.

    Columns: fact_id, relation_id, label, subject, object.
    """
    return atlas.query(
        """
        WITH named AS (
            SELECT unnest([subject, object]) AS name, count(*) AS n FROM facts GROUP BY name
        ), first AS (
            SELECT f.*, named.n FROM facts AS f JOIN named ON named.name = f.subject WHERE n_neurons > 0
            QUALIFY row_number() OVER (
                PARTITION BY relation_id
                ORDER BY known DESC NULLS LAST, named.n DESC, mean_probability DESC, fact_id
            ) = 1
        )
        SELECT fact_id, relation_id, r.label, subject, object
        FROM first LEFT JOIN relations AS r USING (relation_id)
        ORDER BY known DESC NULLS LAST, first.n DESC, fact_id LIMIT $limit
        """,
        {"limit": limit},
    )


def telling_text(atlas: Atlas) -> dict[str, Any] | None:
    """A known fact whose answer the model writes, but not without its neurons: what the atlas stored.

    Preferred is one whose text stays the same without as many random neurons; then the prompt that the model
    is surest of. None where no such text was generated. Columns: fact_id, subject, object, n_neurons (that
    were suppressed), prompt (with [Y] for the answer), unchanged, own, random (texts after the prompt;
    random is null where there was no control).
    """
    return atlas.query_one(
        """
        WITH written AS (
            SELECT fact_id, template_id, max(n_neurons) FILTER ("group" = 'own') AS n_neurons,
                   max(text) FILTER ("group" = 'unchanged') AS unchanged,
                   max(text) FILTER ("group" = 'own') AS own, max(text) FILTER ("group" = 'random') AS random
            FROM generations WHERE prompt_fact_id = fact_id GROUP BY fact_id, template_id
        )
        SELECT w.fact_id, f.subject, f.object, w.n_neurons, p.text AS prompt, w.unchanged, w.own, w.random
        FROM written AS w JOIN facts AS f ON f.fact_id = w.fact_id
        JOIN prompts AS p ON p.fact_id = w.fact_id AND p.template_id = w.template_id
        WHERE f.known AND starts_with(lower(trim(w.unchanged)), lower(f.object))
          AND NOT starts_with(lower(trim(w.own)), lower(f.object))
        ORDER BY w.random IS NOT DISTINCT FROM w.unchanged DESC, p.probability DESC, w.fact_id LIMIT 1
        """
    )


# One fact --------------------------------------------------------------------------------------------


def fact(atlas: Atlas, fact_id: str) -> dict[str, Any]:
    """One fact: fact_id, relation_id, label, subject, object, known, mean_probability, n_prompts, n_neurons,
    contested, guessable, n_answer_tokens.

    Raises `QueryError` when the atlas has no such fact.
    """
    row = atlas.query_one(
        """
        SELECT f.fact_id, f.relation_id, r.label, f.subject, f.object, f.known, f.mean_probability,
               f.n_prompts, f.n_neurons, f.contested, f.guessable, f.n_answer_tokens
        FROM facts AS f LEFT JOIN relations AS r USING (relation_id) WHERE f.fact_id = $fact_id
        """,
        {"fact_id": fact_id},
    )
    if row is None:
        raise QueryError(f"The atlas {atlas.atlas_id} has no fact '{fact_id}'. Search for its subject.")
    return row


def prompts_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """The fact's prompts, stored or made from templates, discovery ones first. Columns: all of `prompts`."""
    return atlas.query(
        "SELECT * FROM fact_prompts WHERE fact_id = $fact_id ORDER BY held_out, template_id",
        {"fact_id": fact_id},
    )


def neurons_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """The fact's knowledge neurons, the most shared first.

    Columns: layer, neuron, share, mean_score, max_score, n_facts and n_relations (that have the neuron,
    this fact included), mean_activation (null where it was not measured), label, value_norm, promoted,
    suppressed (lists of {token, logit} as the neuron acts on this fact: exchanged where it fires below zero;
    null if not read out).
    """
    return atlas.query(
        f"""
        WITH mine AS (SELECT * FROM knowledge_neurons WHERE fact_id = $fact_id),
        everywhere AS (
            SELECT layer, neuron, count(*) AS n_facts, count(DISTINCT relation_id) AS n_relations
            FROM knowledge_neurons SEMI JOIN mine USING (layer, neuron)
            GROUP BY layer, neuron
        )
        SELECT mine.layer, mine.neuron, mine.share, mine.mean_score, mine.max_score,
               everywhere.n_facts, everywhere.n_relations, mine.mean_activation, n.label, n.value_norm,
               {pushed("mine.mean_activation")}
        FROM mine JOIN everywhere USING (layer, neuron) LEFT JOIN neurons AS n USING (layer, neuron)
        ORDER BY mine.share DESC, mine.mean_score DESC, mine.layer, mine.neuron
        """,
        {"fact_id": fact_id},
    )


def attributions_of_fact(atlas: Atlas, fact_id: str, *, template_id: str | None = None) -> pd.DataFrame:
    """The fact's stored scores by neuron, for the layer × neuron chart; of one prompt if given.

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

    Keeps `limit` neurons: knowledge neurons first, then those with the largest summed `relative`. Columns:
    template_id, text, layer, neuron, score, relative (to the prompt's maximum), is_knowledge_neuron.
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
    """Effects of changing the fact's neurons and the controls; held-out prompts first, own neurons first.

    Columns: intervention, group, prompt_fact_id, template_id, text, held_out, n_neurons, p_before, p_after,
    relative_change ((p_after − p_before) / p_before), rank_before, rank_after.
    """
    return atlas.query(
        """
        SELECT e.intervention, e."group", e.prompt_fact_id, e.template_id, p.text, e.held_out, e.n_neurons,
               e.p_before, e.p_after,
               coalesce(e.change, (e.p_after::DOUBLE - e.p_before) / nullif(e.p_before, 0))
                   AS relative_change,
               e.rank_before, e.rank_after
        FROM effects AS e
        LEFT JOIN prompts AS p ON p.fact_id = e.prompt_fact_id AND p.template_id = e.template_id
        WHERE e.fact_id = $fact_id
        ORDER BY e.held_out DESC, e.intervention DESC, list_position($groups, e."group"), e.prompt_fact_id,
                 e.template_id
        """,
        {"fact_id": fact_id, "groups": list(NEURON_GROUPS)},
    )


def rethreshold(
    atlas: Atlas,
    fact_id: str,
    t: float,
    p: float,
    *,
    at_least: int = 2,
    inclusive: bool = True,
    negatives: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """The fact's neurons under other thresholds: coarse ≥ `t` × the prompt's maximum, share ≥ `p`.

    A neuron must be coarse in at least `at_least` discovery prompts, as in the mode `default`. Without
    `inclusive`, > stands for ≥, as in the mode `replication`. `negatives` is a number of other facts of the
    relation, with other answers: neurons that are coarse as often in their prompts, of the same templates,
    are left out (`atlas.refinement`, step 4).
    Columns: layer, neuron, n_prompts (in which it is coarse), share, mean_score, max_score, and as the atlas
    has them (null where no fact has the neuron) n_facts, n_relations, mean_activation (null where this fact
    has not), label, value_norm, promoted, suppressed.
    """
    if not STORED_FRACTION <= t <= 1 or not 0 <= p <= 1:
        raise QueryError(
            f"t must be between {STORED_FRACTION:g} (smaller scores are not stored) and 1, "
            f"p between 0 and 1, got {t:g} and {p:g}."
        )
    reaches = ">=" if inclusive else ">"
    # As `Refinement.needed`.
    needed = "ceil({n} * $p - 1e-9)" if inclusive else "floor({n} * $p + 1e-9) + 1"
    own, theirs = (needed.format(n=f"(SELECT count(*) FROM {each})") for each in ("discovery", "negative"))
    return atlas.query(
        f"""
        WITH discovery AS (
            SELECT template_id FROM prompts
            WHERE fact_id = $fact_id AND NOT held_out AND max_score IS NOT NULL
        ), scored AS (
            SELECT template_id, layer, neuron, score::DOUBLE AS score,
                   max(score::DOUBLE) OVER (PARTITION BY template_id) AS largest
            FROM attributions SEMI JOIN discovery USING (template_id) WHERE fact_id = $fact_id
        ), kept AS (
            SELECT layer, neuron, count(*) FILTER (largest > 0 AND score {reaches} $t * largest) AS n_prompts,
                   n_prompts / (SELECT count(*) FROM discovery) AS share,
                   avg(score ORDER BY template_id) AS mean_score, max(score) AS max_score
            FROM scored
            GROUP BY layer, neuron
            HAVING n_prompts >= greatest({own}, $at_least)
        ), negative AS (
            SELECT fact_id, template_id FROM prompts SEMI JOIN discovery USING (template_id)
            WHERE list_contains($others, fact_id) AND NOT held_out AND max_score IS NOT NULL
        ), theirs AS (
            SELECT fact_id, template_id, layer, neuron, score::DOUBLE AS score,
                   max(score::DOUBLE) OVER (PARTITION BY fact_id, template_id) AS largest
            FROM attributions SEMI JOIN negative USING (fact_id, template_id)
        ), answering AS (
            SELECT layer, neuron FROM theirs WHERE largest > 0 AND score {reaches} $t * largest
            GROUP BY layer, neuron
            HAVING count(*) >= least((SELECT count(*) FROM negative), greatest({theirs}, $at_least))
        )
        SELECT kept.*, n.n_facts, n.n_relations, k.mean_activation, n.label, n.value_norm,
               {pushed("k.mean_activation")}
        FROM kept ANTI JOIN answering USING (layer, neuron)
        LEFT JOIN knowledge_neurons AS k
          ON k.fact_id = $fact_id AND k.layer = kept.layer AND k.neuron = kept.neuron
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
