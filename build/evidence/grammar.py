"""Grammar: does the procedure that finds a fact's neurons also "find" rules of English, and with what effect?

Niu et al. (ICLR 2024): if neurons that are found for agreement can be suppressed and edited as a fact's can,
then the procedure shows patterns of words, not knowledge. For each pair of `atlas.datasets.grammar`:

1. *Ask* for the right word and for the wrong one in all wordings. A pair is known if the right one is
   likelier in more than half of them. Others are only counted, and so are pairs with a word that is several
   tokens of the model: the more parts, the less likely a word.
2. *Find* the right word's neurons on the discovery wordings, as the atlas found those of facts: attribution,
   refinement. How many are knowledge neurons of facts, too, and how many random ones of the same layers are.
3. *Change* them on the held-out wordings: suppress, and edit from the right word to the wrong one with the
   strengths of `update`. Beside them as many random neurons of the same layers.

`atlas.queries.critics` sets the effects beside those of facts. Another pair raises the study's version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.datasets.grammar import MinimalPair, load_grammar
from atlas.neuron import Neuron, Prompt
from atlas.queries import critics
from atlas.refinement import Refinement, refine_scores
from atlas.store.schema import TABLES
from build.evidence.setting import Setting, chunks
from build.evidence.stability import attribution_options
from build.evidence.update import STRENGTHS
from build.output.check import rule_of

if TYPE_CHECKING:
    from atlas.interventions import Intervention
    from atlas.store.atlas import Atlas
    from atlas.store.manifest import Manifest
    from atlas.surgery.subject import Prediction, Subject

_PAIRS_A_SHARD = 5


def units(setting: Setting) -> list[tuple[MinimalPair, ...]]:
    """A few pairs of a phenomenon each; `sample` is how many of a phenomenon are taken."""
    pairs = load_grammar()
    found: list[tuple[MinimalPair, ...]] = []
    for phenomenon in dict.fromkeys(pair.phenomenon for pair in pairs):
        mine = [pair for pair in pairs if pair.phenomenon == phenomenon]
        order = setting.generator("grammar", phenomenon).permutation(len(mine))[: setting.sample]
        found += chunks([mine[index] for index in sorted(order)], _PAIRS_A_SHARD)
    return found


def measure(setting: Setting, unit: Sequence[MinimalPair]) -> list[dict[str, Any]]:
    causal = setting.subject.family.kind == "causal"
    prompts = {pair: pair.prompts(causal=causal) for pair in unit}
    # Step 1: ask.
    asked = [pair for pair in unit if has_tokens(setting.subject, pair, prompts[pair])]
    places = [(pair, prompt) for pair in asked for prompt in prompts[pair]]
    predictions = iter(setting.predict([each for place in places for each in both(*place)]))
    before = {place: (next(predictions), next(predictions)) for place in places}
    known = [pair for pair in asked if is_known([before[pair, prompt] for prompt in prompts[pair]])]
    # Step 2: find.
    found = find_neurons(setting, {pair: prompts[pair] for pair in known})
    # Step 3: change.
    changed = [
        (pair, prompt, *change)
        for pair in known
        for prompt in prompts[pair]
        if pair.holds_out(prompt)
        for change in changes(setting, pair, found[pair])
    ]
    after = iter(
        setting.predict(
            [each for pair, prompt, *_ in changed for each in both(pair, prompt)],
            [change for *_, change in changed for _ in range(2)],
        )
    )
    rows = []
    for pair in unit:
        neurons = found.get(pair)
        shared = {} if neurons is None else shared_neurons(setting, neurons)
        for prompt in prompts[pair]:
            row = _row(pair, prompt, "none", 0.0, "none", before.get((pair, prompt)))
            rows.append(row | shared | {"known": (pair in known) if pair in asked else None})
    for pair, prompt, intervention, add, group, change in changed:
        row = _row(pair, prompt, intervention, add, group, before[pair, prompt], (next(after), next(after)))
        rows.append(row | {"known": True, "n_neurons": len(change.neurons)})
    return rows


def both(pair: MinimalPair, prompt: Prompt) -> tuple[Prompt, Prompt]:
    """The prompt with the right word as its answer, and with the wrong one."""
    return prompt, replace(prompt, answer=pair.bad)


def has_tokens(subject: Subject, pair: MinimalPair, prompts: Sequence[Prompt]) -> bool:
    """Whether each of the two words is one token of the model."""
    asked = [each for prompt in prompts for each in both(pair, prompt)]
    return all(subject.can_be_asked(each) and len(subject.encode(each).targets) == 1 for each in asked)


def is_known(predictions: Sequence[tuple[Prediction, Prediction]]) -> bool:
    right = [good.probability > bad.probability for good, bad in predictions]
    return 2 * sum(right) > len(right)


# Step 2: find ----------------------------------------------------------------------------------------


def grammar_rule(manifest: Manifest) -> Refinement:
    """The atlas's rule, with the share that it starts at, and without negative examples."""
    return replace(rule_of(manifest), target=None, negatives=0)


def find_neurons(
    setting: Setting, prompts: dict[MinimalPair, tuple[Prompt, ...]]
) -> dict[MinimalPair, tuple[Neuron, ...]]:
    """The neurons that each pair's discovery wordings share."""
    manifest = setting.atlas.manifest
    discovery = {pair: [each for each in of if not pair.holds_out(each)] for pair, of in prompts.items()}
    asked = [each for of in discovery.values() for each in of]
    scores = iter(setting.attribute(asked, **attribution_options(manifest)) if asked else ())
    rule = grammar_rule(manifest)
    return {
        pair: tuple(sorted(each.neuron for each in refine_scores([next(scores) for _ in of], rule)))
        for pair, of in discovery.items()
    }


@lru_cache(maxsize=1)
def _of_facts(atlas: Atlas) -> frozenset[Neuron]:
    rows = atlas.query("SELECT DISTINCT layer, neuron FROM knowledge_neurons")
    return frozenset(Neuron(int(layer), int(neuron)) for layer, neuron in rows.itertuples(index=False))


def shared_neurons(setting: Setting, neurons: Sequence[Neuron]) -> dict[str, Any]:
    """How many of the neurons are knowledge neurons of facts, and how many random ones would be."""
    of_facts = _of_facts(setting.atlas)
    in_layer = np.bincount([each.layer for each in of_facts], minlength=setting.n_layers)
    return {
        "n_neurons": len(neurons),
        "n_shared": sum(each in of_facts for each in neurons),
        "shared_by_chance": float(sum(in_layer[each.layer] for each in neurons) / setting.n_neurons),
    }


# Step 3: change --------------------------------------------------------------------------------------


def changes(
    setting: Setting, pair: MinimalPair, neurons: tuple[Neuron, ...]
) -> list[tuple[str, float, str, Intervention]]:
    """(intervention, strength, group, change) of the pair's neurons and of random ones; none without."""
    from atlas.interventions import Edit, Suppress

    found: list[tuple[str, float, str, Intervention]] = []
    random = setting.random_neurons(neurons, "grammar", pair.pair_id)
    for group, chosen in (("own", neurons), ("random", random)) if neurons else ():
        found.append(("suppress", 0.0, group, Suppress(chosen)))
        for remove, add in STRENGTHS:
            found.append(("edit", add, group, Edit(chosen, pair.good, pair.bad, remove, add)))
    return found


def _row(
    pair: MinimalPair,
    prompt: Prompt,
    intervention: str,
    add: float,
    group: str,
    before: tuple[Prediction, Prediction] | None,
    after: tuple[Prediction, Prediction] | None = None,
) -> dict[str, Any]:
    # A shard has the columns of its first row.
    row = dict.fromkeys(TABLES["grammar"].names) | {
        "phenomenon": pair.phenomenon,
        "pair_id": pair.pair_id,
        "template_id": prompt.template_id,
        "intervention": intervention,
        "add": add,
        "group": group,
        "held_out": pair.holds_out(prompt),
        "text": prompt.text,
        "good": pair.good,
        "bad": pair.bad,
    }
    for when, predictions in (("before", before), ("after", after)):
        for word, prediction in zip(("good", "bad"), predictions or (), strict=False):
            row[f"p_{word}_{when}"] = prediction.probability
            row[f"rank_{word}_{when}"] = prediction.rank
    return row


# Summary ---------------------------------------------------------------------------------------------


def summary(atlas: Atlas) -> list[str]:
    rows = critics.phenomena(atlas)
    lines = [f"{'phenomenon (pairs known, of all)':<44}neurons  facts' (chance)  suppressed [95 %], random"]
    for row in rows.itertuples():
        what = f"  {row.phenomenon} ({row.n_known}, {row.n_pairs})"
        if not row.known_low > critics.CHANCE:
            asked = f"{row.n_known} of the {row.n_asked} pairs whose words are tokens"
            lines.append(f"{what:<44}not known beyond chance: {asked}")
            continue
        lines.append(
            f"{what:<44}{row.n_neurons:7.1f}  {row.shared:6.0%} ({row.by_chance:.0%})     "
            f"{row.own:+8.1%} [{row.low:+.1%}, {row.high:+.1%}]  {row.random:+.1%}"
        )
    ratios = critics.grammar_ratio(atlas)
    if ratios.empty:
        lines.append("no ratio to facts: no phenomenon is known, or facts' effects are not measured")
    for row in ratios.itertuples():
        strength = f" (1, {row.add:g})" if row.add else ""
        lines.append(
            f"{row.measure}{strength}, {row.answers} answers: grammar {row.grammar:+.1%} "
            f"[{row.grammar_low:+.1%}, {row.grammar_high:+.1%}] (n = {row.n_pairs} pairs), facts "
            f"{row.facts:+.1%} [{row.facts_low:+.1%}, {row.facts_high:+.1%}] (n = {row.n_facts}); "
            f"ratio {row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]"
        )
    return lines
