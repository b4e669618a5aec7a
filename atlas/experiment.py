"""An experiment is a value: what is changed, which prompts are asked, and the random control's seed.

    experiment = Experiment((Suppress(neurons),), asked, seed=0)
    outcome = run(subject, experiment)                      # atlas.surgery.experiments

Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from atlas.errors import AtlasError, PromptError
from atlas.interventions import Intervention
from atlas.neuron import Asked

# More than any page asks for; what a visitor may ask for is the app's to say.
MAX_PROMPTS = 300
MAX_TEXT = 2000
MAX_DRAWS = 100


@dataclass(frozen=True)
class Experiment:
    """What is to be done: interventions, prompts, and the random control's seed and number of draws."""

    interventions: tuple[Intervention, ...]
    asked: tuple[Asked, ...]
    seed: int = 0
    draws: int = 5

    def __post_init__(self) -> None:
        if not self.asked:
            raise PromptError("There is no prompt to try this on. Choose a fact or type one.")
        if not any(item.neurons for item in self.interventions):
            raise AtlasError("There are no neurons to change. Find some, or keep at least one.")
        if not 1 <= self.draws <= MAX_DRAWS:
            raise AtlasError(f"{self.draws} random draws cannot be made. Give 1 to {MAX_DRAWS}.")
