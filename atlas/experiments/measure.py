"""Measure a fact with its atlas's model, now: where an atlas has no scores, probabilities or effects.

    measured = measure(subject, asked_of(atlas, "P36:france"), progress=show)
    measured.outcome.summary(), measured.found.neurons, measured.shared, measured.chance

1. *Prompts.* The fact's own, made from the atlas's templates where it holds no prompts, and controls.
2. *Find.* Scores with their certificates on the discovery prompts, and the neurons by the default rule.
3. *Suppress* the atlas's neurons of the fact (those just found, where it has none), beside random ones of the
   same layers, on the fact's prompts and on other facts'.
4. *Compare.* How many of the atlas's neurons were found again, and how many would be by chance.

Nothing is written into the atlas.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from atlas.errors import AtlasError, PromptError
from atlas.experiments.controls import choose_prompts
from atlas.experiments.experiment import Experiment
from atlas.experiments.outcome import Outcome, PromptOutcome
from atlas.experiments.run import Found, find_neurons, run, usable
from atlas.interventions import Suppress
from atlas.models.known import OnProgress
from atlas.neuron import ExperimentPrompt, Neuron
from atlas.queries.facts import fact, neurons_of_fact
from atlas.store.atlas import Atlas
from atlas.surgery.readout import Readout, mean_activations, readout
from atlas.surgery.subject import Subject

# The share of the time that finding neurons takes, of finding and suppressing them.
_FINDING = 0.6


@dataclass(frozen=True)
class Measured:
    """What a model says about a fact today.

    found: neurons with scores, and each discovery prompt's certificate. outcome: suppressing `suppressed`,
    beside controls. stored: the atlas's neurons of the fact. chance: how many of those would be found if as
    many neurons as were found in each layer were drawn there at random (the mean of a hypergeometric
    distribution). readouts: what the value vectors of the found neurons promote, in their order;
    mean_activations: theirs, on the discovery prompts. skipped: why prompts were left out.
    """

    fact_id: str
    found: Found
    outcome: Outcome
    stored: tuple[Neuron, ...]
    chance: float
    readouts: tuple[Readout, ...]
    mean_activations: tuple[float, ...]
    skipped: tuple[str, ...] = ()

    @property
    def suppressed(self) -> tuple[Neuron, ...]:
        """The neurons whose effect was measured."""
        return self.stored or self.found.chosen

    @property
    def shared(self) -> tuple[Neuron, ...]:
        """The atlas's neurons that were found again."""
        return tuple(sorted({*self.stored} & {*self.found.chosen}))

    @property
    def mean_probability(self) -> float:
        """Of the answer, over the fact's own prompts."""
        return sum(each.before.probability for each in self.own) / len(self.own)

    @property
    def known(self) -> bool:
        """Whether the answer has rank 1 on more than half of the fact's own prompts."""
        return sum(each.before.rank == 1 for each in self.own) > len(self.own) / 2

    @property
    def own(self) -> tuple[PromptOutcome, ...]:
        """The fact's own prompts, the discovery ones first."""
        return (*self.outcome.of_group("asked"), *self.outcome.of_group("paraphrases"))


def expected_by_chance(found: tuple[Neuron, ...], stored: tuple[Neuron, ...], n_neurons: int) -> float:
    """The mean number of `stored` among as many neurons as were found in each layer, drawn at random.

    n_neurons: a layer's.
    """
    in_layer = Counter(neuron.layer for neuron in stored)
    return sum(in_layer[neuron.layer] for neuron in found) / n_neurons


@dataclass(frozen=True)
class Asked:
    """What the atlas gives to a measurement: the fact's prompts and controls, and its neurons."""

    fact_id: str
    prompts: tuple[ExperimentPrompt, ...]
    stored: tuple[Neuron, ...]


def asked_of(atlas: Atlas, fact_id: str, *, causal: bool = False) -> Asked:
    """A fact's prompts and neurons; with `causal`, only prompts that end with the answer.

    Raises `QueryError` for a fact that the atlas does not have.
    """
    fact(atlas, fact_id)
    rows = neurons_of_fact(atlas, fact_id)
    stored = zip(rows["layer"], rows["neuron"], strict=True)
    return Asked(
        fact_id,
        choose_prompts(atlas, fact_id, causal=causal),
        tuple(sorted(Neuron(int(layer), int(neuron)) for layer, neuron in stored)),
    )


def measure(
    subject: Subject, asked: Asked, *, draws: int = 3, progress: OnProgress | None = None
) -> Measured:
    """Find the fact's neurons, suppress the atlas's, and compare; see the module.

    draws: of random neurons. ``progress(share, message)`` may raise to stop. Raises `PromptError` where the
    model can take none of the prompts, and `AtlasError` where there is no neuron to suppress.
    """
    tell = progress or (lambda share, text: None)
    prompts, skipped = usable(subject, asked.prompts)
    own = [item.prompt for item in prompts if item.group == "asked"]
    if not own:
        raise PromptError(f"{subject.name} can take none of this fact's prompts. {' '.join(skipped[:1])}")
    found = find_neurons(subject, own, progress=lambda share, text: tell(_FINDING * share, text))
    neurons = asked.stored or found.chosen
    if not neurons:
        raise AtlasError(f"{subject.name} has no knowledge neurons of this fact, by the default thresholds.")
    outcome = run(
        subject,
        Experiment((Suppress(neurons),), prompts, draws=draws, fact_id=asked.fact_id),
        progress=lambda share, text: tell(_FINDING + (1 - _FINDING) * share, text),
    )
    chance = expected_by_chance(found.chosen, asked.stored, subject.n_neurons)
    readouts = tuple(readout(subject, found.chosen))
    fires = mean_activations(subject, found.prompts, found.chosen)
    return Measured(asked.fact_id, found, outcome, asked.stored, chance, readouts, fires, skipped)
