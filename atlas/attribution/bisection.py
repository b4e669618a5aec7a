"""Adaptive bisection of the paths whose integral the nested rules leave uncertain.

    pieces = integrate_cuts(subject, base, cuts, precision="float32")     # two evaluations each
    pieces.halves(pick_worst(pieces.error, limit=0.01, room=8))            # the next cuts

Adaptive Simpson (Lyness, 1969) with Boole's rule as extrapolation, because a path can jump anywhere.

1. *Cut.* A path, or half of a piece: P and its gradient are known at both ends and in the middle.
2. *Piece.* Both quarters are evaluated; Boole's rule on five nodes is its score, the difference from
   Simpson's on three its `change`, and |Σ scores − its rise of P| its `gap`.
3. *Halves.* The worst pieces of a path are halved: as few as bring the error of the others below the limit.
4. *Ahead.* Where rows cost little beside the sweep itself, step 2 also evaluates what the halves would need,
   and keeps it (`Ahead`): half as many sweeps, the same pieces.

Arrays hold all pieces of all paths of a batch, so a round takes one GPU call, not one a piece.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from atlas.attribution import quadrature
from atlas.attribution.staircase import Base, Rows, project_to_neurons, sweep
from atlas.surgery.subject import Subject

# Step 4: (item, layer, α) → P there and its gradient.
Ahead = dict[tuple[int, int, float], tuple[Tensor, Tensor]]
# The most numbers gathered at once when pieces are summed.
_GATHERED = 1 << 25


@dataclass(frozen=True)
class Cuts:
    """Step 1. item, layer (n,), nodes and probability (n, 3), on the CPU; gradient (n, 3, d_model)."""

    item: np.ndarray
    layer: np.ndarray
    nodes: np.ndarray
    probability: np.ndarray
    gradient: Tensor

    def __len__(self) -> int:
        return len(self.item)

    def joined(self, other: Cuts) -> Cuts:
        """Both, one after the other."""
        return _joined(self, other)

    def taken(self, index: np.ndarray) -> Cuts:
        """The rows at these places, (n_taken,), in that order."""
        return _taken(self, index)


@dataclass(frozen=True)
class Pieces:
    """Step 2. item, layer, change, gap (n,), nodes and probability (n, 5), on the CPU;
    gradient (n, 5, d_model) and scores (n, n_neurons)."""

    item: np.ndarray
    layer: np.ndarray
    nodes: np.ndarray
    probability: np.ndarray
    change: np.ndarray
    gap: np.ndarray
    gradient: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.item)

    @cached_property
    def error(self) -> np.ndarray:
        """The error that step 3 uses, (n,): the larger of change and gap."""
        return np.maximum(self.change, self.gap)

    def joined(self, other: Pieces) -> Pieces:
        """Both, one after the other."""
        return _joined(self, other)

    def taken(self, index: np.ndarray) -> Pieces:
        """The rows at these places, (n_taken,), in that order."""
        return _taken(self, index)

    def halves(self, index: np.ndarray) -> Cuts:
        """Step 3: both halves of the pieces at these places, (n_halved,); their nodes are the pieces' own."""
        both = np.repeat(index, 2)
        thirds = np.tile([[0, 1, 2], [2, 3, 4]], (len(index), 1))  # (2 n, 3)
        piece = torch.from_numpy(both)[:, None].to(self.gradient.device)
        return Cuts(
            self.item[both],
            self.layer[both],
            np.take_along_axis(self.nodes[both], thirds, 1),
            np.take_along_axis(self.probability[both], thirds, 1),
            self.gradient[piece, torch.from_numpy(thirds).to(self.gradient.device)],
        )

    def summed(self, groups: list[np.ndarray]) -> Tensor:
        """The scores of paths, (n_groups, n_neurons): the sums of their pieces', in the pieces' order.

        Gathers and adds along one axis, because a GPU's sums by index are not reproducible.
        """
        most = max(map(len, groups))
        index = np.zeros((len(groups), most), np.int64)
        valid = np.zeros((len(groups), most), bool)
        for row, group in enumerate(groups):
            index[row, : len(group)], valid[row, : len(group)] = group, True
        at_once = max(1, _GATHERED // (most * self.scores.shape[1]))
        device, parts = self.scores.device, []
        for start in range(0, len(groups), at_once):
            chosen = torch.from_numpy(index[start : start + at_once]).to(device)
            empty = torch.from_numpy(~valid[start : start + at_once]).to(device)
            parts.append(self.scores[chosen].masked_fill(empty[..., None], 0).sum(1))
        return torch.cat(parts)


def _joined(one, other):
    """Two `Cuts` or two `Pieces`, one after the other."""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return type(one)(
        *(torch.cat(pair) if isinstance(pair[0], Tensor) else np.concatenate(pair) for pair in pairs)
    )


def _taken(rows, index: np.ndarray):
    """Some rows of `Cuts` or `Pieces`."""
    values = [getattr(rows, field.name) for field in fields(rows)]
    place = torch.from_numpy(np.asarray(index, np.int64))
    return type(rows)(
        *(value[place.to(value.device)] if isinstance(value, Tensor) else value[index] for value in values)
    )


def no_pieces(subject: Subject) -> Pieces:
    """No pieces, n = 0; others can be joined to them."""
    none, nodes = np.zeros(0), np.zeros((0, 5))
    number = np.zeros(0, np.int64)
    gradient = torch.zeros(0, 5, subject.d_model, device=subject.device)
    scores = torch.zeros(0, subject.n_neurons, device=subject.device)
    return Pieces(number, number, nodes, nodes, none, none, gradient, scores)


def _middles(nodes: np.ndarray) -> np.ndarray:
    """Between each two neighbours of (n, k) nodes: (n, k − 1)."""
    return (nodes[:, :-1] + nodes[:, 1:]) / 2


def _rows(cuts: Cuts, alphas: np.ndarray) -> Rows:
    """Each cut's own alphas, (n, n_alphas), as rows in that order."""
    item, layer = (
        torch.from_numpy(index).repeat_interleave(alphas.shape[1]) for index in (cuts.item, cuts.layer)
    )
    return Rows(item, layer, torch.from_numpy(alphas).flatten())


def _evaluated(
    subject: Subject, base: Base, cuts: Cuts, alphas: np.ndarray, precision: str, ahead: Ahead | None
) -> tuple[Tensor, Tensor]:
    """P and its gradient at the cuts' alphas, (n · n_alphas,) and (n · n_alphas, d_model)."""
    if ahead is None:
        swept = sweep(subject, base, _rows(cuts, alphas), precision=precision)
        return swept.probability, swept.gradient
    places = _places(_rows(cuts, alphas))
    if not ahead.keys() >= set(places):
        # Step 4.
        nodes = np.sort(np.concatenate([cuts.nodes, alphas], 1), 1)
        rows = _rows(cuts, np.concatenate([alphas, _middles(nodes)], 1))
        swept = sweep(subject, base, rows, precision=precision)
        ahead.update(zip(_places(rows), zip(swept.probability, swept.gradient, strict=True), strict=True))
    probability, gradient = zip(*(ahead[place] for place in places), strict=True)
    return torch.stack(probability), torch.stack(gradient)


def _places(rows: Rows) -> list[tuple[int, int, float]]:
    return list(zip(rows.item.tolist(), rows.layer.tolist(), rows.alpha.tolist(), strict=True))


def integrate_cuts(
    subject: Subject, base: Base, cuts: Cuts, *, precision: str, ahead: Ahead | None = None
) -> Pieces:
    """Step 2: the cuts as pieces, sorted by layer; with `ahead`, step 4."""
    cuts = cuts.taken(np.argsort(cuts.layer, kind="stable"))
    n = len(cuts)
    quarters = _middles(cuts.nodes)
    probability, inner = _evaluated(subject, base, cuts, quarters, precision, ahead)
    item, known, inner = torch.from_numpy(cuts.item), cuts.gradient, inner.view(n, 2, -1)
    gradient = torch.stack([known[:, 0], inner[:, 0], known[:, 1], inner[:, 1], known[:, 2]], 1)
    rules = torch.stack([quadrature.BOOLE, quadrature.SIMPSON]).to(gradient)
    width = torch.from_numpy(cuts.nodes[:, 2] - cuts.nodes[:, 0]).to(gradient)
    both = width[:, None, None] * (rules @ gradient)  # (n, 2, d_model)

    scores = torch.empty(n, subject.n_neurons, device=gradient.device)
    change = torch.empty(n, device=gradient.device)
    item = item.to(gradient.device)
    layers, starts = np.unique(cuts.layer, return_index=True)
    for number, start, end in zip(layers.tolist(), starts, [*starts[1:], n], strict=True):
        here = slice(int(start), int(end))
        items = item[here].repeat_interleave(2)
        fine, rough = (
            project_to_neurons(subject, base, number, items, both[here].flatten(0, 1))
            .view(end - start, 2, -1)
            .unbind(1)
        )
        scores[here], change[here] = fine, (fine - rough).abs().amax(-1)
    found = torch.cat([probability.view(n, 2), change[:, None], scores.sum(-1)[:, None]], 1)
    p_left, p_right, change, total = found.cpu().double().numpy().T
    ends = cuts.probability
    return Pieces(
        item=cuts.item,
        layer=cuts.layer,
        nodes=np.stack(
            [cuts.nodes[:, 0], quarters[:, 0], cuts.nodes[:, 1], quarters[:, 1], cuts.nodes[:, 2]], 1
        ),
        probability=np.stack([ends[:, 0], p_left, ends[:, 1], p_right, ends[:, 2]], 1),
        change=change,
        gap=np.abs(total - (ends[:, 2] - ends[:, 0])),
        gradient=gradient,
        scores=scores,
    )


def pick_worst(error: np.ndarray, *, limit: float, room: int) -> np.ndarray:
    """Step 3: the indices of a path's pieces to halve, from their errors, (n_pieces,): the worst first, at
    least one, at most `room`, and as few as bring the error of the others below the limit."""
    order = np.argsort(-error, kind="stable")
    left = error.sum() - np.concatenate([[0.0], np.cumsum(error[order])[:-1]])
    # A fifth of the limit is left for the halves.
    needed = int((left > 0.8 * limit).sum())
    return order[: min(max(needed, 1), room)]
