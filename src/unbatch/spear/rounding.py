"""From approximate directions to exact ones.

An approximate direction has its small entries mostly where the true one has zeros. The null vector of those rows is exact as soon as
they are all true zeros; the rows grow in number over the steps: few are right although the direction is rough, many cannot come from
a mixture of two columns with nearly the same zeros.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from unbatch.clock import UNLIMITED, Clock
from unbatch.spear.layer import Layer
from unbatch.spear.masked import fitted_on, null_on, pays

__all__ = ["SHARES", "SHARES_IN_STEPS", "fitted", "masked_gram", "null_of_masks", "round_directions"]

SHARES = ((0.28, 3, 3), (0.42, 5, 2))
"""Stages of rounding, see ``round_directions``: of a gradient, in whose columns half of the rows are zero or so. Chosen."""

SHARES_IN_STEPS = ((0.14, 3, 3), *SHARES)
"""With a stage before them for what is zero in all of many steps, a quarter of the rows. Chosen."""

FEW = 64
"""Of a matrix with so many columns, or fewer, all masks are taken at a time. Measured: at 20 columns that takes half as long as one by
one, at 80 twice as long."""

RIDGE, REFINED = 1e-15, 2
"""What keeps systems solvable, and how often their solutions are improved. Chosen."""

CHUNK = 1 << 24
"""Entries of the row blocks that are gathered at a time."""


def round_directions(
    layer: Layer,
    directions: Float[Tensor, "k b"],
    shares: tuple[tuple[float, int, int], ...] = SHARES,
    clock: Clock = UNLIMITED,
) -> tuple[Float[Tensor, "k b"], Bool[Tensor, "k m"]]:
    """Make directions exact where they are close enough to an exact one.

    Args:
        layer: the layer.
        directions: (k, b) approximate, any float type.
        shares: stages of (share of the m rows, at most this many times b, repetitions).
        clock: when to give up.

    Returns:
        (k, b) unit directions in float64, and where they are zero, (k, m); of the stages the one with most zeros.
    """
    height, batch = layer.left.shape
    directions = directions.to(layer.left.dtype)
    best, most = directions, torch.zeros((len(directions), height), dtype=torch.bool, device=directions.device)
    for share, times, repetitions in shares:
        rows = min(height, max(int(min(share * height, times * batch)), batch + 2))
        for _ in range(repetitions):
            smallest = (directions @ layer.left.T).abs().topk(rows, dim=1, largest=False).indices
            directions = _null_of_rows(layer.left, smallest, directions, clock)
        off = layer.off(directions)
        better = (off.sum(dim=1) >= most.sum(dim=1))[:, None]
        best, most = torch.where(better, directions, best), torch.where(better, off, most)
    return best, most


def _null_of_rows(
    left: Float[Tensor, "m b"], rows: Int64[Tensor, "k s"], directions: Float[Tensor, "k b"], clock: Clock, sweeps: int = 2
) -> Float[Tensor, "k b"]:
    """The smallest singular vector of left[rows_i] for every i, by inverse iteration from the given directions."""
    found = []
    for part, start in zip(
        *(torch.split(tensor, max(1, CHUNK // (rows.shape[1] * left.shape[1]))) for tensor in (rows, directions)), strict=True
    ):
        clock.check()
        block = left[part]
        found.append(_inverse_iteration(block.mT @ block, start, sweeps))
    return torch.cat(found) if found else directions


def _inverse_iteration(gram: Float[Tensor, "k b b"], start: Float[Tensor, "k b"], sweeps: int) -> Float[Tensor, "k b"]:
    ridge = 1e-15 * gram.diagonal(dim1=1, dim2=2).sum(dim=1) + 1e-30
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(gram + ridge[:, None, None] * identity)
    vectors = start[..., None]
    for _ in range(sweeps):
        vectors = F.normalize(torch.cholesky_solve(vectors, factor), dim=1)
    return vectors[..., 0]


def null_of_masks(left: Float[Tensor, "m b"], off: Bool[Tensor, "k m"], sweeps: int = 3, clock: Clock = UNLIMITED) -> Float[Tensor, "k b"]:
    """For every zero set the unit direction that is smallest on all of its rows together: rounding averages out.

    Example:
        >>> left = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.3, 1.0]], dtype=torch.float64)
        >>> null_of_masks(left, torch.tensor([[True, True, False]])).abs().round(decimals=12)
        tensor([[0., 1.]], dtype=torch.float64)
    """
    if pays(left):
        basis, change = torch.linalg.qr(left)
        found, solved = null_on(basis, off, clock)
        found = F.normalize(torch.linalg.solve_triangular(change, found.T, upper=True).T, dim=1)
        if not bool(solved.all()):
            found[~solved] = _null_of_grams(left, off[~solved], sweeps, clock)
        return found
    return _null_of_grams(left, off, sweeps, clock)


def _null_of_grams(left: Float[Tensor, "m b"], off: Bool[Tensor, "k m"], sweeps: int, clock: Clock) -> Float[Tensor, "k b"]:
    found = [left.new_zeros((0, left.shape[1]))]
    for part in torch.split(off, max(1, CHUNK // left.numel())):
        start = torch.ones((len(part), left.shape[1]), dtype=left.dtype, device=left.device)
        found.append(_inverse_iteration(masked_gram(left, part, clock), start, sweeps))
    return torch.cat(found)


def fitted(
    matrix: Float[Tensor, "m b"], on: Bool[Tensor, "k m"], wanted: Float[Tensor, "k m"], clock: Clock = UNLIMITED
) -> Float[Tensor, "k b"]:
    """y with ``matrix @ y`` nearest to what is wanted where a mask is on, for all masks."""
    basis, change = torch.linalg.qr(matrix)
    solution, hard = torch.zeros_like(wanted @ basis), torch.ones_like(on[:, 0])
    if pays(basis):
        solution, solved = fitted_on(basis, on, wanted, clock)
        hard = ~solved
    if bool(hard.any()):
        solution[hard] = _fitted_by_grams(basis, on[hard], wanted[hard], clock)
    return torch.linalg.solve_triangular(change, solution.T, upper=True).T


def _fitted_by_grams(
    basis: Float[Tensor, "m b"], on: Bool[Tensor, "k m"], wanted: Float[Tensor, "k m"], clock: Clock
) -> Float[Tensor, "k b"]:
    identity = RIDGE * torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    factor, _ = torch.linalg.cholesky_ex(masked_gram(basis, on, clock) + identity)
    solution = wanted.new_zeros((len(wanted), basis.shape[1]))
    for _ in range(REFINED):
        rest = (wanted - solution @ basis.T) * on
        solution = solution + torch.cholesky_solve((rest @ basis)[..., None], factor)[..., 0]
    return solution


def masked_gram(matrix: Float[Tensor, "m b"], mask: Bool[Tensor, "k m"], clock: Clock = UNLIMITED) -> Float[Tensor, "k b b"]:
    """matrixᵀ diag(mask_i) matrix for every i: of a large matrix by the rows that the mask has, which are half of them."""
    grams = []
    if matrix.shape[1] > FEW and not matrix.is_cuda:  # there every mask would wait for the last
        for own in mask:
            clock.check()
            rows = matrix[own]
            grams.append(rows.mT @ rows)
        return torch.stack(grams) if grams else matrix.new_zeros((0, matrix.shape[1], matrix.shape[1]))
    for part in torch.split(mask.to(matrix.dtype), max(1, CHUNK // matrix.numel())):
        clock.check()
        grams.append((matrix * part[..., None]).mT @ matrix)
    return torch.cat(grams)
