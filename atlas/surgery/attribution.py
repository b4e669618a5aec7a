"""Attribution scores of every neuron for a prompt, each with its numerical certificate.

    result = attribute(subject, [subject.prompt("The capital of France is [MASK].", "Paris")])[0]
    result.scores                 # (n_layers, n_neurons): which neurons carry the answer
    result.gap.max(), result.converged.all()

Integrated gradients over feed-forward activations (Dai et al., ACL 2022, equations 2 and 3). For one
answer token, layer l, activations w at the answer position and P(α) the token's probability when
layer l's activations there are α·w,

    score_i = w_i · ∫₀¹ ∂P/∂w_i (α·w) dα          Σ_i score_i = P(1) − P(0)   (completeness)

1. *Base pass.* One forward pass records every layer's activations and residual at the answer
   position, and what the layers after it need: keys and values (causal) or whole outputs (masked).
2. *Staircase.* The paths of all layers and all prompts of a batch share one forward and one backward
   sweep. A row enters after its own layer, as ``tail(residual, α·w)``; nothing below is recomputed.
3. *Prefix reuse.* In a causal model nothing before the answer position changes: rows are one token
   wide and attend to the base pass's keys and values. In a masked model rows are whole sentences,
   but the last layer computes the answer position only.
4. *One row for α = 1.* At α = 1 the paths of all layers are the same state, the model as it is: one
   row from layer 0 upward gives the gradients of all of them.
5. *Gradient.* Only ∂P/∂(what the down-projection writes) is kept, d_model numbers a row; one product
   with the value vectors, after the weighted sum over nodes, gives ∂P/∂w.
6. *Certified quadrature.* Nested Clenshaw–Curtis rules of 3, 5 and 9 points; a (token, layer) stops when
   its completeness gap and the largest change of a score since the last rule are within `tolerance`
   × the token's largest |score|. What nine points do not settle is bisected, piece by piece, where it
   is uncertain, up to `max_points` evaluations; what that does not settle is flagged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas.errors import AtlasError, ModelError
from atlas.neuron import Prompt
from atlas.surgery import quadrature
from atlas.surgery.hooks import recording
from atlas.surgery.subject import (
    Encoded,
    Prediction,
    Subject,
    TokenPrediction,
    token_predictions,
    whole_answer,
)

RULES = ("certified", "left", "right", "endpoints")
# What a sweep may keep for its backward pass. Larger is no faster on a CPU; a GPU has room for more.
SWEEP_BYTES = {"cpu": 400_000_000, "cuda": 16_000_000_000}
ITEMS_AT_ONCE = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True)
class Attribution:
    """A prompt's scores and how far they can be trusted.

    scores: (n_layers, n_neurons) float32, mean over the answer's tokens. Per answer token and layer,
    (n_answer_tokens, n_layers): `gap` = |Σ score − (P(1) − P(0))|, absolute; `n_points`, evaluations of
    P and its gradient; `converged`; `p_zero` and `p_one`, the ends of the path. `token_max`,
    (n_answer_tokens,): the largest |score| of each token, which the tolerance refers to. `paths`:
    per token and layer the (α, P(α)) evaluated, if asked for.
    """

    prompt: Prompt
    prediction: Prediction
    scores: np.ndarray
    gap: np.ndarray
    n_points: np.ndarray
    converged: np.ndarray
    p_zero: np.ndarray
    p_one: np.ndarray
    token_max: np.ndarray
    paths: tuple[tuple[np.ndarray, ...], ...] | None = None

    @property
    def max_score(self) -> float:
        """The largest score; thresholds are fractions of it."""
        return float(self.scores.max())

    @property
    def max_gap(self) -> float:
        """The largest gap of a layer, as a fraction of its answer token's largest |score|."""
        return float((self.gap / np.maximum(self.token_max, np.finfo(np.float32).tiny)[:, None]).max())


def attribute(
    subject: Subject,
    prompts: Sequence[Prompt],
    *,
    method: str = "integrated_gradients",
    rule: str = "certified",
    tolerance: float = 0.01,
    max_points: int = 513,
    steps: int = 20,
    batch_rows: int | None = None,
    keep_paths: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Attribution]:
    """Score every neuron of the subject for every prompt's answer.

    rule: ``certified`` (default), or a fixed Riemann sum of `steps` points: ``left`` (the paper's code),
    ``endpoints`` (the replication), ``right``. batch_rows: answer tokens at once. `progress` is called
    with (prompts done, prompts) after each batch. Raises `ModelError` when a score is no number.
    """
    if method not in _METHODS:
        raise AtlasError(f"No method is called '{method}'. There are: {', '.join(_METHODS)}.")
    if rule not in RULES:
        raise AtlasError(f"No rule is called '{rule}'. There are: {', '.join(RULES)}.")
    if not 0 < tolerance < 1:
        raise AtlasError(f"A tolerance of {tolerance} is absurd. Give one between 0 and 1.")
    if max_points < quadrature.FINEST:
        raise AtlasError(f"max_points is {max_points}; the nested rules need {quadrature.FINEST} or more.")
    tokens = [
        (index, token)
        for index, prompt in enumerate(prompts)
        for token in answer_tokens(subject.encode(prompt), subject.family.kind)
    ]
    n_tokens = [0] * len(prompts)
    for index, _ in tokens:
        n_tokens[index] += 1
    size = batch_rows or ITEMS_AT_ONCE.get(subject.device.type, 8)
    # Similar lengths share a batch, so that little is padded; within a length the prompts keep their order.
    order = sorted(range(len(tokens)), key=lambda k: len(tokens[k][1].input_ids))
    pending: dict[int, list[TokenScores]] = {index: [] for index in range(len(prompts))}
    results: list[Attribution | None] = [None] * len(prompts)
    done = 0
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        items = [tokens[k][1] for k in batch]
        with subject.lock:
            scored = _METHODS[method](
                subject,
                items,
                rule=rule,
                tolerance=tolerance,
                max_points=max_points,
                steps=steps,
            )
        for k, token_scores in zip(batch, scored, strict=True):
            index = tokens[k][0]
            pending[index].append(token_scores)
            if len(pending[index]) == n_tokens[index]:
                results[index] = _averaged(subject, prompts[index], pending.pop(index), keep_paths)
                done += 1
        if progress is not None:
            progress(done, len(prompts))
    return results


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer: what the model reads, where it answers, and the token wanted."""

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
class TokenScores:
    """One answer token's part of an `Attribution`: scores (n_layers, n_neurons), what the model says in
    the token's place, and the rest (n_layers,)."""

    index: int
    said: TokenPrediction
    scores: Tensor
    gap: Tensor
    n_points: Tensor
    converged: Tensor
    p_zero: Tensor
    p_one: Tensor
    paths: tuple[np.ndarray, ...]


def _averaged(subject: Subject, prompt: Prompt, tokens: list[TokenScores], keep_paths: bool) -> Attribution:
    tokens = sorted(tokens, key=lambda token: token.index)
    scores = torch.stack([token.scores for token in tokens])
    if not bool(torch.isfinite(scores).all()):
        raise ModelError(
            f"{subject.name} gives scores that are no numbers (NaN) for '{prompt.text}'. "
            "Use float32 and check the weights."
        )

    def rows(name: str) -> np.ndarray:
        return torch.stack([getattr(token, name) for token in tokens]).cpu().numpy()

    return Attribution(
        prompt=prompt,
        prediction=whole_answer([token.said for token in tokens]),
        scores=scores.mean(0).cpu().numpy(),
        gap=rows("gap"),
        n_points=rows("n_points"),
        converged=rows("converged"),
        p_zero=rows("p_zero"),
        p_one=rows("p_one"),
        token_max=scores.abs().amax(dim=(1, 2)).cpu().numpy(),
        paths=tuple(token.paths for token in tokens) if keep_paths else None,
    )


# --- step 1: the base pass ---


@dataclass(frozen=True)
class Base:
    """What one forward pass over answer tokens leaves for the sweeps; shorter ones are padded on the right.

    activations (n_items, n_layers, n_neurons); residuals and writes (n_items, n_layers, d_model), a write
    being activations @ value vectors, without the bias; position and target (n_items,); said, what the model
    says of each item. Causal: keys
    and values of the tokens before the answer by layer, (n_items, n_heads, n_tokens − 1, d_head).
    Masked: outputs by layer, (n_items, n_tokens, d_model). mask, (n_items, 1, 1, n_tokens), is added to
    attention scores where inputs differ in length: zero for what a row may see.
    """

    activations: Tensor
    residuals: Tensor
    writes: Tensor
    position: Tensor
    target: Tensor
    said: tuple[TokenPrediction, ...]
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    rotary: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None

    @property
    def n_items(self) -> int:
        return self.position.shape[0]


@torch.no_grad()
def base_pass(subject: Subject, items: Sequence[AnswerToken]) -> Base:
    """Step 1."""
    from transformers import DynamicCache

    model, family, device = subject.model, subject.family, subject.device
    causal = family.kind == "causal"
    lengths = [len(item.input_ids) for item in items]
    width = max(lengths)
    padded = [(*item.input_ids, *item.input_ids[:1] * (width - len(item.input_ids))) for item in items]
    input_ids = torch.tensor(padded, device=device)
    position = torch.tensor([item.position for item in items], device=device)
    visible = torch.arange(width, device=device) < torch.tensor(lengths, device=device)[:, None]
    cache = DynamicCache() if causal else None
    # In a causal model padding on the right is never seen; the answer comes before it.
    options = {"past_key_values": cache, "use_cache": True} if causal else {"attention_mask": visible.long()}
    with recording(model, family, position[:, None], outputs=not causal) as trace:
        hidden = model.base_model(input_ids, **options).last_hidden_state
    target = torch.tensor([item.target for item in items], device=device)
    # base_model has applied the final norm already.
    answer = hidden[torch.arange(len(items), device=device), position]
    logits = model.get_submodule(family.head)(answer).float()
    layers = range(subject.n_layers)
    activations = torch.stack([trace.activations[layer][:, 0] for layer in layers], 1)
    rotary = None
    if family.rotary is not None:
        rotary = model.get_submodule(family.rotary)(activations, position_ids=position[:, None])
    return Base(
        activations=activations,
        residuals=torch.stack([trace.residuals[layer][:, 0] for layer in layers], 1),
        writes=torch.stack(
            [activations[:, layer] @ family.value_vectors(model, layer) for layer in layers], 1
        ),
        position=position,
        target=target,
        said=tuple(token_predictions(subject, logits, target, top_k=10)),
        keys=tuple(cache.layers[layer].keys[:, :, :-1] for layer in layers) if causal else (),
        values=tuple(cache.layers[layer].values[:, :, :-1] for layer in layers) if causal else (),
        outputs=() if causal else tuple(trace.outputs[layer] for layer in layers),
        rotary=rotary,
        mask=None if min(lengths) == width else _attention_mask(visible, position, causal, activations.dtype),
    )


def _attention_mask(visible: Tensor, position: Tensor, causal: bool, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, (n_items, 1, 1, n_tokens): 0 for tokens a row may see.

    A causal row sees the tokens before its answer position and itself, which comes last in its keys.
    """
    if causal:
        before = torch.arange(visible.shape[1] - 1, device=visible.device) < position[:, None]
        visible = torch.cat([before, torch.ones_like(before[:, :1])], 1)
    hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return hidden.masked_fill(~visible, torch.finfo(dtype).min)[:, None, None]


# --- steps 2 to 5: the sweep ---


@dataclass(frozen=True)
class Rows:
    """Points of paths, all (n_rows,) and sorted by layer: row r is item `item[r]` with the activations
    of layer `layer[r]` scaled by `alpha[r]`. Kept on the CPU, so that a sweep never waits for a GPU."""

    item: Tensor
    layer: Tensor
    alpha: Tensor

    def __len__(self) -> int:
        return self.item.shape[0]

    def part(self, start: int, end: int) -> Rows:
        return Rows(self.item[start:end], self.layer[start:end], self.alpha[start:end])


@dataclass(frozen=True)
class Swept:
    """What a sweep found: probability (n_rows,) of the target, and gradient (n_rows, d_model), its
    derivative with respect to what the row's down-projection wrote. Where base rows were swept,
    base_probability (n_items,) and base_gradient (n_items, n_layers, d_model): α = 1 in every layer."""

    probability: Tensor
    gradient: Tensor
    base_probability: Tensor | None = None
    base_gradient: Tensor | None = None


class _PrefixCache:
    """Step 3, causal: the base pass's keys and values in front of each row's own.

    Stands where a transformers cache stands, and answers the one call that layers make.
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

    def __init__(self, attention: torch.nn.Module, state: Tensor) -> None:
        self.attention, self.state = attention, state

    def update(self, keys: Tensor, values: Tensor, layer: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        shape = (*self.state.shape[:-1], -1, keys.shape[-1])  # (n_rows, n_tokens, n_heads, d_head)
        return (
            self.attention.key(self.state).view(shape).transpose(1, 2),
            self.attention.value(self.state).view(shape).transpose(1, 2),
        )


def sweep(subject: Subject, base: Base, rows: Rows, *, with_base: bool = False) -> Swept:
    """Steps 2 to 5 for any set of rows, in as many parts as memory asks for.

    with_base: also sweep each item's own state (α = 1), from layer 0 upward.
    """
    limit = SWEEP_BYTES.get(subject.device.type, SWEEP_BYTES["cpu"])
    spent = torch.cumsum(_row_bytes(subject, base, rows.layer), 0)
    base_bytes = base.n_items * float(_row_bytes(subject, base, torch.zeros(1))[0]) if with_base else 0.0
    parts: list[Swept] = []
    start = 0
    while start < len(rows) or (with_base and not parts):
        before = float(spent[start - 1]) if start else 0.0
        room = before + limit - (0.0 if parts else base_bytes)
        end = max(int(torch.searchsorted(spent, room, right=True)), start + 1)
        parts.append(_sweep_part(subject, base, rows.part(start, end), with_base and not parts))
        start = end
    return Swept(
        torch.cat([part.probability for part in parts]),
        torch.cat([part.gradient for part in parts]),
        parts[0].base_probability,
        parts[0].base_gradient,
    )


def _row_bytes(subject: Subject, base: Base, layer: Tensor) -> Tensor:
    """About what a row that enters after `layer` keeps for its backward pass, in bytes, (n_rows,)."""
    causal = subject.family.kind == "causal"
    width = 1 if causal else base.outputs[0].shape[1]
    context = 2 * base.keys[0][0].numel() if causal else 0
    a_layer = width * (14 * subject.d_model + 4 * subject.n_neurons) + context
    return 4.0 * ((subject.n_layers - 1 - layer.double()) * a_layer + 3 * subject.n_tokens)


@torch.enable_grad()
def _sweep_part(subject: Subject, base: Base, rows: Rows, with_base: bool) -> Swept:
    model, family, device = subject.model, subject.family, subject.device
    n_layers, causal = subject.n_layers, family.kind == "causal"
    modules = family.layer_modules(model)
    n_base = base.n_items if with_base else 0
    # The base rows come first: paths of layer 0 at α = 1.
    item = torch.cat([torch.arange(n_base), rows.item]).to(device)
    alpha = torch.cat([torch.ones(n_base), rows.alpha.float()]).to(device, base.writes.dtype)
    n_entering = torch.bincount(rows.layer, minlength=n_layers).tolist()
    n_entering[0] += n_base
    prefix = _PrefixCache(base, item)
    entered: dict[int, slice] = {}
    gradients: dict[int, Tensor] = {}  # ∂P/∂(layer's output at the answer position), by layer
    state: Tensor | None = None
    alive = 0

    for layer in range(n_layers):
        answer_only = causal or layer == n_layers - 1
        if state is not None:
            state = _through(subject, base, modules[layer], layer, state, item[:alive], prefix)
        if n_entering[layer]:
            entered[layer] = slice(alive, alive + n_entering[layer])
            new = _entering(subject, base, layer, item[entered[layer]], alpha[entered[layer]], answer_only)
            state = new.requires_grad_() if state is None else torch.cat([state, new])
            alive += n_entering[layer]
        if state is not None and (n_base or n_entering[layer]):
            state.register_hook(_keeper(gradients, layer, base.position[item[:alive]]))

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
        if not n_base:
            return Swept(probability, written)
        everyone, ones = item[:n_base], alpha[:n_base]
        base_gradient = torch.stack(
            [
                _before_tail(subject, base, layer, everyone, ones, gradients[layer][:n_base])
                for layer in range(n_layers)
            ],
            1,
        )
    return Swept(probability[n_base:], written[n_base:], probability[:n_base], base_gradient)


def _probability(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target's probability, (n_rows,), and its gradient ∂P/∂logits = P · (e_target − softmax).

    Written out, it passes over (n_rows, n_tokens) once where automatic differentiation does so several times.
    """
    softmax = logits.softmax(-1)
    probability = softmax.gather(-1, target[:, None])
    gradient = softmax.mul_(-probability)
    gradient.scatter_add_(-1, target[:, None], probability)
    return probability[:, 0], gradient


def _write(subject: Subject, base: Base, layer: int, item: Tensor, alpha: Tensor) -> Tensor:
    """What the down-projection writes at α·w, (n_rows, d_model): linear in α, up to its bias."""
    write = alpha[:, None] * base.writes[item, layer]
    bias = subject.family.down(subject.model, layer).bias
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
    """The rows in flight through one layer; shapes as in `_entering`."""
    mask = None if base.mask is None else base.mask[item]
    if subject.family.kind == "causal":
        options = {"past_key_values": prefix, "attention_mask": mask}
        if base.rotary is not None:
            options["position_embeddings"] = tuple(part[item] for part in base.rotary)
        return module(state[:, None], **options)[:, 0]
    if layer < subject.n_layers - 1:
        return module(state, attention_mask=mask)
    attention = module.get_submodule(subject.family.attention)
    answer = state[torch.arange(len(item), device=state.device), base.position[item]]
    return module(answer[:, None], attention_mask=mask, past_key_values=_SentenceCache(attention, state))[
        :, 0
    ]


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
    if subject.family.post_norm is None:
        return gradient  # output = residual + write
    with torch.enable_grad():
        write = _write(subject, base, layer, item, alpha).detach().requires_grad_()
        output = subject.family.tail(subject.model, layer, base.residuals[item, layer], write)
        return torch.autograd.grad(output, write, gradient.to(output.dtype))[0].float()


def _project(subject: Subject, base: Base, layer: int, item: Tensor, summed: Tensor) -> Tensor:
    """Step 5, second half: weighted sums of ∂P/∂write, (n, d_model), become scores, (n, n_neurons)."""
    values = subject.family.value_vectors(subject.model, layer)
    return (summed.to(values.dtype) @ values.T).float() * base.activations[item, layer].float()


# --- step 6: quadrature ---


def _integrated_gradients(
    subject: Subject,
    items: Sequence[AnswerToken],
    *,
    rule: str,
    tolerance: float,
    max_points: int,
    steps: int,
) -> list[TokenScores]:
    base = base_pass(subject, items)
    if rule == "certified":
        return _Certified(subject, base, tolerance, max_points).run(items)
    return _riemann(subject, base, items, rule, steps, tolerance)


def _rows(pairs: Tensor, alphas: Tensor) -> Rows:
    """Every alpha, (n_alphas,), on every (item, layer) pair, (n_pairs, 2), sorted by layer; the rows run
    through the (n_pairs, n_alphas) grid in its own order."""
    n = len(alphas)
    return Rows(pairs[:, 0].repeat_interleave(n), pairs[:, 1].repeat_interleave(n), alphas.repeat(len(pairs)))


def _riemann(
    subject: Subject, base: Base, items: Sequence[AnswerToken], rule: str, steps: int, tolerance: float
) -> list[TokenScores]:
    """A fixed sum; its gap says how far it is off, and α = 0 is evaluated for that alone if need be."""
    nodes, weights = quadrature.riemann(rule, steps)
    inner = nodes < 1
    alphas, inner_weights = nodes[inner], weights[inner]
    if alphas[0] > 0:
        alphas = torch.cat([torch.zeros(1, dtype=alphas.dtype), alphas])
        inner_weights = torch.cat([torch.zeros(1, dtype=weights.dtype), inner_weights])
    n_items, n_layers = base.n_items, subject.n_layers
    pairs = torch.cartesian_prod(torch.arange(n_layers), torch.arange(n_items)).flip(1)
    swept = sweep(subject, base, _rows(pairs, alphas), with_base=True)
    grid = (n_layers, n_items, len(alphas))
    summed = torch.einsum(
        "lkad,a->lkd", swept.gradient.view(*grid, -1), inner_weights.to(swept.gradient)
    ) + float(weights[~inner].sum()) * swept.base_gradient.transpose(0, 1)
    everyone = torch.arange(n_items, device=subject.device)
    scores = torch.stack(
        [_project(subject, base, layer, everyone, summed[layer]) for layer in range(n_layers)], 1
    )
    path = swept.probability.view(grid)
    p_zero, p_one = path[:, :, 0].T, swept.base_probability[:, None].expand(n_items, n_layers)
    gap = (scores.sum(-1) - (p_one - p_zero)).abs()
    limit = tolerance * scores.abs().amax((1, 2))
    return [
        TokenScores(
            index=item.index,
            said=base.said[k],
            scores=scores[k],
            gap=gap[k],
            n_points=torch.full((n_layers,), steps, dtype=torch.int32),
            converged=gap[k] <= limit[k],
            p_zero=p_zero[k],
            p_one=p_one[k],
            paths=tuple(
                np.stack([[*alphas.tolist(), 1.0], [*path[layer, k].tolist(), float(p_one[k, 0])]])
                for layer in range(n_layers)
            ),
        )
        for k, item in enumerate(items)
    ]


@dataclass
class _Piece:
    """A piece of one path from nodes[0] to nodes[4], equally spaced; what the sweep found at each.

    probability: P at the nodes; gradient (5, d_model): ∂P/∂write there. scores (n_neurons,): Boole's
    rule on the piece; change: the largest difference from Simpson's; gap: |Σ scores − its rise of P|.
    """

    nodes: list[float]
    probability: list[float]
    gradient: Tensor
    scores: Tensor
    change: float
    gap: float

    @property
    def error(self) -> float:
        return max(self.change, self.gap)


@dataclass(frozen=True)
class _Cut:
    """A piece to be: its pair, and what is known at its ends and its middle already."""

    item: int
    layer: int
    nodes: tuple[float, float, float]
    probability: tuple[float, float, float]
    gradient: Tensor  # (3, d_model)


class _Certified:
    """Step 6 for a batch of answer tokens: nested rules first, pieces for what they do not settle."""

    def __init__(self, subject: Subject, base: Base, tolerance: float, max_points: int) -> None:
        self.subject, self.base = subject, base
        self.tolerance, self.max_points = tolerance, max_points
        n_items, n_layers = base.n_items, subject.n_layers
        device = subject.device
        shape = (n_items, n_layers)
        self.nodes = quadrature.finest_nodes()
        self.gradient = torch.zeros(*shape, quadrature.FINEST, subject.d_model, device=device)
        self.path = torch.full((*shape, quadrature.FINEST), float("nan"), device=device)
        self.scores = torch.zeros(*shape, subject.n_neurons, device=device)
        self.gap = torch.full(shape, float("inf"))
        self.change = torch.full(shape, float("inf"))
        self.n_points = torch.full(shape, quadrature.LEVELS[0], dtype=torch.int32)
        self.pieces: dict[tuple[int, int], list[_Piece]] = {}

    def run(self, items: Sequence[AnswerToken]) -> list[TokenScores]:
        # Better rules can lower the largest score, and with it the error that others were allowed.
        while self._nested() or self._adaptive():
            pass
        converged = self._settled()
        p_zero, p_one = self.path[..., 0], self.path[..., -1]
        return [
            TokenScores(
                index=item.index,
                said=self.base.said[k],
                scores=self.scores[k],
                gap=self.gap[k],
                n_points=self.n_points[k],
                converged=converged[k],
                p_zero=p_zero[k],
                p_one=p_one[k],
                paths=tuple(self._path_of(k, layer) for layer in range(self.subject.n_layers)),
            )
            for k, item in enumerate(items)
        ]

    def _limit(self) -> Tensor:
        """What error each item allows, (n_items, 1): a fraction of its largest |score| so far."""
        return self.tolerance * self.scores.abs().amax((1, 2)).cpu()[:, None]

    def _settled(self) -> Tensor:
        limit = self._limit()
        return (self.gap <= limit) & (self.change <= limit)

    def _nested(self) -> bool:
        """Rules of 3, 5 and 9 points; each evaluates what the one before it has not. False: none was due."""
        base, subject = self.base, self.subject
        evaluated = False
        for level in range(1, len(quadrature.LEVELS)):
            active = ~self._settled() & (self.n_points == quadrature.LEVELS[level - 1])
            if not bool(active.any()):
                continue
            first, evaluated = level == 1, True
            wanted = [0, *quadrature.new_nodes(level)] if first else quadrature.new_nodes(level)
            pairs = active.T.nonzero().flip(1)  # sorted by layer
            swept = sweep(subject, base, _rows(pairs, self.nodes[wanted]), with_base=first)
            k, layer = (column.to(subject.device)[:, None] for column in pairs.T)
            node = torch.tensor(wanted, device=subject.device)[None]
            grid = (len(pairs), len(wanted))
            self.gradient[k, layer, node] = swept.gradient.view(*grid, -1)
            self.path[k, layer, node] = swept.probability.view(grid)
            if first:
                self.gradient[:, :, -1] = swept.base_gradient
                self.path[:, :, -1] = swept.base_probability[:, None]
                self._score(active, 0)
            self._score(active, level)
            self.n_points[active] = quadrature.LEVELS[level]
        return evaluated

    def _score(self, active: Tensor, level: int) -> None:
        """Scores of the active pairs by rule `level`; their gap, and their change since the last rule."""
        weights = quadrature.level_weights(level).to(self.gradient)
        used = quadrature.level_nodes(level)
        for layer in active.any(0).nonzero()[:, 0].tolist():
            chosen = active[:, layer]
            item = chosen.nonzero()[:, 0].to(self.subject.device)
            summed = torch.einsum("kad,a->kd", self.gradient[item, layer][:, used], weights[used])
            scores = _project(self.subject, self.base, layer, item, summed)
            ends = self.path[item, layer, -1] - self.path[item, layer, 0]
            self.change[chosen, layer] = (scores - self.scores[item, layer]).abs().amax(-1).cpu()
            self.gap[chosen, layer] = (scores.sum(-1) - ends).abs().cpu()
            self.scores[item, layer] = scores

    def _adaptive(self) -> bool:
        """A path can jump anywhere: halve the pieces that are still uncertain, wherever they lie.

        False: no pair was uncertain, or none of those had points left.
        """
        evaluated = False
        while cuts := self._cuts():
            evaluated = True
            self._integrate(cuts)
            for k, layer in {(cut.item, cut.layer) for cut in cuts}:
                self._collect(k, layer)
        return evaluated

    def _cuts(self) -> list[_Cut]:
        """What to evaluate next: whole paths that nine points did not settle, and halves of their pieces."""
        limits = self._limit()[:, 0].tolist()
        due = ~self._settled() & (self.n_points >= quadrature.FINEST)
        ends_and_middle = [0, quadrature.FINEST // 2, quadrature.FINEST - 1]
        cuts: list[_Cut] = []
        for layer, k in due.T.nonzero().tolist():
            if not bool(torch.isfinite(self.scores[k, layer]).all()):
                continue  # a score that is no number never settles; `attribute` says so
            if (k, layer) in self.pieces:
                cuts += self._halves(k, layer, limits[k])
                continue
            self.pieces[k, layer] = []
            cuts.append(
                _Cut(
                    k,
                    layer,
                    (0.0, 0.5, 1.0),
                    tuple(self.path[k, layer, ends_and_middle].tolist()),
                    self.gradient[k, layer, ends_and_middle],
                )
            )
        return cuts

    def _integrate(self, cuts: list[_Cut]) -> None:
        """Each cut becomes a piece by two evaluations, at its quarters."""
        cuts = sorted(cuts, key=lambda cut: cut.layer)
        quarters = [((cut.nodes[0] + cut.nodes[1]) / 2, (cut.nodes[1] + cut.nodes[2]) / 2) for cut in cuts]
        rows = Rows(
            torch.tensor([cut.item for cut in cuts]).repeat_interleave(2),
            torch.tensor([cut.layer for cut in cuts]).repeat_interleave(2),
            torch.tensor(quarters, dtype=torch.float64).flatten(),
        )
        swept = sweep(self.subject, self.base, rows)
        probability = swept.probability.view(-1, 2).tolist()
        found = swept.gradient.view(len(cuts), 2, -1)
        rules = torch.stack([quadrature.BOOLE, quadrature.SIMPSON]).to(found)
        for cut, quarter, p, inner in zip(cuts, quarters, probability, found, strict=True):
            left, middle, right = cut.nodes
            gradient = torch.stack([cut.gradient[0], inner[0], cut.gradient[1], inner[1], cut.gradient[2]])
            item = torch.tensor([cut.item], device=self.subject.device)
            fine, rough = _project(
                self.subject, self.base, cut.layer, item, (right - left) * (rules @ gradient)
            )
            self.pieces[cut.item, cut.layer].append(
                _Piece(
                    nodes=[left, quarter[0], middle, quarter[1], right],
                    probability=[cut.probability[0], p[0], cut.probability[1], p[1], cut.probability[2]],
                    gradient=gradient,
                    scores=fine,
                    change=float((fine - rough).abs().max()),
                    gap=abs(float(fine.sum()) - (cut.probability[2] - cut.probability[0])),
                )
            )
            self.n_points[cut.item, cut.layer] += 2

    def _collect(self, k: int, layer: int) -> None:
        """The pieces' sum is the pair's score; their changes add up to its error."""
        pieces = self.pieces[k, layer]
        self.scores[k, layer] = torch.stack([piece.scores for piece in pieces]).sum(0)
        ends = self.path[k, layer, -1] - self.path[k, layer, 0]
        self.gap[k, layer] = float((self.scores[k, layer].sum() - ends).abs())
        self.change[k, layer] = sum(piece.change for piece in pieces)

    def _halves(self, k: int, layer: int, limit: float) -> list[_Cut]:
        """The halves of a pair's worst pieces: as few as leave less than the limit in the others."""
        pieces = self.pieces[k, layer]
        room = (self.max_points - int(self.n_points[k, layer])) // 4
        rest = sum(piece.error for piece in pieces)
        cuts = []
        for n, piece in enumerate(sorted(pieces, key=lambda piece: piece.error, reverse=True)[:room]):
            # A fifth of the limit is left for the halves.
            if n and rest <= 0.8 * limit:
                break
            rest -= piece.error
            self.pieces[k, layer] = [other for other in self.pieces[k, layer] if other is not piece]
            for part in (slice(0, 3), slice(2, 5)):
                cuts.append(
                    _Cut(
                        k,
                        layer,
                        tuple(piece.nodes[part]),
                        tuple(piece.probability[part]),
                        piece.gradient[part],
                    )
                )
        return cuts

    def _path_of(self, k: int, layer: int) -> np.ndarray:
        """The (α, P(α)) evaluated for a pair, (2, n_points), in order of α."""
        points = {
            float(alpha): p
            for alpha, p in zip(self.nodes, self.path[k, layer].tolist(), strict=True)
            if p == p
        }
        for piece in self.pieces.get((k, layer), []):
            points.update(zip(piece.nodes, piece.probability, strict=True))
        return np.array(sorted(points.items())).T


# --- other methods, without a path and so without a certificate ---


def _without_certificate(
    base: Base, items: Sequence[AnswerToken], scores: Tensor, p_one: Tensor
) -> list[TokenScores]:
    n_layers = scores.shape[1]
    unknown = torch.full((n_layers,), float("nan"))
    return [
        TokenScores(
            index=item.index,
            said=base.said[k],
            scores=scores[k],
            gap=unknown,
            n_points=torch.ones(n_layers, dtype=torch.int32),
            converged=torch.zeros(n_layers, dtype=torch.bool),
            p_zero=unknown,
            p_one=p_one[k].expand(n_layers),
            paths=(),
        )
        for k, item in enumerate(items)
    ]


def _no_rows() -> Rows:
    return Rows(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))


def _activation(subject: Subject, items: Sequence[AnswerToken], **options) -> list[TokenScores]:
    """The paper's baseline: the activation itself."""
    base = base_pass(subject, items)
    swept = sweep(subject, base, _no_rows(), with_base=True)
    return _without_certificate(base, items, base.activations.float(), swept.base_probability)


def _gradient_x_activation(subject: Subject, items: Sequence[AnswerToken], **options) -> list[TokenScores]:
    """The integrand at α = 1 alone."""
    base = base_pass(subject, items)
    swept = sweep(subject, base, _no_rows(), with_base=True)
    everyone = torch.arange(base.n_items, device=subject.device)
    scores = torch.stack(
        [
            _project(subject, base, layer, everyone, swept.base_gradient[:, layer])
            for layer in range(subject.n_layers)
        ],
        1,
    )
    return _without_certificate(base, items, scores, swept.base_probability)


@torch.no_grad()
def _log_prob_increase(subject: Subject, items: Sequence[AnswerToken], **options) -> list[TokenScores]:
    """By how much a neuron alone, added to its layer's residual, raises the answer's log-probability
    when read through the head at once (Yu & Ananiadou, EMNLP 2024, equation 8)."""
    model, family = subject.model, subject.family
    base = base_pass(subject, items)
    with torch.enable_grad():
        p_one = sweep(subject, base, _no_rows(), with_base=True).base_probability
    scores = torch.empty(base.n_items, subject.n_layers, subject.n_neurons, device=subject.device)
    chunk = max(1, int(SWEEP_BYTES["cpu"] // (12 * subject.n_tokens)))

    def log_probability(layer: int, k: int, write: Tensor) -> Tensor:
        hidden = family.tail(model, layer, base.residuals[k, layer], write)
        return family.logits(model, hidden).log_softmax(-1)[:, base.target[k]]

    for layer in range(subject.n_layers):
        values = family.value_vectors(model, layer)
        for k in range(base.n_items):
            alone = base.activations[k, layer][:, None] * values  # (n_neurons, d_model)
            before = log_probability(layer, k, torch.zeros_like(alone[:1]))
            for start in range(0, subject.n_neurons, chunk):
                part = slice(start, start + chunk)
                scores[k, layer, part] = log_probability(layer, k, alone[part]) - before
    return _without_certificate(base, items, scores, p_one)


_METHODS: dict[str, Callable[..., list[TokenScores]]] = {
    "integrated_gradients": _integrated_gradients,
    "activation": _activation,
    "gradient_x_activation": _gradient_x_activation,
    "log_prob_increase": _log_prob_increase,
}
METHODS = tuple(_METHODS)
