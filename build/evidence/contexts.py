"""What activates a fact's neurons: stating the fact, naming its subject, asking its relation, or anything.

Dai et al. (ACL 2022), section 4.3: knowledge neurons are more active where a text states the fact than where
it mentions the subject only, or neither. For every fact that has neurons:

1. *Contexts.* About four sentences each: *fact*, its held-out prompts; *subject*, prompts of other relations
   about its subject and sentences that mention the subject and ask for nothing; *relation*, held-out prompts
   of its relation about other subjects with another answer, the control that tells neurons of a fact from
   those of a relation; *random*, held-out prompts that share neither relation, subject nor answer.
2. *Activations.* Of its own neurons and of as many random ones of the same layers, at the first place of the
   answer: plain, without sign, and relative to the discovery prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas.errors import PromptError
from atlas.neuron import Neuron, Prompt, Template
from build.evidence.ground import Ground, GroundFact, StoredPrompt, chunks

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

FACTS_A_SHARD = 12
SENTENCES = 4
CONTEXTS = ("fact", "subject", "relation", "random")

# What any subject can stand in, a person, a place or a thing, and what asks for no property of it.
NEUTRAL = (
    "I read something about [X] and then closed the [Y].",
    "Somebody had left a note about [X] on the [Y].",
    "We talked about [X] until it was time for [Y].",
    "When the word went round to [X], everybody was [Y].",
)


def units(ground: Ground) -> list[tuple[str, ...]]:
    return chunks([fact.fact_id for fact in ground.sampled("contexts")], FACTS_A_SHARD)


def measure(ground: Ground, unit: Sequence[str]) -> list[dict[str, Any]]:
    facts = [ground.by_id[fact_id] for fact_id in unit]
    sentences = {fact.fact_id: sentences_of(ground, fact) for fact in facts}
    # Each different sentence once; only what is asked of it matters, not for which fact.
    place: dict[tuple[str, str], int] = {}
    asked: list[Prompt] = []
    for prompt in _every(facts, sentences):
        if place.setdefault(_key(prompt), len(asked)) == len(asked):
            asked.append(prompt)
    activations = ground.activations(asked)

    def of(prompts: Iterable[Prompt], neurons: Sequence[Neuron]) -> np.ndarray:
        """(n_prompts, n_neurons of the fact)"""
        rows = [place[_key(prompt)] for prompt in prompts]
        layers, indices = [each.layer for each in neurons], [each.neuron for each in neurons]
        return activations[rows][:, layers, indices].astype(np.float64)

    rows = []
    for fact in facts:
        groups = {"own": fact.neurons, "random": ground.stand_ins(fact.neurons, "random", fact.fact_id)}
        for group, neurons in groups.items():
            discovery = of((each.prompt for each in fact.discovery), neurons)
            rows += [
                {
                    "fact_id": fact.fact_id,
                    "context": context,
                    "group": group,
                    "n_neurons": len(neurons),
                    "n_prompts": len(prompts),
                    **levels(of(prompts, neurons), discovery),
                }
                for context, prompts in sentences[fact.fact_id].items()
                if prompts and neurons
            ]
    return rows


def _every(facts: Sequence[GroundFact], sentences: dict[str, dict[str, list[Prompt]]]) -> Iterable[Prompt]:
    for fact in facts:
        yield from (each.prompt for each in fact.discovery)
        for prompts in sentences[fact.fact_id].values():
            yield from prompts


def _key(prompt: Prompt) -> tuple[str, str]:
    return prompt.text, prompt.answer


# Step 1: contexts ------------------------------------------------------------------------------------


def sentences_of(ground: Ground, fact: GroundFact) -> dict[str, list[Prompt]]:
    """Context → its sentences, at most `SENTENCES`, drawn by seed and fact; none where there are none."""
    generator = ground.generator("contexts", fact.fact_id)
    subject = _same(fact.fact.subject)

    def facts(
        candidates: Sequence[GroundFact], fits: Callable[[GroundFact], bool], most: int
    ) -> list[Prompt]:
        """A held-out prompt each of at most `most` facts that fit and have another answer."""
        drawn: list[Prompt] = []
        for index in generator.permutation(len(candidates)):
            other = candidates[index]
            if fits(other) and other.answer != fact.answer and other.held_out:
                drawn.append(_one(other.held_out, generator))
            if len(drawn) == most:
                break
        return drawn

    def elsewhere(other: GroundFact) -> bool:
        return other.relation_id != fact.relation_id

    def same(other: GroundFact) -> bool:
        return _same(other.fact.subject) == subject

    about = facts(ground.facts, lambda other: elsewhere(other) and same(other), SENTENCES // 2)
    neutral = _neutral(ground, fact)
    chosen = generator.permutation(len(neutral))[: SENTENCES - len(about)]
    own = generator.permutation(len(fact.held_out))[:SENTENCES]
    return {
        "fact": [fact.held_out[index].prompt for index in sorted(own)],
        "subject": about + [neutral[index] for index in sorted(chosen)],
        "relation": facts(ground.by_relation[fact.relation_id], lambda other: not same(other), SENTENCES),
        "random": facts(ground.facts, lambda other: elsewhere(other) and not same(other), SENTENCES),
    }


def _same(text: str) -> str:
    """A name as it is compared."""
    return text.casefold().strip()


def _one(prompts: Sequence[StoredPrompt], generator: np.random.Generator) -> Prompt:
    return prompts[int(generator.integers(len(prompts)))].prompt


def _neutral(ground: Ground, fact: GroundFact) -> list[Prompt]:
    """Sentences that mention the fact's subject only, those that the model can be asked.

    A masked model sees as many masks as the fact's answer has tokens, and nothing else of it.
    """
    found = []
    for number, pattern in enumerate(NEUTRAL):
        try:
            prompt = Template(f"neutral.{number}", fact.relation_id, pattern).prompt(fact.fact)
            ground.subject.encode(prompt)
        except PromptError:  # too long with this subject
            continue
        found.append(prompt)
    return found


# Step 2: activations ---------------------------------------------------------------------------------


def levels(activations: np.ndarray, discovery: np.ndarray) -> dict[str, float | None]:
    """The activation columns of `contexts`; both arrays (n_prompts, n_neurons), of the same neurons.

    A neuron's unit is its root mean square over the discovery prompts. Random neurons may hardly speak there,
    which makes their numbers elsewhere huge: hence the median. One that is silent there has no unit and is
    left out.
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


# For a person ----------------------------------------------------------------------------------------

BOOTSTRAP_DRAWS = 1000


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query("SELECT c.*, f.known FROM contexts AS c JOIN facts AS f USING (fact_id)")
    known = rows[rows["known"]]
    parts = [("all", rows)] * (len(known) < len(rows)) + [("known", known)] * (len(known) > 0)
    lines = [
        "mean over facts [95 %], and the share of facts that have more where they are stated",
        f"{'':<33}{''.join(f'{context:<28}' for context in CONTEXTS)}".rstrip(),
    ]
    for name, part in parts:
        for value in ("relative", "magnitude"):
            for group in ("own", "random"):
                about = f"{name}, {value}, {group} neurons"
                lines.append(f"{about:<33}" + _cells(part[part["group"] == group], value))
    return lines


def _cells(rows: pd.DataFrame, value: str) -> str:
    means = mean_levels(rows, value=value).set_index("context")
    shares = stated_most(rows, value=value).set_index("context")["share"]
    cells = []
    for context in CONTEXTS:
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

    Columns: group, context, n_facts, mean, low, high (2.5 and 97.5 %; facts are drawn again).
    """
    found = []
    for (group, context), part in rows.dropna(subset=[value]).groupby(["group", "context"]):
        values = part.sort_values("fact_id")[value].to_numpy(float)
        generator = np.random.default_rng([seed, len(values)])
        drawn = values[generator.integers(len(values), size=(draws, len(values)))].mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        found.append((group, context, len(values), values.mean(), low, high))
    return pd.DataFrame(found, columns=["group", "context", "n_facts", "mean", "low", "high"])


def stated_most(rows: pd.DataFrame, *, value: str = "relative") -> pd.DataFrame:
    """How often neurons have more of a column of `contexts` where their fact is stated than elsewhere.

    Columns: group, context (each but 'fact'), n_facts (that have both), share (of them).
    """
    found = []
    for group, of_group in rows.groupby("group"):
        wide = of_group.pivot(index="fact_id", columns="context", values=value)
        for context in CONTEXTS[1:]:
            both = wide.reindex(columns=["fact", context]).dropna()
            found.append((group, context, len(both), (both["fact"] > both[context]).mean()))
    return pd.DataFrame(found, columns=["group", "context", "n_facts", "share"])
