"""Whether counts come out whole so closely that nothing but the told batch explains it.

What is read off the last layer are real numbers ν that should be the counts. If the labels are not hard, if the loss weights its classes,
if the update has another scale or the batch another size, ν is a mixture of the counts with something else, and in general not whole: how
far each ν is from a whole number is then anything from 0 to 1/2, alike. So counts that are whole to within far less than chance prove
what was told together with themselves. Two things look whole without being it and are asked about by name: smoothed labels, which for
some strengths move all counts by whole numbers, and class weights, which leave absent classes at zero and make even batches of uneven ones.

| here       | meaning                                                                                                  |
|------------|----------------------------------------------------------------------------------------------------------|
| off        | ν less the nearest whole numbers                                                                         |
| deviation  | of ν, as the method expects it; it may be wrong by a factor, so several are tried                         |
| evidence   | log of how many times likelier ``off`` is by these deviations than by chance, the sum being whole anyway   |
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["confirms_size", "evidence", "expected_error"]

DECISIVE = math.log(100)
"""Of a hundred updates that are not what was told, at most one looks as whole."""

SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""By what the expected deviation may be wrong. Chosen."""

FINEST = 1e-3
"""Deviation of a count, in samples, below which none is believed. Chosen."""

OFF = 0.5
"""A count is rounded to zero, and not below, from minus this on; and no error as large leaves counts determined. Derived: where rounding
ends."""

SMOOTHEST = 0.25
"""Smoothing of labels that is asked about: it is 0.1 where it is used. Chosen above that."""

MISTAKEN = 0.01
"""Least error that is expected of a count: that counts are called determined wrongly is part of it. Chosen. Swept."""


def expected_error(counts: Float[Tensor, " c"], deviation: Float[Tensor, " c"], total: int, fitted: int = 0) -> float | None:
    """The error to expect of a count, in samples, if the counts are determined; None if they are not.

    Args:
        counts: (C,) ν, before rounding.
        deviation: (C,) of ν, in samples.
        total: the sum of the counts.
        fitted: numbers that were chosen so that the counts become whole, besides the sum.

    Example:
        >>> nearly = torch.tensor([3.004, 0.998, 0.001, 4.997, 0.0], dtype=torch.float64)
        >>> expected_error(nearly, torch.full_like(nearly, 0.005), 9)
        0.01
        >>> expected_error(nearly + 0.2 * (1.8 - nearly), torch.full_like(nearly, 0.005), 9) is None
        True
    """
    nearest = counts.round()
    if int(nearest.sum()) != total or float(nearest.min()) < 0:
        return None
    there = nearest >= 1
    sure = evidence(counts, deviation, fitted)
    if sure < DECISIVE or (int(there.sum()) > 1 and evidence(counts[there], deviation[there], fitted) < DECISIVE):
        return None
    if _even(nearest[there]) or sure - _smoothed(counts, deviation, fitted) < DECISIVE:
        return None
    # What was expected counts like two more counts beside those that are measured.
    free = max(0, len(counts) - 1 - fitted)
    mean = (free * (counts - nearest).square().mean() + 2 * deviation.square().mean()) / (free + 2)
    error = max(MISTAKEN, float(mean.sqrt()))
    return error if error < OFF else None


def confirms_size(counts: Float[Tensor, " c"], told: bool = False) -> bool:
    """Whether whole counts speak for their own sum: for a size that a rank shows and that may fall short, or be noise; or for a told one.

    Counts with a common divisor come out whole for other sizes as well, and those of one class alone for any: many samples of one class may
    leave what one does.

    Args:
        counts: (C,) before rounding.
        told: whether the size was told, so that one sample is believed to be one.

    Example:
        >>> [confirms_size(torch.tensor(counts).double()) for counts in ([3, 2], [4, 2], [11, 0], [1, 0, 0])]
        [True, False, False, False]
        >>> confirms_size(torch.tensor([1.0, 0.0, 0.0]), told=True)
        True
    """
    nearest = [int(count) for count in counts.round().tolist()]
    return math.gcd(*nearest) == 1 and (told or len(nearest) - nearest.count(0) > 1)


def evidence(counts: Float[Tensor, "*k c"], deviation: Float[Tensor, "*k c"], fitted: int = 0) -> float:
    """The log of how many times likelier it is that the counts are whole so closely if they are counts, than if they are any numbers.

    Args:
        counts: (C,), or (k, C) of which the best is taken.
        deviation: like ``counts``.
        fitted: as for ``expected_error``.
    """
    classes = counts.shape[-1]
    if classes < 2 + fitted:
        return 0.0
    off, scales = counts - counts.round(), counts.new_tensor(SCALES).view(-1, *[1] * counts.ndim)
    spread = (scales * deviation).clamp_min(FINEST)
    # A normal density on what is left of it between -1/2 and 1/2, where chance has the density 1.
    logs = -0.5 * (off / spread).square() - (spread * math.sqrt(2 * math.pi)).log() - torch.erf(0.5 / (spread * math.sqrt(2))).log()
    together = logs.sum(dim=-1) * (classes - 1 - fitted) / classes
    return float((torch.logsumexp(together, dim=0) - math.log(len(SCALES))).max())


def _even(counts: Tensor) -> bool:
    """Whether all classes that are there have as many samples, above one: weights of 1/n_j in the loss make any batch look so."""
    return len(counts) > 1 and float(counts.min()) == float(counts.max()) > 1


def _smoothed(counts: Float[Tensor, " c"], deviation: Float[Tensor, " c"], fitted: int) -> float:
    """The most evidence for other counts n with smoothing t, ν = (1 − t) n + t K/C: the furthest from K/C is 1, 2, ... samples further."""
    even = counts.sum() / len(counts)
    furthest = (counts - even).abs().max()
    more = torch.arange(1, int(SMOOTHEST / (1 - SMOOTHEST) * float(furthest)) + 2, dtype=counts.dtype, device=counts.device)
    smoothing = (more / (more + furthest))[:, None]
    hard = (counts - smoothing * even) / (1 - smoothing)
    likely = (smoothing[:, 0] <= SMOOTHEST) & (hard > -OFF).all(dim=1)
    if not bool(likely.any()):
        return -math.inf
    return evidence(hard[likely], (deviation / (1 - smoothing))[likely], fitted)
