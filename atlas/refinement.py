"""Refine attribution scores into knowledge neurons: pure functions of stored scores, without a model.

    refined = refine(attributions, prompts, facts, MODES["default"])
    refined.rows                              # the table knowledge_neurons
    refined.shares                            # relation → the share that its facts' neurons had to reach

Follows Dai et al. (ACL 2022, section 3.2 and their code `2_get_kn.py`) and the replication's
`get_refined_neurons`; the mode `default` keeps half of the templates for evaluation.

1. Coarse: in one prompt, the neurons whose score reaches `threshold` × the prompt's largest score. A prompt
   without a positive score has none.
2. Keep: for one fact, the neurons that are coarse in enough of its discovery prompts: a share of `share` and
   a number of `at_least`. Prompts without coarse neurons count in the denominator.
3. Adapt (mode `paper`): per relation, move the share by `step` until the mean number of neurons a fact lies
   within `target`; the last of `tries` is used.
4. Subtract (with `negatives`): drop the neurons that are coarse in as large a share of the negative prompts,
   which have the same wording and are about other facts with another answer (or are given).

Discovery prompts are those that are attributed and not held out; no mode uses a held-out prompt. Scores are
stored from a tenth of the prompt's largest (`STORED_FRACTION`), the smallest threshold. `share` is the share
of discovery prompts in which the neuron is coarse; `mean_score` and `max_score` are over the discovery
prompts where its score is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from atlas.errors import AtlasError
from atlas.neuron import Neuron
from atlas.store.schema import conform

STORED_FRACTION = 0.1

# Removes rounding errors: 0.7 × 10 and 0.65 × 20 are 7 and 13.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Refinement:
    """The rule of a mode and all its numbers; inclusive: ≥ a threshold, otherwise >."""

    mode: str
    threshold: float
    share: float
    at_least: int = 1
    inclusive: bool = True
    target: tuple[float, float] | None = None
    step: float = 0.05
    tries: int = 6
    negatives: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not STORED_FRACTION <= self.threshold <= 1:
            raise AtlasError(
                f"threshold must be between {STORED_FRACTION:g} (smaller scores are not stored) and 1, "
                f"got {self.threshold:g}."
            )
        if not 0 <= self.share <= 1:
            raise AtlasError(f"share must be between 0 and 1, got {self.share:g}.")
        for name, least in (("at_least", 1), ("tries", 1), ("negatives", 0)):
            if getattr(self, name) < least:
                raise AtlasError(f"{name} must be at least {least}, got {getattr(self, name)}.")

    def to_dict(self) -> dict[str, Any]:
        """All parameters, for the manifest."""
        plain = asdict(self)
        plain["target"] = list(self.target) if self.target else None
        return plain

    def needed(self, n_prompts: int | np.ndarray, share: float | np.ndarray | None = None) -> np.ndarray:
        """The number of `n_prompts` prompts in which a neuron must be coarse to be kept.

        An array of n_prompts, (n,), gives (n,); one number gives shape ().
        """
        wanted = np.asarray(n_prompts) * (self.share if share is None else share)
        count = np.ceil(wanted - _ROUNDING) if self.inclusive else np.floor(wanted + _ROUNDING) + 1
        return np.maximum(count, self.at_least).astype(np.int64)

    def needed_of_others(
        self, n_prompts: int | np.ndarray, share: float | np.ndarray | None = None
    ) -> np.ndarray:
        """The number of `n_prompts` negative prompts in which a neuron must be coarse to be subtracted.

        As `needed`, (n,) or (), but at most `n_prompts`.
        """
        return np.maximum(np.minimum(self.needed(n_prompts, share), n_prompts), 1)


MODES: Mapping[str, Refinement] = MappingProxyType(
    {
        "default": Refinement("default", threshold=0.2, share=0.5, at_least=2),
        "paper": Refinement("paper", threshold=0.2, share=0.7, at_least=3, target=(2.0, 5.0)),
        "replication": Refinement("replication", threshold=0.3, share=0.3, inclusive=False),
    }
)


def mode(name: str, **changes: Any) -> Refinement:
    """The mode of that name, with some of its numbers changed. Raises `AtlasError` for another name."""
    if name not in MODES:
        raise AtlasError(f"There is no refinement mode '{name}'. Choose one of: {', '.join(MODES)}.")
    return replace(MODES[name], **changes)


# One prompt, dense scores --------------------------------------------------------------------------


def coarse(scores: np.ndarray, threshold: float, *, inclusive: bool = True) -> np.ndarray:
    """Which neurons of one prompt reach `threshold` × its largest score.

    Takes scores and gives booleans of shape (n_layers, n_neurons); none when no score is positive.
    """
    scores = np.asarray(scores, dtype=np.float64)
    largest = scores.max(initial=0.0)
    if not largest > 0:
        return np.zeros(scores.shape, dtype=bool)
    return scores >= threshold * largest if inclusive else scores > threshold * largest


@dataclass(frozen=True)
class KnowledgeNeuron:
    """A neuron that a fact's prompts share."""

    neuron: Neuron
    share: float
    mean_score: float
    max_score: float


def refine_scores(
    scores: Sequence[np.ndarray], rule: Refinement, *, negatives: Sequence[np.ndarray] = ()
) -> list[KnowledgeNeuron]:
    """The knowledge neurons of one fact from the dense scores of its discovery prompts.

    Takes one array (n_layers, n_neurons) a prompt; gives the neurons by share, then mean score. negatives:
    the same of the negative prompts (step 4). With one fact, a share that adapts to its relation stays where
    it starts.
    """
    if not scores:
        return []
    stack = np.stack(scores).astype(np.float64)
    hits = np.stack([coarse(each, rule.threshold, inclusive=rule.inclusive) for each in stack])
    stored = np.stack([coarse(each, STORED_FRACTION) for each in stack])
    count = hits.sum(axis=0)
    kept = count >= rule.needed(len(stack))
    if len(negatives):
        theirs = np.stack([coarse(each, rule.threshold, inclusive=rule.inclusive) for each in negatives])
        kept &= theirs.sum(axis=0) < rule.needed_of_others(len(negatives))
    found = []
    for layer, index in np.argwhere(kept):
        values = stack[:, layer, index][stored[:, layer, index]]
        found.append(
            KnowledgeNeuron(
                Neuron(int(layer), int(index)),
                share=float(count[layer, index] / len(stack)),
                mean_score=float(values.mean()),
                max_score=float(values.max()),
            )
        )
    return sorted(found, key=lambda each: (-each.share, -each.mean_score, each.neuron))


# Many facts, stored scores -------------------------------------------------------------------------


@dataclass(frozen=True)
class Refined:
    """Rows of the table `knowledge_neurons`, and each relation's share in the end."""

    rows: pa.Table
    shares: Mapping[str, float]


def refine(
    attributions: pa.Table | pd.DataFrame,
    prompts: pa.Table | pd.DataFrame,
    facts: pa.Table | pd.DataFrame,
    rule: Refinement,
) -> Refined:
    """The knowledge neurons of all facts.

    `attributions` has fact_id, template_id, layer, neuron, score: the scores from `STORED_FRACTION` × the
    prompt's maximum up. `prompts` has fact_id, template_id, held_out, max_score (null where not attributed)
    and includes the prompts without positive scores. `facts` has fact_id, relation_id and, for negative
    examples, object. Other columns are ignored.
    """
    connection = duckdb.connect(":memory:")
    try:
        connection.register("given_attributions", attributions)
        connection.register("given_prompts", prompts)
        connection.register("given_facts", facts)
        return _refine(connection, rule)
    finally:
        connection.close()


def _refine(connection: duckdb.DuckDBPyConnection, rule: Refinement) -> Refined:
    # Integers stand for names: `f` for a fact, by the order of the ids, so that nothing depends on row order.
    connection.execute("""
        CREATE TABLE discovery AS
        SELECT fact_id, template_id FROM given_prompts WHERE NOT held_out AND max_score IS NOT NULL;
        CREATE TABLE attributed AS
        SELECT (row_number() OVER (ORDER BY fact_id) - 1)::INTEGER AS f, fact_id,
               any_value(relation_id) AS relation_id, count(*) AS n_prompts
        FROM given_facts JOIN discovery USING (fact_id)
        GROUP BY fact_id;
    """)
    # Step 1. Coarse.
    connection.execute(
        """
        CREATE TABLE scored AS
        SELECT f, template_id, layer, neuron, score::DOUBLE AS score,
               max(score::DOUBLE) OVER (PARTITION BY f, template_id) AS largest
        FROM given_attributions JOIN discovery USING (fact_id, template_id) JOIN attributed USING (fact_id)
        """
    )
    comparison = ">=" if rule.inclusive else ">"
    connection.execute(
        f"""
        CREATE TABLE coarse AS
        SELECT f, template_id, layer, neuron FROM scored
        WHERE largest > 0 AND score {comparison} $threshold * largest
        """,
        {"threshold": rule.threshold},
    )
    # Step 2. Keep.
    attributed = connection.execute("SELECT f, relation_id, n_prompts FROM attributed ORDER BY f").df()
    counted = connection.execute(
        "SELECT f, layer, neuron, count(*) AS n FROM coarse GROUP BY ALL ORDER BY ALL"
    ).df()
    relations, relation_of = np.unique(attributed["relation_id"].to_numpy(dtype=object), return_inverse=True)
    n_prompts = attributed["n_prompts"].to_numpy()
    fact = counted["f"].to_numpy()
    count = counted["n"].to_numpy()
    # Step 3. Adapt.
    shares = _adapted_shares(rule, relation_of, len(relations), n_prompts, fact, count)
    kept = count >= rule.needed(n_prompts, shares[relation_of])[fact]
    # Step 4. Subtract.
    if rule.negatives:
        kept &= ~_answering_others(connection, rule, counted, n_prompts, shares[relation_of])

    survivors = counted[kept].assign(share=count[kept] / n_prompts[fact[kept]])
    connection.register("survivors", survivors)
    rows = connection.sql("""
        SELECT fact_id, relation_id, layer, neuron, any_value(share) AS share,
               avg(score ORDER BY template_id) AS mean_score, max(score) AS max_score
        FROM survivors JOIN scored USING (f, layer, neuron) JOIN attributed USING (f)
        GROUP BY fact_id, relation_id, layer, neuron
    """).to_arrow_table()
    return Refined(
        rows=conform("knowledge_neurons", rows),
        shares=dict(zip(relations.tolist(), shares.tolist(), strict=True)),
    )


def _adapted_shares(
    rule: Refinement,
    relation_of: np.ndarray,
    n_relations: int,
    n_prompts: np.ndarray,
    fact: np.ndarray,
    count: np.ndarray,
) -> np.ndarray:
    """Each relation's share, shape (n_relations,): `rule.share`, moved where the mode adapts.

    `relation_of` and `n_prompts` have shape (n_facts,); `fact` and `count` one entry a (fact, neuron).
    """
    shares = np.full(n_relations, rule.share)
    if rule.target is None or not n_relations:
        return shares
    n_facts = np.bincount(relation_of, minlength=n_relations)
    settled = np.zeros(n_relations, dtype=bool)
    # The last try is used as it is, so the share moves one time less than it is tried.
    for _ in range(rule.tries - 1):
        kept = count >= rule.needed(n_prompts, shares[relation_of])[fact]
        mean = np.bincount(relation_of[fact[kept]], minlength=n_relations) / n_facts
        direction = np.where(mean < rule.target[0], -1, np.where(mean > rule.target[1], 1, 0))
        settled |= direction == 0
        if settled.all():
            break
        shares = np.where(settled, shares, np.clip(np.round(shares + direction * rule.step, 9), 0, 1))
    return shares


def _answering_others(
    connection: duckdb.DuckDBPyConnection,
    rule: Refinement,
    counted: pd.DataFrame,
    n_prompts: np.ndarray,
    share: np.ndarray,
) -> np.ndarray:
    """For each row of `counted`: whether the neuron is as common in the fact's negative prompts.

    Negative prompts: the fact's discovery templates, filled with `rule.negatives` other facts of the
    relation that have another object.
    """
    pairs = pd.DataFrame(_negative_pairs(connection, rule), columns=["f", "other"], dtype="int32")
    connection.register("pairs", pairs)
    connection.execute("""
        CREATE TABLE prompted AS SELECT f, template_id FROM discovery JOIN attributed USING (fact_id);
        CREATE TABLE negative AS
        SELECT pairs.f, pairs.other, mine.template_id
        FROM pairs
        JOIN prompted AS mine ON mine.f = pairs.f
        JOIN prompted AS theirs ON theirs.f = pairs.other AND theirs.template_id = mine.template_id;
    """)
    connection.register("counted", counted)
    common = connection.execute("""
        SELECT c.f, c.layer, c.neuron, count(*) AS n_negative
        FROM negative JOIN coarse AS o ON o.f = negative.other AND o.template_id = negative.template_id
        JOIN counted AS c ON c.f = negative.f AND c.layer = o.layer AND c.neuron = o.neuron
        GROUP BY ALL
    """).df()
    totals = connection.execute("SELECT f, count(*) AS n FROM negative GROUP BY f").df()
    n_negative = np.zeros(len(n_prompts), dtype=np.int64)
    n_negative[totals["f"].to_numpy()] = totals["n"].to_numpy()
    needed = rule.needed_of_others(n_negative, share)
    found = counted.merge(common, on=["f", "layer", "neuron"], how="left")["n_negative"].fillna(0).to_numpy()
    return found >= needed[counted["f"].to_numpy()]


def _negative_pairs(connection: duckdb.DuckDBPyConnection, rule: Refinement) -> list[tuple[int, int]]:
    """(fact, other fact): each fact's `negative_facts`."""
    rows = connection.execute("""
        SELECT f, attributed.relation_id, object FROM attributed JOIN given_facts USING (fact_id) ORDER BY f
    """).fetchall()
    circles: dict[str, list[tuple[int, str]]] = {}
    for f, relation_id, answer in rows:
        circles.setdefault(relation_id, []).append((f, answer))
    pairs = []
    for relation_id in sorted(circles):
        members = circles[relation_id]
        order = _circle(len(members), rule.seed)
        for place in range(len(members)):
            own = members[order[place]][0]
            pairs += [(own, other) for other in _next_others(members, order, place, rule.negatives)]
    return pairs


def negative_facts(members: Sequence[tuple[str, str]], fact_id: str, n: int, *, seed: int = 0) -> list[str]:
    """The `n` facts whose prompts are a fact's negative examples: the next in a cycle with another object.

    `members`: (fact id, object) of all facts of its relation that were attributed, by their ids.
    """
    order = _circle(len(members), seed)
    place = next(place for place, number in enumerate(order) if members[number][0] == fact_id)
    return _next_others(members, order, place, n)


def _circle(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)


def _next_others(members: Sequence[tuple[Any, str]], order: np.ndarray, place: int, n: int) -> list[Any]:
    """Of the circle, from the fact at `place` on, the next `n` with another object."""
    answer = members[order[place]][1]
    others = []
    for further in range(1, len(members)):
        other, other_answer = members[order[(place + further) % len(members)]]
        if other_answer != answer:
            others.append(other)
            if len(others) == n:
                break
    return others
