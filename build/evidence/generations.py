"""Generations: what a causal model goes on to say without a fact's neurons.

Probabilities say little to a reader who wants to know what becomes of the text. For every fact that the model
knows and that has neurons:

1. *Prompt.* The first of its held-out prompts (of all, where none is held out) that the model answers right.
2. *Texts.* 20 tokens after it, each the likeliest: of the unchanged model, without the fact's neurons, and
   without as many random ones of the same layers, those of `control_neurons`. Neurons are suppressed from the
   answer position on: there, and at every generated token.
3. *Unrelated.* The prompt of another of these facts that differs in relation and object, without this fact's
   neurons; what the unchanged model says there is that fact's own text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from atlas.neuron import Neuron
from build.evidence.setting import AtlasFact, Setting, StoredPrompt, chunks
from build.jobs.evaluation import Partners

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

N_TOKENS = 20
GROUPS = ("unchanged", "own", "random", "unrelated")
_FACTS_A_SHARD = 12


def units(setting: Setting) -> list[tuple[str, ...]]:
    return chunks([fact.fact_id for fact in _measured(setting)], _FACTS_A_SHARD)


def measure(setting: Setting, unit: Sequence[str]) -> list[dict[str, Any]]:
    from atlas.experiments.generate import generate_all
    from atlas.interventions import Suppress

    facts, partners = _measured(setting), _partners(setting)
    asked = [
        (fact, each) for fact in facts if fact.fact_id in unit for each in _texts(setting, fact, partners)
    ]
    texts = setting.batches.run(
        lambda: generate_all(
            setting.subject,
            [stored.prompt for _, (_, stored, _) in asked],
            [Suppress(neurons) for _, (_, _, neurons) in asked],
            n_tokens=N_TOKENS,
            batch_tokens=setting.batches.tokens,
        )
    )
    return [
        {
            "fact_id": fact.fact_id,
            "prompt_fact_id": stored.prompt.fact_id,
            "template_id": stored.prompt.template_id,
            "group": group,
            "n_neurons": len(neurons),
            "text": text,
        }
        for (fact, (group, stored, neurons)), text in zip(asked, texts, strict=True)
    ]


def _measured(setting: Setting) -> list[AtlasFact]:
    return [fact for fact in setting.sampled("generations") if fact.known and setting.asked(fact)]


def _partners(setting: Setting) -> Partners:
    measured = {fact.fact_id for fact in _measured(setting)}
    return Partners.among(
        [fact.fact for fact in setting.facts],
        [fact.fact_id in measured for fact in setting.facts],
        [fact.known for fact in setting.facts],
    )


def _prompt(setting: Setting, fact: AtlasFact) -> StoredPrompt:
    """Step 1."""
    return min(setting.asked(fact), key=lambda stored: stored.rank > 1)


def _texts(
    setting: Setting, fact: AtlasFact, partners: Partners
) -> Iterator[tuple[str, StoredPrompt, tuple[Neuron, ...]]]:
    """Steps 2 and 3: group, prompt and the neurons that are suppressed."""
    prompt = _prompt(setting, fact)
    yield "unchanged", prompt, ()
    yield "own", prompt, fact.neurons
    random = setting.random_neurons(fact.neurons, "random", fact.fact_id)
    if random:
        yield "random", prompt, random
    generator = setting.generator("generations/unrelated", fact.fact_id)
    for partner in partners.draw(setting.place[fact.fact_id], 1, generator):
        yield "unrelated", _prompt(setting, setting.facts[partner]), fact.neurons


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query("""
        SELECT "group", count(*) AS n,
               avg(starts_with(lower(trim(text)), lower(trim(object)))::INTEGER) AS right
        FROM generations JOIN facts ON facts.fact_id = prompt_fact_id
        GROUP BY "group" ORDER BY list_position(['unchanged', 'own', 'random', 'unrelated'], "group")
    """)
    if rows.empty:
        return ["the model knows no fact that has neurons"]
    return ["texts that begin with the answer:"] + [
        f"  {row.group:<10} {row.right:6.1%} of {row.n:,}" for row in rows.itertuples()
    ]
