"""What samples count in a plain mean: of n samples each counts 1/n, or a whole multiple of it where it was there several times."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["BETWEEN", "WHOLE", "beside_plain", "counted_each", "counts_freely", "near_plain", "nearly_plain", "plain", "plain_size"]

WHOLE = 1e-3
"""A weight times the batch size may be this far from a whole number, and all weights together so far from one; of a large batch less than
one sample is. Chosen. Swept."""

MOST = 100_000
"""A larger batch is not told from a factor."""

BETWEEN = 0.05
"""Whole multiples of 1/n are told from other numbers where errors are below this share of their distance. Chosen, not swept."""


def plain(weights: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """The weights to the last digit, if they are those of a plain mean."""
    number = plain_size(weights)
    return weights if number is None else (weights * number).round() / number


def plain_size(weights: Tensor) -> int | None:
    """n where all weights are whole multiples of 1/n, the smallest such n; None where they are those of no plain mean."""
    inverse = 1 / weights
    number = int(inverse.max().round())
    if not 1 <= number <= MOST:
        return None
    scaled = weights * number
    times = scaled.round()
    fine = bool(((scaled - times).abs() < near_plain(number) * times.clamp_min(1)).all()) and bool((times >= 1).all())
    return number if fine else None


def near_plain(number: int) -> float:
    """How far, relatively, what a sample counts may be from what one of a plain mean of so many does.

    1/500 is told from 1/501, and from what lies between.
    """
    return min(WHOLE, BETWEEN / number)


def nearly_plain(weights: Float[Tensor, " k"]) -> Float[Tensor, " k"] | None:
    """The weights of the plain mean of the size that fits the most of them, if all are near to it; a guess, for a replay to confirm.

    What a sample counts of which the network is nearly sure is known to few digits: as many as its part of the update has.

    Example:
        >>> nearly_plain(torch.tensor([1 / 3.0004, 1 / 6, 1 / 6]).double())
        tensor([0.3333, 0.1667, 0.1667], dtype=torch.float64)
    """
    number = (1 / weights).round().mode().values
    times = (weights * number).round()
    near = bool((times >= 1).all()) and bool(((weights * number / times - 1).abs() < BETWEEN).all())
    return times / number if near else None


def counts_freely(weights: Float[Tensor, " k"], off: Float[Tensor, " k"], *, factor_known: bool = True) -> Bool[Tensor, " k"]:
    """(k,) which of these do not count what samples of a plain mean do, of the size that fits the most of them.

    Args:
        weights: (k,).
        off: (k,) by how much, relatively, they may be off.
        factor_known: otherwise only what they count beside each other says it, which takes two.

    Example:
        >>> counts_freely(torch.tensor([1 / 3.0004, 1 / 6, 1 / 6]).double(), torch.full((3,), 1e-5).double()).tolist()
        [True, False, False]
    """
    return beside_plain(weights, off, factor_known=factor_known) > 0


def counted_each(inverse_weight: Float[Tensor, " k"], off: Float[Tensor, " k"]) -> Bool[Tensor, " k"]:
    """(k,) which of these are known well enough to tell 1/n from 1/(n + 1).

    Args:
        inverse_weight: (k,) 1/w.
        off: (k,) by how much, relatively, they may be off.

    Example:
        >>> counted_each(torch.tensor([20.0, 256.1]), torch.tensor([1e-4, 1e-3])).tolist()
        [True, False]
    """
    return inverse_weight * off < BETWEEN


def beside_plain(weights: Float[Tensor, " k"], off: Float[Tensor, " k"], *, factor_known: bool = True) -> Float[Tensor, " k"]:
    """(k,) by how much these miss, relatively, what samples of a plain mean count; 0 where they may be off by that, infinite without one.

    Arguments as in ``counts_freely``.

    Example:
        >>> missed = beside_plain(torch.tensor([1 / 3.0004, 1 / 6, 1 / 6]).double(), torch.full((3,), 1e-5).double())
        >>> [round(each, 6) for each in missed.tolist()]
        [0.000133, 0.0, 0.0]
    """
    best, most = torch.full_like(weights, torch.inf), int(not factor_known)
    sizes = 1 / weights[weights > 1 / MOST]
    for number in sorted(set((sizes.round() if factor_known else sizes).tolist())):
        times = (weights * number).round()
        missed = (weights * number / times - 1).abs()
        fits = (times >= 1) & (missed <= off) & (number * off < BETWEEN)
        if int(fits.sum()) > most:
            best, most = missed.where(times >= 1, torch.inf).masked_fill(fits, 0.0), int(fits.sum())
    return best
