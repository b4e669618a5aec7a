"""Hooks that record or replace the inputs of down-projections inside a `with` block.

    with recording(subject, positions) as trace:
        model(input_ids)
    trace.activations[layer], trace.residuals[layer]      # (n_rows, n_positions, …)

Hooks are registered on entry and removed in `finally`, because Streamlit ends scripts with exceptions outside
`Exception`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from atlas.models.families import Family


@dataclass
class Trace:
    """The record of one forward pass, by layer, at the chosen positions of each row.

    activations: (n_rows, n_positions, n_neurons); residuals: (n_rows, n_positions, d_model); outputs and
    arguments, if requested: a layer's output at all positions, (n_rows, n_tokens, d_model), and its arguments
    except its input, by name.
    """

    activations: dict[int, Tensor] = field(default_factory=dict)
    residuals: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    arguments: dict[int, dict[str, Any]] = field(default_factory=dict)


def by_row(tensor: Tensor, n_rows: int) -> Tensor:
    """(n_rows, n_tokens, d), also of the models (OPT) that lay all rows' tokens end to end."""
    return tensor if tensor.dim() == 3 else tensor.view(n_rows, -1, tensor.shape[-1])


def hidden_of(output: Tensor | tuple) -> Tensor:
    """A layer's hidden state, (n_rows, n_tokens, d_model), without other outputs."""
    return output[0] if isinstance(output, tuple) else output


def arguments_of(module: nn.Module, args: tuple, named: dict[str, Any]) -> dict[str, Any]:
    """A layer's arguments by name, except its input, which comes first."""
    bound = inspect.signature(module.forward).bind(*args, **named)
    names = iter(list(bound.arguments))
    next(names)
    found: dict[str, Any] = {}
    for name in names:
        value = bound.arguments[name]
        several = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        found.update(value if several else {name: value})
    return found


def in_its_call(layers: Sequence[nn.Module], layer: int, hook: Callable) -> Callable:
    """The hook for this layer's call only: a module shared by several depths is called once at each.

    Calls are counted from the hook's registration, over whole forward passes.
    """
    n_calls = sum(each is layers[layer] for each in layers)
    if n_calls == 1:
        return hook
    own = sum(each is layers[layer] for each in layers[:layer])
    calls = count()

    def counted(*given: Any) -> Any:
        return hook(*given) if next(calls) % n_calls == own else None

    return counted


def hooked(model: nn.Module) -> bool:
    """Whether the model's modules have hooks already."""
    return any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@contextmanager
def attached(register: Callable[[list], None]) -> Iterator[None]:
    """Run a block with hooks; `register` appends the handle of each hook as soon as it is set."""
    handles: list = []
    try:
        register(handles)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recording(
    model: nn.Module, family: Family, positions: Tensor, *, outputs: bool = False, arguments: bool = False
) -> Iterator[Trace]:
    """Record every layer's activations and residuals at `positions`, (n_rows, n_positions).

    With `outputs`, also each layer's whole output; with `arguments`, its arguments.
    """
    trace = Trace()
    rows = torch.arange(positions.shape[0], device=positions.device)[:, None]

    def keep(store: dict[int, Tensor], layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            store[layer] = by_row(args[0], len(rows))[rows, positions]

        return hook

    def keep_written(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            # What is added to this write is known once the layer has ended.
            trace.residuals[layer] = -by_row(output, len(rows))[rows, positions]

        return hook

    def keep_output(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            handed_on = hidden_of(output)
            if family.residual is None:
                trace.residuals[layer] += handed_on[rows, positions]
            if outputs:
                trace.outputs[layer] = handed_on

        return hook

    def keep_arguments(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, named: dict) -> None:
            trace.arguments[layer] = arguments_of(module, args, named)

        return hook

    def register(handles: list) -> None:
        layers = family.layer_modules(model)
        for index, layer in enumerate(layers):

            def own(hook: Callable, index: int = index) -> Callable:
                return in_its_call(layers, index, hook)

            down = layer.get_submodule(family.down_projection)
            handles.append(down.register_forward_pre_hook(own(keep(trace.activations, index))))
            if family.residual is None:
                handles.append(down.register_forward_hook(own(keep_written(index))))
            else:
                residual = layer.get_submodule(family.residual)
                handles.append(residual.register_forward_pre_hook(own(keep(trace.residuals, index))))
            if arguments:
                hook = own(keep_arguments(index))
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            if outputs or family.residual is None:
                handles.append(layer.register_forward_hook(own(keep_output(index))))

    with attached(register):
        yield trace
