"""Reading and replacing what the down-projections see, inside a `with` and never after it.

    with recording(subject, positions) as trace:
        model(input_ids)
    trace.activations[layer], trace.residuals[layer]      # (n_rows, n_positions, …)

Hooks are registered on entry and removed in `finally`, whatever happens in between: Streamlit ends
scripts with exceptions that no `except Exception` sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from atlas.surgery.families import Family


@dataclass
class Trace:
    """What one forward pass left behind, by layer, at the chosen positions of each row.

    activations: (n_rows, n_positions, n_neurons); residuals: (n_rows, n_positions, d_model);
    outputs, where asked for: (n_rows, n_tokens, d_model), all positions.
    """

    activations: dict[int, Tensor] = field(default_factory=dict)
    residuals: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)


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
    model: nn.Module, family: Family, positions: Tensor, *, outputs: bool = False
) -> Iterator[Trace]:
    """Record every layer's activations and residuals at `positions`, (n_rows, n_positions).

    With `outputs`, also what each layer hands on, whole: (n_rows, n_tokens, d_model).
    """
    trace = Trace()
    rows = torch.arange(positions.shape[0], device=positions.device)[:, None]

    def keep(store: dict[int, Tensor], layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            store[layer] = args[0][rows, positions]

        return hook

    def keep_output(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            trace.outputs[layer] = output

        return hook

    def register(handles: list) -> None:
        for index, layer in enumerate(family.layer_modules(model)):
            down = layer.get_submodule(family.down_projection)
            residual = layer.get_submodule(family.residual)
            handles.append(down.register_forward_pre_hook(keep(trace.activations, index)))
            handles.append(residual.register_forward_pre_hook(keep(trace.residuals, index)))
            if outputs:
                handles.append(layer.register_forward_hook(keep_output(index)))

    with attached(register):
        yield trace
