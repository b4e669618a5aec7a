"""Suppress and amplify: what a fact's neurons do to its answer, to other facts, and beside other neurons.

Dai et al. (ACL 2022), section 4.5, figures 3 and 4. For every fact of the sample:

1. *Other neurons*, in place of its own, on its own prompts: as many random ones of the same layers; as many
   of the same layers that are nearest in activation (*matched*) or in |activation| × ‖value vector‖
   (*contribution_matched*) on its discovery prompts; as many that are the most active there, the paper's
   *baseline*. A fact's own neurons are often their layers' most active, so the matched ones may be less
   active: `activity` says by how much. *top_k*: its own k neurons of the largest mean score.
2. *Other facts*, asked while its own neurons are changed: those of its relation, of its answer, of both, and
   of neither (*unrelated*). Only prompts that were answered rightly are asked: a wrong answer cannot be lost.
3. *Effects.* Neurons are suppressed (× 0) and amplified (× 2) at the answer position, and its own and random
   ones set to their mean over other facts (*mean*), on the fact's discovery and held-out prompts; other facts
   are asked held-out ones, where the atlas holds any out. `control_neurons` keeps what each control drew.
4. *Summaries.* The paper's ratio and the replication's, by relation and over relations, with bootstrap
   intervals: facts are resampled within their relation, and relations for the mean over them.
5. *Specificity.* What of the fall is any fact's, the relation's, the answer's and the fact's own.

Facts outside the sample keep what the build measured of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from atlas.intervals import BOOTSTRAP_DRAWS, bootstrap_interval, draw_weights
from atlas.neuron import Neuron
from atlas.queries.evidence import NEURON_GROUPS, TOP_GROUPS
from atlas.store.manifest import file_name
from atlas.store.schema import conform
from build.evidence import specificity
from build.evidence.setting import AtlasFact, Setting, StoredPrompt, chunks, draw_one, top_neurons
from build.jobs.evaluation import EFFECTS_SHARD as SHARD  # noqa: F401
from build.jobs.evaluation import MEAN, Evaluation, control_rows, effect_rows, evaluate_effects, seeded
from build.output.writer import read_parquet

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

NEAREST = 20
CHANGES = ("suppress", "amplify")
GROUP_ASKED = {
    (True, True): "same_relation_same_answer",
    (False, True): "same_answer",
    (True, False): "same_relation",
    (False, False): "unrelated",
}
"""Whether a fact has the same relation, and the same answer → its group."""
BUILT = ("own", "random", "unrelated")
"""The groups that a build measures of every fact."""
_MEASURED = ("activity", "p_before", "p_after", "top_changed", "change")
_SUMS = {"p_before": "before", "p_after": "after", "change": "change", "top_changed": "top"}
_FACTS_A_SHARD = 24


def units(setting: Setting) -> list[tuple[str, ...]]:
    return chunks([fact.fact_id for fact in setting.sampled("effects")], _FACTS_A_SHARD)


def measure(setting: Setting, unit: Sequence[str]) -> pa.Table:
    facts = [setting.by_id[fact_id] for fact_id in unit]
    activations = _discovery_activations(setting, facts)
    evaluations = [each for fact in facts for each in _evaluations(setting, fact, activations[fact.fact_id])]
    return evaluate_effects(
        setting.subject, evaluations, batches=setting.batches, means=setting.mean_activations
    )


def _discovery_activations(setting: Setting, facts: Sequence[AtlasFact]) -> dict[str, np.ndarray]:
    """Fact id → activations on its discovery prompts, (n_prompts, n_layers, n_neurons)."""
    counts = [len(fact.discovery) for fact in facts]
    found = setting.activations([each.prompt for fact in facts for each in fact.discovery])
    parts = np.split(found, np.cumsum(counts)[:-1])
    return {fact.fact_id: part for fact, part in zip(facts, parts, strict=True)}


# Step 1: other neurons -------------------------------------------------------------------------------


def draw_matched(
    neurons: Sequence[Neuron], values: np.ndarray, generator: np.random.Generator
) -> tuple[Neuron, ...]:
    """For each neuron another one of its layer, drawn from the `NEAREST` in value, each once.

    values: (n_layers, n_neurons). None of `neurons` is drawn; where a layer has too few others, some get
    none.
    """
    taken = set(neurons)
    chosen: list[Neuron] = []
    for neuron in neurons:
        apart = np.abs(values[neuron.layer] - values[neuron.layer, neuron.neuron])
        apart[[each.neuron for each in taken if each.layer == neuron.layer]] = np.inf
        near = np.argsort(apart, kind="stable")[:NEAREST]
        near = near[np.isfinite(apart[near])]
        if len(near):
            drawn = Neuron(neuron.layer, int(generator.choice(near)))
            chosen.append(drawn)
            taken.add(drawn)
    return tuple(sorted(chosen))


def select_most_active(count: int, activations: np.ndarray) -> tuple[Neuron, ...]:
    """The `count` neurons of the largest mean activation, each prompt's as a share of its largest.

    The paper's baseline: the activation itself as the score, here with as many neurons as the fact has.
    """
    largest = np.maximum(activations.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    mean = (activations / largest).mean(axis=0)
    return top_neurons(mean, count)


def mean_activity(neurons: Sequence[Neuron], activations: np.ndarray) -> float | None:
    """Mean |activation| of the neurons; activations: (n_prompts, n_layers, n_neurons)."""
    if not neurons:
        return None
    layers, places = zip(*((each.layer, each.neuron) for each in neurons), strict=True)
    return float(np.abs(activations[:, list(layers), list(places)]).mean())


def choose_groups(
    setting: Setting, fact: AtlasFact, activations: np.ndarray
) -> dict[str, tuple[Neuron, ...]]:
    """The fact's own neurons, other ones, and its first; activations on its discovery prompts, as above."""
    contributions = np.abs(activations).mean(axis=0) * setting.value_norms
    matched, contributing = (
        setting.generator(name, fact.fact_id) for name in ("matched", "contribution_matched")
    )
    return {
        "own": tuple(sorted(fact.neurons)),
        "random": setting.random_neurons(fact.neurons, "random", fact.fact_id),
        "matched": draw_matched(fact.neurons, activations.mean(axis=0), matched),
        "contribution_matched": draw_matched(fact.neurons, contributions, contributing),
        "baseline": select_most_active(len(fact.neurons), activations),
        **{
            name: tuple(sorted(fact.neurons[:count]))
            for name, count in TOP_GROUPS.items()
            if count < len(fact.neurons)
        },
    }


# Step 2: other facts ---------------------------------------------------------------------------------


def draw_asked(setting: Setting, fact: AtlasFact) -> Iterator[tuple[str, StoredPrompt]]:
    """Prompts of other facts that are answered rightly: of each group as many as of the fact, each of another
    fact. Unrelated ones may be answered wrongly where the model answers none rightly."""
    generator = setting.generator("asked", fact.fact_id)
    groups: dict[str, list[tuple[StoredPrompt, ...]]] = {group: [] for group in GROUP_ASKED.values()}
    right = {other_id: prompts for other_id, prompts in setting.answered.items() if other_id != fact.fact_id}
    for other_id, prompts in right.items():
        other = setting.by_id[other_id]
        same = other.relation_id == fact.relation_id, other.answer == fact.answer
        groups[GROUP_ASKED[same]].append(prompts)
    for group, others in groups.items():
        for index in generator.permutation(len(others))[: len(setting.asked(fact))]:
            yield group, draw_one(others[index], generator)


# Step 3: effects -------------------------------------------------------------------------------------


def _evaluations(setting: Setting, fact: AtlasFact, activations: np.ndarray) -> Iterator[Evaluation]:
    groups = choose_groups(setting, fact, activations)
    asked = {each.prompt for each in setting.asked(fact)}
    for group, neurons in groups.items():
        activity = mean_activity(neurons, activations)
        for each in fact.prompts if neurons else ():
            once = each.prompt in asked  # what costs more is measured where it counts
            if group in TOP_GROUPS:
                changes = CHANGES[:1] if once else ()
            else:
                changes = (*CHANGES, MEAN) if once and group in ("own", "random") else CHANGES
            yield _evaluation(fact, group, neurons, each, activity, changes)
    activity = mean_activity(groups["own"], activations)
    for group, each in draw_asked(setting, fact):
        yield _evaluation(fact, group, groups["own"], each, activity, CHANGES)


def _evaluation(
    fact: AtlasFact,
    group: str,
    neurons: tuple[Neuron, ...],
    stored: StoredPrompt,
    activity: float | None,
    interventions: tuple[str, ...],
) -> Evaluation:
    return Evaluation(
        fact_id=fact.fact_id,
        prompt=stored.prompt,
        group=group,
        neurons=neurons,
        p_before=stored.probability,
        rank_before=stored.rank,
        top_before=stored.top_token,
        held_out=stored.held_out,
        activity=activity,
        interventions=interventions,
    )


# Step 4: summaries -----------------------------------------------------------------------------------


def tables(setting: Setting, rows: pa.Table) -> dict[str, pa.Table]:
    effects, controls = effect_rows(rows), control_rows(rows)
    measured = _with_facts(setting, effects.to_pandas())
    return {
        "effects": conform("effects", _with_built(setting, "effects", effects)),
        "control_neurons": conform("control_neurons", _with_built(setting, "control_neurons", controls)),
        "effect_summaries": conform("effect_summaries", summarize(measured, seed=setting.seed)),
        "specificity": conform("specificity", specificity.split(measured, seed=setting.seed)),
    }


def _with_built(setting: Setting, table: str, rows: pa.Table) -> pa.Table:
    """The rows, and those that the build measured of facts that are not among them."""
    path = setting.atlas.path / file_name(table)
    if not path.exists():
        return rows
    built = read_parquet(path, rows.column_names)
    kept = pc.invert(pc.is_in(built["fact_id"], pc.unique(rows["fact_id"])))
    kept = pc.and_(kept, pc.is_in(built["group"], pa.array(BUILT)))
    if "intervention" in rows.column_names:
        kept = pc.and_(kept, pc.is_in(built["intervention"], pa.array(CHANGES)))
        kept = pc.and_(kept, pc.equal(built["held_out"], setting.holds_out))
    return pa.concat_tables([rows, built.filter(kept).cast(rows.schema)])


def _with_facts(setting: Setting, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `effects` with relation_id, and whether the changed fact and the asked one count as known."""
    relation = {fact.fact_id: fact.relation_id for fact in setting.facts}
    known = {fact.fact_id: fact.known for fact in setting.facts}
    return rows.assign(
        relation_id=rows["fact_id"].map(relation),
        known=rows["fact_id"].map(known),
        asked_known=rows["prompt_fact_id"].map(known) | (rows["rank_before"] == 1),
    )


def summarize(rows: pd.DataFrame, *, seed: int = 0, draws: int = BOOTSTRAP_DRAWS) -> list[dict]:
    """Rows of `effect_summaries` from rows of `effects` with relation_id, known and asked_known.

    Only the sums over each fact are needed: resampling facts is drawing weights for these sums.
    """
    # Imported results have `change` in place of what else is measured.
    rows = rows.reindex(columns=[*rows.columns, *(name for name in _MEASURED if name not in rows)])
    rows = rows.astype(dict.fromkeys(_MEASURED, float))
    own = rows[rows["group"] == "own"].groupby("fact_id")["activity"].first()
    rows = rows.assign(activity=rows["activity"] / rows["fact_id"].map(own).astype(float))
    rows = rows[(rows["p_before"] > 0) | rows["change"].notna()]
    rows = rows.assign(
        ratio=rows["change"].fillna((rows["p_after"] - rows["p_before"]) / rows["p_before"]),
        change=rows["p_after"] - rows["p_before"],
        templates=np.where(rows["held_out"], "held-out", "discovery"),
    )
    known = rows[rows["known"] & rows["asked_known"]]
    result = []
    for facts, chosen in (("all", rows), ("known", known), ("unknown", rows[~rows["known"]])):
        for (intervention, group, templates), part in chosen.groupby(["intervention", "group", "templates"]):
            keys = {"intervention": intervention, "group": group, "templates": templates, "facts": facts}
            result += [row | keys for row in _by_relation(part, seed=seed, draws=draws)]
    return result


def _by_relation(part: pd.DataFrame, *, seed: int, draws: int) -> list[dict]:
    """One row a relation, and the row 'all': the mean over relations of each number."""
    rows, papers, replications = [], [], []
    for relation_id, of_relation in part.groupby("relation_id"):
        # One row a fact whose neurons were changed.
        sums = of_relation.groupby("fact_id").agg(
            n=("change", "size"),
            before=("p_before", "sum"),
            after=("p_after", "sum"),
            change=("change", "sum"),
            ratio=("ratio", "sum"),
            top=("top_changed", "sum"),
        )
        # The sum of what was not measured is no zero.
        unmeasured = of_relation[["p_before", "p_after", "change", "top_changed"]].isna().any()
        sums.loc[:, unmeasured[unmeasured].index.map(_SUMS)] = np.nan
        # Seeded by the relation's own name: relations must not move together.
        generator = seeded(seed, "bootstrap", str(relation_id))
        values = sums.to_numpy()
        drawn = draw_weights(generator, len(sums), draws) @ values
        paper, replication = drawn[:, 3] / drawn[:, 1], drawn[:, 4] / drawn[:, 0]
        n, before, after, change, ratio, top = values.sum(axis=0)
        papers.append(paper)
        replications.append(replication)
        rows.append(
            {
                "relation_id": relation_id,
                "n_relations": 1,
                "n_facts": len(sums),
                "n_prompts": int(n),
                "mean_before": before / n,
                "mean_after": after / n,
                "paper_change": change / before,
                "replication_change": ratio / n,
                "top_changed": top / n,
                "activity": of_relation.groupby("fact_id")["activity"].first().mean(),
                **_interval("paper", paper, len(sums)),
                **_interval("replication", replication, len(sums)),
            }
        )
    every = pd.DataFrame(rows)
    n_facts = int(every["n_facts"].sum())
    means = ["mean_before", "mean_after", "paper_change", "replication_change", "top_changed", "activity"]
    again = seeded(seed, "bootstrap", "all").integers(len(every), size=(len(every), draws))
    rows.append(
        {
            "relation_id": "all",
            "n_relations": len(every),
            "n_facts": n_facts,
            "n_prompts": int(every["n_prompts"].sum()),
            **every[means].mean().to_dict(),
            **_interval("paper", _mean_of_drawn(papers, again), n_facts),
            **_interval("replication", _mean_of_drawn(replications, again), n_facts),
        }
    )
    return rows


def _mean_of_drawn(values: Sequence[np.ndarray], again: np.ndarray) -> np.ndarray:
    """Each draw's mean over the relations drawn in it; `again`: (n_relations, draws), places in `values`."""
    return np.take_along_axis(np.stack(values), again, axis=0).mean(axis=0)


def _interval(name: str, drawn: np.ndarray, n_facts: int) -> dict[str, float | None]:
    if n_facts < 2:
        return {f"{name}_low": None, f"{name}_high": None}
    low, high = bootstrap_interval(drawn)
    return {f"{name}_low": low, f"{name}_high": high}


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query(
        """
        SELECT * FROM effect_summaries
        WHERE relation_id = 'all' AND facts <> 'unknown'
          AND templates = (SELECT max(templates) FROM effect_summaries)  -- held-out, else discovery
        ORDER BY facts DESC, intervention DESC, list_position($groups, "group")
        """,
        {"groups": list(NEURON_GROUPS)},
    )
    asked = f"{rows['templates'].iloc[0]} prompts, mean over relations" if len(rows) else "not measured"
    lines = [f"{asked:<43}paper's ratio [95 %]   replication's  top changed  active"]
    for row in rows.itertuples():
        what = f"{row.intervention}, {row.group}, {row.facts} facts"
        interval = f"[{row.paper_low:+.1%}, {row.paper_high:+.1%}]"
        lines.append(
            f"  {what:<38} {row.paper_change:+8.1%} {interval:<22}{row.replication_change:+10.1%}"
            f"  {row.top_changed:9.1%}    × {row.activity:.2f}"
        )
    return lines
