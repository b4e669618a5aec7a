"""The setting of an experiment: an atlas's facts with their prompts and neurons, its model, sample and seed.

    setting = Setting(Atlas(folder), model="pocket-bert", seed=0, sample=200)
    for fact in setting.sampled("subsets"): fact.held_out, fact.neurons
    setting.predict(prompts, changes)                 # in batches that memory allows

Facts come in the order of their ids, without the contested and the guessable ones: what changing neurons does
to an answer says little where others are as right, or where the subject suggests it. The model is loaded when
it is first needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.experiments.controls import random_match
from atlas.neuron import MARKS, Fact, Neuron, Prompt
from atlas.refinement import MODES, refine
from atlas.store.atlas import Atlas
from atlas.store.manifest import file_name
from build.jobs.evaluation import seeded
from build.output.writer import read_parquet

if TYPE_CHECKING:
    from atlas.interventions import Intervention
    from atlas.surgery.subject import Prediction, Subject
    from build.jobs.worker import Batches

_Item = TypeVar("_Item")

REFERENCES = 500
"""Facts over whose prompts mean activations are taken."""


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt in the atlas, with the model's prediction when the atlas was built."""

    prompt: Prompt
    held_out: bool
    probability: float
    rank: int
    top_token: str


@dataclass(frozen=True)
class AtlasFact:
    """A fact with its prompts, by template id, and its neurons, those of the largest mean score first."""

    fact: Fact
    known: bool
    neurons: tuple[Neuron, ...]
    prompts: tuple[StoredPrompt, ...]

    @property
    def fact_id(self) -> str:
        return self.fact.fact_id

    @property
    def relation_id(self) -> str:
        return self.fact.relation_id

    @property
    def answer(self) -> str:
        """The object for comparison, without case and surrounding blanks."""
        return self.fact.object.casefold().strip()

    @property
    def discovery(self) -> tuple[StoredPrompt, ...]:
        return tuple(each for each in self.prompts if not each.held_out)

    @property
    def held_out(self) -> tuple[StoredPrompt, ...]:
        return tuple(each for each in self.prompts if each.held_out)


@dataclass
class Setting:
    """An atlas and its model, for experiments.

    sample: how many facts an experiment takes, None for all; seed: of everything random; all_facts: contested
    and guessable ones, too.
    """

    atlas: Atlas
    model: str
    seed: int = 0
    sample: int | None = None
    all_facts: bool = False
    device: str = "auto"
    note: Callable[[str], None] = field(default=lambda text: None, repr=False)
    _before: dict[tuple[Prompt, ...], list[Prediction]] = field(default_factory=dict, repr=False)

    # --- the model ---

    @cached_property
    def subject(self) -> Subject:
        from atlas.surgery.subject import load_subject

        return load_subject(
            self.model, device=self.device, dtype=self.atlas.manifest.model.dtype or "float32"
        )

    @cached_property
    def batches(self) -> Batches:
        from build.jobs.worker import Batches

        batches = Batches.for_subject(self.subject, None)
        batches.note = lambda text: self.note(text)
        return batches

    def predict(
        self,
        prompts: Sequence[Prompt],
        changes: Sequence[Intervention | Sequence[Intervention] | None] | None = None,
    ) -> list[Prediction]:
        """The prediction for each prompt, each under its own change."""
        return self.batches.run(
            lambda: self.subject.predict(
                prompts,
                top_k=1,
                interventions=changes,
                batch_tokens=self.batches.tokens,
                share_prefixes=True,
            )
        )

    def predict_changed(self, pairs: Sequence[tuple[Intervention, Prompt]]) -> Iterator[Prediction]:
        """The prediction for each prompt under the change before it."""
        return iter(self.predict([prompt for _, prompt in pairs], [change for change, _ in pairs]))

    def before(self, prompts: Sequence[Prompt]) -> list[Prediction]:
        """The predictions of the unchanged model; computed once for each list of prompts."""
        key = tuple(prompts)
        if key not in self._before:
            self._before[key] = self.predict(key)
        return self._before[key]

    def activations(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Every neuron's activation at the first answer position: (n_prompts, n_layers, n_neurons)."""
        return self.batches.run(
            lambda: self.subject.activations(prompts, batch_tokens=self.batches.tokens).numpy()
        )

    @cached_property
    def mean_activations(self) -> np.ndarray:
        """Every neuron's mean over a discovery prompt each of facts at random, (n_layers, n_neurons)."""
        order = self.generator("mean").permutation(len(self.facts))[:REFERENCES]
        prompts = [self.facts[index].discovery[0].prompt for index in order if self.facts[index].discovery]
        return self.activations(prompts).mean(axis=0)

    @cached_property
    def value_norms(self) -> np.ndarray:
        """The length of every neuron's value vector, (n_layers, n_neurons)."""
        family, model = self.subject.family, self.subject.model
        norms = [family.value_vectors(model, layer).float().norm(dim=1) for layer in range(self.n_layers)]
        return np.stack([each.detach().cpu().numpy() for each in norms])

    def attribute(self, prompts: Sequence[Prompt], **options: Any) -> list[np.ndarray]:
        """Every neuron's score for each prompt, (n_layers, n_neurons); options are those of `attribute`."""
        from atlas.attribution.attribution import attribute

        results = self.batches.run(
            lambda: attribute(self.subject, prompts, batch_rows=self.batches.rows, **options)
        )
        return [result.scores for result in results]

    # --- the atlas ---

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Ids of facts that no experiment takes: the contested and the guessable ones."""
        if self.all_facts:
            return frozenset()
        marked = self._rows(f"SELECT fact_id FROM facts WHERE {' OR '.join(MARKS)}")
        return frozenset(fact_id for (fact_id,) in marked)

    def kept(self, rows: pa.Table) -> pa.Table:
        """Those of the rows whose fact_id is not left out."""
        if not self.left_out:
            return rows
        return rows.filter(pc.invert(pc.is_in(rows["fact_id"], pa.array(sorted(self.left_out)))))

    @cached_property
    def facts(self) -> tuple[AtlasFact, ...]:
        """Every fact that is not left out, by id."""
        neurons: dict[str, list[Neuron]] = defaultdict(list)
        for fact_id, layer, neuron in self._rows("""
            SELECT fact_id, layer, neuron FROM knowledge_neurons
            ORDER BY fact_id, mean_score DESC NULLS LAST, layer, neuron
        """):
            neurons[fact_id].append(Neuron(layer, neuron))
        prompts: dict[str, list[StoredPrompt]] = defaultdict(list)
        for fact_id, template_id, text, answer, *prediction in self._rows("""
            SELECT p.fact_id, p.template_id, p.text, f.object, p.held_out, p.probability, p.rank, p.top_token
            FROM prompts AS p JOIN facts AS f USING (fact_id) ORDER BY p.fact_id, p.template_id
        """):
            prompts[fact_id].append(StoredPrompt(Prompt(fact_id, template_id, text, answer), *prediction))
        return tuple(
            AtlasFact(
                Fact(fact_id, relation_id, subject, answer),
                bool(known),
                tuple(neurons[fact_id]),
                tuple(prompts[fact_id]),
            )
            for fact_id, relation_id, subject, answer, known in self._rows(
                "SELECT fact_id, relation_id, subject, object, known FROM facts ORDER BY fact_id"
            )
            if fact_id not in self.left_out
        )

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        frame = self.atlas.query(sql)
        return list(zip(*(frame[name].tolist() for name in frame.columns), strict=True))

    @cached_property
    def by_id(self) -> dict[str, AtlasFact]:
        return {fact.fact_id: fact for fact in self.facts}

    @cached_property
    def by_relation(self) -> dict[str, tuple[AtlasFact, ...]]:
        """Relation id → its facts, both by id."""
        relations: dict[str, list[AtlasFact]] = defaultdict(list)
        for fact in self.facts:
            relations[fact.relation_id].append(fact)
        return {relation_id: tuple(relations[relation_id]) for relation_id in sorted(relations)}

    @cached_property
    def place(self) -> dict[str, int]:
        """Index of each fact in `facts`."""
        return {fact.fact_id: place for place, fact in enumerate(self.facts)}

    @cached_property
    def holds_out(self) -> bool:
        """Whether the atlas keeps templates for evaluation."""
        return any(fact.held_out for fact in self.facts)

    def asked(self, fact: AtlasFact) -> tuple[StoredPrompt, ...]:
        """The fact's held-out prompts; all of its prompts where the atlas holds none out."""
        return fact.held_out if self.holds_out else fact.prompts

    @cached_property
    def answered(self) -> dict[str, tuple[StoredPrompt, ...]]:
        """Fact id → those of its prompts to ask whose answer has rank 1, of facts that have one.

        All of its prompts to ask, where the model answers none of any fact rightly.
        """
        asked = {fact.fact_id: self.asked(fact) for fact in self.facts if self.asked(fact)}
        right = {
            fact_id: tuple(each for each in prompts if each.rank == 1) for fact_id, prompts in asked.items()
        }
        return {fact_id: prompts for fact_id, prompts in right.items() if prompts} or asked

    @cached_property
    def scores(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """What `atlas.refinement.refine` takes: the stored scores, and its columns of prompts and facts."""
        columns = {
            "attributions": ["fact_id", "template_id", "layer", "neuron", "score"],
            "prompts": ["fact_id", "template_id", "held_out", "max_score"],
            "facts": ["fact_id", "relation_id", "object"],
        }
        return tuple(
            self.kept(read_parquet(self.atlas.path / file_name(name), chosen))
            for name, chosen in columns.items()
        )

    @cached_property
    def refined(self) -> dict[str, pa.Table]:
        """Mode → the neurons, as `knowledge_neurons` has them, that it finds in the stored scores."""
        return {name: refine(*self.scores, rule).rows for name, rule in MODES.items()}

    def sampled(
        self, purpose: str, *, known_first: bool = True, among: Sequence[AtlasFact] | None = None
    ) -> list[AtlasFact]:
        """At most `sample` facts, in the order of their ids, drawn by seed and purpose.

        among: those that may be drawn, by id; by default all that have neurons.
        Relations take turns, so that each is represented. With `known_first`, facts that the model knows are
        drawn before any that it does not.
        """
        candidates = [fact for fact in self.facts if fact.neurons] if among is None else list(among)
        if self.sample is None or self.sample >= len(candidates):
            return candidates
        generator = self.generator(purpose)
        turns: list[tuple[tuple[bool, int, float], AtlasFact]] = []
        place: dict[tuple[str, bool], int] = defaultdict(int)
        for index in generator.permutation(len(candidates)):
            fact = candidates[index]
            pool = (fact.relation_id, fact.known or not known_first)
            turns.append(((not pool[1], place[pool], float(generator.random())), fact))
            place[pool] += 1
        drawn = sorted(turns, key=lambda turn: turn[0])[: self.sample]
        return sorted((fact for _, fact in drawn), key=lambda fact: fact.fact_id)

    def generator(self, purpose: str, name: str = "") -> np.random.Generator:
        """Random numbers that depend on the seed, the purpose and the name alone."""
        return seeded(self.seed, purpose, name)

    def random_neurons(
        self, neurons: Sequence[Neuron], purpose: str, name: str, *, avoid: Sequence[Neuron] = ()
    ) -> tuple[Neuron, ...]:
        """As many random other neurons of the same layers, without those to avoid."""
        match = random_match(neurons, self.n_neurons, self.generator(purpose, name), avoid=avoid)
        return tuple(sorted(match.values()))

    @property
    def n_neurons(self) -> int:
        """Neurons a layer."""
        return self.atlas.manifest.model.n_neurons or self.subject.n_neurons

    @property
    def n_layers(self) -> int:
        return self.atlas.manifest.model.n_layers or self.subject.n_layers


def chunks(items: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    """The items in tuples of at most `size`."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def draw_one(items: Sequence[_Item], generator: np.random.Generator) -> _Item:
    """One of the items at random."""
    return items[int(generator.integers(len(items)))]


def top_neurons(values: np.ndarray, count: int) -> tuple[Neuron, ...]:
    """The neurons of the `count` largest values, sorted; ties by place. values: (n_layers, n_neurons)."""
    order = np.argsort(-values, axis=None, kind="stable")[:count]
    return tuple(sorted(Neuron(*map(int, divmod(index, values.shape[1]))) for index in order))
