"""Rows of a gradient that are far from each other in length: each is rounded beside its own numbers, however short it is."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["LARGEST", "lengths_of_uneven", "rows_showing"]

FAR = 1e-6
"""A row this much shorter than the longest may hold what the others drown. Chosen: rows of an untrained network differ by a thousand."""

LARGEST = 1 << 24
"""Numbers of a gradient from which on it is not copied for this. Chosen: 128 MiB."""


def lengths_of_uneven(gradient: Float[Tensor, "m n"]) -> Float[Tensor, " m"] | None:
    """(m,) lengths of the rows, one of those that are zero; None where none is far shorter than the longest, or float64 did not hold it.

    Example:
        >>> lengths_of_uneven(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-9]], dtype=torch.float64)).tolist()
        [5.0, 1.0, 1e-09]
        >>> lengths_of_uneven(torch.eye(2, dtype=torch.float64)) is None
        True
    """
    if gradient.dtype != torch.float64 or gradient.numel() > LARGEST:
        return None
    lengths: Tensor = torch.linalg.vector_norm(gradient, dim=1)
    there = lengths[lengths > 0]
    if not len(there) or float(there.min()) > FAR * float(there.max()):
        return None
    return lengths.where(lengths > 0, 1.0)


SHOWN = 1e-6
"""A row shows an input that it is nearer to than this, relatively. Chosen: what is read off it is exact, or has a bit of another in it."""


def rows_showing(gradient: Float[Tensor, "m n"], sums: Float[Tensor, " m"], inputs: Float[Tensor, "k n"]) -> Int64[Tensor, " k"]:
    """How many rows of the gradient are each input times their entry of the bias gradient, as where one sample alone is on.

    Example:
        >>> gradient = torch.tensor([[2.0, 4.0], [3.0, 6.0], [1.0, 1.0]], dtype=torch.float64)
        >>> rows_showing(gradient, torch.tensor([2.0, 3.0, 1.0]).double(), torch.tensor([[1.0, 2.0], [5.0, 5.0]]).double()).tolist()
        [2, 0]
    """
    ratio = gradient / sums[:, None]
    return torch.stack([((ratio - row).norm(dim=1) < SHOWN * row.norm()).sum() for row in inputs])
