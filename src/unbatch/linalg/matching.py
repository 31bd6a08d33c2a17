"""Which reconstruction belongs to which true sample: the assignment with the least total squared error."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unbatch.errors import Misuse

__all__ = ["match"]

LARGEST = 1e300
"""Squared distances are cut here, so that a sample that ran away is a bad partner, not a forbidden one."""


def match(truth: Float[Tensor, "a ..."], guess: Float[Tensor, "k ..."]) -> tuple[int, ...]:
    """Assign reconstructions to true samples one to one, so that the sum of squared distances is least.

    Distances are computed pixel by pixel, not from inner products: those cancel where a reconstruction is exact.

    Args:
        truth: (a, *shape).
        guess: (k, *shape); k may be below or above a.

    Returns:
        for every true sample the index of its reconstruction, -1 where there is none; min(a, k) of them are assigned.

    Raises:
        Misuse: the samples differ in shape or are not finite.

    Example:
        >>> match(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[1.1], [0.2]]))
        (1, 0, -1)
    """
    if truth.shape[1:] != guess.shape[1:]:
        raise Misuse(f"reconstructions of shape {tuple(truth.shape[1:])}", str(tuple(guess.shape[1:])), "compare samples of one kind")
    if len(truth) == 0 or len(guess) == 0:
        return (-1,) * len(truth)
    left, right = (tensor.detach().cpu().double().flatten(1) for tensor in (truth, guess))
    if not bool(left.isfinite().all() & right.isfinite().all()):
        raise Misuse("finite samples", "NaN or infinity", "leave out samples that were not reconstructed")
    distances = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square().clamp(max=LARGEST)
    partner = dict(zip(*(index.tolist() for index in linear_sum_assignment(distances.numpy())), strict=True))
    return tuple(partner.get(index, -1) for index in range(len(truth)))
