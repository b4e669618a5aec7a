"""Labels: a short name for a neuron, made from what is stored, and how well its activation bears it out.

No language model is asked. A name such as "capital · Paris, cities" is what the neuron's facts share, and the
tokens that it pushes.

1. *Candidates.* The relation or the answer that a neuron's facts have in common more often than as many facts
   drawn at random (hypergeometric, Bonferroni over all relations or answers, p < 0.01); of several, the one
   that chance explains least.
2. *Activations* of these neurons at the first answer position, on every prompt of the sampled facts.
3. *Score.* How well the activation tells the label's prompts from all others: balanced accuracy on held-out
   prompts, with a side and a threshold chosen on discovery prompts. The prompts of a fact resemble each
   other, so facts are split in halves, and each half is judged by what was chosen on the other: otherwise a
   label without meaning would do well on the facts that it was fitted to.
4. *Decide.* The same predictions with the label's facts drawn at random: no label where a hundredth of the
   draws or more do as well. A shuffled label, fitted and judged in the same way, should score 0.5.
5. *Name.* The label, and the tokens that the value vector raises, or lowers where the neuron fires below zero
   on its facts of that label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from atlas.store.manifest import file_name
from atlas.store.schema import TABLES, conform
from build.evidence.evaluate import RECORD
from build.evidence.setting import Setting, chunks
from build.jobs.evaluation import seeded
from build.output.tables import with_column
from build.output.writer import read_parquet, with_metadata

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

KINDS = ("relation", "answer")
CHANCE = 0.01
DRAWS = 499
SHOWN_TOKENS = 2
_FACTS_A_SHARD = 50

# One row a prompt, with the activations of all candidates in their order.
SHARD = pa.schema(
    [
        *(TABLES["prompts"].field(name) for name in ("fact_id", "held_out")),
        pa.field("activations", pa.list_(pa.float32())),
    ]
)


def units(setting: Setting) -> list[tuple[str, ...]]:
    facts = setting.sampled("labels", known_first=False)
    return chunks([fact.fact_id for fact in facts], _FACTS_A_SHARD) if len(_candidates(setting.atlas)) else []


def measure(setting: Setting, unit: Sequence[str]) -> pa.Table:
    candidates = _candidates(setting.atlas)
    prompts = [each for fact_id in unit for each in setting.by_id[fact_id].prompts]
    found = setting.activations([each.prompt for each in prompts])
    return pa.table(
        {
            "fact_id": [each.prompt.fact_id for each in prompts],
            "held_out": [each.held_out for each in prompts],
            "activations": list(found[:, candidates["layer"].to_numpy(), candidates["neuron"].to_numpy()]),
        }
    )


def tables(setting: Setting, rows: pa.Table) -> dict[str, pa.Table]:
    """The table `neurons` with its labels; what `summary` says beside them is noted in its schema."""
    atlas = setting.atlas
    facts, candidates = _facts(atlas), _candidates(atlas)
    scored = score_candidates(candidates, Asked.of(rows, facts), seed=setting.seed)
    neurons = conform("neurons", read_parquet(atlas.path / file_name("neurons")))
    named = scored[scored["p"] < CHANCE].set_index(["layer", "neuron"]).to_dict("index")
    labels, scores = [], []
    for neuron in neurons.select(["layer", "neuron", "promoted", "suppressed"]).to_pylist():
        found = named.get((neuron["layer"], neuron["neuron"]))
        pushed = neuron["suppressed" if found and found["fires"] < 0 else "promoted"] or ()
        labels.append(name_of(found["name"], [each["token"] for each in pushed]) if found else None)
        scores.append(found["score"] if found else None)
    neurons = with_column(neurons, "label", pa.array(labels, pa.string()))
    neurons = with_column(neurons, "label_score", pa.array(scores, pa.float32()))
    shuffled = scored["shuffled"].mean()
    notes = {"candidates": len(scored), "shuffled_score": None if np.isnan(shuffled) else round(shuffled, 4)}
    return {"neurons": with_metadata(neurons, **notes)}


def _facts(atlas: Atlas) -> pd.DataFrame:
    """The facts that have neurons: fact_id, relation, answer and how the two are written."""
    return atlas.query("""
        SELECT fact_id, relation_id AS relation, lower(trim(object)) AS answer,
               coalesce(label, relation_id) AS relation_name, object AS answer_name
        FROM facts LEFT JOIN relations USING (relation_id) WHERE facts.n_neurons > 0 ORDER BY fact_id
    """)


@lru_cache(maxsize=1)
def _candidates(atlas: Atlas) -> pd.DataFrame:
    pairs = atlas.query("SELECT layer, neuron, fact_id, mean_activation FROM knowledge_neurons ORDER BY ALL")
    return find_candidates(pairs, _facts(atlas))


# Step 1: candidates ----------------------------------------------------------------------------------


def find_candidates(pairs: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """The neurons whose facts share a relation or an answer beyond chance, and what they share.

    pairs: layer, neuron, fact_id, mean_activation; facts: all that have neurons, as `_facts` has them.
    Returns layer, neuron, kind (of `KINDS`), value, name, and fires: mean activation on facts that share it.
    """
    drawn = pairs.groupby(["layer", "neuron"]).size().rename("drawn").reset_index()
    parts = []
    for kind in KINDS:
        named = facts[["fact_id", kind, f"{kind}_name"]].set_axis(["fact_id", "value", "name"], axis=1)
        sizes = named.groupby("value").size().rename("size").reset_index()
        shared = (
            pairs.merge(named, on="fact_id")
            .groupby(["layer", "neuron", "value"])
            .agg(shared=("fact_id", "size"), fires=("mean_activation", "mean"), name=("name", "first"))
            .reset_index()
        )
        shared = shared[shared["shared"] > 1].merge(sizes, on="value").merge(drawn, on=["layer", "neuron"])
        numbers = (shared[name].to_numpy() for name in ("shared", "drawn", "size"))
        log_p = log_tail(*numbers, len(facts)) + np.log(max(len(sizes), 1))
        parts.append(shared.assign(kind=kind, log_p=log_p))
    found = pd.concat(parts, ignore_index=True)
    found = found[found["log_p"] < np.log(CHANCE)].sort_values(["layer", "neuron", "log_p"], kind="stable")
    found = found.drop_duplicates(["layer", "neuron"]).reset_index(drop=True)
    return found[["layer", "neuron", "kind", "value", "name", "fires"]]


def log_tail(shared: np.ndarray, drawn: np.ndarray, size: np.ndarray, total: int) -> np.ndarray:
    """log P(at least `shared` of `drawn` facts are among `size` of `total` facts), (n,) as all arrays."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])

    def log_choose(n: np.ndarray | int, k: np.ndarray) -> np.ndarray:
        return log_factorial[n] - log_factorial[k] - log_factorial[n - k]

    most = np.minimum(drawn, size)
    tail = np.full(len(shared), -np.inf)
    for more in range(int((most - shared).max(initial=-1)) + 1):
        k = np.minimum(shared + more, most)
        term = log_choose(size, k) + log_choose(total - size, drawn - k) - log_choose(total, drawn)
        tail = np.where(shared + more <= most, np.logaddexp(tail, term), tail)
    return tail


# Steps 3 and 4: score and decide ---------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Prompts of facts that have both discovery and held-out ones.

    activations: (n_prompts, n_candidates); fact, (n_prompts,): place of each prompt's fact in `facts`, a
    DataFrame with a column for each of `KINDS`; held_out: (n_prompts,).
    """

    activations: np.ndarray
    fact: np.ndarray
    held_out: np.ndarray
    facts: pd.DataFrame

    @classmethod
    def of(cls, rows: pa.Table, facts: pd.DataFrame) -> Asked:
        """From rows of `SHARD`."""
        lists = rows["activations"].combine_chunks()
        activations = lists.flatten().to_numpy().reshape(len(rows), -1) if len(rows) else np.zeros((0, 0))
        fact_id, held_out = rows["fact_id"].to_pandas(), rows["held_out"].to_pandas().astype(bool)
        both = held_out.groupby(fact_id).nunique()
        facts = facts[facts["fact_id"].isin(both.index[both == 2])].reset_index(drop=True)
        place = pd.Index(facts["fact_id"]).get_indexer(fact_id)
        kept = place >= 0
        return cls(activations[kept], place[kept], held_out.to_numpy()[kept], facts)


def score_candidates(candidates: pd.DataFrame, asked: Asked, *, seed: int) -> pd.DataFrame:
    """The candidates with score, p and shuffled; NaN, and p = 1, where too few facts were asked."""
    columns = {name: np.full(len(candidates), np.nan) for name in ("score", "shuffled")}
    columns["p"] = np.ones(len(candidates))
    for (kind, value), part in candidates.groupby(["kind", "value"], sort=True):
        positive = (asked.facts[kind] == value).to_numpy()
        if min(positive.sum(), (~positive).sum()) < 2:
            continue
        places = part.index.to_numpy()
        generator = seeded(seed, f"labels/{kind}", str(value))
        found = score_label(asked, asked.activations[:, places], positive, generator)
        for name, values in found.items():
            columns[name][places] = values
    return candidates.assign(**columns)


def score_label(
    asked: Asked, activations: np.ndarray, positive: np.ndarray, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Score, p and a shuffled label's score of neurons that may get one label, (n_neurons,) each.

    activations: (n_prompts, n_neurons) of the prompts asked; positive: (n_facts,), the label's facts.
    """
    half = split_facts(positive, generator)
    counts = np.bincount(asked.fact[asked.held_out], minlength=len(positive))
    told = told_apart(asked, activations, positive, half)
    score = balanced_accuracy(told, counts, positive[None])[0]
    draws = np.empty((DRAWS + 1, len(positive)), bool)
    for side in (False, True):  # as many of each half
        draws[:, half == side] = generator.permuted(np.tile(positive[half == side], (DRAWS + 1, 1)), axis=1)
    as_good = balanced_accuracy(told, counts, draws[1:]) >= score - 1e-12
    shuffled = told_apart(asked, activations, draws[0], half)
    return {
        "score": score,
        "p": (1 + as_good.sum(axis=0)) / (1 + DRAWS),
        "shuffled": balanced_accuracy(shuffled, counts, draws[:1])[0],
    }


def split_facts(positive: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Whether each fact is in the second half, (n_facts,): half of the label's and half of the others are."""
    second = np.zeros(len(positive), bool)
    for of_kind in (positive, ~positive):
        second[generator.permutation(np.flatnonzero(of_kind))[1::2]] = True
    return second


def told_apart(asked: Asked, activations: np.ndarray, positive: np.ndarray, half: np.ndarray) -> np.ndarray:
    """How many of each fact's held-out prompts look like the label's, (n_facts, n_neurons)."""
    told = np.zeros((len(positive), activations.shape[1]))
    for second in (False, True):
        here = half[asked.fact] == second
        learned = ~here & ~asked.held_out
        side, threshold = choose_threshold(activations[learned], positive[asked.fact[learned]])
        judged = here & asked.held_out
        np.add.at(told, asked.fact[judged], activations[judged] * side > threshold)
    return told


def choose_threshold(values: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The side on which neurons fire for positive prompts, and the threshold that tells them best.

    values: (n_prompts, n_neurons); positive: (n_prompts,). Returns 1 or −1, and the threshold of value × side
    with the largest balanced accuracy, (n_neurons,) each.
    """
    side = np.where(values[positive].mean(axis=0) < 0, -1, 1)
    order = np.argsort(values * side, axis=0, kind="stable")
    ordered = np.take_along_axis(values * side, order, 0)
    below = np.cumsum(positive[order], axis=0)  # positive ones up to each place
    others = np.arange(1, len(values) + 1)[:, None] - below
    accuracy = others / (~positive).sum() - below / positive.sum()
    between = np.where(ordered[1:] > ordered[:-1], accuracy[:-1], -np.inf)
    best = between.argmax(axis=0)[None]
    return side, (np.take_along_axis(ordered, best, 0) + np.take_along_axis(ordered, best + 1, 0))[0] / 2


def balanced_accuracy(told: np.ndarray, counts: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Mean of the share of positive prompts told as such and of others told as others, (n_draws, n_neurons).

    told: (n_facts, n_neurons), how many of a fact's prompts are; counts: (n_facts,), how many there are;
    positive: (n_draws, n_facts).
    """
    inside = positive.astype(float)
    right, n_inside = inside @ told, (inside @ counts)[:, None]
    wrong, n_outside = told.sum(axis=0) - right, counts.sum() - n_inside
    return (right / n_inside + 1 - wrong / n_outside) / 2


# Step 5: name ----------------------------------------------------------------------------------------


def name_of(label: str, tokens: Sequence[str]) -> str:
    """The label and the first tokens that are words, each once: 'capital · Paris, cities'."""
    # Of byte pairs those that begin a word, of WordPieces those that continue none.
    begin = [token for token in tokens if token.startswith(" ")] or tokens
    words = dict.fromkeys(word for word in map(str.strip, begin) if word.isalpha() and len(word) > 1)
    shown = [word for word in words if word.casefold() != label.casefold()][:SHOWN_TOKENS]
    return f"{label} · {', '.join(shown)}" if shown else label


# Summary ---------------------------------------------------------------------------------------------


def summary(atlas: Atlas) -> list[str]:
    counts = atlas.query_row("""
        SELECT count(*) AS n, count(label) AS labelled, avg(label_score) AS score,
               count(*) FILTER (sign_mixed) AS mixed
        FROM neurons
    """)
    record = atlas.manifest.method.options[RECORD]["labels"]
    if not counts["labelled"]:
        return ["no neuron has a label that its activation bears out"]
    return [
        f"{record['candidates']:,} of {counts['n']:,} neurons: a relation or an answer shared beyond chance",
        f"{counts['labelled']:,} ({counts['labelled'] / counts['n']:.0%}): a label that activation bears out",
        f"balanced accuracy {counts['score']:.2f}; shuffled labels {record['shuffled_score']:.2f}",
        f"{counts['mixed']:,} fire above zero for some of their facts and below for others",
    ]
