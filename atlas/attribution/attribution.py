"""Attribution scores of every neuron for a prompt, each with its numerical certificate.

    result = attribute(subject, [subject.prompt("The capital of France is [MASK].", "Paris")])[0]
    result.scores                 # (n_layers, n_neurons): which neurons carry the answer
    result.gap.max(), result.converged.all()

The default is integrated gradients over feed-forward activations (Dai et al., ACL 2022, equations 2 and 3):
`atlas.attribution.integration` computes the integral, `atlas.attribution.staircase` the integrand. In
`atlas.attribution.sequential` paths begin at the activations of the prompt with one word missing. The other
methods follow no path, so they have no certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atlas.attribution import quadrature
from atlas.attribution.integration import TokenScores, integrated_gradients
from atlas.attribution.sequential import sequential_integrated_gradients
from atlas.attribution.staircase import (
    CPU_SWEEP_BYTES,
    AnswerToken,
    Base,
    Rows,
    answer_tokens,
    base_pass,
    project_to_neurons,
    sweep,
)
from atlas.errors import AtlasError, ModelError
from atlas.neuron import Prompt
from atlas.surgery.hooks import hooked
from atlas.surgery.subject import Encoded, Prediction, Subject, whole_answer

RULES = ("certified", "left", "right", "endpoints")
ITEMS_AT_ONCE = {"cpu": 64, "cuda": 1024}
# The largest ratio of a batch's padded size to its tokens, by kind: a masked model's rows are whole
# sentences; a causal model's rows are one token wide and only attend to the padding.
PADDED = {"masked": 1.1, "causal": 1.5}
CACHED_ROWS = 8


@dataclass(frozen=True)
class Attribution:
    """A prompt's scores and their numerical error.

    scores: (n_layers, n_neurons) float32, mean over the answer's tokens. Per answer token and layer,
    (n_answer_tokens, n_layers): `gap` = |Σ score − (P(1) − P(0))|, absolute; `n_points`, evaluations of P and
    its gradient; `converged`; `p_zero` and `p_one`, the ends of the path. `token_max`, (n_answer_tokens,):
    the largest |score| of each token, which the tolerance refers to. `paths`: per token and layer the (α,
    P(α)) evaluated, with `keep_paths`.
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


def relative_difference(scores: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference of a score, as a fraction of the largest |score| of the reference.

    Both have the same shape, such as (n_layers, n_neurons).
    """
    return float(np.abs(scores - reference).max() / np.abs(reference).max())


def attribute(
    subject: Subject,
    prompts: Sequence[Prompt | Encoded],
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

    method: one of `METHODS`; the other options apply to those that follow a path. rule: ``certified``
    (default), as many points as an error of `tolerance` × the prompt's largest |score| needs, up to
    `max_points`; or a fixed Riemann sum of `steps` points: ``left`` (the paper's code), ``endpoints`` (the
    replication), ``right``. keep_paths: also return the evaluated points. batch_rows: answer tokens per
    batch. `progress` is called with (prompts done, prompts) after each batch. Raises `PromptError` for a
    prompt that the model cannot read, and `ModelError` when a score is NaN.
    """
    if method not in _METHODS:
        raise AtlasError(f"method must be one of {', '.join(_METHODS)}, got '{method}'.")
    if rule not in RULES:
        raise AtlasError(f"rule must be one of {', '.join(RULES)}, got '{rule}'.")
    if not 0 < tolerance < 1:
        raise AtlasError(f"tolerance must be between 0 and 1, got {tolerance}.")
    if max_points < quadrature.FINEST:
        raise AtlasError(f"max_points must be at least {quadrature.FINEST}, got {max_points}.")
    encoded = [subject.encode(prompt) for prompt in prompts]
    tokens = [
        (index, token)
        for index, each in enumerate(encoded)
        for token in answer_tokens(each, subject.family.kind)
    ]
    n_tokens = [0] * len(prompts)
    for index, _ in tokens:
        n_tokens[index] += 1
    size = batch_rows or ITEMS_AT_ONCE.get(subject.device.type, 8)
    if hooked(subject.model):
        size = 1  # hooks may depend on a row's place in the batch
    lengths = [len(token.input_ids) for _, token in tokens]
    padded = 1.0 if subject.family.one_length else PADDED[subject.family.kind]
    pending: dict[int, list[TokenScores]] = {index: [] for index in range(len(prompts))}
    results: dict[int, Attribution] = {}
    for batch in buckets(lengths, size, padded=padded):
        items = [tokens[k][1] for k in batch]
        with subject.lock.turn():
            scored = _METHODS[method](
                subject,
                items,
                rule=rule,
                tolerance=tolerance,
                max_points=max_points,
                steps=steps,
                keep_paths=keep_paths,
            )
        for k, token_scores in zip(batch, scored, strict=True):
            index = tokens[k][0]
            pending[index].append(token_scores)
            if len(pending[index]) == n_tokens[index]:
                results[index] = _averaged(subject, encoded[index].prompt, pending.pop(index), keep_paths)
        if progress is not None:
            progress(len(results), len(prompts))
    return [results[index] for index in range(len(prompts))]


def buckets(lengths: Sequence[int], size: int, *, padded: float) -> Iterator[list[int]]:
    """Batches of the indices of rows of similar length, at most `size` each. A batch, padded to its longest
    row, has at most `padded` times its own tokens. Rows of equal length keep their order."""
    batch: list[int] = []
    total = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        total += lengths[place]
        if batch and (len(batch) == size or lengths[place] * (len(batch) + 1) > padded * total):
            yield batch
            batch, total = [], lengths[place]
        batch.append(place)
    if batch:
        yield batch


def _averaged(subject: Subject, prompt: Prompt, tokens: list[TokenScores], keep_paths: bool) -> Attribution:
    tokens = sorted(tokens, key=lambda token: token.index)
    scores = torch.stack([token.scores for token in tokens])
    if not bool(torch.isfinite(scores).all()):
        raise ModelError(
            f"The model returned NaN for '{prompt.text}'. Load it in float32 and check the weights."
        )

    def rows(name: str) -> np.ndarray:
        return torch.stack([getattr(token, name) for token in tokens]).cpu().numpy()

    return Attribution(
        prompt=prompt,
        prediction=whole_answer([token.prediction for token in tokens]),
        scores=scores.mean(0).cpu().numpy(),
        gap=rows("gap"),
        n_points=rows("n_points"),
        converged=rows("converged"),
        p_zero=rows("p_zero"),
        p_one=rows("p_one"),
        token_max=scores.abs().amax(dim=(1, 2)).cpu().numpy(),
        paths=tuple(token.paths for token in tokens) if keep_paths else None,
    )


# --- other methods, without a path and so without a certificate ---


def _without_certificate(
    base: Base, items: Sequence[AnswerToken], scores: Tensor, p_one: Tensor
) -> list[TokenScores]:
    n_layers = scores.shape[1]
    unknown = torch.full((n_layers,), float("nan"))
    return [
        TokenScores(
            index=item.index,
            prediction=base.predictions[k],
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
            project_to_neurons(subject, base, layer, everyone, swept.base_gradient[:, layer])
            for layer in range(subject.n_layers)
        ],
        1,
    )
    return _without_certificate(base, items, scores, swept.base_probability)


@torch.no_grad()
def _log_prob_increase(subject: Subject, items: Sequence[AnswerToken], **options) -> list[TokenScores]:
    """The increase of the answer's log-probability when one neuron alone is added to its layer's residual,
    read directly through the head (Yu & Ananiadou, EMNLP 2024, equation 8)."""
    base = base_pass(subject, items)
    with torch.enable_grad():
        p_one = sweep(subject, base, _no_rows(), with_base=True).base_probability
    scores = torch.empty(base.n_items, subject.n_layers, subject.n_neurons, device=subject.device)
    chunk = max(1, int(CPU_SWEEP_BYTES // (12 * subject.n_tokens)))
    linear = LinearReadout.of(subject)
    read = _read_one_by_one if linear is None else linear.increases
    for layer in range(subject.n_layers):
        for start in range(0, subject.n_neurons, chunk):
            part = slice(start, start + chunk)
            scores[:, layer, part] = read(subject, base, layer, part)
    return _without_certificate(base, items, scores, p_one)


def _read_one_by_one(subject: Subject, base: Base, layer: int, part: slice) -> Tensor:
    """The increases of a layer's neurons, (n_items, n_chosen), for any final modules."""
    model, family = subject.model, subject.family
    values = family.value_vectors(model, layer)[part]

    def log_probability(k: int, write: Tensor) -> Tensor:
        hidden = family.tail(model, layer, base.residuals[k, layer], write)
        return family.logits(model, hidden).log_softmax(-1)[:, base.target[k]]

    rows = []
    for k in range(base.n_items):
        alone = base.activations[k, layer, part][:, None] * values  # (n_chosen, d_model)
        rows.append(log_probability(k, alone) - log_probability(k, torch.zeros_like(alone[:1])))
    return torch.stack(rows)


@dataclass(frozen=True)
class LinearReadout:
    """A final norm and head that are linear except for the norm's scale, as in most causal models.

    The value vectors then go through the head once for all prompts: with x = residual + activation · value
    and c(x) what the norm divides by its scale s(x), (…, d_model), the logits are head(gain · c(x)) ÷ s(x) +
    bias, (…, n_tokens).
    """

    norm: Any
    head: nn.Linear
    centred: bool
    epsilon: float

    @classmethod
    def of(cls, subject: Subject) -> LinearReadout | None:
        """The subject's readout; None where it is not linear or its weights are not float32."""
        family = subject.family
        between = family.final_modules(subject.model)
        if not family.adds or len(between) != 1 or len(family.head) != 1:
            return None
        if family.capped_at(subject.model) is not None:
            return None
        head = subject.model.get_submodule(family.head[0])
        norm: Any = between[0]
        if not isinstance(head, nn.Linear) or head.weight.dtype is not torch.float32:
            return None
        if getattr(norm, "weight", None) is None:
            return None
        if isinstance(norm, nn.LayerNorm):
            return cls(norm, head, True, norm.eps)
        if hasattr(norm, "variance_epsilon"):  # the RMS norms of transformers
            return cls(norm, head, False, norm.variance_epsilon)
        return None

    def increases(self, subject: Subject, base: Base, layer: int, part: slice) -> Tensor:
        """The increases of a layer's neurons, (n_items, n_chosen)."""
        values = self._centre(subject.family.value_vectors(subject.model, layer)[part])
        # Row 0 stands for no neuron.
        values = torch.cat([torch.zeros_like(values[:1]), values])
        through = self._through(values)  # (1 + n_chosen, n_tokens)
        residuals = self._centre(base.residuals[:, layer])
        activations = torch.nn.functional.pad(base.activations[:, layer, part], (1, 0))
        rows = []
        for residual, through_residual, active, target in zip(
            residuals, self._through(residuals), activations[..., None], base.target.tolist(), strict=True
        ):
            hidden = residual + active * values
            scale = (hidden.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()
            read = self._log_probability(through_residual, through, active, scale, target)
            rows.append(read[1:] - read[0])
        return torch.stack(rows)

    def _log_probability(
        self, residual: Tensor, through: Tensor, active: Tensor, scale: Tensor, target: int
    ) -> Tensor:
        # A few rows at a time fit in the processor's cache, which is several times faster.
        size = CACHED_ROWS if through.device.type == "cpu" else len(through)
        read = []
        for start in range(0, len(through), size):
            rows = slice(start, start + size)
            logits = torch.addcmul(residual, through[rows], active[rows]).mul_(scale[rows])
            if self._bias is not None:
                logits += self._bias
            read.append(logits.log_softmax(-1)[:, target])
        return torch.cat(read)

    def _centre(self, hidden: Tensor) -> Tensor:
        return hidden - hidden.mean(-1, keepdim=True) if self.centred else hidden

    def _through(self, centred: Tensor) -> Tensor:
        return (centred * self.norm.weight) @ self.head.weight.T

    @cached_property
    def _bias(self) -> Tensor | None:
        """The sum of the norm's and the head's bias in every logit, (n_tokens,)."""
        bias = getattr(self.norm, "bias", None)
        if bias is None:
            return self.head.bias
        return self.head(bias)


_METHODS: dict[str, Callable[..., list[TokenScores]]] = {
    "integrated_gradients": integrated_gradients,
    "sequential_integrated_gradients": sequential_integrated_gradients,
    "activation": _activation,
    "gradient_x_activation": _gradient_x_activation,
    "log_prob_increase": _log_prob_increase,
}
METHODS = tuple(_METHODS)
