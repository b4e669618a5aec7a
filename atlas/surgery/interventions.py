"""Apply interventions to a forward pass; `atlas.interventions` defines them.

    change = [Suppress(neurons), Edit(neurons, old="Paris", new="Rome")]
    with subject.applied(change) as changed:
        changed.predict(prompts)

Dai et al. (ACL 2022), with the strengths of their code:

1. Suppress, Amplify (section 4.2, figures 3 and 4): the activation at the answer position × factor.
2. Erase (section 5.2): the value vector becomes zero, or the unknown token's embedding.
3. Edit (section 5.1): ``v −= remove·‖v‖/‖e_old‖·e_old; v += add·‖v‖/‖e_new‖·e_new``.

Factors multiply; changes of one value vector are applied in the order of the list. All are applied
by hooks at the down-projection, row by row of a batch; the weights are only read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from atlas.errors import AtlasError, ModelError, PromptError
from atlas.interventions import (
    Amplify,
    Edit,
    Erase,
    Intervention,
    Suppress,
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
    """Step 3: the value vector moved from one embedding to another; all (d_model,)."""
    norm = value.norm()
    return value - remove * norm / old.norm() * old + add * norm / new.norm() * new


def answer_embedding(subject: LoadedModel, answer: str) -> Tensor:
    """The direction that promotes an answer, (d_model,): the mean over its tokens' unembeddings."""
    embeddings = subject.family.token_embeddings(subject.model)
    return embeddings[list(subject.answer_tokens(answer))].float().mean(0)


def value_changer(subject: LoadedModel, item: Erase | Edit) -> Callable[[Tensor], Tensor]:
    """The function from a value vector, (d_model,), to its value after one erasure or edit."""
    match item:
        case Erase(value="zero"):
            return torch.zeros_like
        case Erase(value="unk"):
            unknown = subject.tokenizer.unk_token_id
            if unknown is None:
                raise ModelError(f"{subject.name} has no unknown token. Erase with zero instead.")
            subject.check_embedded((unknown,), subject.n_tokens)
            embedding = subject.family.token_embeddings(subject.model)[unknown].float()
            return lambda value: embedding
        case Edit():
            # Computed once for all neurons: tokenizing takes longer than the arithmetic.
            old, new = answer_embedding(subject, item.old), answer_embedding(subject, item.new)
            return lambda value: edited_value(value, old, new, remove=item.remove, add=item.add)
    raise AtlasError(f"{type(item).__name__} does not change value vectors.")


def value_changes(subject: LoadedModel, interventions: Sequence[Intervention]) -> dict[Neuron, Tensor]:
    """The new value vector, (d_model,) in float32, of each erased or edited neuron."""
    values: dict[Neuron, Tensor] = {}
    for item in interventions:
        if isinstance(item, (Erase, Edit)) and item.neurons:
            change = value_changer(subject, item)
            for neuron in item.neurons:
                before = values.get(neuron)
                if before is None:
                    rows = subject.family.value_vectors(subject.model, neuron.layer)
                    before = rows[neuron.neuron].float()
                values[neuron] = change(before)
    return values


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


def activation_factors(interventions: Sequence[Intervention]) -> dict[Neuron, float]:
    """The product of the factors of each suppressed or amplified neuron."""
    factors: dict[Neuron, float] = {}
    for item in interventions:
        if isinstance(item, (Suppress, Amplify)):
            factor = 0.0 if isinstance(item, Suppress) else item.factor
            for neuron in item.neurons:
                factors[neuron] = factors.get(neuron, 1.0) * factor
    return factors


@contextmanager
def changing(
    subject: LoadedModel, changes: Sequence[Sequence[Intervention]], positions: Tensor, valid: Tensor
) -> Iterator[None]:
    """Apply row b's interventions, ``changes[b]``, to row b of every forward pass inside the block.

    positions, valid: (n_rows, n_positions), the answer positions and whether each counts.
    """
    if not any(changes):
        yield
        return
    scaled: dict[int, list[tuple[int, int, int, float]]] = defaultdict(list)
    replaced: dict[int, list[tuple[int, list[int], Tensor]]] = defaultdict(list)
    spots = [
        [position for position, counts in zip(row, ok, strict=True) if counts]
        for row, ok in zip(positions.tolist(), valid.tolist(), strict=True)
    ]
    cache: dict[tuple, dict[Neuron, Tensor]] = {}
    for row, items in enumerate(changes):
        for neuron, factor in activation_factors(items).items():
            scaled[neuron.layer].extend((row, spot, neuron.neuron, factor) for spot in spots[row])
        key = tuple(items)
        if key not in cache:
            cache[key] = value_changes(subject, items)
        by_layer: dict[int, list[Neuron]] = defaultdict(list)
        for neuron in cache[key]:
            by_layer[neuron.layer].append(neuron)
        for layer, neurons in by_layer.items():
            index = [neuron.neuron for neuron in neurons]
            old = subject.family.value_vectors(subject.model, layer)[index].float()
            new = torch.stack([cache[key][neuron] for neuron in neurons])
            replaced[layer].append((row, index, new - old))

    layers, n_rows = subject.family.layer_modules(subject.model), len(changes)

    def register(handles: list) -> None:
        for layer, entries in scaled.items():
            down = subject.family.down(subject.model, layer)
            scale = _scaler(entries, n_rows, positions.device)
            handles.append(down.register_forward_pre_hook(in_its_call(layers, layer, scale)))
        for layer, differences in replaced.items():
            down = subject.family.down(subject.model, layer)
            add = _adder(differences, n_rows)
            handles.append(down.register_forward_hook(in_its_call(layers, layer, add)))

    with attached(register):
        yield


def _scaler(entries: list[tuple[int, int, int, float]], n_rows: int, device: torch.device) -> Callable:
    rows, spots, neurons = (
        torch.tensor([entry[column] for entry in entries], device=device) for column in range(3)
    )
    factors = torch.tensor([entry[3] for entry in entries], device=device)

    def scale(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        activations = by_row(changed, n_rows)  # (n_rows, n_tokens, n_neurons)
        kept = activations[rows, spots, neurons]
        activations[rows, spots, neurons] = kept * factors.to(kept.dtype)
        return (changed, *args[1:])

    return scale


def _adder(entries: list[tuple[int, list[int], Tensor]], n_rows: int) -> Callable:
    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # The pre-hook has run: args hold the activations as suppressed or amplified. A value vector
        # is changed for every token, as it would be in the weights.
        changed = output.clone()
        activations, written = by_row(args[0], n_rows), by_row(changed, n_rows)
        for row, index, difference in entries:
            written[row] += activations[row][:, index] @ difference.to(output.dtype)
        return changed

    return add
