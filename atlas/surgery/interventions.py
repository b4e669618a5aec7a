"""Apply interventions to a forward pass; `atlas.interventions` defines them.

    change = [Suppress(neurons), Edit(neurons, old="Paris", new="Rome")]
    with subject.applied(change) as changed:
        changed.predict(prompts)

Dai et al. (ACL 2022), with the strengths of their code:

1. Suppress, Amplify (section 4.5, figures 3 and 4): the activation at the answer position × factor. SetTo and
   Patch put a number there: one for all neurons, or each neuron's own at another prompt's answer position.
2. Erase (section 5.2): the value vector becomes zero, or the unknown token's embedding.
3. Edit (section 5.1): ``v −= remove·‖v‖/‖e_old‖·e_old; v += add·‖v‖/‖e_new‖·e_new``.

Changes of one activation, and of one value vector, are applied in the order of the list: factors multiply,
and what is set last holds. All are applied by hooks at the down-projection, row by row of a batch; the
weights are only read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from atlas.errors import AtlasError, ModelError, PromptError
from atlas.interventions import (
    ActivationChange,
    Amplify,
    Edit,
    Erase,
    Intervention,
    Patch,
    SetTo,
    as_tuple,
)
from atlas.neuron import Neuron, Prompt
from atlas.surgery.hooks import attached, by_row, in_its_call
from atlas.surgery.loaded import LoadedModel


def check_interventions(
    subject: LoadedModel, interventions: Intervention | Sequence[Intervention]
) -> tuple[Intervention, ...]:
    """One or several interventions as a tuple; `AtlasError` where a neuron does not exist in the subject."""
    several = as_tuple(interventions)
    n_layers, n_neurons = subject.n_layers, subject.n_neurons
    for item in several:
        for neuron in item.neurons:
            if not (0 <= neuron.layer < n_layers and 0 <= neuron.neuron < n_neurons):
                raise AtlasError(
                    f"{subject.name} has no neuron {neuron}: its layers are 0–{n_layers - 1}, "
                    f"its neurons 0–{n_neurons - 1}. Choose a neuron in this range."
                )
    return several


def edited_value(value: Tensor, old: Tensor, new: Tensor, *, remove: float, add: float) -> Tensor:
    """Step 3: value vectors, (…, d_model), moved from one embedding to another, (d_model,)."""
    norm = value.norm(dim=-1, keepdim=True)
    return value - remove * norm / old.norm() * old + add * norm / new.norm() * new


def answer_embedding(subject: LoadedModel, answer: str) -> Tensor:
    """The direction that promotes an answer, (d_model,): the mean over its tokens' unembeddings."""
    embeddings = subject.family.token_embeddings(subject.model)
    return embeddings[list(subject.answer_tokens(answer))].float().mean(0)


def value_changer(subject: LoadedModel, item: Erase | Edit) -> Callable[[Tensor], Tensor]:
    """The function from value vectors, (…, d_model), to those after one erasure or edit."""
    match item:
        case Erase(value="zero"):
            return torch.zeros_like
        case Erase(value="unk"):
            unknown = subject.tokenizer.unk_token_id
            if unknown is None:
                raise ModelError(f"{subject.name} has no unknown token. Erase with zero instead.")
            subject.check_embedded((unknown,), subject.n_tokens)
            embedding = subject.family.token_embeddings(subject.model)[unknown].float()
            return embedding.expand_as
        case Edit():
            # Computed once for all neurons: tokenizing takes longer than the arithmetic.
            old, new = answer_embedding(subject, item.old), answer_embedding(subject, item.new)
            return lambda value: edited_value(value, old, new, remove=item.remove, add=item.add)
    raise AtlasError(f"{type(item).__name__} does not change value vectors.")


def value_changes(
    subject: LoadedModel, interventions: Sequence[Intervention]
) -> dict[int, tuple[list[int], Tensor]]:
    """Layer → its erased or edited neurons, and their new value vectors, (n, d_model) in float32."""
    several = [item for item in interventions if isinstance(item, (Erase, Edit)) and item.neurons]
    neurons = sorted({neuron for item in several for neuron in item.neurons})
    by_layer = {
        layer: [each.neuron for each in here] for layer, here in groupby(neurons, key=lambda each: each.layer)
    }
    values = {
        layer: subject.family.value_vectors(subject.model, layer)[index].float()
        for layer, index in by_layer.items()
    }
    for item in several:
        change = value_changer(subject, item)
        for layer, here in groupby(item.neurons, key=lambda each: each.layer):
            rows = np.searchsorted(by_layer[layer], [each.neuron for each in here])
            values[layer][rows] = change(values[layer][rows])
    return {layer: (index, values[layer]) for layer, index in by_layer.items()}


def by_sign(subject: LoadedModel, edit: Edit, prompts: Sequence[Prompt]) -> tuple[Edit, ...]:
    """The edit, mirrored for the neurons whose mean activation on these prompts is below zero.

    Where a neuron's activation is negative, as about half are in gated layers, a value vector moved towards
    the new answer lowers it. The paper's formula ignores the sign: its models' activations are rarely
    negative. Returns one or two edits, for `subject.applied`. Raises `PromptError` without prompts and
    `AtlasError` for a neuron that the subject does not have.
    """
    check_interventions(subject, edit)
    if not prompts:
        raise PromptError(
            "There are no prompts to measure activations on. Give the prompts that found the neurons."
        )
    active = subject.activations(prompts).mean(0)  # (n_layers, n_neurons)
    below = tuple(neuron for neuron in edit.neurons if active[neuron.layer, neuron.neuron] < 0)
    above = tuple(neuron for neuron in edit.neurons if neuron not in set(below))
    mirrored = Edit(below, old=edit.new, new=edit.old, remove=edit.add, add=edit.remove)
    return tuple(each for each in (replace(edit, neurons=above), mirrored) if each.neurons)


def activation_changes(
    subject: LoadedModel, interventions: Sequence[Intervention]
) -> dict[Neuron, tuple[float, float]]:
    """Each changed activation's factor and what is added then: x becomes factor · x + added."""
    changes: dict[Neuron, tuple[float, float]] = {}
    for item in interventions:
        if not isinstance(item, ActivationChange):
            continue
        factor = item.factor if isinstance(item, Amplify) else 0.0
        put = dict.fromkeys(item.neurons, item.value if isinstance(item, SetTo) else 0.0)
        if isinstance(item, Patch) and item.neurons:
            there = subject.activations([subject.opened(item.from_prompt)])[0]  # (n_layers, n_neurons)
            put = {neuron: float(there[neuron.layer, neuron.neuron]) for neuron in item.neurons}
        for neuron, value in put.items():
            before, added = changes.get(neuron, (1.0, 0.0))
            changes[neuron] = factor * before, factor * added + value
    return changes


@dataclass(frozen=True)
class Prepared:
    """One prompt's interventions as the hooks need them: made once, used in many batches.

    By layer: scaled, its neurons, their factors and what is added then, (n,) each; replaced, its neurons,
    (n,), and their new value vectors minus the old ones, (n, d_model).
    """

    scaled: dict[int, tuple[Tensor, Tensor, Tensor]]
    replaced: dict[int, tuple[Tensor, Tensor]]


def prepare(subject: LoadedModel, interventions: Sequence[Intervention]) -> Prepared:
    """The interventions of one prompt, for `changing`."""

    def tensor(values: Sequence) -> Tensor:
        return torch.tensor(values, device=subject.device)

    scaled = {}
    changes = sorted(activation_changes(subject, interventions).items())
    for layer, here in groupby(changes, key=lambda pair: pair[0].layer):
        neurons, factors, added = zip(*((each.neuron, *change) for each, change in here), strict=True)
        scaled[layer] = tensor(neurons), tensor(factors), tensor(added)
    replaced = {
        layer: (tensor(index), new - subject.family.value_vectors(subject.model, layer)[index].float())
        for layer, (index, new) in value_changes(subject, interventions).items()
    }
    return Prepared(scaled, replaced)


@contextmanager
def changing(
    subject: LoadedModel, changes: Sequence[Prepared], positions: Tensor, valid: Tensor
) -> Iterator[None]:
    """Apply row b's interventions, ``changes[b]``, to row b of every forward pass inside the block.

    positions, valid: (n_rows, n_positions), the answer positions and whether each counts.
    """
    if not any(change.scaled or change.replaced for change in changes):
        yield
        return
    spots = [
        [position for position, counts in zip(row, ok, strict=True) if counts]
        for row, ok in zip(positions.tolist(), valid.tolist(), strict=True)
    ]
    scaled: dict[int, list[tuple[int, int, Tensor, Tensor, Tensor]]] = defaultdict(list)
    replaced: dict[int, list[tuple[int, Tensor, Tensor]]] = defaultdict(list)
    for row, change in enumerate(changes):
        for layer, (index, factors, added) in change.scaled.items():
            scaled[layer].extend((row, spot, index, factors, added) for spot in spots[row])
        for layer, (index, difference) in change.replaced.items():
            replaced[layer].append((row, index, difference))
    layers, n_rows = subject.family.layer_modules(subject.model), len(changes)

    def register(handles: list) -> None:
        for layer, entries in scaled.items():
            down = subject.family.down(subject.model, layer)
            scale = _scaler(entries, n_rows)
            handles.append(down.register_forward_pre_hook(in_its_call(layers, layer, scale)))
        for layer, differences in replaced.items():
            down = subject.family.down(subject.model, layer)
            add = _adder(differences, n_rows)
            handles.append(down.register_forward_hook(in_its_call(layers, layer, add)))

    with attached(register):
        yield


def _scaler(entries: list[tuple[int, int, Tensor, Tensor, Tensor]], n_rows: int) -> Callable:
    row, spot, index, by, then = zip(*entries, strict=True)
    neurons, factors, added = torch.cat(index), torch.cat(by), torch.cat(then)
    sizes = torch.tensor([len(each) for each in index])
    rows, spots = (torch.tensor(each).repeat_interleave(sizes).to(neurons.device) for each in (row, spot))

    def scale(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        activations = by_row(changed, n_rows)  # (n_rows, n_tokens, n_neurons)
        kept = activations[rows, spots, neurons]
        activations[rows, spots, neurons] = kept * factors.to(kept.dtype) + added.to(kept.dtype)
        return (changed, *args[1:])

    return scale


def _adder(entries: list[tuple[int, Tensor, Tensor]], n_rows: int) -> Callable:
    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # The pre-hook has run: args hold the activations as suppressed or amplified. A value vector
        # is changed for every token, as it would be in the weights.
        changed = output.clone()
        activations, written = by_row(args[0], n_rows), by_row(changed, n_rows)
        for row, index, difference in entries:
            written[row] += activations[row][:, index] @ difference.to(output.dtype)
        return changed

    return add
