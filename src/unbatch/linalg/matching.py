"""Which reconstruction belongs to which true sample: the assignment one to one with the least total cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unbatch.errors import Misuse

__all__ = ["TOLERANCE", "match", "match_rows", "match_tokens", "wrong_cells"]

LARGEST = 1e300
"""Squared distances are cut here, so that a sample that ran away is a bad partner, not a forbidden one. Derived: the largest float64 is
1e308."""

TOLERANCE = 0.319
"""How far a number may be from the true one and still count as right, in standard deviations of its column: TabLeak's. So near to its mean
lies a quarter of a normal distribution. Published."""


def match(truth: Float[Tensor, "a ..."], guess: Float[Tensor, "k ..."]) -> tuple[int, ...]:
    """Assign reconstructions to true samples so that the sum of squared distances is least.

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
    left, right = _comparable(truth, guess)
    if not len(left) or not len(right):
        return (-1,) * len(left)
    return _assigned(torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square().clamp(max=LARGEST))


def match_rows(
    truth: Float[Tensor, "a f"],
    guess: Float[Tensor, "k g"],
    discrete: Sequence[bool],
    scales: Sequence[float],
    tolerance: float = TOLERANCE,
) -> tuple[int, ...]:
    """Assign reconstructed rows of a table to true ones so that the number of wrong cells is least.

    That is the cost of Vero et al., "TabLeak: Tabular Data Leakage in Federated Learning", ICML 2023: see ``wrong_cells``. Among
    assignments with equally many wrong cells, that with the least errors of the continuous cells is taken, each in units of its column's
    scale and at most 1: TabLeak leaves open which of two twins within the tolerance is the exact one.

    Args:
        truth: (a, f) cells.
        guess: (k, f) cells.
        discrete: for every column, whether its cells are levels.
        scales: for every column, what an error is measured by.
        tolerance: see ``wrong_cells``.

    Returns:
        as ``match``.

    Raises:
        Misuse: the rows differ in length or are not finite.

    Example:
        >>> match_rows(torch.tensor([[1.0, 30.0], [0.0, 50.0]]), torch.tensor([[0.0, 31.0], [1.0, 30.5]]), (True, False), (1.0, 9.0))
        (1, 0)
    """
    left, right = _comparable(truth, guess)
    if not len(left) or not len(right):
        return (-1,) * len(left)
    wrong = wrong_cells(left[:, None], right[None], discrete, scales, tolerance)
    numbers = ~torch.tensor(discrete, dtype=torch.bool)
    errors = ((left[:, None] - right[None]).abs() / torch.tensor(scales, dtype=torch.float64)).clamp(max=1)[..., numbers]
    # All errors together weigh less than one wrong cell.
    light = 0.5 / (1 + min(len(left), len(right)) * left.shape[1])
    return _assigned(wrong.sum(dim=-1).double() + light * errors.sum(dim=-1))


def match_tokens(truth: Tensor, guess: Tensor) -> tuple[int, ...]:
    """Assign reconstructed token sequences to true ones so that the number of wrong places is least.

    Args:
        truth: (a, length) whole numbers.
        guess: (k, length).

    Returns:
        as ``match``.

    Example:
        >>> match_tokens(torch.tensor([[5, 6, 7], [1, 2, 3]]), torch.tensor([[1, 2, 9], [5, 6, 7]]))
        (1, 0)
    """
    left, right = _comparable(truth, guess)
    return _assigned((left[:, None] != right[None]).sum(dim=-1).double()) if len(right) else (-1,) * len(left)


def wrong_cells(
    truth: Float[Tensor, "*rows f"],
    guess: Float[Tensor, "*others f"],
    discrete: Sequence[bool],
    scales: Sequence[float],
    tolerance: float = TOLERANCE,
) -> Bool[Tensor, "*both f"]:
    """Which cells are wrong: a level that is another one, a number that is more than ``tolerance`` scales away.

    Args:
        truth: (..., f) cells.
        guess: (..., f) cells; the two are broadcast.
        discrete: for every column, whether its cells are levels.
        scales: for every column, what an error is measured by; that of a discrete one means nothing.
        tolerance: largest error of a number that counts as right, in scales.

    Example:
        >>> wrong_cells(torch.tensor([1.0, 30.0]), torch.tensor([0.0, 31.0]), (True, False), (1.0, 9.0), tolerance=0.3).tolist()
        [True, False]
    """
    fixed = torch.tensor(discrete, dtype=torch.bool)
    allowed = torch.where(fixed, 0.0, tolerance * torch.tensor(scales, dtype=torch.float64))
    return (truth - guess).abs() > allowed


def _comparable(truth: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Both flat, in float64 on the CPU."""
    if truth.shape[1:] != guess.shape[1:]:
        raise Misuse(f"reconstructions of shape {tuple(truth.shape[1:])}", str(tuple(guess.shape[1:])), "compare samples of one kind")
    # Not flatten: of no sample at all it cannot tell the length.
    left, right = (tensor.detach().cpu().double().reshape(len(tensor), truth.shape[1:].numel()) for tensor in (truth, guess))
    if not bool(left.isfinite().all() & right.isfinite().all()):
        raise Misuse("finite samples", "NaN or infinity", "leave out samples that were not reconstructed")
    return left, right


def _assigned(costs: Tensor) -> tuple[int, ...]:
    """(a, k) costs -> for every row its column, or -1."""
    partner = dict(zip(*(index.tolist() for index in linear_sum_assignment(costs.numpy())), strict=True))
    return tuple(partner.get(index, -1) for index in range(len(costs)))
