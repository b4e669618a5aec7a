"""Stability: are a fact's neurons the same when the other half of its templates finds them?

The thesis says that a fact's neurons express it, whatever its wording (Dai et al., ACL 2022, section
3.2, refine over prompts of different wording for that reason). The atlas found them on the discovery
templates; here the held-out ones, which share no wording with them, find them again.

1. *Attribute* the fact's held-out prompts, as the atlas attributed the discovery prompts.
2. *Refine* with the atlas's own rule; where its share adapts to the relation, with the share it ended at.
3. *Compare* the halves by their Jaccard index; beside it, the same held-out half with the discovery half
   of another fact of the relation, and of a fact that differs in relation and object. Neurons that
   many facts share make these large, too.
4. *Suppress* each half's neurons on the discovery prompts. The held-out half's were found on other wording.

Facts with fewer held-out prompts than the rule needs are left out: their half could find nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.intervals import bootstrap_interval, draw_weights
from atlas.neuron import Neuron
from atlas.refinement import Refinement, refine_scores
from build.evidence.setting import AtlasFact, Setting, chunks
from build.output.check import rule_of

if TYPE_CHECKING:
    import pandas as pd

    from atlas.store.atlas import Atlas
    from atlas.store.manifest import Manifest

_FACTS_A_SHARD = 8
_DRAWS = 2000


def units(setting: Setting) -> list[tuple[str, ...]]:
    manifest = setting.atlas.manifest
    facts = [
        fact.fact_id
        for fact in setting.sampled("stability")
        if len(fact.held_out) >= relation_rule(manifest, fact.relation_id).at_least
    ]
    return chunks(facts, _FACTS_A_SHARD)


def measure(setting: Setting, unit: Sequence[str]) -> list[dict[str, Any]]:
    from atlas.interventions import Suppress

    facts = [setting.by_id[fact_id] for fact_id in unit]
    found = held_out_neurons(setting, facts)
    pairs = [
        (Suppress(tuple(sorted(neurons))), each.prompt)
        for fact in facts
        for neurons in (fact.neurons, found[fact.fact_id])
        if neurons
        for each in fact.discovery
    ]
    predictions = setting.predict_changed(pairs)
    rows = []
    for fact in facts:
        own, other = fact.neurons, found[fact.fact_id]
        before = float(np.mean([each.probability for each in fact.discovery]))
        after = [
            float(np.mean([next(predictions).probability for _ in fact.discovery])) if neurons else before
            for neurons in (own, other)
        ]
        rows.append(
            {
                "fact_id": fact.fact_id,
                "n_discovery": len(own),
                "n_held_out": len(other),
                "shared": len(set(own) & set(other)),
                "jaccard": jaccard(own, other),
                "jaccard_relation": _jaccard_with(setting, fact, other, same_relation=True),
                "jaccard_random": _jaccard_with(setting, fact, other, same_relation=False),
                "p_before": before,
                "p_discovery": after[0],
                "p_held_out": after[1],
            }
        )
    return rows


# Steps 1 and 2: attribute, refine ----------------------------------------------------------------------


def relation_rule(manifest: Manifest, relation_id: str) -> Refinement:
    """The atlas's rule with the share at which it ended for a relation."""
    rule = rule_of(manifest)
    share = manifest.method.refinement.get("shares", {}).get(relation_id, rule.share)
    return replace(rule, share=share, target=None)


def held_out_neurons(setting: Setting, facts: Sequence[AtlasFact]) -> dict[str, tuple[Neuron, ...]]:
    """Fact id → the neurons that its held-out prompts find, by share, then mean score."""
    manifest = setting.atlas.manifest
    prompts = [each.prompt for fact in facts for each in fact.held_out]
    scores = iter(setting.attribute(prompts, **attribution_options(manifest)))
    return {
        fact.fact_id: tuple(
            each.neuron
            for each in refine_scores(
                [next(scores) for _ in fact.held_out], relation_rule(manifest, fact.relation_id)
            )
        )
        for fact in facts
    }


def attribution_options(manifest: Manifest) -> dict[str, Any]:
    """The options of `attribute` when the atlas was built."""
    method = manifest.method
    if method.rule in (None, "certified"):
        # Where a manifest gives none, the default of a build holds.
        given = {"tolerance": method.tolerance, "max_points": method.max_points}
        return {"rule": "certified"} | {name: value for name, value in given.items() if value is not None}
    return {"rule": method.rule} | ({"steps": method.max_points} if method.max_points else {})


# Step 3: compare ---------------------------------------------------------------------------------------


def jaccard(one: Collection[Neuron], other: Collection[Neuron]) -> float | None:
    """Intersection over union; None for two empty sets."""
    either = len(set(one) | set(other))
    return len(set(one) & set(other)) / either if either else None


def _jaccard_with(
    setting: Setting, fact: AtlasFact, neurons: Sequence[Neuron], *, same_relation: bool
) -> float | None:
    """Of the held-out half's neurons and the stored ones of a fact drawn by seed; None if there is none."""
    other = draw_other_fact(setting, fact, same_relation=same_relation)
    return None if other is None else jaccard(other.neurons, neurons)


def draw_other_fact(setting: Setting, fact: AtlasFact, *, same_relation: bool) -> AtlasFact | None:
    """A fact with neurons and another object, of the same relation or of another one.

    Where possible it is known if this one is: neurons of known facts may be alike.
    """
    facts = setting.by_relation[fact.relation_id] if same_relation else setting.facts
    others = [
        each
        for each in facts
        if each.neurons
        and each.answer != fact.answer
        and (each.relation_id == fact.relation_id) == same_relation
    ]
    pool = [each for each in others if each.known == fact.known] or others
    if not pool:
        return None
    purpose = "stability of the relation" if same_relation else "stability at random"
    return pool[int(setting.generator(purpose, fact.fact_id).integers(len(pool)))]


# Summary -----------------------------------------------------------------------------------------------


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query("SELECT s.*, f.known FROM stability AS s JOIN facts AS f USING (fact_id)")
    if rows.empty:
        return ["no fact has neurons, and as many held-out prompts as the rule asks for"]
    parts = {"all facts": rows, "known facts": rows[rows["known"]]}
    if len(parts["known facts"]) in (0, len(rows)):
        parts = {f"facts, {'all' if rows['known'].any() else 'none'} of them known": rows}
    lines = []
    for name, part in parts.items():
        lines += [
            f"{name} ({len(part):,})",
            f"  neurons found on discovery templates {part['n_discovery'].mean():.1f}, on held-out ones "
            f"{part['n_held_out'].mean():.1f}, on both {part['shared'].mean():.1f}",
            f"  Jaccard index {_mean(part['jaccard'])}",
            f"    with another fact of the relation {_mean(part['jaccard_relation'])}, "
            f"with a fact of another {_mean(part['jaccard_random'])}",
            f"  discovery prompts {_change(part, 'p_discovery')} with the neurons they found, "
            f"{_change(part, 'p_held_out')} with those of the other templates",
            f"  the other templates' neurons keep {_kept(part)} of the effect",
        ]
    return lines


def _mean(values: pd.Series) -> str:
    found = values.dropna().to_numpy(dtype=float)
    if not len(found):
        return "not measured"
    low, high = bootstrap_interval(
        draw_weights(np.random.default_rng(len(found)), len(found), _DRAWS) @ found / len(found)
    )
    return f"{found.mean():.3f} [{low:.3f}, {high:.3f}]"


def _change(rows: pd.DataFrame, after: str) -> str:
    """The paper's ratio: change of the mean probability over its value before."""
    return f"{rows[after].mean() / rows['p_before'].mean() - 1:+.1%}"


def _kept(rows: pd.DataFrame) -> str:
    """The fall that the held-out half's neurons cause over the fall that the discovery half's cause."""
    falls = np.stack([rows["p_before"] - rows[name] for name in ("p_held_out", "p_discovery")])
    drawn = draw_weights(np.random.default_rng(len(rows)), len(rows), _DRAWS) @ falls.T  # (draws, 2)
    other, own = falls.sum(axis=1)
    if own <= 0 or (drawn[:, 1] <= 0).any():
        return "no known share (the neurons lower nothing)"
    low, high = bootstrap_interval(drawn[:, 0] / drawn[:, 1])
    return f"{other / own:.0%} [{low:.0%}, {high:.0%}]"
