"""Changes that stay in a model until they are taken back, in any order, whoever calls the model meanwhile.

    kept = kept_in(subject)
    undo = kept.rewrite([Neuron(2, 23)], lambda neuron, value: 0 * value)
    model(input_ids)                                 # sees it
    undo()                                           # and is as before, bit for bit

1. *Value vectors* (erase, edit): the layer's weight is exchanged for a copy in which they are changed, so
   that whatever is done with the model sees them: calls, attribution, `copy.deepcopy`, `save_pretrained`. The
   tensor that was given is never written, and is put back when nothing is changed any more. If somebody
   trained the copy meanwhile, it stays, with the changed vectors as they were.
2. *Activations* (suppress, enhance): hooks scale them at the answer's place: a masked model's masks, a causal
   model's last token, in whatever it reads.

Taking one change back leaves the others: vectors are made anew from those given, by the changes left, in
their order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models.families import Family, neurons_first
from atlas.neuron import Neuron
from atlas.surgery.subject import Subject

# Of a neuron and its value vector, (d_model,), what becomes of that.
Rewrite = Callable[[Neuron, Tensor], Tensor]


@dataclass
class Spots:
    """Where the answers stand in what the model reads.

    fixed: positions that hold for every row, where the caller knows them; seen: where the rows of the last
    forward pass hold masks, (n_rows, n_tokens); shape: of what it reads; owner: whose changes are in
    force, kept alive by the hooks that hold these, for whoever studies the model next.
    """

    mask_token_id: int | None
    fixed: tuple[int, ...] | None = None
    seen: Tensor | None = None
    shape: tuple[int, int] | None = None
    owner: Kept | None = None

    def look(self, input_ids: Tensor | None) -> None:
        """Note what is read, token ids (n_rows, n_tokens); None where the model is given embeddings."""
        self.shape = self.seen = None
        if input_ids is not None:
            self.shape = tuple(input_ids.shape)
            self.seen = input_ids == self.mask_token_id

    def scaled(self, values: Tensor, factors: Tensor) -> Tensor:
        """The values, (n_rows, n_tokens, n_neurons), times the factors, (n_neurons,), at the answers."""
        if values.dim() == 2:  # OPT's: rows and tokens in one
            alike = self.shape is not None and self.shape[0] * self.shape[1] == len(values)
            shape = self.shape if alike else (len(values), 1)
            return self.scaled(values.view(*shape, -1), factors).view(values.shape)
        n_tokens = values.shape[1]
        spots = torch.zeros(1, n_tokens, dtype=torch.bool, device=values.device)
        if n_tokens == 1:  # of a sweep, or of one more token to a cache: the answer alone
            spots[:] = True
        elif self.fixed is not None:
            spots[:, [position for position in self.fixed if position < n_tokens]] = True
        elif self.mask_token_id is None:
            spots[:, -1] = True
        elif self.seen is not None:
            spots = self.seen
        return torch.where(spots[..., None], values * factors.to(values), values)


@dataclass
class _Copy:
    """A weight that was given, and which of its vectors are changed in the copy that stands in its place."""

    given: nn.Parameter
    touched: set[int] = field(default_factory=set)


class Kept:
    """The changes in force in one model, of which there is one only: `kept_in` has it."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        masked = subject.family.kind == "masked"
        self.spots = Spots(subject.tokenizer.mask_token_id if masked else None)
        self.n_scalings = 0
        self._rewritings: list[tuple[list[Neuron], Rewrite]] = []
        self._copies: dict[nn.Module, _Copy] = {}

    @contextmanager
    def at(self, positions: tuple[int, ...]) -> Iterator[None]:
        """Inside, these positions of every row are the answer's."""
        before, self.spots.fixed = self.spots.fixed, positions
        try:
            yield
        finally:
            self.spots.fixed = before

    # --- activations ---

    def scale(
        self, factors: Mapping[Neuron, float], *, before_nonlinearity: bool = False
    ) -> Callable[[], None]:
        """Multiply activations; the function that is returned takes that back."""
        model, family = self.subject.model, self.subject.family
        by_layer: dict[int, dict[int, float]] = defaultdict(dict)
        for neuron, factor in factors.items():
            by_layer[neuron.layer][neuron.neuron] = factor
        if by_layer and layers_are_shared(model, family):
            raise ModelError(
                f"The layers of {self.subject.name} share one module, so a change of activations in one of "
                "them cannot be kept. Leave out undo_modification=False."
            )
        handles: list = []
        try:
            for reader in (model, model.base_model):  # OPT passes its base by
                handles.append(reader.register_forward_pre_hook(_looking(self.spots), with_kwargs=True))
                handles.append(reader.register_forward_hook(_having_read(self.spots)))
            for layer, chosen in by_layer.items():
                row = torch.ones(self.subject.n_neurons)
                row[list(chosen)] = torch.tensor(list(chosen.values()))
                if before_nonlinearity:
                    module = first_projection(family, model, layer)
                    handles.append(module.register_forward_hook(_scaling_output(self.spots, row)))
                else:
                    module = family.down(model, layer)
                    handles.append(module.register_forward_pre_hook(_scaling_input(self.spots, row)))
        except BaseException:
            _remove(handles)
            raise
        self.n_scalings += 1
        self.spots.owner = self

        def undo() -> None:
            if handles:
                self.n_scalings -= 1
                self.spots.owner = self if self.n_scalings else None
            _remove(handles)

        return undo

    # --- value vectors ---

    def rewrite(self, neurons: Sequence[Neuron], change: Rewrite) -> Callable[[], None]:
        """Change value vectors, (d_model,) each, in this order; the function returned takes that back."""
        entry = (list(neurons), change)
        self._rewritings.append(entry)
        try:
            self._make(entry[0])
        except BaseException:
            self._take_back(entry)
            raise
        return lambda: self._take_back(entry)

    def _take_back(self, entry: tuple[list[Neuron], Rewrite]) -> None:
        if any(each is entry for each in self._rewritings):
            self._rewritings = [each for each in self._rewritings if each is not entry]
            self._make(entry[0])

    @torch.no_grad()
    def _make(self, neurons: Sequence[Neuron]) -> None:
        """Make the vectors of these neurons' layers anew."""
        model, family = self.subject.model, self.subject.family
        for module in {family.down(model, neuron.layer) for neuron in neurons}:
            mine = [
                (neuron, change)
                for chosen, change in self._rewritings
                for neuron in chosen
                if family.down(model, neuron.layer) is module
            ]
            if module not in self._copies:
                self._copies[module] = _Copy(module.weight)
                module.weight = _like(module.weight, module.weight.detach().clone())
            copy = self._copies[module]
            _move(copy.given, module.weight)
            given, rows = neurons_first(module, copy.given), neurons_first(module)
            copy.touched |= {neuron.neuron for neuron, _ in mine}
            changed = {index: given[index].float() for index in copy.touched}
            for neuron, change in mine:
                changed[neuron.neuron] = change(neuron, changed[neuron.neuron])
            for index, value in changed.items():
                rows[index] = value.to(rows.dtype)
            if not mine:
                if torch.equal(module.weight, copy.given):
                    module.weight = copy.given
                del self._copies[module]


_OF_MODELS: WeakValueDictionary[int, Kept] = WeakValueDictionary()


def kept_in(subject: Subject) -> Kept:
    """The changes in force in the subject's model, whoever made them.

    Several may study one model, each with its own settings: apart, each would take another's change for what
    was given, and put it back.
    """
    found = _OF_MODELS.get(id(subject.model))  # it holds the model, so the id is no other's
    if found is None:
        found = _OF_MODELS[id(subject.model)] = Kept(subject)
    return found


def layers_are_shared(model: nn.Module, family: Family) -> bool:
    """Whether several layers are one module, as ALBERT's are."""
    modules = [family.down(model, layer) for layer in range(len(family.layer_modules(model)))]
    return len(set(modules)) < len(modules)


def first_projection(family: Family, model: nn.Module, layer: int) -> nn.Module:
    """What the original calls the neurons of GPT-2 and GPT-Neo: the module before the nonlinearity."""
    return family.layer_modules(model)[layer].get_submodule("mlp.c_fc")


# Hooks are functions, which a copied model shares with the one it was copied from; methods would be copied.


def _looking(spots: Spots) -> Callable:
    def look(module: nn.Module, args: tuple, kwargs: dict) -> None:
        spots.look(kwargs.get("input_ids", args[0] if args else None))

    return look


def _having_read(spots: Spots) -> Callable:
    def look_away(module: nn.Module, args: tuple, output: object) -> None:
        spots.shape = None  # what comes next may be a sweep's rows

    return look_away


def _scaling_input(spots: Spots, factors: Tensor) -> Callable:
    def scale(module: nn.Module, args: tuple) -> tuple:
        return (spots.scaled(args[0], factors), *args[1:])

    return scale


def _scaling_output(spots: Spots, factors: Tensor) -> Callable:
    def scale(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return spots.scaled(output, factors)

    return scale


def _remove(handles: list) -> None:
    while handles:
        handles.pop().remove()


def _like(given: nn.Parameter, data: Tensor) -> nn.Parameter:
    return nn.Parameter(data, requires_grad=given.requires_grad)


def _move(given: nn.Parameter, weight: Tensor) -> None:
    """The model may have been moved since."""
    if (given.device, given.dtype) != (weight.device, weight.dtype):
        given.data = given.data.to(weight)
