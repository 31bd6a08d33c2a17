"""A low-rank matrix from some of its entries: what pruning leaves of a gradient still determines the rest.

The gradient of a Linear layer has the rank of the batch, b(m + n) numbers' worth of freedom, and the entries that survive pruning are
exact. Alternating least squares fits both factors to them; where the smallest entries are the missing ones, it converges within tens
of sweeps while clearly more entries are known than the factors have numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock

__all__ = ["Completion", "complete", "is_pruned", "rank_of_pruned"]

MARGIN = 4
"""A row or column with fewer known entries than the rank and this many is left out: too little holds it."""

COMPLETE = 1e-6
"""Relative residual on the known entries below which they are explained and not merely approximated. Chosen."""

PATIENCE, STALLED = 10, 0.9
"""Sweeps that must bring the residual below this share of what it was, or no more are made. Chosen."""

BLOCK = 1 << 22
"""Numbers of the normal equations that are formed at a time."""


@dataclass(frozen=True, eq=False)
class Completion:
    """gradient ≈ left @ right on the known entries.

    Attributes:
        left: (m, r) orthonormal columns; zero in rows that too few entries hold.
        right: (r, n); of columns that too few entries hold, the one that fits them and leaves the missing ones smallest.
        rows: (m,) which rows are held.
        columns: (n,) which columns are.
        residual: relative distance on the known entries of what is held; infinite where nothing is.
    """

    left: Float[Tensor, "m r"]
    right: Float[Tensor, "r n"]
    rows: Bool[Tensor, " m"]
    columns: Bool[Tensor, " n"]
    residual: float


def is_pruned(gradient: Float[Tensor, "m n"], least: float = 1e-3) -> bool:
    """Whether entries are zero that dead neurons and dark pixels do not explain.

    Example:
        >>> is_pruned(torch.eye(30)), is_pruned(torch.ones(30, 30))
        (True, False)
    """
    there = gradient != 0
    inside = int(there.any(dim=1).sum()) * int(there.any(dim=0).sum())
    return inside > 0 and 1 - int(there.sum()) / inside > least


def complete(gradient: Float[Tensor, "m n"], rank: int, sweeps: int = 150, enough: float = 1e-13, clock: Clock = UNLIMITED) -> Completion:
    """Factors of the given rank through the entries that are not zero.

    Args:
        gradient: (m, n), zero where unknown.
        rank: r.
        sweeps: at most so many; it stops earlier when the residual no longer falls by a tenth in ten sweeps.
        enough: relative residual to stop at.
        clock: when to give up.

    Raises:
        OutOfTime: the clock ran out.
    """
    known = gradient != 0
    rows, columns = _held(known, rank)
    if min(int(rows.sum()), int(columns.sum())) < rank + MARGIN:
        nothing = gradient.new_zeros((len(gradient), rank), dtype=torch.float64)
        return Completion(nothing, nothing.new_zeros((rank, gradient.shape[1])), rows & False, columns & False, float("inf"))
    part, there = gradient[rows][:, columns].double(), known[rows][:, columns]
    size = float(part.norm())
    residual, history = float("inf"), [float("inf")]
    left = torch.linalg.svd(part, full_matrices=False)[0][:, :rank]
    right = left.new_zeros((rank, part.shape[1]))
    for sweep in range(sweeps):
        right = _fit(left, part, there, clock)
        basis = torch.linalg.qr(right.T)[0]
        left, mixing = torch.linalg.qr(_fit(basis, part.T, there.T, clock).T)
        right = mixing @ basis.T
        residual = _distance(left, right, part, there) / size
        history.append(residual)
        if residual < enough or (sweep >= PATIENCE and residual > STALLED * history[-1 - PATIENCE]):
            break
    whole = left.new_zeros((len(gradient), rank))
    whole[rows] = left
    every = left.new_zeros((rank, gradient.shape[1]))
    every[:, columns] = right
    every[:, ~columns] = _fit(left, gradient[rows][:, ~columns].double(), known[rows][:, ~columns], clock, missing=1e-6)
    return Completion(whole, every, rows, columns, residual)


def rank_of_pruned(gradient: Float[Tensor, "m n"], most: int, hints: Sequence[int] = (), clock: Clock = UNLIMITED) -> int | None:
    """The smallest rank up to ``most`` that explains the known entries, by doubling and halving; None if none does.

    Args:
        gradient: (m, n), zero where unknown.
        most: the largest rank to try.
        hints: ranks to try first, the smallest that explains is taken.
        clock: when to give up.

    Raises:
        OutOfTime: the clock ran out.
    """

    def explains(rank: int) -> bool:
        return complete(gradient, rank, sweeps=60, enough=COMPLETE, clock=clock).residual < COMPLETE

    for hint in sorted(hints):
        if hint <= most and explains(hint):
            return hint
    low, high = 0, 1
    while not explains(high):
        low, high = high, 2 * high
        if low >= most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if explains(middle) else (middle, high)
    return high


def _held(known: Bool[Tensor, "m n"], rank: int) -> tuple[Bool[Tensor, " m"], Bool[Tensor, " n"]]:
    """Rows and columns that enough entries hold, counting only entries of each other."""
    rows, columns = torch.ones_like(known[:, 0]), torch.ones_like(known[0])
    for _ in range(3):
        rows = (known & columns).sum(dim=1) >= rank + MARGIN
        columns = (known & rows[:, None]).sum(dim=0) >= rank + MARGIN
    return rows, columns


def _fit(
    left: Float[Tensor, "m r"], matrix: Float[Tensor, "m n"], known: Bool[Tensor, "m n"], clock: Clock, missing: float = 0.0
) -> Float[Tensor, "r n"]:
    """The right factor that comes nearest on the known entries, column by column; the others weigh ``missing`` and count as zero."""
    rank = left.shape[1]
    products = (left[:, :, None] * left[:, None, :]).reshape(len(left), -1)
    ridge = 1e-13 * torch.eye(rank, dtype=left.dtype, device=left.device)
    found = []
    for start in range(0, matrix.shape[1], max(1, BLOCK // rank**2)):
        clock.check()
        block = slice(start, start + max(1, BLOCK // rank**2))
        mask = known[:, block].to(left.dtype).clamp_min(missing)
        gram = (mask.T @ products).reshape(-1, rank, rank)
        scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(left.dtype).tiny)
        factor, _ = torch.linalg.cholesky_ex(gram + scale[:, None, None] * ridge)
        found.append(torch.cholesky_solve(((matrix[:, block] * mask).T @ left)[..., None], factor)[..., 0].T)
    return torch.cat(found, dim=1) if found else left.new_zeros((rank, 0))


def _distance(left: Tensor, right: Tensor, matrix: Tensor, known: Tensor) -> float:
    return float(((left @ right - matrix) * known).norm())
