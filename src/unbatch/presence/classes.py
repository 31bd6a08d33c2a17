"""With which class a record's column fits the column space, and whether it is the only one.

Behind two classes, and wherever two classes pull to either side along one line, both columns lie in the space. A member's ãᵀ A⁺ d is 1/w,
which is positive: that of the other class is not. Two classes of equal weights are told by nothing at this layer.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["fitting", "nearest"]

NEAREST = 3
"""Classes that are looked at. Chosen: those of a line that fit, and one to either side of a tie."""


def nearest(shares: Float[Tensor, "c k"], told: Int64[Tensor, " k"] | None) -> Int64[Tensor, "q k"]:
    """The classes whose columns have least outside of the space, nearest first; the one that was told."""
    return shares.topk(min(NEAREST, len(shares)), dim=0, largest=False).indices if told is None else told[None]


def fitting(fits: Bool[Tensor, "q k"], inverse: Float[Tensor, "q k"]) -> tuple[Int64[Tensor, " k"], Bool[Tensor, " k"]]:
    """Which of the nearest classes is a record's: the first that fits and counts above zero, or the first; and whether no other does.

    Args:
        fits: whether the column of each class lies in the space.
        inverse: 1/w of each.
    """
    good = fits & (inverse > 0)
    return good.int().argmax(dim=0), good.sum(dim=0) == 1
