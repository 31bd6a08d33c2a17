"""Rows of a gradient that are far from each other in length: each is rounded beside its own numbers, however short it is."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FAR", "LARGEST", "lengths_of_uneven", "of_own_way"]

FAR = 1e-6
"""A row this much shorter than the longest may hold what the others drown. Chosen: rows of an untrained network differ by a thousand."""

PARALLEL = 1e-10
"""Rows whose cosine misses one by less point one way. Chosen: drawn or trained ones are far from that, copies within rounding."""

LARGEST = 1 << 24
"""Numbers of a gradient from which on it is not copied for this. Chosen: 128 MiB."""


def lengths_of_uneven(gradient: Float[Tensor, "m n"], far: float = FAR) -> Float[Tensor, " m"] | None:
    """(m,) lengths of the rows, one of those that are zero; None where none is far shorter than the longest, or float64 did not hold it.

    Args:
        gradient: of any float type.
        far: share of the longest up to which a row is far shorter.

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
    if not len(there) or float(there.min()) > far * float(there.max()):
        return None
    return lengths.where(lengths > 0, 1.0)


def of_own_way(rows: Float[Tensor, "m n"]) -> Bool[Tensor, " m"]:
    """Which rows point neither the way of an earlier one nor against it.

    Example:
        >>> of_own_way(torch.tensor([[1.0, 2.0], [2.0, 4.0], [1.0, 0.0]], dtype=torch.float64)).tolist()
        [True, False, True]
    """
    unit = F.normalize(rows.double(), dim=1)
    alike = (unit @ unit.T).abs() > 1 - PARALLEL
    return ~alike.tril(diagonal=-1).any(dim=1)
