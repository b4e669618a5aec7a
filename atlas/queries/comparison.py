"""Compare two facts, relations, neurons or atlases: what they share, and what chance gives.

    rows = neurons_of_facts(a, "P36-France", "P36-Italy")      # every neuron of either, `where`: both, a, b
    shared = overlap(rows, by="layer", size=a.manifest.model.n_neurons)
    shared.both, shared.jaccard, shared.chance, shared.spread

1. *Rows.* Everything that either of the two has, one row each, with a column `where`.
2. *Overlap.* Numbers in both and in one only; Jaccard is both ÷ either.
3. *Chance.* Draw as many at random in each layer: with n_a and n_b of N, n_a · n_b ÷ N are expected in both
   (hypergeometric); layers are independent, so expectations and variances add up.

Neurons of two models cannot be matched: between models, only predictions are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from atlas.errors import QueryError
from atlas.neuron import Neuron
from atlas.queries.facts import facts_sharing_neurons
from atlas.queries.selectivity import related_neurons
from atlas.queries.sharing import relation_overlap
from atlas.queries.sides import pushed
from atlas.refinement import KnowledgeNeuron
from atlas.store.atlas import Atlas

_KINDS = ("facts", "relations", "neurons", "atlases")
WHERE = ("both", "a", "b")

# Overlap ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """Numbers in both and in one only; `chance` is the expected `both`, `spread` its standard deviation.

    The last two are None where the number to draw from is unknown.
    """

    both: int
    only_a: int
    only_b: int
    chance: float | None = None
    spread: float | None = None

    @property
    def either(self) -> int:
        """Number in at least one of the two."""
        return self.both + self.only_a + self.only_b

    @property
    def jaccard(self) -> float | None:
        """Both ÷ either; None where neither has any."""
        return self.both / self.either if self.either else None

    @property
    def chance_jaccard(self) -> float | None:
        """Jaccard at the expected overlap."""
        if self.chance is None or not self.either:
            return None
        return self.chance / (self.either + self.both - self.chance)


def overlap(rows: pd.DataFrame, *, size: int | None, by: str | None = None) -> Overlap:
    """The overlap of rows with a column `where`.

    `size` is the number to draw from: in each group of the column `by`, or in all.
    """
    counts = {place: int((rows["where"] == place).sum()) for place in WHERE}
    chance = spread = None
    if size:
        groups = [part for _, part in rows.groupby(by)] if by else [rows]
        moments = [_drawn(part["where"], size) for part in groups]
        chance = sum(mean for mean, _ in moments)
        spread = math.sqrt(sum(variance for _, variance in moments))
    return Overlap(counts["both"], counts["a"], counts["b"], chance, spread)


def chance_by_layer(rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """Number of neurons expected in both by chance, layer by layer. Columns: layer, expected."""
    expected = {layer: _drawn(part["where"], size)[0] for layer, part in rows.groupby("layer")}
    return pd.DataFrame({"layer": list(expected), "expected": list(expected.values())})


def _drawn(where: pd.Series, size: int) -> tuple[float, float]:
    """Mean and variance of the number in both when both are drawn from `size`."""
    n_a, n_b = int((where != "b").sum()), int((where != "a").sum())
    if size < 2 or max(n_a, n_b) > size:
        return float(min(n_a, n_b)), 0.0
    mean = n_a * n_b / size
    return mean, mean * (size - n_a) / size * (size - n_b) / (size - 1)


# Two facts -------------------------------------------------------------------------------------------


def neurons_of_facts(atlas: Atlas, a: str, b: str) -> pd.DataFrame:
    """The knowledge neurons of either fact, those of both first.

    Columns: layer, neuron, where ('both', 'a', 'b'), share_a, share_b, score_a, score_b (mean scores; null
    where it is not that fact's neuron), n_facts and n_relations (that have the neuron), promoted, suppressed
    (as it acts on these facts).
    """
    return atlas.query(
        f"""
        WITH a AS (SELECT * FROM knowledge_neurons WHERE fact_id = $a),
        b AS (SELECT * FROM knowledge_neurons WHERE fact_id = $b),
        either AS (
            SELECT layer, neuron,
                   CASE WHEN b.fact_id IS NULL THEN 'a' WHEN a.fact_id IS NULL THEN 'b' ELSE 'both' END
                       AS "where",
                   a.share AS share_a, b.share AS share_b, a.mean_score AS score_a, b.mean_score AS score_b,
                   list_avg([a.mean_activation, b.mean_activation]) AS fires
            FROM a FULL JOIN b USING (layer, neuron)
        ), everywhere AS (
            SELECT layer, neuron, count(*) AS n_facts, count(DISTINCT relation_id) AS n_relations
            FROM knowledge_neurons SEMI JOIN either USING (layer, neuron) GROUP BY layer, neuron
        )
        SELECT either.* EXCLUDE fires, everywhere.n_facts, everywhere.n_relations, {pushed("either.fires")}
        FROM either JOIN everywhere USING (layer, neuron) LEFT JOIN neurons AS n USING (layer, neuron)
        ORDER BY list_position(['both', 'a', 'b'], "where"),
                 greatest(coalesce(score_a, 0), coalesce(score_b, 0)) DESC, layer, neuron
        """,
        {"a": a, "b": b},
    )


def neurons_of_lists(a: Sequence[KnowledgeNeuron], b: Sequence[KnowledgeNeuron]) -> pd.DataFrame:
    """The neurons of either of two lists that were found on prompts, those of both first.

    Columns: layer, neuron, where ('both', 'a', 'b'), share_a, share_b, score_a, score_b (null where it is not
    of that list); overlaps compare with chance as those of facts do.
    """
    sides = [{each.neuron: each for each in found} for found in (a, b)]
    rows = []
    for neuron in {**sides[0], **sides[1]}:
        own = [side.get(neuron) for side in sides]
        rows.append(
            {
                "layer": neuron.layer,
                "neuron": neuron.neuron,
                "where": "both" if all(own) else "a" if own[0] else "b",
                **{
                    f"share_{name}": each.share if each else None
                    for name, each in zip("ab", own, strict=True)
                },
                **{
                    f"score_{name}": each.mean_score if each else None
                    for name, each in zip("ab", own, strict=True)
                },
            }
        )
    columns = ["layer", "neuron", "where", "share_a", "share_b", "score_a", "score_b"]
    frame = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], "float64"))
    frame["place"] = frame["where"].map(WHERE.index)
    frame["largest"] = frame[["score_a", "score_b"]].max(axis=1)
    order = frame.sort_values(["place", "largest", "layer", "neuron"], ascending=[True, False, True, True])
    return order[columns].reset_index(drop=True)


def same_fact(atlas: Atlas, other: Atlas, fact_id: str) -> str | None:
    """The id, in another atlas, of the fact with this one's relation, subject and object; None without one.

    Case and accents do not matter; where several match, the one with the same id, else the first.
    """
    fact = atlas.query_one(
        "SELECT relation_id, subject, object FROM facts WHERE fact_id = $fact_id", {"fact_id": fact_id}
    )
    if fact is None:
        raise QueryError(f"The atlas {atlas.atlas_id} has no fact '{fact_id}'. Search for its subject.")
    row = other.query_one(
        """
        SELECT fact_id FROM facts
        WHERE relation_id = $relation_id
          AND lower(strip_accents(subject)) = lower(strip_accents($subject))
          AND lower(strip_accents(object)) = lower(strip_accents($object))
        ORDER BY fact_id <> $fact_id, fact_id LIMIT 1
        """,
        {**fact, "fact_id": fact_id},
    )
    return None if row is None else row["fact_id"]


def prompts_in_both(atlas: Atlas, other: Atlas, a: str, b: str) -> pd.DataFrame:
    """The prompts of a fact in two atlases, by their wording; those in both atlases first.

    Columns: text, probability_a, rank_a, says_a, probability_b, rank_b, says_b (null where not asked).
    """
    sides = []
    for each, fact_id, name in ((atlas, a, "a"), (other, b, "b")):
        rows = each.query(
            """
            SELECT text, first(probability) AS probability, first(rank) AS rank, first(top_token) AS says
            FROM fact_prompts WHERE fact_id = $fact_id GROUP BY text
            """,
            {"fact_id": fact_id},
        )
        sides.append(rows.rename(columns={c: f"{c}_{name}" for c in ("probability", "rank", "says")}))
    rows = sides[0].merge(sides[1], on="text", how="outer")
    missing = rows["rank_a"].isna().astype(int) + rows["rank_b"].isna().astype(int)
    return (
        rows.assign(missing=missing)
        .sort_values(["missing", "text"], ignore_index=True)
        .drop(columns="missing")
    )


def layers_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """The fact's neurons by relative depth, so that models of different depths can be compared.

    Columns: layer, n_neurons, share (of the fact's neurons), depth_from and depth_to (0 is the first
    layer's input, 1 the last layer's output); every layer is listed.
    """
    return atlas.query(
        """
        WITH mine AS (SELECT layer FROM knowledge_neurons WHERE fact_id = $fact_id),
        depth AS (SELECT greatest($n_layers, coalesce((SELECT max(layer) + 1 FROM mine), 1)) AS n)
        SELECT l.layer, count(mine.layer) AS n_neurons,
               n_neurons / nullif((SELECT count(*) FROM mine), 0) AS share,
               l.layer / any_value(n) AS depth_from, (l.layer + 1) / any_value(n) AS depth_to
        FROM depth, LATERAL (SELECT unnest(range(n)) AS layer) AS l LEFT JOIN mine ON mine.layer = l.layer
        GROUP BY l.layer ORDER BY l.layer
        """,
        {"fact_id": fact_id, "n_layers": atlas.manifest.model.n_layers or 0},
    )


# Two relations ---------------------------------------------------------------------------------------


def neurons_of_relations(atlas: Atlas, a: str, b: str, *, least: float = 0.1) -> pd.DataFrame:
    """The neurons that at least a share `least` of either relation's facts have.

    Columns: layer, neuron, where ('both', 'a', 'b'), share_a, share_b (of the relation's facts, whether or
    not they reach `least`), n_facts_a, n_facts_b, n_relations (that have the neuron), promoted, suppressed
    (as it acts on the facts of both relations).
    """
    if not 0 <= least <= 1:
        raise QueryError(f"least must be between 0 and 1, got {least:g}.")
    return atlas.query(
        f"""
        WITH size AS (
            SELECT relation_id, count(*) AS n FROM facts WHERE relation_id IN ($a, $b) GROUP BY relation_id
        ), counted AS (
            SELECT relation_id, layer, neuron, count(*) AS n FROM knowledge_neurons
            WHERE relation_id IN ($a, $b) GROUP BY relation_id, layer, neuron
        ), wide AS (
            SELECT layer, neuron,
                   coalesce(sum(c.n) FILTER (relation_id = $a), 0)::BIGINT AS n_facts_a,
                   coalesce(sum(c.n) FILTER (relation_id = $b), 0)::BIGINT AS n_facts_b,
                   n_facts_a / (SELECT n FROM size WHERE relation_id = $a) AS share_a,
                   n_facts_b / (SELECT n FROM size WHERE relation_id = $b) AS share_b
            FROM counted AS c GROUP BY layer, neuron
        ), kept AS (
            SELECT *, n_facts_a > 0 AND share_a >= $least AS in_a, n_facts_b > 0 AND share_b >= $least AS in_b
            FROM wide
        ), everywhere AS (
            SELECT layer, neuron, count(DISTINCT relation_id) AS n_relations,
                   avg(mean_activation) FILTER (relation_id IN ($a, $b)) AS fires
            FROM knowledge_neurons SEMI JOIN (FROM kept WHERE in_a OR in_b) USING (layer, neuron)
            GROUP BY layer, neuron
        )
        SELECT kept.layer, kept.neuron,
               CASE WHEN in_a AND in_b THEN 'both' WHEN in_a THEN 'a' ELSE 'b' END AS "where",
               share_a, share_b, n_facts_a, n_facts_b, everywhere.n_relations, {pushed("everywhere.fires")}
        FROM kept JOIN everywhere USING (layer, neuron) LEFT JOIN neurons AS n USING (layer, neuron)
        WHERE in_a OR in_b
        ORDER BY list_position(['both', 'a', 'b'], "where"), greatest(share_a, share_b) DESC,
                 kept.layer, kept.neuron
        """,
        {"a": a, "b": b, "least": float(least)},
    )


# Two neurons -----------------------------------------------------------------------------------------


def facts_of_neurons(atlas: Atlas, a: Neuron, b: Neuron) -> pd.DataFrame:
    """The facts that have either knowledge neuron, those that have both first.

    Columns: fact_id, relation_id, label, subject, object, known, where ('both', 'a', 'b'), score_a, score_b
    (mean scores; null where it is not the fact's neuron).
    """
    return atlas.query(
        """
        WITH a AS (SELECT * FROM knowledge_neurons WHERE layer = $layer_a AND neuron = $neuron_a),
        b AS (SELECT * FROM knowledge_neurons WHERE layer = $layer_b AND neuron = $neuron_b)
        SELECT fact_id, f.relation_id, r.label, f.subject, f.object, f.known,
               CASE WHEN b.layer IS NULL THEN 'a' WHEN a.layer IS NULL THEN 'b' ELSE 'both' END AS "where",
               a.mean_score AS score_a, b.mean_score AS score_b
        FROM a FULL JOIN b USING (fact_id) JOIN facts AS f USING (fact_id)
        LEFT JOIN relations AS r ON r.relation_id = f.relation_id
        ORDER BY list_position(['both', 'a', 'b'], "where"),
                 coalesce(score_a, 0) + coalesce(score_b, 0) DESC, fact_id
        """,
        {"layer_a": a.layer, "neuron_a": a.neuron, "layer_b": b.layer, "neuron_b": b.neuron},
    )


def n_facts_with_neurons(atlas: Atlas) -> int:
    """Number of facts that have knowledge neurons."""
    return atlas.query_row("SELECT count(DISTINCT fact_id) AS n FROM knowledge_neurons")["n"]


# Effects ---------------------------------------------------------------------------------------------


def suppression(atlas: Atlas, *, fact: str | None = None, relation: str | None = None) -> dict[str, float]:
    """The effect of suppression on the answer in held-out prompts: group → change of its mean probability.

    Of one fact, or of a relation's known facts on prompts of known facts; on all prompts where the atlas
    holds none out. Groups that were not measured are absent; the groups are those of the table `effects`.
    """
    rows = atlas.query(
        """
        SELECT e."group", sum(e.p_after::DOUBLE) / nullif(sum(e.p_before::DOUBLE), 0) - 1 AS change
        FROM effects AS e
        JOIN facts AS changed ON changed.fact_id = e.fact_id
        JOIN facts AS asked ON asked.fact_id = e.prompt_fact_id
        WHERE e.intervention = 'suppress' AND coalesce(e.n_neurons, 1) > 0
          AND e.held_out = (SELECT bool_or(held_out) FROM effects)
          AND ($fact IS NULL OR e.fact_id = $fact)
          AND ($relation IS NULL OR (changed.relation_id = $relation AND changed.known AND asked.known))
        GROUP BY e."group" HAVING change IS NOT NULL
        """,
        {"fact": fact, "relation": relation},
    )
    return dict(zip(rows["group"], rows["change"].astype(float), strict=True))


# Good examples ---------------------------------------------------------------------------------------


def examples(atlas: Atlas, kind: str) -> list[tuple[str, str, str]]:
    """Example pairs, best first: a description and the two ids (for `atlases` the fact's and "")."""
    match kind:
        case "facts":
            return _pairs_of_facts(atlas)
        case "relations":
            return _pairs_of_relations(atlas)
        case "neurons":
            return _pairs_of_neurons(atlas)
        case "atlases":
            return [("One fact", row["a"], "") for row in _best_known(atlas, limit=1)]
    raise QueryError(f"kind must be one of {', '.join(_KINDS)}, got '{kind}'.")


def partners(atlas: Atlas, kind: str, one: str, *, limit: int = 6) -> list[tuple[str, str, str]]:
    """The partners that share most with a fact, relation or neuron: how much, its id, the partner's id."""
    match kind:
        case "facts":
            rows = facts_sharing_neurons(atlas, one, limit=limit)
            others = [(_count_of(row.n_shared, "neuron"), row.fact_id) for row in rows.itertuples()]
        case "relations":
            rows = relation_overlap(atlas)
            rows = rows[(rows["relation_a"] == one) & ~rows["within"] & rows["mean_shared"].notna()]
            rows = rows.sort_values(["mean_shared", "relation_b"], ascending=[False, True]).head(limit)
            others = [(f"{row.mean_shared:.2f} neurons (mean)", row.relation_b) for row in rows.itertuples()]
        case "neurons":
            neuron = Neuron.parse(one)
            rows = related_neurons(atlas, neuron.layer, neuron.neuron, limit=limit)
            names = [str(Neuron(int(row.layer), int(row.neuron))) for row in rows.itertuples()]
            others = [(_count_of(n, "fact"), name) for n, name in zip(rows["n_shared"], names, strict=True)]
        case _:
            others = []
    return [(f"{title} in common", one, other) for title, other in others]


def _count_of(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _best_known(atlas: Atlas, *, limit: int) -> list[dict[str, Any]]:
    rows = atlas.query(
        """
        SELECT fact_id AS a FROM facts WHERE n_neurons > 0
        ORDER BY known DESC NULLS LAST, mean_probability DESC NULLS LAST, fact_id LIMIT $limit
        """,
        {"limit": limit},
    )
    return rows.to_dict("records")


def _pairs_of_facts(atlas: Atlas) -> list[tuple[str, str, str]]:
    """Well-known facts: two of one answer (of two relations if there are), two of one relation, unrelated."""
    rows = atlas.query(
        """
        WITH usable AS (SELECT * FROM facts WHERE n_neurons > 0),
        best AS (
            SELECT * FROM usable QUALIFY row_number() OVER (
                PARTITION BY relation_id, lower(object)
                ORDER BY known DESC NULLS LAST, mean_probability DESC NULLS LAST, fact_id) <= 2
        ), pairs AS (
            SELECT a.fact_id AS a, b.fact_id AS b,
                   CASE WHEN lower(a.object) = lower(b.object) THEN 0
                        WHEN a.relation_id = b.relation_id THEN 1 ELSE 2 END AS kind,
                   a.relation_id = b.relation_id AS alike,
                   least(coalesce(a.mean_probability, 0), coalesce(b.mean_probability, 0)) AS sure
            FROM (FROM best ORDER BY mean_probability DESC NULLS LAST, fact_id LIMIT 120) AS a
            JOIN (FROM best ORDER BY mean_probability DESC NULLS LAST, fact_id LIMIT 120) AS b
              ON a.fact_id < b.fact_id AND lower(a.subject) <> lower(b.subject)
        )
        SELECT kind, a, b FROM pairs QUALIFY row_number() OVER (
            PARTITION BY kind ORDER BY alike, sure DESC, a, b) = 1
        ORDER BY kind
        """
    )
    titles = ("The same answer", "The same relation, another answer", "Unrelated facts")
    return [(titles[row.kind], row.a, row.b) for row in rows.itertuples()]


def _pairs_of_relations(atlas: Atlas) -> list[tuple[str, str, str]]:
    rows = atlas.query(
        """
        SELECT relation_a AS a, relation_b AS b FROM relation_overlap
        WHERE relation_a < relation_b AND mean_shared IS NOT NULL
        ORDER BY mean_shared DESC, relation_a, relation_b
        """
    )
    if rows.empty:
        return []
    pairs = [("They share most", *rows.iloc[0][["a", "b"]])]
    if len(rows) > 1:
        pairs.append(("They share least", *rows.iloc[-1][["a", "b"]]))
    return pairs


def _pairs_of_neurons(atlas: Atlas) -> list[tuple[str, str, str]]:
    rows = atlas.query("SELECT layer, neuron FROM hub_neurons ORDER BY n_facts DESC, layer, neuron LIMIT 3")
    names = [str(Neuron(int(row.layer), int(row.neuron))) for row in rows.itertuples()]
    titles = ("The two of most facts", "The first and the third")
    return [(title, names[0], name) for title, name in zip(titles, names[1:], strict=False)]
