"""The numerical rank of a gradient, and its factors.

A gradient of b samples is a product D Xᵀ of rank b (SPEAR: Dimitrov, Baader, Müller, Vechev, NeurIPS 2024). The rank is read off the
largest gap between neighboring singular values. A gradient may be far wider than it is high (1.5 million columns), so it is only ever
visited in column blocks; what is kept is its m×m Gram matrix in float64, and then b rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Factors", "factor", "multiply"]

BLOCK = 1 << 22
"""Entries of the gradient that are converted to float64 at a time."""

CLEAR = 30.0
"""A gap is clear when a singular value is this many times its successor."""


@dataclass(frozen=True, eq=False)
class Factors:
    """gradient = left @ right, with left orthonormal.

    Attributes:
        left: (m, b) orthonormal columns, float64.
        right: (b, n) float64.
        singular_values: (min(m, n),) of the gradient, falling.
        gap: ratio of the last kept singular value and the first dropped one; infinite for full rank.
    """

    left: Float[Tensor, "m b"]
    right: Float[Tensor, "b n"]
    singular_values: Float[Tensor, " s"]
    gap: float

    @property
    def rank(self) -> int:
        """b."""
        return self.left.shape[1]

    @property
    def clear(self) -> bool:
        """Whether the gap leaves no doubt about the rank."""
        return self.gap >= CLEAR


def factor(gradient: Float[Tensor, "m n"], rank: int | None = None) -> Factors:
    """Find the rank of a gradient by its largest gap, and factor it.

    Args:
        gradient: (m, n), any float type; not changed, not copied whole.
        rank: use this rank instead of the one that the gap shows.

    Returns:
        the factors. A gradient without a gap is given its full numerical rank: see ``Factors.clear``.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> planted = torch.randn(50, 4, generator=generator) @ torch.randn(4, 300, generator=generator)
        >>> found = factor(planted.double())
        >>> found.rank, found.clear, bool((found.left @ found.right - planted).abs().max() < 1e-5)
        (4, True, True)
    """
    height, width = gradient.shape
    if height > width:
        flipped = factor(gradient.T, rank)
        left, mixing = torch.linalg.qr(flipped.right.T)
        return Factors(left, mixing @ flipped.left.T, flipped.singular_values, flipped.gap)
    if gradient.numel() <= BLOCK:
        left, values, _ = torch.linalg.svd(gradient.double(), full_matrices=False)
        resolution = torch.finfo(torch.float64).eps * height
    else:
        squares, left = torch.linalg.eigh(_gram(gradient))
        left, values = left.flip(1), squares.flip(0).clamp_min(0).sqrt()
        resolution = torch.finfo(torch.float64).eps ** 0.5
    count, gap = _gap(values, max(resolution, torch.finfo(gradient.dtype).eps))
    count = rank or count
    left = left[:, :count].contiguous()
    return Factors(left, _project(left, gradient), values, gap if rank is None else _ratio(values, rank))


def _column_blocks(gradient: Tensor) -> list[slice]:
    step = max(1, BLOCK // gradient.shape[0])
    return [slice(start, start + step) for start in range(0, gradient.shape[1], step)]


def _gram(gradient: Tensor) -> Tensor:
    total = gradient.new_zeros((gradient.shape[0],) * 2, dtype=torch.float64)
    for block in _column_blocks(gradient):
        columns = gradient[:, block].double()
        total.addmm_(columns, columns.T)
    return total


def multiply(wide: Float[Tensor, "m n"], right: Float[Tensor, "b n"]) -> Float[Tensor, "m b"]:
    """wide @ rightᵀ in float64, reading the wide matrix in blocks."""
    total = right.new_zeros((wide.shape[0], right.shape[0]))
    for block in _column_blocks(wide):
        total.addmm_(wide[:, block].double(), right[:, block].T)
    return total


def _project(left: Tensor, gradient: Tensor) -> Tensor:
    """leftᵀ gradient, in blocks."""
    right = left.new_empty((left.shape[1], gradient.shape[1]))
    for block in _column_blocks(gradient):
        torch.mm(left.T, gradient[:, block].double(), out=right[:, block])
    return right


def _gap(values: Tensor, resolution: float) -> tuple[int, float]:
    """Rank and gap. Values under the resolution are noise: they count as that noise, so that no gap among them is ever chosen."""
    floor = values[0] * resolution
    seen = values.clamp_min(float(floor))
    if len(seen) == 1:
        return 1, float("inf")
    ratios = seen[:-1] / seen[1:]
    best = int(ratios.argmax())
    gap = float(ratios[best])
    if gap < CLEAR and bool(values[-1] > 10 * floor):
        return len(values), float("inf")
    return best + 1, gap


def _ratio(values: Tensor, rank: int) -> float:
    return float("inf") if rank >= len(values) else float(values[rank - 1] / values[rank].clamp_min(torch.finfo(torch.float64).tiny))
