"""Integrated gradients of answer tokens, by fixed sums or by certified quadrature.

    scored = integrated_gradients(subject, items, rule="certified", tolerance=0.01, max_points=513, steps=20)
    scored[0].scores, scored[0].gap            # (n_layers, n_neurons), (n_layers,)

For one answer token, layer l, activations w at the answer position and P(α) the token's probability
when layer l's activations there are α·w (Dai et al., ACL 2022, equations 2 and 3),

    score_i = w_i · ∫₀¹ ∂P/∂w_i (α·w) dα          Σ_i score_i = P(1) − P(0)   (completeness)

Steps 1 to 5, which evaluate P and its gradient, are in `atlas.attribution.staircase`.

6. *Certified quadrature.* Nested Clenshaw–Curtis rules of 3, 5 and 9 points; a (token, layer) stops when its
   completeness gap and the largest change of a score since the last rule are within `tolerance` × the token's
   largest |score|. Paths that nine points do not settle are bisected (`atlas.attribution.bisection`) where
   they are uncertain, up to `max_points` evaluations; the rest is flagged.
7. *Rounded products, exact certificates.* With products rounded below float32, a path whose error a round
   does not halve is limited by rounding or steep: it restarts in float32. (More points do not help against
   rounding: in tf32, a BERT-base with random weights took 58 a layer, not 5.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.attribution import quadrature
from atlas.attribution.bisection import Ahead, Cuts, integrate_cuts, no_pieces, pick_worst
from atlas.attribution.staircase import (
    AnswerToken,
    Base,
    Rows,
    base_pass,
    project_to_neurons,
    rows_are_cheap,
    sweep,
)
from atlas.surgery.loaded import TokenPrediction
from atlas.surgery.subject import Subject

# Rounding limits a path when a round leaves more than this share of its error.
STALLED = 0.5


@dataclass(frozen=True)
class TokenScores:
    """One answer token's part of an `Attribution`, on the CPU: scores (n_layers, n_neurons), the prediction
    at its position, and the rest (n_layers,); paths only with `keep_paths`."""

    index: int
    prediction: TokenPrediction
    scores: Tensor
    gap: Tensor
    n_points: Tensor
    converged: Tensor
    p_zero: Tensor
    p_one: Tensor
    paths: tuple[np.ndarray, ...] = ()


def integrated_gradients(subject: Subject, items: Sequence[AnswerToken], **options: Any) -> list[TokenScores]:
    """The method ``integrated_gradients`` of `atlas.surgery.attribute` for a batch; options as there.

    Returns one `TokenScores` an item, in order. Scores may be NaN; `attribute` raises then.
    """
    return integrated_from(subject, base_pass(subject, items), items, **options)


def integrated_from(
    subject: Subject,
    base: Base,
    items: Sequence[AnswerToken],
    *,
    rule: str,
    tolerance: float,
    max_points: int,
    steps: int,
    keep_paths: bool,
) -> list[TokenScores]:
    """Integrated gradients from a base pass, which may set where paths begin."""
    if rule == "certified":
        return _Certified(subject, base, tolerance, max_points).run(items, keep_paths=keep_paths)
    return _riemann(subject, base, items, rule, steps, tolerance, keep_paths)


def _rows(pairs: Tensor, alphas: Tensor) -> Rows:
    """Every alpha, (n_alphas,), on every (item, layer) pair, (n_pairs, 2), sorted by layer; the rows follow
    the order of the (n_pairs, n_alphas) grid."""
    n = len(alphas)
    return Rows(pairs[:, 0].repeat_interleave(n), pairs[:, 1].repeat_interleave(n), alphas.repeat(len(pairs)))


def _riemann(
    subject: Subject,
    base: Base,
    items: Sequence[AnswerToken],
    rule: str,
    steps: int,
    tolerance: float,
    keep_paths: bool,
) -> list[TokenScores]:
    """A fixed sum; its gap needs P(0), so α = 0 is evaluated even where the rule omits it."""
    nodes, weights = quadrature.riemann(rule, steps)
    inner = nodes < 1
    alphas, inner_weights = nodes[inner], weights[inner]
    if alphas[0] > 0:
        alphas = torch.cat([torch.zeros(1, dtype=alphas.dtype), alphas])
        inner_weights = torch.cat([torch.zeros(1, dtype=weights.dtype), inner_weights])
    n_items, n_layers = base.n_items, subject.n_layers
    pairs = torch.cartesian_prod(torch.arange(n_layers), torch.arange(n_items)).flip(1)
    swept = sweep(subject, base, _rows(pairs, alphas), with_base=True, precision=subject.dtype)
    grid = (n_layers, n_items, len(alphas))
    summed = torch.einsum(
        "lkad,a->lkd", swept.gradient.view(*grid, -1), inner_weights.to(swept.gradient)
    ) + float(weights[~inner].sum()) * swept.base_gradient.transpose(0, 1)
    everyone = torch.arange(n_items, device=subject.device)
    scores = torch.stack(
        [project_to_neurons(subject, base, layer, everyone, summed[layer]) for layer in range(n_layers)], 1
    )
    scores, path = scores.cpu(), swept.probability.view(grid).cpu()
    p_zero = path[:, :, 0].T
    p_one = swept.base_probability.cpu()[:, None].expand(n_items, n_layers)
    gap = (scores.sum(-1) - (p_one - p_zero)).abs()
    limit = tolerance * scores.abs().amax((1, 2))
    return [
        TokenScores(
            index=item.index,
            prediction=base.predictions[k],
            scores=scores[k],
            gap=gap[k],
            n_points=torch.full((n_layers,), steps, dtype=torch.int32),
            converged=gap[k] <= limit[k],
            p_zero=p_zero[k],
            p_one=p_one[k],
            paths=tuple(
                np.stack([[*alphas.tolist(), 1.0], [*path[layer, k].tolist(), float(p_one[k, 0])]])
                for layer in range(n_layers)
            )
            if keep_paths
            else (),
        )
        for k, item in enumerate(items)
    ]


class _Certified:
    """Steps 6 and 7 for a batch of answer tokens.

    Decisions are made on the CPU, (n_items, n_layers): gap, change, n_points, the largest |score|, and
    whether a path is live, that is, gets another round. Gradients and scores stay on the device.
    """

    def __init__(self, subject: Subject, base: Base, tolerance: float, max_points: int) -> None:
        self.subject, self.base = subject, base
        self.tolerance, self.max_points = tolerance, max_points
        self.precision = subject.dtype
        device = subject.device
        shape = (base.n_items, subject.n_layers)
        self.nodes = quadrature.finest_nodes()
        self.gradient = torch.zeros(*shape, quadrature.FINEST, subject.d_model, device=device)
        self.path = torch.full((*shape, quadrature.FINEST), float("nan"), device=device)
        self.scores = torch.zeros(*shape, subject.n_neurons, device=device)
        self.largest = torch.zeros(shape)
        self.gap = torch.full(shape, float("inf"))
        self.change = torch.full(shape, float("inf"))
        self.n_points = torch.full(shape, quadrature.LEVELS[0], dtype=torch.int32)
        self.n_before = torch.zeros(shape, dtype=torch.int32)  # evaluations before a path was begun again
        self.live = torch.ones(shape, dtype=torch.bool)
        self.exact = torch.full(shape, self.precision == "float32")
        self.pieces = no_pieces(subject)
        n_rows = quadrature.FINEST * self.live.numel()
        # Restarts evaluate everything again.
        self.ahead: Ahead | None = (
            {} if self.precision == "float32" and rows_are_cheap(subject, base, n_rows) else None
        )

    def run(self, items: Sequence[AnswerToken], *, keep_paths: bool) -> list[TokenScores]:
        self._rounds()
        while self._restart_in_float32():
            self._rounds()
        converged, n_points = self._settled(), self.n_points + self.n_before
        scores, path = self.scores.cpu(), self.path.cpu()
        return [
            TokenScores(
                index=item.index,
                prediction=self.base.predictions[k],
                scores=scores[k],
                gap=self.gap[k],
                n_points=n_points[k],
                converged=converged[k],
                p_zero=path[k, :, 0],
                p_one=path[k, :, -1],
                paths=tuple(self._path_of(k, layer, path) for layer in range(path.shape[1]))
                if keep_paths
                else (),
            )
            for k, item in enumerate(items)
        ]

    def _rounds(self) -> None:
        # Better rules can lower the largest score, and with it the error that others were allowed.
        while self._nested() or self._adaptive():
            pass

    def _limit(self) -> Tensor:
        """The error that each item allows, (n_items, 1): a fraction of its largest |score| so far."""
        return self.tolerance * self.largest.amax(1, keepdim=True)

    def _settled(self) -> Tensor:
        limit = self._limit()
        return (self.gap <= limit) & (self.change <= limit)

    def _error(self) -> Tensor:
        return torch.maximum(self.gap, self.change)

    # --- step 7 ---

    def _restart_in_float32(self) -> bool:
        """Restart in float32 the paths that rounding kept from settling; False without any."""
        again = ~self._settled() & ~self.exact
        if not bool(again.any()):
            return False
        self.precision = "float32"
        self.n_before[again] += self.n_points[again]
        self.n_points[again] = quadrature.LEVELS[0]
        self.exact |= again
        self.live = self.exact.clone()
        gone = again.numpy()[self.pieces.item, self.pieces.layer]
        self.pieces = self.pieces.taken(np.flatnonzero(~gone))
        return True

    def _stop_rounded(self, due: Tensor, before: Tensor) -> None:
        """With rounded products, stop the paths whose error the round lowered too little from `before`."""
        if self.precision != "float32":
            self.live &= ~(due & (self._error() > STALLED * before))

    # --- step 6: nested rules ---

    def _nested(self) -> bool:
        """Rules of 3, 5 and 9 points; each evaluates only its new nodes. False where none was due."""
        evaluated = False
        for level in range(1, len(quadrature.LEVELS)):
            active = ~self._settled() & self.live & (self.n_points == quadrature.LEVELS[level - 1])
            if not bool(active.any()):
                continue
            evaluated, before = True, self._error()
            # At α = 1 the paths of all layers are one state, which is swept once for all, unless few paths
            # restart.
            with_base = level == 1 and not bool(self.n_before.any())
            wanted = quadrature.new_nodes(level)
            if level == 1:
                wanted = [0, *wanted] if with_base else [0, *wanted, quadrature.FINEST - 1]
            if self.ahead is not None:  # all at once: to sweep takes longer than the points
                wanted = list(range(quadrature.FINEST - with_base)) if level == 1 else []
            if wanted:
                self._evaluate(active, wanted, with_base=with_base)
            if level == 1:
                self._score(active, 0)
            self._score(active, level)
            self.n_points[active] = quadrature.LEVELS[level]
            if level > 1:
                self._stop_rounded(active, before)
        return evaluated

    def _evaluate(self, active: Tensor, nodes: list[int], *, with_base: bool) -> None:
        """P and its gradient at these nodes of the active pairs; with_base: at α = 1 of all pairs, too."""
        pairs = active.T.nonzero().flip(1)  # sorted by layer
        rows = _rows(pairs, self.nodes[nodes])
        swept = sweep(self.subject, self.base, rows, with_base=with_base, precision=self.precision)
        k, layer = (column.to(self.subject.device)[:, None] for column in pairs.T)
        node = torch.tensor(nodes, device=self.subject.device)[None]
        grid = (len(pairs), len(nodes))
        self.gradient[k, layer, node] = swept.gradient.view(*grid, -1)
        self.path[k, layer, node] = swept.probability.view(grid)
        if with_base:
            self.gradient[:, :, -1] = swept.base_gradient
            self.path[:, :, -1] = swept.base_probability[:, None]

    def _score(self, active: Tensor, level: int) -> None:
        """Scores of the active pairs by rule `level`; their gap, and their change since the last rule."""
        weights = quadrature.level_weights(level).to(self.gradient)
        used = quadrature.level_nodes(level)
        pairs, found = [], []
        for layer in active.any(0).nonzero()[:, 0].tolist():
            chosen = active[:, layer].nonzero()[:, 0]
            item = chosen.to(self.subject.device)
            summed = torch.einsum("kad,a->kd", self.gradient[item, layer][:, used], weights[used])
            scores = project_to_neurons(self.subject, self.base, layer, item, summed)
            change = (scores - self.scores[item, layer]).abs().amax(-1)
            self.scores[item, layer] = scores
            found.append(torch.stack([change, *self._measure(item, layer)]))
            pairs.append(torch.stack([chosen, torch.full_like(chosen, layer)]))
        k, layer = torch.cat(pairs, 1)
        self.change[k, layer], self.gap[k, layer], self.largest[k, layer] = torch.cat(found, 1).cpu()

    def _measure(self, item: Tensor, layer: Tensor | int) -> tuple[Tensor, Tensor]:
        """The current gap and largest |score| of pairs."""
        scores = self.scores[item, layer]
        ends = self.path[item, layer, -1] - self.path[item, layer, 0]
        return (scores.sum(-1) - ends).abs(), scores.abs().amax(-1)

    # --- step 6: pieces ---

    def _adaptive(self) -> bool:
        """Halve the pieces that are still uncertain.

        False where no pair is uncertain, or no uncertain pair has points left.
        """
        evaluated = False
        while len(cuts := self._cuts()):
            evaluated, before = True, self._error()
            found = integrate_cuts(self.subject, self.base, cuts, precision=self.precision, ahead=self.ahead)
            self.pieces = self.pieces.joined(found)
            np.add.at(self.n_points.numpy(), (cuts.item, cuts.layer), 2)
            touched = torch.zeros_like(self.live)
            touched[cuts.item, cuts.layer] = True
            self._collect(touched)
            self._stop_rounded(touched, before)
        return evaluated

    def _cuts(self) -> Cuts:
        """The next cuts to evaluate: paths that nine points did not settle, and halves of pieces."""
        # A score that is NaN never settles; `attribute` raises.
        due = ~self._settled() & self.live & (self.n_points >= quadrature.FINEST) & self.largest.isfinite()
        cuts = self._whole_paths(due)
        limits = self._limit()[:, 0].tolist()
        chosen: list[np.ndarray] = []
        for pieces in self._by_pair(due):
            k, layer = self.pieces.item[pieces[0]], self.pieces.layer[pieces[0]]
            room = (self.max_points - int(self.n_points[k, layer])) // 4
            chosen.append(pieces[pick_worst(self.pieces.error[pieces], limit=limits[k], room=room)])
        halved = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
        if len(halved):
            cuts = cuts.joined(self.pieces.halves(halved))
            self.pieces = self.pieces.taken(np.delete(np.arange(len(self.pieces)), halved))
        return cuts

    def _by_pair(self, of: Tensor) -> list[np.ndarray]:
        """The pieces of each of these pairs, as their places in `pieces`."""
        place = np.flatnonzero(of.numpy()[self.pieces.item, self.pieces.layer])
        if not len(place):
            return []
        pair = self.pieces.item[place] * self.subject.n_layers + self.pieces.layer[place]
        order = np.argsort(pair, kind="stable")
        return np.split(place[order], np.flatnonzero(np.diff(pair[order])) + 1)

    def _whole_paths(self, due: Tensor) -> Cuts:
        """The due pairs that have no pieces yet, as one cut each."""
        new = due.numpy().copy()
        new[self.pieces.item, self.pieces.layer] = False
        item, layer = np.nonzero(new)
        k, at = (torch.from_numpy(index).to(self.subject.device) for index in (item, layer))
        ends_and_middle = [0, quadrature.FINEST // 2, quadrature.FINEST - 1]
        nodes = np.tile(self.nodes[ends_and_middle].numpy(), (len(item), 1))
        probability = self.path[k, at][:, ends_and_middle].cpu().double().numpy()
        return Cuts(item, layer, nodes, probability, self.gradient[k, at][:, ends_and_middle])

    def _collect(self, touched: Tensor) -> None:
        """Set a pair's score to the sum of its pieces, its error to the sum of their changes."""
        groups = self._by_pair(touched)
        first = [group[0] for group in groups]
        k, layer = (torch.from_numpy(index[first]) for index in (self.pieces.item, self.pieces.layer))
        item, at = k.to(self.subject.device), layer.to(self.subject.device)
        self.scores[item, at] = self.pieces.summed(groups)
        self.gap[k, layer], self.largest[k, layer] = torch.stack(self._measure(item, at)).cpu()
        changes = [self.pieces.change[group].sum() for group in groups]
        self.change[k, layer] = torch.tensor(changes, dtype=self.change.dtype)

    def _path_of(self, k: int, layer: int, path: Tensor) -> np.ndarray:
        """The (α, P(α)) of a pair, (2, n_points), in order of α."""
        rule = quadrature.LEVELS.index(min(int(self.n_points[k, layer]), quadrature.FINEST))
        nodes, values = self.nodes.tolist(), path[k, layer].tolist()
        points = {nodes[node]: values[node] for node in quadrature.level_nodes(rule)}
        for piece in np.flatnonzero((self.pieces.item == k) & (self.pieces.layer == layer)):
            points.update(zip(self.pieces.nodes[piece], self.pieces.probability[piece], strict=True))
        return np.array(sorted(points.items())).T
