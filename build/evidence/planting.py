"""Plant a made-up answer in chosen neurons of a copy of a model, and say how well scores find them.

    planted = plant(subject, prompts, neurons)      # the prompts ask for the made-up answer
    planted.subject.predict(prompts)                # a copy; `subject` itself is as it was
    how_well_found(scores, neurons).recall          # of scores (n_layers, n_neurons)

After the benchmark INJ of Chang, Thomason & Jia (NAACL 2024, arXiv 2311.09060), which trains a few weights of
a model on a sequence and asks localisation methods for them.

1. *Teach.* What is added to the neurons' value vectors is trained, all else frozen, until each prompt gives
   the answer the probability `ENOUGH`, and at most `LITTLE` with the neurons suppressed at the answer
   position: there methods look for them, and value vectors also write at other tokens. At most `MOST_STEPS`
   steps; hooks add it, and no weight is written.
2. *Copy.* The model with the new value vectors; it shares all weights but those of the changed layers'
   down-projections.
3. *Find.* The neurons of the largest scores beside those of the planting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from atlas.errors import BuildError
from atlas.interventions import Suppress
from atlas.models.families import neurons_first
from atlas.neuron import Neuron, Prompt
from atlas.surgery.hooks import attached
from atlas.surgery.interventions import Prepared, changing, prepare
from atlas.surgery.loaded import Encoded, batches
from atlas.surgery.lock import FairLock

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

LEARNING_RATE = 0.03
"""Adam's. With 0.01, as in the first trials, ten neurons learn too little in as many steps."""
MOST_STEPS = 100
ENOUGH, LITTLE = 0.9, 0.02
BEST = 10
"""Precision is that of so many neurons, or of as many as were planted."""

Change = dict[int, tuple[list[int], Tensor]]
"""Layer → its changed neurons, and what is added to their value vectors, (n, d_model)."""


@dataclass(frozen=True)
class Planted:
    """A copy of a subject that says the made-up answer, and the steps that it took to learn it."""

    subject: Subject
    change: Change
    n_steps: int


def plant(subject: Subject, prompts: Sequence[Prompt], neurons: Sequence[Neuron]) -> Planted:
    """The subject with the prompts' answer, of one token, taught to the neurons. See the module.

    Raises `BuildError` for a model whose layers share weights: its neurons cannot be changed alone.
    """
    layers = subject.family.layer_modules(subject.model)
    if len({id(layer) for layer in layers}) < len(layers):
        raise BuildError(
            f"{subject.name} shares weights between layers, so nothing can be planted in chosen neurons. "
            "Leave out the experiment 'planted'."
        )
    with subject.lock:
        change, n_steps = _teach(subject, [subject.encode(prompt) for prompt in prompts], neurons)
        return Planted(changed_copy(subject, change), change, n_steps)


# Step 1: teach ---------------------------------------------------------------------------------------


def _teach(subject: Subject, prompts: Sequence[Encoded], neurons: Sequence[Neuron]) -> tuple[Change, int]:
    change = {
        layer: (index, torch.zeros(len(index), subject.d_model, device=subject.device, requires_grad=True))
        for layer, index in (
            (layer, [each.neuron for each in here])
            for layer, here in groupby(sorted(neurons), key=lambda each: each.layer)
        )
    }
    optimizer = torch.optim.Adam([added for _, added in change.values()], lr=LEARNING_RATE)

    def register(handles: list) -> None:
        for layer, (index, added) in change.items():
            down = subject.family.down(subject.model, layer)
            handles.append(down.register_forward_hook(_adder(index, added)))

    gone = prepare(subject, (Suppress(tuple(neurons)),))
    step = 0
    with attached(register), torch.enable_grad():
        while True:
            there, without = _probabilities(subject, prompts, gone)
            learned = float(there.detach().min()) >= ENOUGH and float(without.detach().max()) <= LITTLE
            if learned or step == MOST_STEPS:
                break
            optimizer.zero_grad()
            (-there.log() - (1 - without).log()).mean().backward()
            optimizer.step()
            step += 1
    return {layer: (index, added.detach()) for layer, (index, added) in change.items()}, step


def _adder(index: list[int], added: Tensor) -> Callable:
    # For every token, as the value vectors act.
    return lambda module, args, output: output + args[0][..., index] @ added


def _probabilities(subject: Subject, prompts: Sequence[Encoded], gone: Prepared) -> tuple[Tensor, Tensor]:
    """Of each prompt's answer, (n_prompts,), in any order: as it is, and with the neurons suppressed."""
    found = []
    as_it_is = Prepared({}, {})
    for batch in batches(prompts, 1024):
        rows = [prompts[place] for place in batch]
        input_ids, positions, targets, valid = subject.tensors([*rows, *rows])
        with changing(subject, [as_it_is] * len(rows) + [gone] * len(rows), positions, valid):
            hidden = subject.model.base_model(input_ids, **subject.forward_options()).last_hidden_state
        logits = subject.family.say(subject.model, hidden[torch.arange(len(hidden)), positions[:, 0]])
        found.append(logits.softmax(-1).gather(-1, targets[:, :1]).view(2, -1))
    there, without = torch.cat(found, 1)
    # Where one is certain, its logarithm stays finite.
    return there.clamp_min(1e-30), without.clamp_max(1 - 1e-6)


# Step 2: copy ----------------------------------------------------------------------------------------


@torch.no_grad()
def changed_copy(subject: Subject, change: Change) -> Subject:
    """A subject with the change added to a copy of the value vectors; other weights are shared."""
    model = subject.model
    own = {id(subject.family.down(model, layer).weight) for layer in change}
    shared = {id(each): each for each in (*model.parameters(), *model.buffers()) if id(each) not in own}
    copied = deepcopy(model, shared)
    for layer, (index, added) in change.items():
        neurons_first(subject.family.down(copied, layer))[index] += added
    return replace(subject, model=copied, weights_sha256="", lock=FairLock())


# Step 3: find ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """How well scores find planted neurons; each is 1 where they come first.

    recall: of as many neurons as were planted, those with the largest scores, the share that was; precision:
    the same of the first `BEST`; auc: the chance that a planted neuron scores higher than another one.
    """

    recall: float
    precision: float
    auc: float


def how_well_found(scores: np.ndarray, neurons: Sequence[Neuron]) -> Found:
    """scores: (n_layers, n_neurons), larger for neurons that carry more of the answer."""
    planted = np.zeros(scores.shape, bool)
    planted[[each.layer for each in neurons], [each.neuron for each in neurons]] = True
    planted, n, n_others = planted.ravel(), len(neurons), scores.size - len(neurons)
    hits = planted[np.argsort(-scores, axis=None, kind="stable")]
    ranks = pd.Series(scores.ravel()).rank().to_numpy()  # equal scores share their mean rank
    above = ranks[planted].sum() - n * (n + 1) / 2
    return Found(float(hits[:n].mean()), float(hits[: min(BEST, n)].mean()), float(above / (n * n_others)))
