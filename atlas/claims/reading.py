"""What claims read: one number from the tables of an atlas, with its interval and n.

    effect("suppress", "own")(atlas)              # an `Estimate`; None where it was not measured

Means are of known facts where at least `FEWEST` of them were measured, else of all. Facts that are contested
or can be guessed are left out of all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from atlas.claims.claim import FEWEST, Read
from atlas.claims.estimate import Estimate, change, difference, in_unit, mean_of, ratio, resampled, share_of
from atlas.queries.evidence import PAPER_DOSE
from atlas.store.atlas import Atlas

PAPER_STRENGTHS = (1.0, 8.0)


def first(*reads: Read) -> Read:
    """What the first of these reads that finds something."""

    def read(atlas: Atlas) -> Estimate | None:
        return next((found for each in reads if (found := each(atlas)) is not None), None)

    return read


def _of_known(atlas: Atlas, sql: str) -> tuple[pd.DataFrame, str]:
    """Rows with fact_id and known: those of known facts, if they are enough; and what they count."""
    rows = atlas.query(sql)
    known = rows[rows["known"].fillna(False).astype(bool)]
    if known["fact_id"].nunique() < FEWEST:
        return rows, "facts"
    return known, "known facts"


# Suppress and amplify --------------------------------------------------------------------------------


def _summary(atlas: Atlas, intervention: str, group: str) -> dict[str, Any] | None:
    """The row of `effect_summaries` over all relations, on held-out prompts where there are any."""
    return atlas.query_one(
        """
        SELECT facts, n_facts, n_prompts, top_changed, paper_change IS NULL AS replications,
               coalesce(paper_change, replication_change) AS change,
               CASE WHEN replications THEN replication_low ELSE paper_low END AS low,
               CASE WHEN replications THEN replication_high ELSE paper_high END AS high
        FROM effect_summaries
        WHERE relation_id = 'all' AND intervention = $intervention AND "group" = $group
          AND facts <> 'unknown' AND change IS NOT NULL
          AND templates = (SELECT max(templates) FROM effect_summaries)  -- held-out, else discovery
        ORDER BY facts = 'known' AND n_facts >= $fewest DESC, facts = 'all' DESC LIMIT 1
        """,
        {"intervention": intervention, "group": group, "fewest": FEWEST},
    )


def effect(intervention: str, group: str) -> Read:
    """The change of the answer's probability in the paper's ratio, mean over relations.

    In the replication's where results were imported, which state no probabilities.
    """

    def read(atlas: Atlas) -> Estimate | None:
        row = _summary(atlas, intervention, group)
        if row is None:
            return None
        of = "known facts" if row["facts"] == "known" else "facts"
        of += ", the replication's ratio" if row["replications"] else ""
        return Estimate(row["change"], row["low"], row["high"], row["n_facts"], "change", of)

    return read


def other_answers(atlas: Atlas) -> str:
    """How often the model says something else."""
    row = _summary(atlas, "suppress", "own")
    if row is None or row["top_changed"] is None:
        return ""
    share = in_unit(row["top_changed"], "share")
    return f"The model's first answer becomes another on {share} of {row['n_prompts']:,} prompts."


def best(k: int) -> Read:
    """The change with only the k neurons of the largest score suppressed, of facts that have fewer all."""

    def read(atlas: Atlas) -> Estimate | None:
        rows, of = _of_known(
            atlas,
            f"""
            SELECT fact_id, any_value(known) AS known, arg_max(p_after, k) AS after,
                   any_value(p_before) AS before
            FROM subsets JOIN facts USING (fact_id) WHERE "order" = 'score' AND k <= {k} GROUP BY fact_id
            ORDER BY fact_id
            """,
        )
        return resampled(rows[["after", "before"]], change, unit="change", of=of)

    return first(effect("suppress", f"top_{k}"), read)


def part_of_fall(part: str) -> Read:
    """What of a fact's loss without its neurons this part is."""

    def read(atlas: Atlas) -> Estimate | None:
        row = atlas.query_one(
            "SELECT * FROM specificity WHERE relation_id = 'all' AND part = $part", {"part": part}
        )
        if row is None:
            return None
        ends = (row["share"], row["share_low"], row["share_high"])
        return Estimate(*ends, row["n_facts"], "share", "known facts")

    return read


# Planted answers -------------------------------------------------------------------------------------


def planted(method: str, n_planted: int) -> Read:
    """The share of the planted neurons that a method finds."""

    def read(atlas: Atlas) -> Estimate | None:
        row = atlas.query_one(
            """
            SELECT recall, recall_low, recall_high, n_plantings FROM planted_summaries
            WHERE method = $method AND n_planted = $n AND recall IS NOT NULL
            """,
            {"method": method, "n": n_planted},
        )
        if row is None:
            return None
        ends = (row["recall"], row["recall_low"], row["recall_high"])
        return Estimate(*ends, row["n_plantings"], "share", "plantings")

    return read


# Activation ------------------------------------------------------------------------------------------


def activation(context: str, group: str) -> Read:
    """Mean |activation| in a context ÷ that on the fact's own held-out prompts, of the same neurons."""

    def read(atlas: Atlas) -> Estimate | None:
        rows, of = _of_known(
            atlas,
            f"""
            SELECT there.fact_id, known, there.magnitude AS there, own.magnitude AS own
            FROM contexts AS there JOIN contexts AS own USING (fact_id, "group") JOIN facts USING (fact_id)
            WHERE there.context = '{context}' AND own.context = 'fact' AND "group" = '{group}'
            ORDER BY fact_id
            """,
        )
        return resampled(rows[["there", "own"]], ratio, unit="share", of=of)

    return read


# Edits -----------------------------------------------------------------------------------------------


def _edits(atlas: Atlas, kind: str, *groups: str) -> pd.DataFrame:
    """The prompts of one kind that every group was asked, at the paper's strengths if they were tried.

    Columns: edit, right_before, and of each group new_<group> and kept_<group>: whether the new answer, and
    the prompt's own, come first after the edit.
    """
    rows = atlas.query(
        """
        SELECT fact_id || '→' || new_object AS edit, prompt_fact_id, template_id, "group",
               coalesce(rank_old_before = 1, false) AS right_before,
               coalesce(rank_new_after = 1, false) AS new, coalesce(rank_old_after = 1, false) AS kept
        FROM edits
        WHERE kind = $kind AND (remove, add) = (
            SELECT (remove, add) FROM edits
            ORDER BY (remove, add) <> ($remove, $strength), remove, add LIMIT 1
        )
        """,
        {"kind": kind, "remove": PAPER_STRENGTHS[0], "strength": PAPER_STRENGTHS[1]},
    )
    keys = ["edit", "prompt_fact_id", "template_id"]
    joined = rows[[*keys, "right_before"]].drop_duplicates(keys)
    for group in groups:
        part = rows.loc[rows["group"] == group, [*keys, "new", "kept"]]
        joined = joined.merge(part.rename(columns={n: f"{n}_{group}" for n in ("new", "kept")}), on=keys)
    return joined.sort_values(keys)


def _by_edit(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The sums of columns over the prompts of each edit, and how many prompts there are."""
    return rows.assign(asked=1.0).groupby("edit")[[*columns, "asked"]].sum().astype(float)


def rewritten(group: str, kind: str = "edited") -> Read:
    """How often the expected answer comes first after an edit, of all prompts of a kind.

    Of the inverse relation ('symmetry'), the prompts that were answered right before.
    """

    def read(atlas: Atlas) -> Estimate | None:
        rows = _edits(atlas, kind, group)
        sums = _by_edit(rows if kind != "symmetry" else rows[rows["right_before"]], f"new_{group}")
        return resampled(sums, ratio, unit="share", of="edits")

    return read


def kept_beside_random(kind: str) -> Read:
    """The share of right answers that an edit leaves, less what the same edit of random neurons leaves.

    Paired: both are asked the same prompts, those that were answered right before.
    """

    def read(atlas: Atlas) -> Estimate | None:
        rows = _edits(atlas, kind, "own", "random")
        sums = _by_edit(rows[rows["right_before"]], "kept_own", "kept_random")
        return resampled(sums, difference, unit="points", of="edits")

    return read


def neurons_edited(atlas: Atlas) -> str:
    """How many neurons an edit changes."""
    row = atlas.query_row(
        """
        SELECT avg(n_neurons) AS n FROM edits WHERE kind = 'edited' AND "group" = 'own' AND add = $strength
        """,
        {"strength": PAPER_STRENGTHS[1]},
    )
    return "" if pd.isna(row["n"]) else f"An edit changes {row['n']:.1f} neurons."


# Erasures --------------------------------------------------------------------------------------------


def lost(group: str, asked: str) -> Read:
    """The share of right answers lost when a relation's 20 most frequent neurons (or all) are erased.

    asked: 'own', or 'others' for the mean over the other relations. Relations count by their right answers.
    """

    def read(atlas: Atlas) -> Estimate | None:
        rows = atlas.query(
            f"""
            WITH doses AS (
                SELECT relation_id, max(n_neurons) AS n_neurons FROM erasures WHERE n_neurons <= {PAPER_DOSE}
                GROUP BY relation_id
            )
            SELECT relation_id, avg(accuracy_before - accuracy_after) AS lost, avg(accuracy_before) AS before
            FROM erasures JOIN doses USING (relation_id, n_neurons)
            WHERE "group" = $group AND (relation_id = asked_relation_id) = $own
            GROUP BY relation_id HAVING before > 0 ORDER BY relation_id
            """,
            {"group": group, "own": asked == "own"},
        )
        return resampled(rows[["lost", "before"]], ratio, unit="share", of="relations")

    return read


# Sharing ---------------------------------------------------------------------------------------------


_COUNTED = """
    WITH counted AS (
        SELECT fact_id, dense_rank() OVER (ORDER BY relation_id) - 1 AS relation,
               dense_rank() OVER (ORDER BY relation_id, lower(trim(object))) - 1 AS answer,
               row_number() OVER (ORDER BY fact_id) - 1 AS fact
        FROM facts WHERE NOT coalesce(contested, false) AND NOT coalesce(guessable, false)
    )
"""


def shared_in_relation(answers: str) -> Read:
    """The share of a fact's neurons that another of its relation has, too; answers: 'same' or 'other'.

    By relation: mean number that two facts share ÷ mean number a fact has. Mean over the relations that have
    pairs of facts with the same answer and with other answers.
    """

    def read(atlas: Atlas) -> Estimate | None:
        rows = _sharing(atlas)
        return mean_of(rows[f"shared_{answers}"] / rows["size"], unit="share", of="relations")

    return read


def _sharing(atlas: Atlas) -> pd.DataFrame:
    """By relation: size (mean number of neurons), and what any two of its facts share on average.

    shared_same and shared_other: the same of two facts with the same answer, or another; missing where the
    relation has not both. n facts that have a neuron make n (n − 1) ÷ 2 pairs that share it.
    """
    return atlas.query(
        f"""
        {_COUNTED}, answers AS (SELECT relation, answer, count(*) AS n FROM counted GROUP BY ALL
        ), pairs AS (
            SELECT relation, sum(n) AS n, sum(n) * (sum(n) - 1) / 2 AS all_pairs,
                   sum(n * (n - 1)) / 2 AS same_pairs
            FROM answers GROUP BY relation
        ), having_it AS (
            SELECT relation, answer, layer, neuron, count(*) AS n
            FROM knowledge_neurons JOIN counted USING (fact_id) GROUP BY ALL
        ), by_neuron AS (
            SELECT relation, sum(n) AS n, sum(n * (n - 1)) / 2 AS same FROM having_it
            GROUP BY relation, layer, neuron
        ), shared AS (
            SELECT relation, sum(n) AS n_rows, sum(n * (n - 1)) / 2 AS every, sum(same) AS same
            FROM by_neuron GROUP BY relation
        )
        SELECT n_rows / pairs.n AS size, every / nullif(all_pairs, 0) AS shared,
               CASE WHEN same_pairs BETWEEN 1 AND all_pairs - 1 THEN same / same_pairs END AS shared_same,
               CASE WHEN same_pairs BETWEEN 1 AND all_pairs - 1
                    THEN (every - same) / (all_pairs - same_pairs) END AS shared_other
        FROM pairs JOIN shared USING (relation) ORDER BY relation
        """
    ).astype(float)


def _across(atlas: Atlas) -> tuple[np.ndarray, np.ndarray]:
    """Mean number of neurons that a fact of one relation and a fact of another share, and a fact has.

    (n_relations, n_relations), of a relation with itself nothing; and (n_relations,).
    """
    sizes = atlas.query(f"{_COUNTED} SELECT relation, count(*) AS n FROM counted GROUP BY ALL ORDER BY ALL")[
        "n"
    ]
    rows = atlas.query(
        f"""
        {_COUNTED} SELECT relation, dense_rank() OVER (ORDER BY layer, neuron) - 1 AS neuron, count(*) AS n
        FROM knowledge_neurons JOIN counted USING (fact_id) GROUP BY relation, layer, neuron
        """
    )
    shares = np.zeros((len(sizes), 1 + int(rows["neuron"].max() if len(rows) else 0)))
    shares[rows["relation"], rows["neuron"]] = rows["n"] / sizes.to_numpy()[rows["relation"]]
    shared = shares @ shares.T
    np.fill_diagonal(shared, 0)
    return shared, shares.sum(axis=1)


def shared_across(atlas: Atlas) -> Estimate | None:
    """The same of two facts of different relations: mean over relations, each beside all others."""
    shared, size = _across(atlas)
    if len(size) < 2 or not size.any():
        return None
    with np.errstate(invalid="ignore"):
        shares = np.nan_to_num(shared / ((size[:, None] + size) / 2))
    return mean_of(shares.sum(axis=1) / (len(size) - 1), unit="share", of="relations")


def identical(atlas: Atlas) -> Estimate | None:
    """Of the facts with neurons, how many have exactly the neurons of another fact."""
    row = atlas.query_row(
        f"""
        {_COUNTED}, sets AS (
            SELECT list(layer::BIGINT << 32 | neuron ORDER BY layer, neuron) AS neurons
            FROM knowledge_neurons JOIN counted USING (fact_id) GROUP BY fact
        )
        SELECT coalesce(sum(n), 0) AS n, coalesce(sum(n) FILTER (n > 1), 0) / sum(n) AS share
        FROM (SELECT count(*) AS n FROM sets GROUP BY neurons)
        """
    )
    return share_of(float(row["share"]), int(row["n"]), "facts") if row["n"] else None


def identical_in(mode: str) -> Read:
    """The same in another mode of refinement, from the table `statistics`."""

    def read(atlas: Atlas) -> Estimate | None:
        rows = atlas.query(
            "SELECT identical, n_facts - n_empty AS n FROM statistics WHERE mode = $mode", {"mode": mode}
        ).dropna()
        return None if rows.empty else share_of(float(rows["identical"][0]), int(rows["n"][0]), "facts")

    return read


def counts_of_sharing(atlas: Atlas) -> str:
    """The raw counts behind the shares."""
    rows, (across, _) = _sharing(atlas), _across(atlas)
    size = atlas.query_row(
        f"{_COUNTED} SELECT count(neuron) / count(DISTINCT fact_id) AS n "
        "FROM counted LEFT JOIN knowledge_neurons USING (fact_id)"
    )["n"]
    return (
        f"A fact has {size:.2f} neurons. Two facts of a relation share {rows['shared'].mean():.2f}: "
        f"{rows['shared_same'].mean():.2f} where they have the same answer and "
        f"{rows['shared_other'].mean():.2f} where they have not. Two facts of different relations share "
        f"{across.sum() / max(1, len(across) * (len(across) - 1)):.2f}."
    )


# Other wordings --------------------------------------------------------------------------------------


def overlap(column: str) -> Read:
    """A Jaccard index of `stability`: neurons that two sets have in common, of those that either has."""

    def read(atlas: Atlas) -> Estimate | None:
        rows, of = _of_known(
            atlas,
            f"SELECT fact_id, known, {column} AS index FROM stability JOIN facts USING (fact_id) ORDER BY 1",
        )
        return mean_of(rows["index"], unit="share", of=of)

    return read


def method_overlap(method: str) -> Read:
    """The same of as many neurons that another method finds, beside integrated gradients'."""

    def read(atlas: Atlas) -> Estimate | None:
        rows, of = _of_known(
            atlas,
            f"""
            SELECT m.fact_id, known, m.shared / (m.n_neurons + i.n_neurons - m.shared) AS index
            FROM methods AS m JOIN methods AS i ON i.fact_id = m.fact_id AND i.mode = m.mode
            JOIN facts AS f ON f.fact_id = m.fact_id
            WHERE m.method = '{method}' AND i.method = 'integrated_gradients' AND m.mode = 'count' ORDER BY 1
            """,
        )
        return mean_of(rows["index"], unit="share", of=of)

    return read


def other_half(atlas: Atlas) -> str:
    """What the other half's neurons do."""
    rows, _ = _of_known(atlas, "SELECT s.*, known FROM stability AS s JOIN facts USING (fact_id)")
    own, held_out = (rows[name].sum() / rows["p_before"].sum() - 1 for name in ("p_discovery", "p_held_out"))
    return (
        f"Suppressing the other half's neurons changes the answer by {in_unit(held_out, 'change')}, "
        f"the fact's own by {in_unit(own, 'change')}."
    )
