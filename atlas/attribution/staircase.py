"""Every layer's path through the rest of the model, in one forward and one backward sweep.

    base = base_pass(subject, answer_tokens(subject.encode(prompt), "masked"))
    swept = sweep(subject, base, Rows(item, layer, alpha), with_base=True)
    swept.probability, swept.gradient          # (n_rows,), (n_rows, d_model)

A row is one point of one path: the model for one answer token, with one layer's activations at the answer
position set to α·w instead of w (Dai et al., ACL 2022, equations 2 and 3).

1. *Base pass.* One forward pass records every layer's activations and residual at the answer
   position, and what the layers after it need: keys and values (causal) or whole outputs (masked).
2. *Staircase.* The paths of all layers and all prompts of a batch share one forward and one backward
   sweep. A row enters after its own layer, as ``tail(residual, α·w)``; nothing below is recomputed.
3. *Prefix reuse.* In a causal model nothing before the answer position changes: rows are one token
   wide and attend to the base pass's keys and values. In a masked model rows are whole sentences,
   but the last layer computes the answer position only.
4. *One row for α = 1.* At α = 1 the paths of all layers are the same state, the unchanged model: one row from
   layer 0 upward gives the gradients of all of them.
5. *Gradient.* Only ∂P/∂(what the down-projection writes) is kept, d_model numbers a row; one product
   with the value vectors, after the weighted sum over nodes, gives ∂P/∂w (`project_to_neurons`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from atlas.errors import ModelError
from atlas.surgery.hooks import hidden_of, recording
from atlas.surgery.loaded import Encoded, TokenPrediction, token_predictions
from atlas.surgery.precision import products
from atlas.surgery.subject import Subject

# The memory that a sweep may keep for its backward pass: in bytes on a CPU, where more is no faster; on a GPU
# a share of the memory that is free at its first sweep.
CPU_SWEEP_BYTES = 400_000_000
GPU_SWEEP_SHARE = 0.6
# Rows × tokens × weights of a sweep of some milliseconds.
CHEAP_WORK = 2e9


# A layer's argument: a tensor, several, or None.
Argument = Tensor | tuple[Tensor, ...] | None


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer: the model's input, the answer position and the target token."""

    input_ids: tuple[int, ...]
    position: int
    target: int
    index: int


def answer_tokens(encoded: Encoded, kind: str) -> list[AnswerToken]:
    """The answer's tokens, each with its own position; a causal model reads no further than it."""
    return [
        AnswerToken(
            encoded.input_ids[: position + 1] if kind == "causal" else encoded.input_ids,
            position,
            target,
            j,
        )
        for j, (position, target) in enumerate(zip(encoded.positions, encoded.targets, strict=True))
    ]


@dataclass(frozen=True)
class Base:
    """The state of one forward pass over answer tokens, padded on the right, that sweeps reuse.

    activations (n_items, n_layers, n_neurons); residuals and writes (n_items, n_layers, d_model), a write
    being activations @ value vectors, without the bias; position and target (n_items,); predictions, one an
    item. Causal: keys and values of the tokens before the answer by layer, (n_items, n_heads, n_tokens − 1,
    d_head), and the name by which layers take them. Masked: outputs by layer, (n_items, n_tokens, d_model).
    arguments: a layer's other arguments (`_arguments`). start: another base of the same items; paths begin at
    its activations and writes at α = 0, or at zero without one.
    """

    activations: Tensor
    residuals: Tensor
    writes: Tensor
    position: Tensor
    target: Tensor
    predictions: tuple[TokenPrediction, ...]
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    arguments: tuple[dict[str, Argument], ...] = ()
    cache_name: str = ""
    start: Base | None = None

    @property
    def n_items(self) -> int:
        """Number of answer tokens."""
        return self.position.shape[0]


@torch.no_grad()
def base_pass(subject: Subject, items: Sequence[AnswerToken]) -> Base:
    """Step 1: run the model once and record the state that sweeps need."""
    from transformers import DynamicCache

    model, family, device = subject.model, subject.family, subject.device
    causal = family.kind == "causal"
    lengths = [len(item.input_ids) for item in items]
    width = max(lengths)
    padded = [(*item.input_ids, *item.input_ids[:1] * (width - len(item.input_ids))) for item in items]
    input_ids = torch.tensor(padded, device=device)
    position = torch.tensor([item.position for item in items], device=device)
    visible = torch.arange(width, device=device) < torch.tensor(lengths, device=device)[:, None]
    cache: Any = DynamicCache() if causal else None
    # In a causal model padding on the right is never seen; the answer comes before it.
    options = {"past_key_values": cache, "use_cache": True} if causal else {"attention_mask": visible.long()}
    with recording(model, family, position[:, None], outputs=not causal, arguments=True) as trace:
        hidden = model.base_model(input_ids, **options).last_hidden_state
    target = torch.tensor([item.target for item in items], device=device)
    # base_model has applied the final norm already.
    answer = hidden[torch.arange(len(items), device=device), position]
    logits = family.say(model, answer)
    layers = range(subject.n_layers)
    activations = torch.stack([trace.activations[layer][:, 0] for layer in layers], 1)
    named = trace.arguments[0]
    return Base(
        activations=activations,
        residuals=torch.stack([trace.residuals[layer][:, 0] for layer in layers], 1),
        writes=torch.stack(
            [activations[:, layer] @ family.value_vectors(model, layer) for layer in layers], 1
        ),
        position=position,
        target=target,
        predictions=tuple(token_predictions(subject, logits, target, top_k=10)),
        keys=tuple(cache.layers[layer].keys[:, :, :-1] for layer in layers) if causal else (),
        values=tuple(cache.layers[layer].values[:, :, :-1] for layer in layers) if causal else (),
        outputs=() if causal else tuple(trace.outputs[layer] for layer in layers),
        arguments=_arguments([trace.arguments[layer] for layer in layers], visible, position, causal),
        cache_name=next((name for name, value in named.items() if value is cache), "") if causal else "",
    )


def _arguments(
    called: Sequence[dict], visible: Tensor, position: Tensor, causal: bool
) -> tuple[dict[str, Argument], ...]:
    """Each layer's arguments in a sweep, an item a row, from those of the model's own call.

    Positions, their embeddings and ALiBi's slopes are kept for the positions of a row: the whole sentence in
    a masked model, the answer position in a causal one. `attention_mask`, where one is needed, is added to
    attention scores: zero for the positions that a row may attend to.
    """
    made: dict[int, Argument] = {}  # layers share most of them

    def once(name: str, value: Argument) -> Argument:
        key = id(value[0]) if isinstance(value, tuple) else id(value)
        if key not in made:
            made[key] = _ROW_ARGUMENTS[name](value, visible, position, causal)
        return made[key]

    by_layer = []
    for given in called:
        tensors = {name for name, value in given.items() if isinstance(value, (Tensor, tuple))}
        if unknown := tensors - set(_ROW_ARGUMENTS):
            raise ModelError(
                f"The model's layers take unsupported arguments: {', '.join(sorted(unknown))}. "
                "Choose a model of another type."
            )
        by_layer.append({name: once(name, given.get(name)) for name in (*tensors, "attention_mask")})
    return tuple(by_layer)


def _row_mask(mask: Tensor | None, visible: Tensor, position: Tensor, causal: bool) -> Tensor | None:
    """(n_items, 1, 1 or n_tokens, n_tokens), or None where a row sees all there is."""
    n_items, width = visible.shape
    items = torch.arange(n_items, device=visible.device)
    seen = visible[:, None, None]
    if mask is not None:
        allowed = mask if mask.dtype is torch.bool else mask >= 0
        seen = allowed.expand(n_items, *allowed.shape[1:]) & (visible[:, None, None] | causal)
    if causal:
        # A row attends to the tokens that the answer position attends to, and to itself, last in its keys.
        before = torch.arange(width - 1, device=visible.device) < position[:, None]
        if mask is not None:
            before = before & seen[items, 0, position][:, :-1]
        seen = torch.cat([before, torch.ones_like(before[:, :1])], 1)[:, None, None]
    elif seen.shape[2] > 1 and bool((seen == seen[:, :, :1]).all()):
        seen = seen[:, :, :1]
    if bool(seen.all()):
        return None
    added = torch.zeros(seen.shape, device=seen.device)
    return added.masked_fill(~seen, torch.finfo(added.dtype).min)


def _row_positions(value: Tensor, visible: Tensor, position: Tensor, causal: bool) -> Tensor:
    """(n_items, 1 or n_tokens): which positions a row holds."""
    return position[:, None] if causal else value.expand(len(position), -1)


def _row_embeddings(
    value: tuple[Tensor, ...], visible: Tensor, position: Tensor, causal: bool
) -> tuple[Tensor, ...]:
    """Cosines and sines of rotary embeddings, each (n_items, 1 or n_tokens, d_rotary)."""
    whole = tuple(part.expand(len(position), -1, -1) for part in value)
    if not causal:
        return whole
    items = torch.arange(len(position), device=position.device)
    return tuple(part[items, position][:, None] for part in whole)


def _row_alibi(value: Tensor, visible: Tensor, position: Tensor, causal: bool) -> Tensor:
    """ALiBi's bias for each key, (n_items, n_heads, 1, n_tokens); items have one length."""
    return value.view(len(position), -1, *value.shape[1:])


_ROW_ARGUMENTS: dict[str, Callable] = {
    "attention_mask": _row_mask,
    "position_ids": _row_positions,
    "position_embeddings": _row_embeddings,
    "alibi": _row_alibi,
}


# --- steps 2 to 5: the sweep ---


@dataclass(frozen=True)
class Rows:
    """Points of paths, all (n_rows,) and sorted by layer: row r is item `item[r]` with the activations of
    layer `layer[r]` scaled by `alpha[r]`. They stay on the CPU, so that a sweep never waits for a GPU."""

    item: Tensor
    layer: Tensor
    alpha: Tensor

    def __len__(self) -> int:
        return self.item.shape[0]

    def part(self, start: int, end: int) -> Rows:
        """The rows from `start` on, before `end`."""
        return Rows(self.item[start:end], self.layer[start:end], self.alpha[start:end])


@dataclass(frozen=True)
class Swept:
    """A sweep's results: probability (n_rows,) of the target, and gradient (n_rows, d_model), its derivative
    with respect to what the row's down-projection wrote. For the items whose base rows were swept,
    base_probability (n_items,) and base_gradient (n_items, n_layers, d_model): α = 1 in every layer."""

    probability: Tensor
    gradient: Tensor
    base_probability: Tensor
    base_gradient: Tensor


class _PrefixCache:
    """Step 3, causal: the base pass's keys and values in front of each row's own.

    Takes the place of a transformers cache, of which layers call `update` only.
    """

    def __init__(self, base: Base, item: Tensor) -> None:
        self.base, self.item = base, item

    def update(self, keys: Tensor, values: Tensor, layer: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        item = self.item[: keys.shape[0]]
        return (
            torch.cat([self.base.keys[layer][item], keys], 2),
            torch.cat([self.base.values[layer][item], values], 2),
        )


class _SentenceCache:
    """Step 3, masked: keys and values of whole sentences, for a query at the answer position only."""

    def __init__(self, attention: Any, state: Tensor) -> None:
        self.attention, self.state = attention, state

    def update(self, keys: Tensor, values: Tensor, layer: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        shape = (*self.state.shape[:-1], -1, keys.shape[-1])  # (n_rows, n_tokens, n_heads, d_head)
        return (
            self.attention.key(self.state).view(shape).transpose(1, 2),
            self.attention.value(self.state).view(shape).transpose(1, 2),
        )


def sweep(
    subject: Subject, base: Base, rows: Rows, *, with_base: bool = False, precision: str = "float32"
) -> Swept:
    """Steps 2 to 5 for any set of rows, in as many parts as memory requires.

    with_base: also sweep each item's own state (α = 1), from layer 0 upward. precision: of the matrix
    products (`atlas.surgery.precision`). Between parts others may use the model. A part that does not fit is
    halved, and so is the memory of this subject's later sweeps; one row that does not fit raises torch's own
    error.
    """
    parts: list[Swept] = []
    start = start_base = 0
    n_base = base.n_items if with_base else 0
    spent = torch.cumsum(_row_bytes(subject, base, rows.layer), 0)
    base_bytes = float(_row_bytes(subject, base, torch.zeros(1))[0])
    while start < len(rows) or start_base < n_base or not parts:
        subject.lock.give_way()
        limit = _sweep_bytes(subject)
        end_base = min(n_base, start_base + max(1, int(limit // base_bytes)))
        of_base = (end_base - start_base) * base_bytes
        end, before = start, float(spent[start - 1]) if start else 0.0
        if end_base == n_base:  # ordinary rows fill the last part with base rows, and the parts after it
            at_least = start if of_base else start + 1
            end = int(torch.searchsorted(spent, before + limit - of_base, right=True))
            end = min(len(rows), max(end, at_least))
        try:
            with products(precision, subject.device):
                part = _sweep_part(subject, base, rows.part(start, end), range(start_base, end_base))
        except torch.OutOfMemoryError:
            if end - start + end_base - start_base <= 1:
                raise
        else:
            parts.append(part)
            start, start_base = end, end_base
            continue
        # Outside the handler, whose traceback keeps the part's tensors in memory.
        torch.cuda.empty_cache()
        subject.sweep_bytes = (of_base + (float(spent[end - 1]) - before if end > start else 0.0)) / 2
    return Swept(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Swept)))


def _sweep_bytes(subject: Subject) -> float:
    """The memory that a part may keep, in bytes: the most that has fitted so far."""
    if subject.sweep_bytes is None:
        subject.sweep_bytes = float(CPU_SWEEP_BYTES)
        if subject.device.type == "cuda":
            subject.sweep_bytes = GPU_SWEEP_SHARE * torch.cuda.mem_get_info(subject.device)[0]
    return subject.sweep_bytes


def _row_bytes(subject: Subject, base: Base, layer: Tensor) -> Tensor:
    """Approximate bytes that a row entering after `layer` keeps for its backward pass, (n_rows,)."""
    causal = subject.family.kind == "causal"
    width = 1 if causal else base.outputs[0].shape[1]
    context = 2 * base.keys[0][0].numel() if causal else 0
    a_layer = width * (14 * subject.d_model + 4 * subject.n_neurons) + context
    return 4.0 * ((subject.n_layers - 1 - layer.double()) * a_layer + 3 * subject.n_tokens)


def rows_are_cheap(subject: Subject, base: Base, n_rows: int) -> bool:
    """Whether calling the operations of a sweep of so many rows takes longer than their arithmetic."""
    width = 1 if subject.family.kind == "causal" else base.outputs[0].shape[1]
    return n_rows * width * subject.model.num_parameters() < CHEAP_WORK


@torch.enable_grad()
def _sweep_part(subject: Subject, base: Base, rows: Rows, base_items: range) -> Swept:
    model, family, device = subject.model, subject.family, subject.device
    n_layers, causal = subject.n_layers, family.kind == "causal"
    modules = family.layer_modules(model)
    n_base = len(base_items)
    # The base rows come first: paths of layer 0 at α = 1.
    item = _sent(torch.cat([torch.arange(base_items.start, base_items.stop), rows.item]), device)
    alpha = _sent(torch.cat([torch.ones(n_base), rows.alpha.float()]), device)
    n_entering = torch.bincount(rows.layer, minlength=n_layers).tolist()
    n_entering[0] += n_base
    prefix = _PrefixCache(base, item)
    entered: dict[int, slice] = {}
    gradients: dict[int, Tensor] = {}  # ∂P/∂(layer's output at the answer position), by layer
    state: Tensor | None = None
    alive = 0

    for layer in range(n_layers):
        answer_only = causal or (layer == n_layers - 1 and family.attention is not None)
        if state is not None:
            state = _through(subject, base, modules[layer], layer, state, item[:alive], prefix)
        if n_entering[layer]:
            entered[layer] = slice(alive, alive + n_entering[layer])
            new = _entering(subject, base, layer, item[entered[layer]], alpha[entered[layer]], answer_only)
            state = new.requires_grad_() if state is None else torch.cat([state, new])
            alive += n_entering[layer]
        if state is not None and (n_base or n_entering[layer]):
            state.register_hook(_keeper(gradients, layer, base.position[item[:alive]]))

    if state is None:
        return _empty_sweep(subject)
    if state.dim() == 3:
        state = state[torch.arange(alive, device=device), base.position[item]]
    # Step 5, first half: the vocabulary head and one backward sweep for every row at once. Rows do
    # not see each other, so the gradient of the sum is each row's own gradient.
    logits = family.logits(model, state)
    probability, gradient = _probability(logits.detach(), base.target[item])
    logits.backward(gradient)

    with torch.no_grad():
        written = torch.zeros(alive, subject.d_model, device=device)
        for layer, rows_here in entered.items():
            written[rows_here] = _before_tail(
                subject, base, layer, item[rows_here], alpha[rows_here], gradients[layer][rows_here]
            )
        base_gradient = torch.zeros(n_base, n_layers, subject.d_model, device=device)
        if n_base:
            everyone, ones = item[:n_base], alpha[:n_base]
            for layer in range(n_layers):
                base_gradient[:, layer] = _before_tail(
                    subject, base, layer, everyone, ones, gradients[layer][:n_base]
                )
    return Swept(probability[n_base:], written[n_base:], probability[:n_base], base_gradient)


def _empty_sweep(subject: Subject) -> Swept:
    none = torch.zeros(0, device=subject.device)
    vectors = torch.zeros(0, subject.d_model, device=subject.device)
    return Swept(none, vectors, none, vectors[:, None].expand(0, subject.n_layers, subject.d_model))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, copied without waiting for a CUDA device."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _probability(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target's probability, (n_rows,), and its gradient ∂P/∂logits = P · (e_target − softmax).

    Written out, because automatic differentiation passes over (n_rows, n_tokens) several times.
    """
    softmax = logits.softmax(-1)
    probability = softmax.gather(-1, target[:, None])
    gradient = softmax.mul_(-probability)
    gradient.scatter_add_(-1, target[:, None], probability)
    return probability[:, 0], gradient


def _write(subject: Subject, base: Base, layer: int, item: Tensor, alpha: Tensor) -> Tensor:
    """The down-projection's output at α along its path, (n_rows, d_model): linear in α, up to its bias."""
    write = base.writes[item, layer]
    if base.start is None:
        write = alpha[:, None] * write
    else:
        begun = base.start.writes[item, layer]
        write = begun + alpha[:, None] * (write - begun)
    bias: Any = subject.family.down(subject.model, layer).bias
    return write if bias is None else write + bias


def _entering(
    subject: Subject, base: Base, layer: int, item: Tensor, alpha: Tensor, answer_only: bool
) -> Tensor:
    """The rows that start their path after `layer`: the base's state with the answer position replaced.

    (n_rows, d_model) where only the answer position is carried, else (n_rows, n_tokens, d_model).
    """
    with torch.no_grad():
        write = _write(subject, base, layer, item, alpha)
        answer = subject.family.tail(subject.model, layer, base.residuals[item, layer], write)
        if answer_only:
            return answer
        state = base.outputs[layer][item]
        state[torch.arange(len(item), device=state.device), base.position[item]] = answer
        return state


def _through(
    subject: Subject,
    base: Base,
    module: torch.nn.Module,
    layer: int,
    state: Tensor,
    item: Tensor,
    prefix: _PrefixCache,
) -> Tensor:
    """The current rows after one more layer; shapes as in `_entering`."""
    options: dict[str, Any] = {
        name: _of_rows(name, value, item) for name, value in base.arguments[layer].items()
    }
    if subject.family.kind == "causal":
        options[base.cache_name] = prefix
        return hidden_of(module(state[:, None], **options))[:, 0]
    if layer < subject.n_layers - 1 or subject.family.attention is None:
        return hidden_of(module(state, **options))
    attention = module.get_submodule(subject.family.attention)
    answer = state[torch.arange(len(item), device=state.device), base.position[item]]
    options["past_key_values"] = _SentenceCache(attention, state)
    return hidden_of(module(answer[:, None], **options))[:, 0]


def _of_rows(name: str, value: Argument, item: Tensor) -> Argument:
    """The items' argument, for the rows that belong to them."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(part[item] for part in value)
    chosen = value[item]
    return chosen.flatten(0, 1) if name == "alibi" else chosen


def _keeper(gradients: dict[int, Tensor], layer: int, position: Tensor) -> Callable[[Tensor], None]:
    def keep(gradient: Tensor) -> None:
        if gradient.dim() == 3:
            gradient = gradient[torch.arange(len(position), device=position.device), position]
        gradients[layer] = gradient.float()

    return keep


def _before_tail(
    subject: Subject, base: Base, layer: int, item: Tensor, alpha: Tensor, gradient: Tensor
) -> Tensor:
    """From ∂P/∂(layer's output) to ∂P/∂(down-projection's output), both (n_rows, d_model)."""
    if subject.family.adds:
        return gradient  # output = residual + write
    with torch.enable_grad():
        write = _write(subject, base, layer, item, alpha).detach().requires_grad_()
        output = subject.family.tail(subject.model, layer, base.residuals[item, layer], write)
        return torch.autograd.grad(output, write, gradient.to(output.dtype))[0].float()


def project_to_neurons(subject: Subject, base: Base, layer: int, item: Tensor, summed: Tensor) -> Tensor:
    """Step 5, second half: weighted sums of ∂P/∂write, (n, d_model), become scores, (n, n_neurons)."""
    values = subject.family.value_vectors(subject.model, layer)
    moved = base.activations[item, layer].float()
    if base.start is not None:
        moved = moved - base.start.activations[item, layer].float()
    return (summed.to(values.dtype) @ values.T).float() * moved
