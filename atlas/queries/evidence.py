"""Results of the experiments, one function for each question. Docstrings state the columns.

    rows = effects(a, templates="held-out")     # suppress and amplify: own neurons beside controls
    judged(rows, "suppress").share              # the strongest control's effect, relative to the own neurons'
    erasure_doses(a, "P36")                     # erasing a relation's neurons, by their number
    counts(a, fact_id)                          # rows of this fact in each experiment

`python -m build evaluate` fills these tables. A table that an atlas lacks is empty; `a.measured(table)` tells
"none of this fact" from "not measured". Effects by prompt are in `atlas.queries.facts`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from atlas.store.atlas import Atlas

CONTROLS = ("random", "matched", "contribution_matched", "baseline")
"""Groups of other neurons, changed in place of the fact's own: random ones, those matched in activation and
in contribution, and the most active ones (the paper's baseline)."""
ASKED_GROUPS = ("same_relation_same_answer", "same_answer", "same_relation", "unrelated")
"""Groups of other facts, asked while the fact's own neurons are changed; from the nearest to the farthest."""
TOP_GROUPS = {f"top_{count}": count for count in (1, 2, 4, 8)}
"""Groups of so many of the fact's own neurons, those of the largest mean score."""
NEURON_GROUPS = ("own", *CONTROLS, *ASKED_GROUPS, *TOP_GROUPS)
"""All groups of `effects`, in the order in which they are shown."""
EDIT_GROUPS = ("own", "all", "random", "random_all")
RATIOS = ("paper", "replication")
PAPER_DOSE = 20
"""How many of a relation's neurons the paper erases."""
FACT_TABLES = ("subsets", "stability", "contexts", "edits")
"""Tables about single facts; some measure a sample of the facts only."""
LOADED = ("effect_summaries", "specificity", "erasures", *FACT_TABLES)
"""Small tables that pages query again and again."""


# Suppress and amplify --------------------------------------------------------------------------------


def effects(
    atlas: Atlas, *, relation: str = "all", facts: str = "known", templates: str | None = None
) -> pd.DataFrame:
    """The two ratios of every group with their 95 % intervals; suppress first, own neurons first.

    `relation` is a relation id or 'all', the mean over relations; `facts` is 'known', 'unknown' or 'all';
    `templates` is 'held-out', 'discovery' or None for both. Columns: intervention, group, templates,
    n_relations, n_facts, n_prompts, mean_before, mean_after, paper_change, paper_low, paper_high,
    replication_change, replication_low, replication_high, top_changed (share of prompts), activity (of the
    changed neurons, as a multiple of the fact's own). Of a single fact there is no interval.
    """
    return atlas.query(
        """
        SELECT intervention, "group", templates, n_relations, n_facts, n_prompts, mean_before, mean_after,
               paper_change, paper_low, paper_high, replication_change, replication_low, replication_high,
               top_changed, activity
        FROM effect_summaries
        WHERE relation_id = $relation AND facts = $facts
          AND ($templates IS NULL OR templates = $templates)
        ORDER BY intervention DESC, list_position($groups, "group"), templates DESC
        """,
        {"relation": relation, "facts": facts, "templates": templates, "groups": list(NEURON_GROUPS)},
    )


def specificity(atlas: Atlas, *, relation: str | None = None) -> pd.DataFrame:
    """What of a fact's loss without its neurons others lose, too; 'all' first, then by the fact's own part.

    Of one relation, or of all. Columns: relation_id, label, part ('fall', 'own', 'answer', 'relation',
    'general'), value, low, high (shares of the probability before), share, share_low, share_high (of the
    fall), n_relations, n_facts, n_prompts.
    """
    return atlas.query(
        """
        SELECT relation_id, label, part, value, low, high, share, share_low, share_high, n_relations,
               s.n_facts, n_prompts
        FROM specificity AS s LEFT JOIN relations USING (relation_id)
        WHERE $relation IS NULL OR relation_id = $relation
        ORDER BY relation_id <> 'all',
                 max(CASE WHEN part = 'own' THEN value END) OVER (PARTITION BY relation_id) DESC,
                 relation_id, list_position(['fall', 'own', 'answer', 'relation', 'general'], part)
        """,
        {"relation": relation},
    )


@dataclass(frozen=True)
class Judged:
    """An intervention's effect and its strongest control; changes are relative (−0.5: half is left).

    own, low, high: the own neurons' change of the answer's probability, with its interval. expected: whether
    the whole interval has the sign that the thesis predicts (suppressing lowers, amplifying raises). control:
    the group with the largest change of the same sign; beside: that change (None: no control has the sign).
    """

    own: float
    low: float
    high: float
    expected: bool
    control: str | None
    beside: float | None

    @property
    def none(self) -> bool:
        """Whether the interval includes zero."""
        return self.low <= 0 <= self.high

    @property
    def share(self) -> float:
        """The strongest control's change as a share of the own neurons'."""
        return 0.0 if self.beside is None else self.beside / self.own


def _sign_of_interval(own: float, low: float, high: float) -> int:
    """The sign of the whole interval, else 0; without an interval (a single fact), the sign of the change."""
    if math.isnan(low):
        low = high = own
    return 1 if low > 0 else -1 if high < 0 else 0


def judged(rows: pd.DataFrame, intervention: str, *, ratio: str = "paper") -> Judged | None:
    """The effect in rows of `effects`, of one kind of templates; None where own neurons were not measured."""
    rows = rows[rows["intervention"] == intervention].set_index("group")
    change = rows[f"{ratio}_change"].astype(float).dropna()
    if "own" not in change:
        return None
    own, low, high = (float(rows.loc["own", f"{ratio}_{end}"]) for end in ("change", "low", "high"))
    sign = 1.0 if own > 0 else -1.0
    controls = sign * change[[group for group in (*CONTROLS, "unrelated") if group in change]]
    strongest = controls.idxmax() if (controls > 0).any() else None
    return Judged(
        own=own,
        low=low,
        high=high,
        expected=_sign_of_interval(own, low, high) == (-1 if intervention == "suppress" else 1),
        control=strongest,
        beside=None if strongest is None else float(change[strongest]),
    )


# Erase -----------------------------------------------------------------------------------------------

_ERASED = """
    n_prompts, accuracy_before, accuracy_after, perplexity_before, perplexity_after, mean_before, mean_after
"""


def erasure_doses(atlas: Atlas, relation_id: str) -> pd.DataFrame:
    """Effect of erasing the relation's most frequent neurons on its own prompts, by their number.

    Columns: group ('own' or 'random'), n_neurons, n_prompts, accuracy_before, accuracy_after,
    perplexity_before, perplexity_after, mean_before, mean_after (of the answers' probabilities).
    """
    return atlas.query(
        f"""
        SELECT "group", n_neurons, {_ERASED} FROM erasures
        WHERE relation_id = $relation AND asked_relation_id = $relation
        ORDER BY "group", n_neurons
        """,
        {"relation": relation_id},
    )


def erasure_elsewhere(atlas: Atlas, relation_id: str) -> pd.DataFrame:
    """Effect of erasing the relation's neurons on the prompts of every relation.

    At the paper's dose, or the nearest at which most relations were measured. Columns: group, n_neurons,
    asked_relation_id, label, itself (whether the relation asked is the one erased), n_prompts, and as in
    `erasure_doses`.
    """
    return atlas.query(
        f"""
        WITH mine AS (SELECT * FROM erasures WHERE relation_id = $relation),
        dose AS (
            SELECT n_neurons FROM mine GROUP BY n_neurons
            ORDER BY count(DISTINCT asked_relation_id) DESC, abs(n_neurons - $dose), n_neurons LIMIT 1
        )
        SELECT "group", n_neurons, asked_relation_id, r.label, asked_relation_id = $relation AS itself,
               {_ERASED}
        FROM mine JOIN dose USING (n_neurons) LEFT JOIN relations AS r ON r.relation_id = asked_relation_id
        ORDER BY "group", itself DESC, asked_relation_id
        """,
        {"relation": relation_id, "dose": PAPER_DOSE},
    )


# Edits -----------------------------------------------------------------------------------------------

# Measure → (its prompts, the condition it counts). Only answers that were right before can be preserved.
_EDITED = {
    "changed": ("kind = 'edited'", "rank_old_after > 1"),
    "success": ("kind = 'edited'", "rank_new_after = 1"),
    "top_5": ("kind = 'edited'", "rank_new_after <= 5"),
    "paraphrase": ("kind = 'paraphrase'", "rank_new_after = 1"),
    "symmetry": ("kind = 'symmetry'", "rank_new_after = 1"),
    "same_object": ("kind = 'same_object' AND rank_old_before = 1", "rank_old_after = 1"),
    "same_relation": ("kind = 'same_relation' AND rank_old_before = 1", "rank_old_after = 1"),
    "other_relation": ("kind = 'other_relation' AND rank_old_before = 1", "rank_old_after = 1"),
}


def edit_rates(atlas: Atlas, *, relation: str | None = None) -> pd.DataFrame:
    """Success and side effects of edits, of one relation's facts or of all.

    Columns: measure, remove, add, group (as in the table), share, n_prompts, n_edits. Measures: 'changed'
    (the old answer no longer has rank 1 on the edited prompt), 'success' and 'top_5' (the new one has rank 1,
    or at most 5), 'paraphrase' and 'symmetry' (the expected answer has rank 1), 'same_object',
    'same_relation' and 'other_relation' (of answers about other facts that were right: those still right).
    """
    each = ", ".join(
        f"{{place: {place}, measure: '{name}', counts: CASE WHEN {prompts} THEN ({counts})::INTEGER END}}"
        for place, (name, (prompts, counts)) in enumerate(_EDITED.items())
    )
    return atlas.query(
        f"""
        WITH asked AS (
            SELECT remove, add, "group", fact_id, new_object, unnest([{each}], recursive := true)
            FROM edits
            WHERE $relation IS NULL
               OR fact_id IN (SELECT fact_id FROM facts WHERE relation_id = $relation)
        )
        SELECT measure, remove, add, "group", avg(counts) AS share, count(*) AS n_prompts,
               count(DISTINCT (fact_id, new_object)) AS n_edits
        FROM asked WHERE counts IS NOT NULL GROUP BY place, measure, remove, add, "group"
        ORDER BY remove, add DESC, place, list_position($groups, "group")
        """,
        {"relation": relation, "groups": list(EDIT_GROUPS)},
    )


def edits_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """Every prompt of an edit of the fact; the edited one first.

    Columns: new_object, remove, add, group, kind, prompt_fact_id, subject and object (of the fact asked for),
    template_id, text (null where the prompt is none of the atlas), n_neurons, p_old_before, p_old_after,
    rank_old_before, rank_old_after, p_new_before, p_new_after, rank_new_before, rank_new_after, top_changed.
    """
    return atlas.query(
        """
        SELECT e.new_object, e.remove, e.add, e."group", e.kind, e.prompt_fact_id, f.subject, f.object,
               e.template_id, p.text, e.n_neurons, e.p_old_before, e.p_old_after, e.rank_old_before,
               e.rank_old_after, e.p_new_before, e.p_new_after, e.rank_new_before, e.rank_new_after,
               e.top_changed
        FROM edits AS e LEFT JOIN facts AS f ON f.fact_id = e.prompt_fact_id
        LEFT JOIN prompts AS p ON p.fact_id = e.prompt_fact_id AND p.template_id = e.template_id
        WHERE e.fact_id = $fact_id
        ORDER BY e.new_object, e.remove, e.add DESC, list_position($kinds, e.kind), e.prompt_fact_id,
                 e.template_id, list_position($groups, e."group")
        """,
        {
            "fact_id": fact_id,
            "groups": list(EDIT_GROUPS),
            "kinds": ["edited", "paraphrase", "symmetry", "same_object", "same_relation", "other_relation"],
        },
    )


# One fact --------------------------------------------------------------------------------------------


def counts(atlas: Atlas, fact_id: str) -> dict[str, int]:
    """Number of rows about the fact in each of `FACT_TABLES`; 0: the experiment left it out."""
    each = ", ".join(
        f"(SELECT count(*) FROM {table} WHERE fact_id = $fact_id) AS {table}" for table in FACT_TABLES
    )
    row = atlas.query_row(f"SELECT {each}", {"fact_id": fact_id})
    return {table: int(row[table]) for table in FACT_TABLES}


def subset_curve(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """The answer's probability on held-out prompts with the first k of the fact's neurons suppressed.

    Begins with k = 0, nothing suppressed. Columns: order ('score' or 'random'), k, n_neurons, p_before,
    p_after.
    """
    return atlas.query(
        """
        WITH mine AS (SELECT * FROM subsets WHERE fact_id = $fact_id)
        SELECT "order", k, n_neurons, p_before, p_after FROM mine
        UNION ALL
        SELECT "order", 0, any_value(n_neurons), any_value(p_before), any_value(p_before) FROM mine
        GROUP BY "order"
        ORDER BY "order" DESC, k
        """,
        {"fact_id": fact_id},
    )


def stability_of_fact(atlas: Atlas, fact_id: str) -> dict[str, Any] | None:
    """The fact's neurons found on each half of its templates; None where not measured.

    Columns: n_discovery, n_held_out, shared, jaccard, jaccard_relation, jaccard_random, p_before,
    p_discovery, p_held_out.
    """
    return atlas.query_one(
        """
        SELECT n_discovery, n_held_out, shared, jaccard, jaccard_relation, jaccard_random, p_before,
               p_discovery, p_held_out
        FROM stability WHERE fact_id = $fact_id
        """,
        {"fact_id": fact_id},
    )


def contexts_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """How active the fact's neurons are in each context: the fact, its subject or relation, random prompts.

    Columns: context, group, n_neurons, n_prompts, activation, magnitude, relative (1: as active as on the
    prompts that found them); contexts in the order fact, subject, relation, random.
    """
    return atlas.query(
        """
        SELECT context, "group", n_neurons, n_prompts, activation, magnitude, relative
        FROM contexts WHERE fact_id = $fact_id
        ORDER BY list_position(['fact', 'subject', 'relation', 'random'], context), "group"
        """,
        {"fact_id": fact_id},
    )
