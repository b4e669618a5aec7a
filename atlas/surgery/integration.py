"""Integrated gradients of answer tokens, by fixed sums or by quadrature that certifies itself.

    scored = integrated_gradients(subject, items, rule="certified", tolerance=0.01, max_points=513, steps=20)
    scored[0].scores, scored[0].gap            # (n_layers, n_neurons), (n_layers,)

For one answer token, layer l, activations w at the answer position and P(α) the token's probability
when layer l's activations there are α·w (Dai et al., ACL 2022, equations 2 and 3),

    score_i = w_i · ∫₀¹ ∂P/∂w_i (α·w) dα          Σ_i score_i = P(1) − P(0)   (completeness)

Steps 1 to 5, which evaluate P and its gradient, are in `atlas.surgery.staircase`.

6. *Certified quadrature.* Nested Clenshaw–Curtis rules of 3, 5 and 9 points; a (token, layer) stops when
   its completeness gap and the largest change of a score since the last rule are within `tolerance`
   × the token's largest |score|. What nine points do not settle is bisected, piece by piece, where it
   is uncertain, up to `max_points` evaluations; what that does not settle is flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas.surgery import quadrature
from atlas.surgery.staircase import AnswerToken, Base, Rows, base_pass, project, sweep
from atlas.surgery.subject import Subject, TokenPrediction


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


def integrated_gradients(
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
        [project(subject, base, layer, everyone, summed[layer]) for layer in range(n_layers)], 1
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
            scores = project(self.subject, self.base, layer, item, summed)
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
            fine, rough = project(
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
