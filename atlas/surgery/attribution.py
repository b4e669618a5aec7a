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
6. *Certified quadrature.* Nested Clenshaw–Curtis rules; a (token, layer) stops when its completeness
   gap and the largest change of a score since the last rule are within `tolerance` × the token's
   largest |score|. What 65 points do not settle is bisected, up to `max_points` evaluations.
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
from atlas.surgery.subject import Encoded, Prediction, Subject

RULES = ("certified", "left", "right", "endpoints")
# What a sweep may keep for its backward pass. Larger is no faster on a CPU; a GPU has room for more.
SWEEP_BYTES = {"cpu": 400_000_000, "cuda": 16_000_000_000}
ITEMS_AT_ONCE = {"cpu": 8, "cuda": 256}


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
    predictions = subject.predict(prompts)
    tokens = [
        (index, token)
        for index, prompt in enumerate(prompts)
        for token in answer_tokens(subject.encode(prompt), subject.family.kind)
    ]
    n_tokens = [0] * len(prompts)
    for index, _ in tokens:
        n_tokens[index] += 1
    size = batch_rows or ITEMS_AT_ONCE.get(subject.device.type, 8)
    # Equal lengths share a batch; within a length the prompts keep their order.
    order = sorted(range(len(tokens)), key=lambda k: len(tokens[k][1].input_ids))
    pending: dict[int, list[TokenScores]] = {index: [] for index in range(len(prompts))}
    results: list[Attribution | None] = [None] * len(prompts)
    done, start = 0, 0
    while start < len(order):
        length = len(tokens[order[start]][1].input_ids)
        batch = [k for k in order[start : start + size] if len(tokens[k][1].input_ids) == length]
        start += len(batch)
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
                results[index] = _averaged(
                    subject, prompts[index], predictions[index], pending.pop(index), keep_paths
                )
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
    """One answer token's part of an `Attribution`: scores (n_layers, n_neurons), the rest (n_layers,)."""

    index: int
    scores: Tensor
    gap: Tensor
    n_points: Tensor
    converged: Tensor
    p_zero: Tensor
    p_one: Tensor
    paths: tuple[np.ndarray, ...]


def _averaged(
    subject: Subject, prompt: Prompt, prediction: Prediction, tokens: list[TokenScores], keep_paths: bool
) -> Attribution:
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
        prediction=prediction,
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
    """What one forward pass over answer tokens of equal length leaves for the sweeps.

    activations (n_items, n_layers, n_neurons); residuals and writes (n_items, n_layers, d_model), a write
    being activations @ value vectors, without the bias; position and target (n_items,). Causal: keys
    and values by layer, (n_items, n_heads, n_tokens − 1, d_head). Masked: outputs by layer,
    (n_items, n_tokens, d_model).
    """

    activations: Tensor
    residuals: Tensor
    writes: Tensor
    position: Tensor
    target: Tensor
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    rotary: tuple[Tensor, Tensor] | None = None

    @property
    def n_items(self) -> int:
        return self.position.shape[0]


@torch.no_grad()
def base_pass(subject: Subject, items: Sequence[AnswerToken]) -> Base:
    """Step 1, for answer tokens whose inputs have the same length."""
    from transformers import DynamicCache

    model, family, device = subject.model, subject.family, subject.device
    causal = family.kind == "causal"
    input_ids = torch.tensor([item.input_ids for item in items], device=device)
    position = torch.tensor([item.position for item in items], device=device)
    cache = DynamicCache() if causal else None
    options = {"past_key_values": cache, "use_cache": True} if causal else {}
    with recording(model, family, position[:, None], outputs=not causal) as trace:
        model.base_model(input_ids, **options)
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
        target=torch.tensor([item.target for item in items], device=device),
        keys=tuple(cache.layers[layer].keys[:, :, :-1] for layer in layers) if causal else (),
        values=tuple(cache.layers[layer].values[:, :, :-1] for layer in layers) if causal else (),
        outputs=() if causal else tuple(trace.outputs[layer] for layer in layers),
        rotary=rotary,
    )


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
    target = base.target[item][:, None]
    probability = logits.log_softmax(-1).gather(-1, target)[:, 0].exp()
    probability.sum().backward()

    with torch.no_grad():
        written = torch.zeros(alive, subject.d_model, device=device)
        for layer, rows_here in entered.items():
            written[rows_here] = _before_tail(
                subject, base, layer, item[rows_here], alpha[rows_here], gradients[layer][rows_here]
            )
        if not n_base:
            return Swept(probability.detach(), written)
        everyone, ones = item[:n_base], alpha[:n_base]
        base_gradient = torch.stack(
            [
                _before_tail(subject, base, layer, everyone, ones, gradients[layer][:n_base])
                for layer in range(n_layers)
            ],
            1,
        )
    return Swept(
        probability[n_base:].detach(), written[n_base:], probability[:n_base].detach(), base_gradient
    )


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
    if subject.family.kind == "causal":
        options = {"past_key_values": prefix, "attention_mask": None}
        if base.rotary is not None:
            options["position_embeddings"] = tuple(part[item] for part in base.rotary)
        return module(state[:, None], **options)[:, 0]
    if layer < subject.n_layers - 1:
        return module(state, attention_mask=None)
    attention = module.get_submodule(subject.family.attention)
    answer = state[torch.arange(len(item), device=state.device), base.position[item]]
    return module(answer[:, None], attention_mask=None, past_key_values=_SentenceCache(attention, state))[
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
class _Interval:
    """A piece [left, right] of one path, integrated by nine nested points.

    scores and change (n_neurons,): the nine-point rule, and by how much the five-point rule differs.
    known: P and ∂P/∂write at the nodes both halves of it reuse.
    """

    left: float
    right: float
    known: dict[float, tuple[float, Tensor]]
    path: list[tuple[float, float]]
    scores: Tensor
    change: float
    gap: float


class _Certified:
    """Step 6 for a batch of answer tokens: nested rules first, bisection for what they do not settle."""

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
        self.pieces: dict[tuple[int, int], list[_Interval]] = {}

    def run(self, items: Sequence[AnswerToken]) -> list[TokenScores]:
        self._nested()
        self._bisect()
        converged = self._settled()
        p_zero, p_one = self.path[..., 0], self.path[..., -1]
        return [
            TokenScores(
                index=item.index,
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

    def _nested(self) -> None:
        """Rules of 3, 5, … 65 points; each evaluates what the one before it has not."""
        base, subject = self.base, self.subject
        active = torch.ones(base.n_items, subject.n_layers, dtype=torch.bool)
        for level in range(1, len(quadrature.LEVELS)):
            first = level == 1
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
            active = ~self._settled()
            if not bool(active.any()):
                return

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

    def _bisect(self) -> None:
        """A path can jump anywhere: halve the pieces that are still uncertain, wherever they lie."""
        settled = self._settled()
        # A score that is no number never settles; `attribute` says so.
        open_pairs = [
            (k, layer)
            for layer, k in (~settled).T.nonzero().tolist()
            if bool(torch.isfinite(self.scores[k, layer]).all())
        ]
        todo: list[tuple[int, int, float, float, dict]] = []
        middle = quadrature.FINEST // 2
        for k, layer in open_pairs:
            known = {
                alpha: (float(self.path[k, layer, node]), self.gradient[k, layer, node])
                for alpha, node in ((0.0, 0), (0.5, middle), (1.0, quadrature.FINEST - 1))
            }
            self.pieces[k, layer] = []
            todo += [(k, layer, 0.0, 0.5, known), (k, layer, 0.5, 1.0, known)]
        while todo:
            self._integrate(todo)
            todo = []
            for k, layer in open_pairs:
                self._collect(k, layer)
            limits = self._limit()[:, 0]
            for k, layer in open_pairs:
                todo += self._halves(k, layer, float(limits[k]))

    def _integrate(self, todo: list[tuple[int, int, float, float, dict]]) -> None:
        """Nine points on each piece; ends are known from the piece it was cut from."""
        todo = sorted(todo, key=lambda piece: piece[1])
        unit, weights = quadrature.clenshaw_curtis(9)
        coarse = torch.zeros(9, dtype=torch.float64)
        coarse[::2] = quadrature.clenshaw_curtis(5)[1]
        alphas = [[left + (right - left) * float(u) for u in unit] for _, _, left, right, _ in todo]
        rows = Rows(
            torch.tensor([k for k, *_ in todo]).repeat_interleave(7),
            torch.tensor([layer for _, layer, *_ in todo]).repeat_interleave(7),
            torch.tensor([alpha for piece in alphas for alpha in piece[1:-1]], dtype=torch.float64),
        )
        swept = sweep(self.subject, self.base, rows)
        probability = swept.probability.view(-1, 7).tolist()
        both = torch.stack([weights, coarse]).to(swept.gradient)
        for index, (k, layer, left, right, known) in enumerate(todo):
            p_left, g_left = known[left]
            p_right, g_right = known[right]
            inner = swept.gradient[7 * index : 7 * index + 7]
            gradient = torch.cat([g_left[None], inner, g_right[None]])  # (9, d_model)
            item = torch.tensor([k], device=self.subject.device)
            fine, rough = _project(self.subject, self.base, layer, item, (right - left) * (both @ gradient))
            path = list(zip(alphas[index], [p_left, *probability[index], p_right], strict=True))
            midpoint = (left + right) / 2
            self.pieces[k, layer].append(
                _Interval(
                    left=left,
                    right=right,
                    known={
                        left: (p_left, g_left),
                        midpoint: (probability[index][3], inner[3]),
                        right: (p_right, g_right),
                    },
                    path=path,
                    scores=fine,
                    change=float((fine - rough).abs().max()),
                    gap=abs(float(fine.sum()) - (p_right - p_left)),
                )
            )
            self.n_points[k, layer] += 7

    def _collect(self, k: int, layer: int) -> None:
        """The pieces' sum is the pair's score; their changes add up to its error."""
        pieces = self.pieces[k, layer]
        self.scores[k, layer] = torch.stack([piece.scores for piece in pieces]).sum(0)
        ends = self.path[k, layer, -1] - self.path[k, layer, 0]
        self.gap[k, layer] = float((self.scores[k, layer].sum() - ends).abs())
        self.change[k, layer] = sum(piece.change for piece in pieces)

    def _halves(self, k: int, layer: int, limit: float) -> list[tuple[int, int, float, float, dict]]:
        """The halves of the pieces to cut next: the worst first, none when the pair is settled."""
        if max(float(self.gap[k, layer]), float(self.change[k, layer])) <= limit:
            return []
        pieces = self.pieces[k, layer]
        room = (self.max_points - int(self.n_points[k, layer])) // 14
        share = limit / (2 * len(pieces))
        worst = sorted(pieces, key=lambda piece: max(piece.change, piece.gap), reverse=True)
        cut = [piece for n, piece in enumerate(worst) if n == 0 or max(piece.change, piece.gap) > share]
        halves = []
        for piece in cut[:room]:
            pieces.remove(piece)
            middle = (piece.left + piece.right) / 2
            halves += [
                (k, layer, piece.left, middle, piece.known),
                (k, layer, middle, piece.right, piece.known),
            ]
        return halves

    def _path_of(self, k: int, layer: int) -> np.ndarray:
        """The (α, P(α)) evaluated for a pair, (2, n_points), in order of α."""
        points = {
            float(alpha): p
            for alpha, p in zip(self.nodes, self.path[k, layer].tolist(), strict=True)
            if p == p
        }
        for piece in self.pieces.get((k, layer), []):
            points.update(piece.path)
        return np.array(sorted(points.items())).T


# --- other methods, without a path and so without a certificate ---


def _without_certificate(items: Sequence[AnswerToken], scores: Tensor, p_one: Tensor) -> list[TokenScores]:
    n_layers = scores.shape[1]
    unknown = torch.full((n_layers,), float("nan"))
    return [
        TokenScores(
            index=item.index,
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
    return _without_certificate(items, base.activations.float(), swept.base_probability)


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
    return _without_certificate(items, scores, swept.base_probability)


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
    return _without_certificate(items, scores, p_one)


_METHODS: dict[str, Callable[..., list[TokenScores]]] = {
    "integrated_gradients": _integrated_gradients,
    "activation": _activation,
    "gradient_x_activation": _gradient_x_activation,
    "log_prob_increase": _log_prob_increase,
}
METHODS = tuple(_METHODS)
