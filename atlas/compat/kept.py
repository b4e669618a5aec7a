"""Changes that stay in a model until they are undone, in any order.

    undo = changes_in(subject).rewrite(subject, neurons, lambda neuron, vector: 0 * vector)
    undo()                                           # the model is as before, bit for bit

1. *Value vectors* (erase, edit): a copy of the layer's weight takes its place, so calls, attribution,
   `copy.deepcopy` and `save_pretrained` see the change. The given weight is never written, and returns when
   no change is left; a copy that was trained meanwhile stays, with the given vectors.
2. *Activations* (suppress, enhance): hooks scale them at a masked model's masks and at a causal model's last
   token. With a `place`, as the original, they scale that position of every input.

Undoing one change recomputes the vectors from the given ones with the remaining changes, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from atlas.errors import PromptError
from atlas.models.families import neurons_first
from atlas.neuron import Neuron
from atlas.surgery.hooks import by_row, in_its_call
from atlas.surgery.subject import Subject

# From a neuron and its value vector, (d_model,), to its new value vector.
Rewrite = Callable[[Neuron, Tensor], Tensor]
# Undoes a change; calling it again does nothing.
Undo = Callable[[], None]


@dataclass
class _Copied:
    """The weight that a copy replaces, and the neurons whose vectors the copy has changed."""

    given: nn.Parameter
    neurons: set[int] = field(default_factory=set)


@dataclass
class KeptChanges:
    """The changes in force in one model; it refers to the model's parts only, so the model can be freed.

    positions: the answer's, where the caller knows them. masks, (n_rows, n_tokens): the masks of the last
    input. n_rows: of the input, while the model reads it. n_scalings: changes of activations in force.
    """

    mask_token_id: int | None
    positions: tuple[int, ...] | None = None
    masks: Tensor | None = None
    n_rows: int | None = None
    n_scalings: int = 0
    rewritings: list[list[tuple[nn.Module, Neuron, Rewrite]]] = field(default_factory=list)
    copied: dict[nn.Module, _Copied] = field(default_factory=dict)

    @contextmanager
    def at(self, positions: tuple[int, ...]) -> Iterator[None]:
        """Inside the block, scale activations at these positions of every row."""
        before, self.positions = self.positions, positions
        try:
            yield
        finally:
            self.positions = before

    # --- activations ---

    def scale(
        self,
        subject: Subject,
        factors: Mapping[Neuron, float],
        module_of: Callable[[int], nn.Module],
        *,
        place: int | None = None,
    ) -> Undo:
        """Multiply activations: the inputs of each layer's module, ``module_of(layer)``.

        place: the position in every input; None: where an input's answers are.
        """
        rows = {neuron.layer: torch.ones(subject.n_neurons) for neuron in factors}
        for neuron, factor in factors.items():
            rows[neuron.layer][neuron.neuron] = factor
        with ExitStack() as undo:
            for reader in (subject.model, subject.model.base_model):  # OPT's head does not call its base
                self._watch(reader, undo)
            layers = subject.family.layer_modules(subject.model)
            for layer, row in rows.items():
                hook = in_its_call(layers, layer, self._scaling(row, place))
                undo.callback(module_of(layer).register_forward_pre_hook(hook).remove)
            self.n_scalings += 1
            undo.callback(self._decrement)
            return undo.pop_all().close

    def _decrement(self) -> None:
        self.n_scalings -= 1

    # Hooks are functions, which `copy.deepcopy` shares with the copied model; it would copy methods.

    def _watch(self, reader: nn.Module, undo: ExitStack) -> None:
        def start(module: nn.Module, args: tuple, named: dict) -> None:
            ids = named.get("input_ids", args[0] if args else None)  # None where embeddings are given
            self.n_rows = None if ids is None else len(ids)
            self.masks = None if ids is None or self.mask_token_id is None else ids == self.mask_token_id

        def end(module: nn.Module, args: tuple, output: object) -> None:
            self.n_rows = None  # a sweep's rows may follow

        undo.callback(reader.register_forward_pre_hook(start, with_kwargs=True).remove)
        undo.callback(reader.register_forward_hook(end).remove)

    def _scaling(self, factors: Tensor, place: int | None) -> Callable:
        return lambda module, args: (self._scaled(args[0], factors, place), *args[1:])

    def _scaled(self, values: Tensor, factors: Tensor, place: int | None) -> Tensor:
        """values, (n_rows, n_tokens, n_neurons), times factors, (n_neurons,), at the place or the answers."""
        if values.dim() == 2:  # OPT's rows lie end to end
            return self._scaled(by_row(values, self.n_rows or len(values)), factors, place).view(values.shape)
        n_tokens = values.shape[1]
        at = torch.zeros(1, n_tokens, dtype=torch.bool, device=values.device)
        if n_tokens == 1:  # of a sweep, or after a cache: the answer alone
            at[:] = place is None or self._is_answer(place)
        elif place is not None:
            if place >= n_tokens:
                raise PromptError(
                    f"A suppression or enhancement is kept at position {place} of every input, as in the "
                    f"original, but this input has {n_tokens} tokens. Call its unpatch_fn first."
                )
            at[:, place] = True
        elif self.positions is not None:
            at[:, [position for position in self.positions if position < n_tokens]] = True
        elif self.mask_token_id is None:
            at[:, -1] = True
        elif self.masks is not None:
            at = self.masks
        return torch.where(at[..., None], values * factors.to(values), values)

    def _is_answer(self, place: int) -> bool:
        """Whether the last input's answer is there."""
        if self.positions is not None:
            return place in self.positions
        return self.masks is not None and bool(self.masks[:, place : place + 1].any())

    # --- value vectors ---

    def rewrite(self, subject: Subject, neurons: Sequence[Neuron], change: Rewrite) -> Undo:
        """Change value vectors, in this order."""
        entry = [(subject.family.down(subject.model, each.layer), each, change) for each in neurons]
        with ExitStack() as undo:
            self.rewritings.append(entry)
            undo.callback(self._take_back, entry)
            self._compute(entry)
            return undo.pop_all().close

    def _take_back(self, entry: list[tuple[nn.Module, Neuron, Rewrite]]) -> None:
        self.rewritings = [each for each in self.rewritings if each is not entry]
        self._compute(entry)

    @torch.no_grad()
    def _compute(self, entry: list[tuple[nn.Module, Neuron, Rewrite]]) -> None:
        """Recompute the value vectors of the entry's layers."""
        for module in {module for module, _, _ in entry}:
            changes = [each[1:] for entry in self.rewritings for each in entry if each[0] is module]
            weight = module.get_parameter("weight")
            if module not in self.copied:
                self.copied[module] = _Copied(weight)
                weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
                module.weight = weight
            copied = self.copied[module]
            copied.given.data = copied.given.data.to(weight)  # the model may have been moved
            copied.neurons |= {neuron.neuron for neuron, _ in changes}
            given, rows = neurons_first(module, copied.given), neurons_first(module)
            vectors = {index: given[index].float() for index in copied.neurons}
            for neuron, change in changes:
                vectors[neuron.neuron] = change(neuron, vectors[neuron.neuron])
            for index, vector in vectors.items():
                rows[index] = vector.to(rows.dtype)
            if not changes:
                if torch.equal(weight, copied.given):
                    module.weight = copied.given
                del self.copied[module]


_KEPT: WeakKeyDictionary[nn.Module, KeptChanges] = WeakKeyDictionary()


def changes_in(subject: Subject) -> KeptChanges:
    """The changes in force in the subject's model, one record for all drop-ins on it.

    Separate records would restore each other's changes as given weights.
    """
    mask = subject.tokenizer.mask_token_id if subject.family.kind == "masked" else None
    return _KEPT.setdefault(subject.model, KeptChanges(mask))


def layers_are_shared(subject: Subject) -> bool:
    """Whether several layers are one module, as ALBERT's are."""
    return len({subject.family.down(subject.model, k) for k in range(subject.n_layers)}) < subject.n_layers
