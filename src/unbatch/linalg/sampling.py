"""Sparse directions by sampling subsets of rows: the search of SPEAR as published.

| paper | here        | meaning                                                        |
|-------|-------------|----------------------------------------------------------------|
| L     | left        | (m, b) left factor of the gradient                             |
| L_A   | left[rows]  | (b−1, b) rows A on which one sample is hoped to be switched off |
| q     | directions  | (k, b) null vectors of L_A, unit length                        |
| τ·m   | least_zeros | how many zeros of L q make q a candidate                       |
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import binom
from torch import Generator, Tensor

__all__ = ["draw_rows", "least_zeros", "null_directions", "zeros"]


def least_zeros(neurons: int, batch: int, false_rejection: float, off: float = 0.5) -> int:
    """How many zeros a direction must leave, so that a true one is rejected with probability ``false_rejection`` at most.

    Args:
        neurons: m, of those that fire for any sample.
        batch: b; a wrong direction leaves about b−1 zeros, so the threshold never falls to that.
        false_rejection: probability that a true column is missed.
        off: probability that a neuron is off for a sample.

    Example:
        >>> least_zeros(200, 20, 1e-5), least_zeros(1000, 20, 1e-5)
        (70, 433)
    """
    return max(int(binom.ppf(false_rejection, neurons, off)), batch + 2)


def draw_rows(live: Int64[Tensor, " rows"], count: int, size: int, generator: Generator) -> Int64[Tensor, "count size"]:
    """``count`` random subsets of ``size`` different rows among the live ones."""
    keys = torch.rand((count, len(live)), generator=generator, device=live.device)
    return live[keys.topk(size, dim=1, sorted=False).indices]


def null_directions(left: Float[Tensor, "m b"], rows: Int64[Tensor, "k size"]) -> Float[Tensor, "k b"]:
    """For every subset of b−1 rows the unit vector q with left[rows] q = 0, by a batched QR.

    Example:
        >>> left = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> null_directions(left, torch.tensor([[0]])).abs()
        tensor([[0., 1.]], dtype=torch.float64)
    """
    basis, _ = torch.linalg.qr(left[rows].mT, mode="complete")
    last: Tensor = basis[..., -1].contiguous()
    return last


def zeros(left: Float[Tensor, "m b"], directions: Float[Tensor, "k b"], tolerance: float) -> Bool[Tensor, "k m"]:
    """Where left @ q is zero: below ``tolerance`` times its largest entry."""
    columns = (directions @ left.T).abs()
    return columns <= tolerance * columns.amax(dim=1, keepdim=True)
