"""What activates a fact's neurons: stating the fact, naming its subject, asking its relation, or anything.

Dai et al. (ACL 2022), section 4.6: knowledge neurons are more active on texts that state the fact than on
texts that mention only the subject, or neither. For every fact that has neurons:

1. *Contexts.* About four sentences each: *fact*, its held-out prompts; *subject*, prompts of other relations
   about its subject and sentences that mention the subject and ask for nothing; *relation*, held-out prompts
   of its relation about other subjects with another answer, the control that tells neurons of a fact from
   those of a relation; *random*, held-out prompts that share neither relation, subject nor answer.
2. *Activations.* Of its own neurons and of as many random ones of the same layers, at the first place of the
   answer: plain, without sign, and relative to the discovery prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas.errors import PromptError
from atlas.intervals import BOOTSTRAP_DRAWS, bootstrap_interval
from atlas.neuron import Neuron, Prompt, Template
from build.evidence.setting import AtlasFact, Setting, chunks, draw_one

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

SENTENCES = 4
_FACTS_A_SHARD = 12
CONTEXT_KINDS = ("fact", "subject", "relation", "random")

# Sentences that fit any subject, a person, a place or a thing, and ask for no property of it.
NEUTRAL = (
    "I read something about [X] and then closed the [Y].",
    "Somebody had left a note about [X] on the [Y].",
    "We talked about [X] until it was time for [Y].",
    "When the word went round to [X], everybody was [Y].",
)


def units(setting: Setting) -> list[tuple[str, ...]]:
    return chunks([fact.fact_id for fact in setting.sampled("contexts")], _FACTS_A_SHARD)


def measure(setting: Setting, unit: Sequence[str]) -> list[dict[str, Any]]:
    facts = [setting.by_id[fact_id] for fact_id in unit]
    sentences = {fact.fact_id: draw_sentences(setting, fact) for fact in facts}
    # Each different sentence once, whatever fact it is for.
    distinct: dict[tuple[str, str], Prompt] = {}
    for fact in facts:
        for prompt in (*(each.prompt for each in fact.discovery), *chain(*sentences[fact.fact_id].values())):
            distinct.setdefault(_key(prompt), prompt)
    place = {key: index for index, key in enumerate(distinct)}
    activations = setting.activations(list(distinct.values()))

    def of(prompts: Iterable[Prompt], neurons: Sequence[Neuron]) -> np.ndarray:
        """(n_prompts, n_neurons of the fact)"""
        rows = [place[_key(prompt)] for prompt in prompts]
        layers, indices = [each.layer for each in neurons], [each.neuron for each in neurons]
        return activations[rows][:, layers, indices].astype(np.float64)

    rows = []
    for fact in facts:
        groups = {"own": fact.neurons, "random": setting.random_neurons(fact.neurons, "random", fact.fact_id)}
        for group, neurons in groups.items():
            discovery = of((each.prompt for each in fact.discovery), neurons)
            rows += [
                {
                    "fact_id": fact.fact_id,
                    "context": context,
                    "group": group,
                    "n_neurons": len(neurons),
                    "n_prompts": len(prompts),
                    **activation_levels(of(prompts, neurons), discovery),
                }
                for context, prompts in sentences[fact.fact_id].items()
                if prompts and neurons
            ]
    return rows


def _key(prompt: Prompt) -> tuple[str, str]:
    return prompt.text, prompt.answer


# Step 1: contexts ------------------------------------------------------------------------------------


def draw_sentences(setting: Setting, fact: AtlasFact) -> dict[str, list[Prompt]]:
    """Context → its sentences, at most `SENTENCES`, drawn by seed and fact."""
    generator = setting.generator("contexts", fact.fact_id)
    subject = _fold(fact.fact.subject)

    def draw(candidates: Sequence[AtlasFact], fits: Callable[[AtlasFact], bool], most: int) -> list[Prompt]:
        """A held-out prompt each of at most `most` facts that fit and have another answer."""
        drawn: list[Prompt] = []
        for index in generator.permutation(len(candidates)):
            other = candidates[index]
            if fits(other) and other.answer != fact.answer and other.held_out:
                drawn.append(draw_one(other.held_out, generator).prompt)
            if len(drawn) == most:
                break
        return drawn

    def elsewhere(other: AtlasFact) -> bool:
        return other.relation_id != fact.relation_id

    def same(other: AtlasFact) -> bool:
        return _fold(other.fact.subject) == subject

    about = draw(setting.facts, lambda other: elsewhere(other) and same(other), SENTENCES // 2)
    neutral = _neutral(setting, fact)
    chosen = generator.permutation(len(neutral))[: SENTENCES - len(about)]
    own = generator.permutation(len(fact.held_out))[:SENTENCES]
    return {
        "fact": [fact.held_out[index].prompt for index in sorted(own)],
        "subject": about + [neutral[index] for index in sorted(chosen)],
        "relation": draw(setting.by_relation[fact.relation_id], lambda other: not same(other), SENTENCES),
        "random": draw(setting.facts, lambda other: elsewhere(other) and not same(other), SENTENCES),
    }


def _fold(text: str) -> str:
    """A name for comparison."""
    return text.casefold().strip()


def _neutral(setting: Setting, fact: AtlasFact) -> list[Prompt]:
    """Sentences that mention only the fact's subject, without those that are too long for the model.

    Of the answer a masked model sees only as many masks as it has tokens.
    """
    found = []
    for number, pattern in enumerate(NEUTRAL):
        try:
            prompt = Template(f"neutral.{number}", fact.relation_id, pattern).prompt(fact.fact)
            setting.subject.encode(prompt)
        except PromptError:  # too long with this subject
            continue
        found.append(prompt)
    return found


# Step 2: activations ---------------------------------------------------------------------------------


def activation_levels(activations: np.ndarray, discovery: np.ndarray) -> dict[str, float | None]:
    """The activation columns of `contexts`; both arrays (n_prompts, n_neurons), of the same neurons.

    A neuron's unit is its root mean square over the discovery prompts. Random neurons may be nearly silent
    there, which makes their numbers elsewhere huge: hence the median. A silent one has no unit and is left
    out.
    """
    unit = np.sqrt((discovery**2).mean(axis=0))
    sign = np.where(discovery.mean(axis=0) < 0, -1.0, 1.0)
    speaks = unit > 0
    relative = (activations.mean(axis=0) * sign)[speaks] / unit[speaks]
    return {
        "activation": float(activations.mean()),
        "magnitude": float(np.abs(activations).mean()),
        "relative": float(np.median(relative)) if speaks.any() else None,
    }


# Summary ---------------------------------------------------------------------------------------------


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query("SELECT c.*, f.known FROM contexts AS c JOIN facts AS f USING (fact_id)")
    known = rows[rows["known"]]
    parts = [("all", rows)] * (len(known) < len(rows)) + [("known", known)] * (len(known) > 0)
    lines = [
        "mean over facts [95 %], and the share of facts that have more where they are stated",
        f"{'':<33}{''.join(f'{context:<28}' for context in CONTEXT_KINDS)}".rstrip(),
    ]
    for name, part in parts:
        for value in ("relative", "magnitude"):
            for group in ("own", "random"):
                about = f"{name}, {value}, {group} neurons"
                lines.append(f"{about:<33}" + _cells(part[part["group"] == group], value))
    return lines


def _cells(rows: pd.DataFrame, value: str) -> str:
    means = mean_levels(rows, value=value).set_index("context")
    shares = share_above(rows, value=value).set_index("context")["share"]
    cells = []
    for context in CONTEXT_KINDS:
        if context not in means.index:
            cells.append("not asked")
            continue
        row = means.loc[context]
        share = f" {shares[context]:.0%}" if context in shares and shares[context] >= 0 else ""
        cells.append(f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]{share}")
    return "".join(f"{cell:<28}" for cell in cells).rstrip()


def mean_levels(
    rows: pd.DataFrame, *, value: str = "relative", seed: int = 0, draws: int = BOOTSTRAP_DRAWS
) -> pd.DataFrame:
    """Mean of a column of `contexts` over facts, by group and context, with its bootstrap interval.

    Columns: group, context, n_facts, mean, low, high (2.5 and 97.5 %, over resampled facts).
    """
    found = []
    for (group, context), part in rows.dropna(subset=[value]).groupby(["group", "context"]):
        values = part.sort_values("fact_id")[value].to_numpy(float)
        generator = np.random.default_rng([seed, len(values)])
        drawn = values[generator.integers(len(values), size=(draws, len(values)))].mean(axis=1)
        low, high = bootstrap_interval(drawn)
        found.append((group, context, len(values), values.mean(), low, high))
    return pd.DataFrame(found, columns=["group", "context", "n_facts", "mean", "low", "high"])


def share_above(rows: pd.DataFrame, *, value: str = "relative") -> pd.DataFrame:
    """How often a column of `contexts` is larger where the fact is stated than in another context.

    Columns: group, context (each but 'fact'), n_facts (that have both), share (of them).
    """
    found = []
    for group, of_group in rows.groupby("group"):
        wide = of_group.pivot(index="fact_id", columns="context", values=value)
        for context in CONTEXT_KINDS[1:]:
            both = wide.reindex(columns=["fact", context]).dropna()
            found.append((group, context, len(both), (both["fact"] > both[context]).mean()))
    return pd.DataFrame(found, columns=["group", "context", "n_facts", "share"])
