"""The numbers of the experiments that rewrite weights: edits and erasures.

    edits = Edits.of(atlas)                      # None where the atlas has no table `edits`
    edits.of_group("own").success.text()         # "87.0 % [84.1, 89.6]"

Each class reads one table. Edits (or relations) are drawn again for the intervals. What else was measured on
samples of facts: `build.report.samples`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from atlas.queries.evidence import EDIT_GROUPS, PAPER_DOSE
from atlas.store.atlas import Atlas
from build.evidence.intervals import bootstrap_interval, draw_weights
from build.report.numbers import RESAMPLING_SEED, Measurement, mean_of, ratio_of

OWN_AND_RANDOM = ("own", "random")
PAPER_STRENGTHS = (1.0, 8.0)


# Edits -----------------------------------------------------------------------------------------------


EditScores = dict[str, Measurement | None]
"""The scorecard of one group of edits, by the names of `_SHARES` and `_PERPLEXITIES`; a part that no prompt
asks for is None."""

# Name → (kind of prompts, whether only those count whose own answer was first before, what is counted).
# change, success, top_five, efficacy: of the prompt that the edit is judged by. paraphrase: the fact's other
# held-out prompts. …_kept: right answers of other facts that stay, of the relation with the same object
# (alike) or another (same), or of other relations. symmetry: the inverse relation answers as demanded.
_SHARES = {
    "change": ("edited", True, "rank_old_after > 1"),
    "success": ("edited", False, "rank_new_after == 1"),
    "top_five": ("edited", False, "rank_new_after <= 5"),
    "efficacy": ("edited", False, "p_new_after > p_old_after"),
    "paraphrase": ("paraphrase", False, "rank_new_after == 1"),
    "alike_kept": ("same_object", True, "rank_old_after == 1"),
    "same_kept": ("same_relation", True, "rank_old_after == 1"),
    "other_kept": ("other_relation", True, "rank_old_after == 1"),
    "symmetry": ("symmetry", True, "rank_new_after == 1"),
    "symmetry_before": ("symmetry", False, "rank_old_before == 1"),
}
# Name → kind of prompts whose perplexity changes.
_PERPLEXITIES = {"same_perplexity": "same_relation", "other_perplexity": "other_relation"}


@dataclass(frozen=True)
class Edits:
    """What edits did. scores: (strengths, group) → scorecard; strengths: (remove, add), the paper's first.

    Groups: 'own', the fact's neurons without those that many facts of its relation have; 'all' of them; and
    as many random ones, 'random' and 'random_all'.
    """

    scores: dict[tuple[tuple[float, float], str], EditScores]
    strengths: tuple[tuple[float, float], ...]
    n_edits: int
    n_relations: int

    @classmethod
    def of(cls, atlas: Atlas) -> Edits | None:
        if not atlas.measured("edits"):
            return None
        rows = atlas.query("""
            SELECT e.*, f.relation_id FROM edits AS e JOIN facts AS f USING (fact_id)
            ORDER BY ALL
        """)
        rows["edit"] = rows.groupby(["fact_id", "new_object"]).ngroup()
        settings = sorted(
            {(float(a), float(b)) for a, b in zip(rows["remove"], rows["add"], strict=True)},
            key=lambda pair: (pair != PAPER_STRENGTHS, pair),
        )
        scores = {}
        for strengths in settings:
            chosen = rows[(rows["remove"] == strengths[0]) & (rows["add"] == strengths[1])]
            for group in EDIT_GROUPS:
                part = chosen[chosen["group"] == group]
                if len(part):
                    scores[strengths, group] = _scores(part)
        first = rows[(rows["remove"] == settings[0][0]) & (rows["add"] == settings[0][1])]
        return cls(scores, tuple(settings), first["edit"].nunique(), first["relation_id"].nunique())

    def of_group(self, group: str, strengths: tuple[float, float] | None = None) -> EditScores | None:
        """The scorecard of a group, at the paper's strengths if they were tried."""
        return self.scores.get((strengths or self.strengths[0], group))

    @property
    def judged(self) -> dict[str, EditScores]:
        """Group → its scorecard at the paper's strengths, if they were tried."""
        return {
            group: scores
            for (strengths, group), scores in self.scores.items()
            if strengths == self.strengths[0]
        }


def _scores(rows: pd.DataFrame) -> EditScores:
    scores: EditScores = {}
    for name, (kind, answered, hit) in _SHARES.items():
        asked = rows[(rows["kind"] == kind) & ((rows["rank_old_before"] == 1) | (not answered))]
        # Edits are drawn again.
        by_edit = asked.eval(hit).astype(float).groupby(asked["edit"]).agg(["sum", "size"])
        scores[name] = ratio_of(by_edit["sum"], by_edit["size"], unit="share", of="edits")
    return scores | {name: _perplexity(rows, kind) for name, kind in _PERPLEXITIES.items()}


def _perplexity(rows: pd.DataFrame, kind: str) -> Measurement | None:
    """How much the perplexity of the answers rises, over all prompts of the kind."""
    asked = rows[rows["kind"] == kind]
    if not len(asked):
        return None
    tiny = float(np.finfo(np.float32).tiny)
    loss = pd.DataFrame(
        {when: -np.log(asked[f"p_old_{when}"].astype(float).clip(lower=tiny)) for when in ("before", "after")}
    )
    by_edit = loss.assign(n=1.0).groupby(asked["edit"]).sum().to_numpy()
    drawn = _rise(draw_weights(np.random.default_rng(RESAMPLING_SEED), len(by_edit)) @ by_edit)
    value = float(_rise(by_edit.sum(axis=0, keepdims=True))[0])
    return Measurement(value, *bootstrap_interval(drawn), len(by_edit), "edits", "difference")


def _rise(sums: np.ndarray) -> np.ndarray:
    """exp(mean loss after) − exp(mean loss before). sums: (n, 3), of before, after, count."""
    return np.exp(sums[:, 1] / sums[:, 2]) - np.exp(sums[:, 0] / sums[:, 2])


# Erasures --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Erasures:
    """What erasing a relation's most frequent neurons did.

    lost: (group, 'own' or 'others') → the share of all right answers lost at the paper's dose (relations
    count by their accuracy: one with few right answers would decide a mean of shares); worse: how much
    perplexity grows there (geometric mean over relations). relations: one row a relation erased at that
    dose. doses: one row a (group, dose) asked of the relation itself: lost, low, high, worse, n.
    """

    lost: dict[tuple[str, str], Measurement | None]
    worse: dict[tuple[str, str], Measurement | None]
    relations: pd.DataFrame
    doses: pd.DataFrame

    @classmethod
    def of(cls, atlas: Atlas) -> Erasures | None:
        if not atlas.measured("erasures"):
            return None
        rows = atlas.query("SELECT * FROM erasures ORDER BY ALL")
        rows = rows.astype({name: float for name in rows.columns if name.endswith(("before", "after"))})
        rows["asked"] = np.where(rows["relation_id"] == rows["asked_relation_id"], "own", "others")
        rows["growth"] = np.log(rows["perplexity_after"] / rows["perplexity_before"])
        # A relation with fewer neurons than the dose is erased with all it has.
        small = rows[rows["n_neurons"] <= PAPER_DOSE]
        paper = small[small["n_neurons"] == small.groupby("relation_id")["n_neurons"].transform("max")]
        means = (
            paper.groupby(["relation_id", "group", "asked"])[
                ["accuracy_before", "accuracy_after", "perplexity_before", "perplexity_after", "growth"]
            ]
            .mean()
            .reset_index()
        )
        lost, worse = {}, {}
        for group in OWN_AND_RANDOM:
            for asked in ("own", "others"):
                part = means[(means["group"] == group) & (means["asked"] == asked)]
                lost[group, asked] = _lost(part)
                worse[group, asked] = _grown(part)
        counted = paper.groupby("relation_id").agg(n_neurons=("n_neurons", "first"))
        own = paper[(paper["group"] == "own") & (paper["asked"] == "own")]
        counted["n_prompts"] = own.groupby("relation_id")["n_prompts"].first()
        wide = means.pivot(index="relation_id", columns=["group", "asked"])
        wide.columns = ["_".join(names) for names in wide.columns]
        doses = [
            {
                "group": group,
                "dose": int(dose),
                "n": len(part),
                **_ends("lost", _lost(part)),
                **_ends("worse", _grown(part)),
            }
            for (group, dose), part in rows[rows["asked"] == "own"].groupby(["group", "n_neurons"])
        ]
        return cls(lost, worse, counted.join(wide).reset_index(), pd.DataFrame(doses))


def _lost(rows: pd.DataFrame) -> Measurement | None:
    """Share of the right answers that are lost; relations count by their accuracy before."""
    rows = rows[rows["accuracy_before"] > 0]
    if not len(rows):
        return None
    return ratio_of(
        rows["accuracy_before"] - rows["accuracy_after"],
        rows["accuracy_before"],
        unit="share",
        of="relations",
    )


def _grown(rows: pd.DataFrame) -> Measurement | None:
    """Growth of perplexity: the geometric mean over relations, less one."""
    mean = mean_of(rows["growth"], unit="change", of="relations")
    if mean is None:
        return None
    ends = [None if each is None else float(np.expm1(each)) for each in (mean.value, mean.low, mean.high)]
    return Measurement(*ends, mean.n, "relations", "change")


def _ends(name: str, estimate: Measurement | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
