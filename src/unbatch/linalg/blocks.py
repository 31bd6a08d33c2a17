"""Matrices that may be gigabytes, read in blocks of columns: no copy of them is made, whatever their type.

A block is converted, used and overwritten before it leaves the processor's cache. Larger ones cost several times as much: not for the
arithmetic, but because the system hands out, clears and takes back the pages of every temporary that is larger than what it keeps at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["BLOCK", "converted", "firing", "length", "nonzero", "times_transposed"]

BLOCK = 1 << 18
"""Entries of a matrix that are converted at a time: two megabytes of float64. Chosen among 1 << 15 to 1 << 22: the fastest."""


LEAST = 16
"""Columns a block has at least, however high the matrix is: a product with fewer wastes the processor. Chosen."""


def _column_blocks(matrix: Float[Tensor, "m n"]) -> list[slice]:
    """Consecutive slices of the columns, of ``BLOCK`` entries or ``LEAST`` columns.

    Example:
        >>> _column_blocks(torch.zeros(1 << 15, 20))
        [slice(0, 16, None), slice(16, 20, None)]
    """
    step, width = max(LEAST, BLOCK // max(1, matrix.shape[0])), matrix.shape[1]
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]


def converted(
    matrix: Float[Tensor, "m n"], dtype: torch.dtype = torch.float64, *, own: bool = False
) -> Iterator[tuple[slice, Float[Tensor, "m p"]]]:
    """Block by block, which columns and what is in them, in a type.

    Args:
        matrix: (m, n), any type; not changed.
        dtype: of the blocks.
        own: whether the blocks will be written to. They are all one buffer, which the next block overwrites; without it, blocks of a
            matrix that has the type already are views of the matrix itself.

    Example:
        >>> [(columns, block.tolist()) for columns, block in converted(torch.eye(2))]
        [(slice(0, 2, None), [[1.0, 0.0], [0.0, 1.0]])]
    """
    blocks = _column_blocks(matrix)
    if matrix.dtype == dtype and not own:
        yield from ((columns, matrix[:, columns]) for columns in blocks)
        return
    buffer = torch.empty(len(matrix) * (blocks[0].stop if blocks else 0), dtype=dtype, device=matrix.device)
    for columns in blocks:
        there = matrix[:, columns]
        yield columns, buffer[: there.numel()].view(there.shape).copy_(there)


def length(tensor: Tensor) -> float:
    """The root of the sum of all squares, in float64.

    Example:
        >>> length(torch.tensor([[3.0], [4.0]]))
        5.0
    """
    total = 0.0
    for part in torch.split(tensor.reshape(-1), BLOCK):
        there = part.double()
        total += float(torch.dot(there, there))
    return math.sqrt(total)


def nonzero(tensor: Tensor) -> bool:
    """Whether any number is not zero, none of them being NaN: as ``tensor.any()``, but read no further than needed.

    Example:
        >>> nonzero(torch.zeros(3)), nonzero(torch.tensor([0.0, -1.0])), nonzero(torch.zeros(0))
        (False, True, False)
    """
    return any(bool(end) for part in torch.split(tensor.reshape(-1), BLOCK) if part.numel() for end in torch.aminmax(part))


def firing(matrix: Float[Tensor, "m n"]) -> Bool[Tensor, " m"]:
    """Which rows have a number that is not zero.

    Example:
        >>> firing(torch.tensor([[0.0, 0.0], [0.0, 2.0]])).tolist()
        [False, True]
    """
    rows = max(1, BLOCK // max(1, matrix.shape[1]))
    if rows == 1:
        return torch.tensor([nonzero(row) for row in matrix], device=matrix.device)
    return torch.cat([(part != 0).any(dim=1) for part in torch.split(matrix, rows)])


def times_transposed(x: Float[Tensor, "*k n"], weight: Float[Tensor, "m n"]) -> Float[Tensor, "*k m"]:
    """x Wᵀ in the type of x with W of any other; differentiable in x only.

    Example:
        >>> times_transposed(torch.ones(3, dtype=torch.float64), torch.eye(3)).tolist()
        [1.0, 1.0, 1.0]
    """
    return _TimesTransposed.apply(x, weight)  # type: ignore[no-untyped-call]


class _TimesTransposed(torch.autograd.Function):
    """See ``times_transposed``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        rows, out = x.reshape(-1, x.shape[-1]), x.new_zeros((x.shape[:-1].numel(), weight.shape[0]))
        for columns, block in converted(weight, x.dtype):
            out.addmm_(rows[:, columns], block.T)
        return out.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        (gradient,), weight = gradients, ctx.weight
        rows = gradient.reshape(-1, gradient.shape[-1])
        out = gradient.new_empty((len(rows), weight.shape[1]))
        for columns, block in converted(weight, gradient.dtype):
            torch.mm(rows, block, out=out[:, columns])
        return out.reshape(*gradient.shape[:-1], weight.shape[1]), None
