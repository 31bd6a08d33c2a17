"""Counts that must not be negative and must sum to a whole number: the nearest such point, and the nearest whole numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.errors import Misuse

__all__ = ["onto_simplex", "whole"]


def onto_simplex(values: Float[Tensor, " c"], total: float) -> Float[Tensor, " c"]:
    """The nearest point (Euclidean) with no negative entry and this sum.

    Clipping and rescaling instead would let one huge entry swallow all others.

    Raises:
        Misuse: the total is negative, or the values are not finite.

    Example:
        >>> onto_simplex(torch.tensor([3.0, 1.0, -2.0]), 3.0).tolist()
        [2.5, 0.5, 0.0]
    """
    if total < 0 or not bool(values.isfinite().all()):
        raise Misuse("finite values and a total of at least zero", f"{values.tolist()[:4]}... and {total}", "check the update")
    # Shifting all entries changes nothing, and what lies below the largest by the total becomes zero: no digits are lost to huge values.
    values = (values - values.max()).clamp_min(-total)
    falling = values.sort(descending=True).values
    excess = (falling.cumsum(0) - total) / torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    kept = max(1, int((falling > excess).sum()))
    return (values - excess[kept - 1]).clamp_min(0)


def whole(values: Float[Tensor, " c"], total: int) -> Int64[Tensor, " c"]:
    """Whole numbers with this sum, none negative, by largest remainder on the nearest point of ``onto_simplex``.

    Example:
        >>> whole(torch.tensor([1.6, 1.3, 0.4, -0.3]), 3).tolist()
        [2, 1, 0, 0]
    """
    point = onto_simplex(values.double(), float(total))
    # A hair above a whole number counts as that number, or the largest remainders would go to rounding.
    counts = (point + 1e-9 * max(total, 1)).floor().to(torch.int64)
    missing = total - int(counts.sum())
    remainders = point - counts
    if missing >= 0:
        order = remainders.argsort(descending=True, stable=True)
        counts += torch.bincount(order[torch.arange(missing, device=order.device) % len(order)], minlength=len(counts))
        return counts
    order = remainders.where(counts > 0, torch.inf).argsort(stable=True)
    counts[order[:-missing]] -= 1
    return counts
