"""What suppressing and amplifying neurons does to prompts: the evaluations and the rows of `effects`.

    evaluations = [*Evaluations(...).of_fact(fact)]
    rows = evaluate_effects(subject, evaluations, batches=batches)
    effects, control_neurons = effect_rows(rows), control_rows(rows)

A build measures the groups own, random and unrelated on held-out prompts, or on all where it holds none out;
`build.evidence.effects` measures more. What is drawn depends on the seed, the purpose and the fact alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.experiments.controls import random_match
from atlas.interventions import Amplify, SetTo, Suppress
from atlas.neuron import Fact, Neuron, Prompt
from atlas.queries.evidence import CONTROLS
from atlas.store.schema import TABLES, conform

if TYPE_CHECKING:
    from atlas.surgery.subject import Encoded, Subject
    from build.jobs.worker import Batches
    from build.output.tables import Prompts

AMPLIFY_FACTOR = 2.0
INTERVENTION_BY_NAME: dict[str, Callable[[tuple[Neuron, ...]], Any]] = {
    "suppress": Suppress,
    "amplify": lambda neurons: Amplify(neurons, factor=AMPLIFY_FACTOR),
}
MEAN = "mean"

# One row an effect: the columns of `effects`, and the neurons that were changed as two lists of equal length.
EFFECTS_SHARD = pa.schema(
    [
        *TABLES["effects"],
        pa.field("layers", pa.list_(pa.int16())),
        pa.field("neurons", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """Neurons to change, the prompt to predict, and the prediction before the change."""

    fact_id: str
    prompt: Prompt
    group: str
    neurons: tuple[Neuron, ...]
    p_before: float
    rank_before: int
    top_before: str
    held_out: bool = True
    activity: float | None = None
    interventions: tuple[str, ...] = tuple(INTERVENTION_BY_NAME)


def seeded(seed: int, purpose: str, fact_id: str) -> np.random.Generator:
    """Random numbers that depend on the seed, the purpose and the fact alone."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{fact_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class Partners:
    """Facts with prompts to ask, among which unrelated ones are drawn for a fact.

    All (n_candidates,): index of the fact in the plan, codes of its relation and its object, and whether
    the model knows it.
    """

    facts: np.ndarray
    relations: np.ndarray
    objects: np.ndarray
    known: np.ndarray

    @classmethod
    def among(cls, facts: Sequence[Fact], has_prompts: Sequence[bool], known: Sequence[bool]) -> Partners:
        chosen = np.flatnonzero(np.asarray(has_prompts, bool))

        def codes(values: list[str]) -> np.ndarray:
            return np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)[1]

        return cls(
            chosen,
            codes([fact.relation_id for fact in facts])[chosen] if len(facts) else chosen,
            codes([fact.object.casefold().strip() for fact in facts])[chosen] if len(facts) else chosen,
            np.asarray(known, bool)[chosen],
        )

    def n_candidates(self, fact: int) -> int:
        """How many facts `draw` can draw from."""
        return int(self._candidates(fact).sum())

    def _candidates(self, fact: int) -> np.ndarray:
        """Which of the facts differ from this one in relation and object, (n_candidates,) bool."""
        here = np.searchsorted(self.facts, fact)
        if here >= len(self.facts) or self.facts[here] != fact:
            return np.zeros(len(self.facts), bool)
        return (self.relations != self.relations[here]) & (self.objects != self.objects[here])

    def draw(self, fact: int, count: int, generator: np.random.Generator) -> list[int]:
        """At most `count` different facts that differ from this one in relation and object.

        Those that the model knows come first: what is not known cannot be lost.
        """
        candidates = self._candidates(fact)
        drawn: list[int] = []
        for pool in (self.facts[candidates & self.known], self.facts[candidates & ~self.known]):
            chosen = generator.choice(pool, size=min(count - len(drawn), len(pool)), replace=False)
            drawn += [int(index) for index in chosen]
        return drawn


@dataclass(frozen=True)
class Evaluations:
    """A build's evaluations, fact by fact: own, random and unrelated.

    facts: those that have prompts, in the order of `prompts.fact_ids`; neurons: of the facts that have some;
    prompt_of: the prompt of a row; holds_out: whether held-out prompts are asked, rather than all.
    """

    facts: Sequence[Fact]
    prompts: Prompts
    neurons: Mapping[str, tuple[Neuron, ...]]
    n_neurons: int
    seed: int
    prompt_of: Callable[[int], Prompt]
    holds_out: bool = True

    @cached_property
    def partners(self) -> Partners:
        return Partners.among(
            self.facts, [bool(self.asked_rows(fact)) for fact in self.facts], self.prompts.known
        )

    def asked_rows(self, fact: Fact) -> list[int]:
        rows = self.prompts.rows_of(fact.fact_id)
        return [row for row in rows if self.prompts.held_out[row] or not self.holds_out]

    def count(self, fact: Fact) -> int:
        """How many evaluations `of_fact` gives."""
        n_asked = len(self.asked_rows(fact))
        index = self.prompts.index_of(fact.fact_id)
        return 2 * n_asked + min(n_asked, self.partners.n_candidates(index))

    def of_fact(self, fact: Fact) -> Iterator[Evaluation]:
        """The fact's evaluations; what is drawn depends on the seed and the fact alone."""
        own = self.neurons[fact.fact_id]
        match = random_match(own, self.n_neurons, seeded(self.seed, "random", fact.fact_id))
        matched = tuple(sorted(match.values()))
        rows = self.asked_rows(fact)
        for row in rows:
            yield self._evaluation(fact, row, "own", own)
            if matched:
                yield self._evaluation(fact, row, "random", matched)
        generator = seeded(self.seed, "unrelated", fact.fact_id)
        index = self.prompts.index_of(fact.fact_id)
        for partner in self.partners.draw(index, len(rows), generator):
            row = int(generator.choice(self.asked_rows(self.facts[partner])))
            yield self._evaluation(fact, row, "unrelated", own)

    def _evaluation(self, fact: Fact, row: int, group: str, neurons: tuple[Neuron, ...]) -> Evaluation:
        return Evaluation(
            fact_id=fact.fact_id,
            prompt=self.prompt_of(row),
            group=group,
            neurons=neurons,
            p_before=float(self.prompts.probability[row]),
            rank_before=int(self.prompts.rank[row]),
            top_before=self.prompts.top_token[row],
            held_out=bool(self.prompts.held_out[row]),
        )


def evaluate_effects(
    subject: Subject,
    evaluations: Sequence[Evaluation],
    *,
    batches: Batches,
    encoded: Mapping[Prompt, Encoded] | None = None,
    means: np.ndarray | None = None,
) -> pa.Table:
    """Rows of `EFFECTS_SHARD`: every evaluation with its interventions.

    encoded: prompts encoded before. means: the activations that the intervention 'mean' sets,
    (n_layers, n_neurons).
    """
    encoded = encoded or {}
    changed = [(each, name) for each in evaluations for name in each.interventions]

    def change(neurons: tuple[Neuron, ...], name: str) -> Any:
        if name != MEAN:
            return INTERVENTION_BY_NAME[name](neurons)
        return tuple(SetTo((each,), float(means[each.layer, each.neuron])) for each in neurons)

    predictions = batches.run(
        lambda: subject.predict(
            [encoded.get(each.prompt, each.prompt) for each, _ in changed],
            top_k=1,
            interventions=[change(each.neurons, name) for each, name in changed],
            batch_tokens=batches.tokens,
            share_prefixes=True,
        )
    )
    rows = [
        {
            "fact_id": each.fact_id,
            "prompt_fact_id": each.prompt.fact_id,
            "template_id": each.prompt.template_id,
            "intervention": name,
            "group": each.group,
            "held_out": each.held_out,
            "n_neurons": len(each.neurons),
            "activity": each.activity,
            "p_before": each.p_before,
            "p_after": prediction.probability,
            "rank_before": each.rank_before,
            "rank_after": prediction.rank,
            "top_changed": prediction.top_token != each.top_before,
            "layers": [neuron.layer for neuron in each.neurons],
            "neurons": [neuron.neuron for neuron in each.neurons],
        }
        for (each, name), prediction in zip(changed, predictions, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=EFFECTS_SHARD)


def effect_rows(rows: pa.Table) -> pa.Table:
    """The table `effects`, from rows of `EFFECTS_SHARD`."""
    return rows.select(TABLES["effects"].names)


def control_rows(rows: pa.Table) -> pa.Table:
    """The table `control_neurons`, from rows of `EFFECTS_SHARD`: a fact's controls are the same in all."""
    chosen = rows.filter(pc.is_in(rows["group"], pa.array(CONTROLS)))
    controls = chosen.select(["fact_id", "group", "layers", "neurons"]).to_pandas()
    controls = controls.drop_duplicates(["fact_id", "group"]).explode(["layers", "neurons"])
    columns = controls.rename(columns={"layers": "layer", "neurons": "neuron"}).assign(draw=1)
    return conform("control_neurons", columns)
