"""The effect of one prompt set's neurons on another set, such as the same fact in two languages.

    english, french = (find_neurons(subject, prompts).chosen for prompts in (in_english, in_french))
    effects = cross_effects(subject, {"English": english, "French": french}, {"English": …, "French": …})
    effects[1].change, effects[1].random_change          # English neurons, French prompts

1. *Before.* Every prompt on the unchanged model.
2. *After.* For each set of neurons: every prompt with its neurons changed.
3. *Random.* The same with as many random neurons of the same layers, several draws.

Most of a set's own prompts found its neurons; the other sets' prompts did not, so they are the test. Each
step waits for its turn at the model (`atlas.experiments.run`); weights are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atlas.errors import AtlasError, PromptError
from atlas.experiments.run import Steps, batch_tokens, with_random_neurons
from atlas.interventions import Intervention, Suppress
from atlas.models.known import OnProgress
from atlas.neuron import Neuron, Prompt
from atlas.surgery.subject import Prediction, Subject


@dataclass(frozen=True)
class CrossEffect:
    """The effect of changing one set of neurons on one set of prompts; one value a prompt, in order.

    before, after: probabilities of the answers; random: the same with each draw of random neurons, (n_draws,
    n_prompts); rank_before, rank_after: ranks of the answers.
    """

    neurons: str
    prompts: str
    n_neurons: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    random: tuple[tuple[float, ...], ...]
    rank_before: tuple[int, ...]
    rank_after: tuple[int, ...]

    @property
    def change(self) -> float:
        """Mean probability after ÷ before − 1."""
        return _change(self.before, self.after)

    @property
    def random_changes(self) -> tuple[float, ...]:
        """`change` with each draw of random neurons."""
        return tuple(_change(self.before, draw) for draw in self.random)

    @property
    def random_change(self) -> float:
        """The mean of `random_changes`."""
        return float(np.mean(self.random_changes))


def _change(before: Sequence[float], after: Sequence[float]) -> float:
    return float(np.mean(after) / np.mean(before) - 1) if np.mean(before) > 0 else float("nan")


def cross_effects(
    subject: Subject,
    neurons: Mapping[str, Sequence[Neuron]],
    prompts: Mapping[str, Sequence[Prompt]],
    *,
    change: Callable[[tuple[Neuron, ...]], Intervention] = Suppress,
    draws: int = 5,
    seed: int = 0,
    progress: OnProgress | None = None,
) -> tuple[CrossEffect, ...]:
    """Measure each set of neurons on each set of prompts, in this order; sets without neurons are left out.

    change: makes the intervention, such as ``lambda n: Amplify(n, 2)``. The same seed and neurons draw the
    same random neurons. Raises `PromptError` without prompts and `AtlasError` without draws.
    """
    every_prompt = [prompt for several in prompts.values() for prompt in several]
    if not every_prompt or not all(prompts.values()):
        raise PromptError("A set of prompts is empty. Give each set at least one prompt.")
    if draws < 1:
        raise AtlasError(f"draws must be at least 1, got {draws}.")
    chosen = {name: tuple(several) for name, several in neurons.items() if several}
    steps = Steps(subject, 1 + len(chosen), progress)
    # Step 1: before.
    with steps.step("The unchanged model"):
        before = subject.predict(every_prompt, top_k=1, batch_tokens=batch_tokens(subject))
    effects = []
    for name, several in chosen.items():
        # Steps 2 and 3 at once: a causal model then reads each prompt's prefix only once.
        own = (change(several),)
        changes = [own] + [
            with_random_neurons(own, subject.n_neurons, np.random.default_rng([seed, draw]))
            for draw in range(1, draws + 1)
        ]
        with steps.step(f"The neurons of {name}, and {draws} draw{'s' if draws > 1 else ''} of random ones"):
            after, *random = _predict_each(subject, every_prompt, changes)
        start = 0
        for of, its in prompts.items():
            part = slice(start, start + len(its))
            start += len(its)
            effects.append(
                CrossEffect(
                    neurons=name,
                    prompts=of,
                    n_neurons=len(set(several)),
                    before=_probabilities(before[part]),
                    after=_probabilities(after[part]),
                    random=tuple(_probabilities(each[part]) for each in random),
                    rank_before=tuple(each.rank for each in before[part]),
                    rank_after=tuple(each.rank for each in after[part]),
                )
            )
    steps.report("Done")
    return tuple(effects)


def _predict_each(
    subject: Subject, prompts: Sequence[Prompt], changes: Sequence[Sequence[Intervention]]
) -> list[list[Prediction]]:
    """The predictions of all prompts, for each change."""
    predictions = subject.predict(
        [prompt for _ in changes for prompt in prompts],
        top_k=1,
        batch_tokens=batch_tokens(subject),
        interventions=[change for change in changes for _ in prompts],
        share_prefixes=True,
    )
    n = len(prompts)
    return [predictions[start : start + n] for start in range(0, len(predictions), n)]


def _probabilities(predictions: Sequence[Prediction]) -> tuple[float, ...]:
    return tuple(each.probability for each in predictions)
