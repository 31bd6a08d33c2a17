"""Least squares on a subset of rows, another one for every sample, without the Gram matrix of any.

The columns of the matrix are orthonormal and a subset has about half of its rows, so that what it leaves of them is well conditioned, and
some dozens of conjugate gradients solve it: two products of matrices each, for all samples at once. They run in float32; what is left is
measured in float64, which gives four digits more every time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock

__all__ = ["LARGE", "fitted_on", "null_on", "pays"]

LARGE = 128
"""From more columns than these on it pays. Measured: at m=400 and 160 columns both take as long; at m=1000 and 120 Gram matrices take a
third longer, at m=2000 and 600 four times as long."""

SHARE = 0.4
"""Of the rows, columns up to which it pays. Derived: half of the rows leave orthonormal columns a condition of 100 at this share, as random
matrices have it, and of 400 at .45."""

PASSES, GRADIENTS = 8, 60
"""Times that what is left is measured at most, and conjugate gradients between two of them at most. Chosen: of 600 pictures at m=2000 the
first are 4, the second 30."""

CLOSE = 1e-9
"""Squared share of a slope that conjugate gradients may leave: float32 has not much more. Chosen."""

SOLVED, STANDING = 1e-15, 1e-13
"""Length of a slope, beside what is to be explained, at which it is solved, some roundings of float64; and up to which one counts that no
longer falls. Chosen."""

FALLING = 2
"""What a pass must divide a slope by for another one to follow. Chosen: one that works divides it by ten thousand."""

TINY = 1e-30
"""Of float32, what keeps a division from zero by zero where nothing is left. Derived."""


def pays(matrix: Float[Tensor, "m r"]) -> bool:
    """Whether conjugate gradients take less time than the Gram matrices of such a matrix."""
    height, width = matrix.shape
    return LARGE < width <= SHARE * height


def fitted_on(
    basis: Float[Tensor, "m r"], mask: Bool[Tensor, "k m"], wanted: Float[Tensor, "k m"], clock: Clock = UNLIMITED
) -> tuple[Float[Tensor, "k r"], Bool[Tensor, " k"]]:
    """y with ``basis @ y`` nearest to what is wanted on the rows of the mask, for all at once, and which of them are solved.

    Args:
        basis: orthonormal columns.
        mask: the rows of each.
        wanted: (k, m) for each.
        clock: when to give up.
    """
    size = (wanted * mask).norm(dim=1, keepdim=True).clamp_min(torch.finfo(wanted.dtype).tiny)
    wanted, solution = wanted / size, wanted.new_zeros((len(wanted), basis.shape[1]))

    def slope(at: Tensor, chosen: Tensor) -> Tensor:
        return ((at @ basis.T - wanted[chosen]) * mask[chosen]) @ basis

    solved = _improved(basis, mask, solution, slope, clock)
    return solution * size, solved


def null_on(
    basis: Float[Tensor, "m r"], mask: Bool[Tensor, "k m"], clock: Clock = UNLIMITED
) -> tuple[Float[Tensor, "k r"], Bool[Tensor, " k"]]:
    """The unit y of which ``basis @ y`` is smallest on the rows of the mask, for all at once, and which of them are solved."""
    solution = basis.new_ones((len(mask), basis.shape[1])) / basis.shape[1] ** 0.5

    def slope(at: Tensor, chosen: Tensor) -> Tensor:
        at.div_(at.norm(dim=1, keepdim=True))
        steep = ((at @ basis.T) * mask[chosen]) @ basis
        return steep - (steep * at).sum(dim=1, keepdim=True) * at

    solved = _improved(basis, mask, solution, slope, clock)
    return solution / solution.norm(dim=1, keepdim=True), solved


def _improved(
    basis: Float[Tensor, "m r"],
    mask: Bool[Tensor, "k m"],
    solution: Float[Tensor, "k r"],
    slope: Callable[[Tensor, Tensor], Tensor],
    clock: Clock,
) -> Bool[Tensor, " k"]:
    """Improve solutions, in place, until their slopes vanish or fall no more; returns which are solved."""
    rough = basis.float()
    both = rough, rough.T.contiguous()
    left = torch.full_like(solution[:, 0], torch.inf)
    going, at = torch.arange(len(mask), device=mask.device), solution.clone()
    for _ in range(PASSES):
        steep = slope(at, going)
        length = steep.norm(dim=1)
        fell = length < left[going] / FALLING
        solution[going[fell]], left[going[fell]] = at[fell], length[fell]
        on = fell & (length > SOLVED)
        going, at, steep, length = going[on], at[on], steep[on], length[on, None]
        if not len(going):
            break
        at = at - _conjugate(both, mask[going], (steep / length).float(), clock).to(at.dtype) * length
    return left < STANDING


def _conjugate(
    both: tuple[Float[Tensor, "m r"], Float[Tensor, "r m"]], mask: Bool[Tensor, "k m"], slope: Float[Tensor, "k r"], clock: Clock
) -> Float[Tensor, "k r"]:
    """Slopes divided by the curvature, basisᵀ diag(mask) basis: to float32's digits."""
    basis, turned = both
    weight = mask.to(basis.dtype)
    found, rest, direction = torch.zeros_like(slope), slope, slope
    size = rest.square().sum(dim=1, keepdim=True)
    enough = CLOSE * size
    for _ in range(GRADIENTS):
        clock.check()
        curved = (weight * (direction @ turned)) @ basis
        # One that is solved stays: rounding would grow along what the rows of its mask do not hold.
        length = (size > enough) * size / (direction * curved).sum(dim=1, keepdim=True).clamp_min(TINY)
        found, rest = found + length * direction, rest - length * curved
        size, before = rest.square().sum(dim=1, keepdim=True), size
        if bool((size <= enough).all()):
            break
        direction = rest + size / before.clamp_min(TINY) * direction
    return found
