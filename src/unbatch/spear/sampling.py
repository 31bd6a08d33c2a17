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

from unbatch.linalg.complement import complement
from unbatch.spear.layer import Layer
from unbatch.spear.rounding import null_of_masks
from unbatch.spear.selection import one_a_pattern

__all__ = ["draw_rows", "expected_subsets", "least_zeros", "null_directions", "sampled_directions"]

LOOSE = 1e-3
"""What counts as zero of null vectors in float32, which are refined later. Chosen."""


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


def expected_subsets(batch: int) -> float:
    """How many subsets it takes on average to hit all samples, where every neuron is off for half of them: 2^(b−1) H_b.

    Example:
        >>> round(expected_subsets(20))
        1886252
    """
    return float(2.0 ** (batch - 1) * sum(1 / k for k in range(1, batch + 1)))


def draw_rows(height: int, count: int, size: int, generator: Generator) -> Int64[Tensor, "count size"]:
    """``count`` random subsets of ``size`` different rows."""
    keys = torch.rand((count, height), generator=generator, device=generator.device)
    return keys.topk(size, dim=1, sorted=False).indices


def null_directions(left: Float[Tensor, "m b"], rows: Int64[Tensor, "k size"]) -> Float[Tensor, "k b"]:
    """For every subset of b−1 rows the unit vector q with left[rows] q = 0, by a batched QR.

    Example:
        >>> left = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> null_directions(left, torch.tensor([[0]])).abs()
        tensor([[0., 1.]], dtype=torch.float64)
    """
    return complement(left[rows])[..., 0]


def sampled_directions(
    layer: Layer, count: int, least: int, generator: Generator, precision: torch.dtype = torch.float64
) -> tuple[Float[Tensor, "k b"], Bool[Tensor, "k m"]]:
    """Exact directions from ``count`` random subsets of b−1 rows, and their zero patterns (k, m).

    A hit is refined on its ``least`` smallest rows, which true zeros fill, and then on all its zeros: an entry that is small by
    chance is larger than those, and rounding averages out.

    Args:
        layer: the layer.
        count: subsets to draw.
        least: zeros that make a hit, see ``least_zeros``.
        generator: of the subsets.
        precision: of the null vectors; refinement is in float64.
    """
    rows = draw_rows(len(layer.left), count, layer.batch - 1, generator)
    directions = null_directions(layer.left.to(precision), rows)
    size = (directions @ layer.left.to(precision).T).abs()
    loose = layer.tolerance if precision == torch.float64 else max(layer.tolerance, LOOSE)
    hits = ((size < loose * size.amax(dim=1, keepdim=True)).sum(dim=1) >= least).nonzero()[:, 0]
    smallest = torch.zeros((len(hits), len(layer.left)), dtype=torch.bool, device=hits.device)
    smallest.scatter_(1, size[hits].topk(least, dim=1, largest=False).indices, value=True)
    sure = null_of_masks(layer.left, smallest)
    exact = null_of_masks(layer.left, layer.off(sure))
    off = layer.off(exact)
    kept = off.sum(dim=1) >= least
    return one_a_pattern(exact[kept], off[kept])
