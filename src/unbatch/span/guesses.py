"""Where the search starts: samples p that independent component analysis unmixes from the rows of R, or random ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.clock import UNLIMITED, Clock
from unbatch.linalg.ica import views_of
from unbatch.spear.ica import guesses

__all__ = ["random_starts", "scaled", "unmixed"]

FAR = 4
"""An input this many times as long as the typical one is none: its scale is then taken from the others. Chosen. Swept."""

SPREAD = 0.5
"""Standard deviation of the logarithm of how far a random start is from the smallest input: real ones differ by half of their length.
Chosen. Swept."""

DEPENDENT = 1e-14
"""Squares of singular values of inputs that depend on each other are rounding below this share of the largest. Chosen."""


def unmixed(
    right: Float[Tensor, "r n"],
    shape: tuple[int, ...],
    generator: Generator,
    contrast: float = 0.1,
    *,
    even: bool = True,
    clock: Clock = UNLIMITED,
) -> Float[Tensor, "r r"]:
    """Rows p, up to scale and sign, for which Rᵀ p looks like a single input.

    Args:
        right: R.
        shape: of one input.
        generator: of features and starting point.
        contrast: see ``linalg.ica.fast_ica``.
        even: see ``spear.ica.guesses``.
        clock: when to give up.
    """
    return guesses(views_of(right, shape, generator), generator, contrast, even=even, clock=clock)


def scaled(rows: Float[Tensor, "k r"], sums: Float[Tensor, " r"], right: Float[Tensor, "r n"]) -> Float[Tensor, "k r"]:
    """The rows with p · sums = 1, the sign included. Where that makes an input far larger than the others, its size is made theirs.

    Without sums (all 0) nothing tells the scale, and inputs are made of length 1.
    """
    if not bool(sums.any()):
        return rows / (rows @ right).norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    told = rows @ sums
    points = rows / told.where(told != 0, torch.ones_like(told))[:, None]
    gram = right @ right.T
    size = (points @ gram * points).sum(dim=1).clamp_min(0).sqrt()
    usual = size.median()
    large = size > FAR * usual
    if bool(large.any()):
        shrunk = points * (usual / size)[:, None]
        nearest = torch.linalg.lstsq(gram, sums[:, None]).solution[:, 0]  # the smallest input is gram⁻¹ sums
        missing = (1 - shrunk @ sums)[:, None] * nearest / (nearest @ sums)
        points = torch.where(large[:, None], shrunk + missing, points)
    return points


def random_starts(count: int, sums: Float[Tensor, " r"], right: Float[Tensor, "r n"], generator: Generator) -> Float[Tensor, "k r"]:
    """Samples with p · sums = 1, about as they were if all inputs were orthogonal and of one length; of length 1 without sums (all 0)."""
    squares, vectors = torch.linalg.eigh(right @ right.T)
    root = squares.clamp_min(DEPENDENT * float(squares[-1])).sqrt()
    back = (vectors / root) @ vectors.T
    if not bool(sums.any()):
        drawn = torch.randn((count, len(sums)), generator=generator, device=right.device, dtype=right.dtype)
        return scaled(drawn @ back, sums, right)
    toward = back @ sums
    rank, length = len(sums), toward.norm()
    if rank == 1:
        return (back @ (toward / length.square()))[None].expand(count, 1).clone()
    sets = -(-count // rank)
    frames = torch.linalg.qr(torch.randn((sets, rank, rank), generator=generator, device=right.device, dtype=right.dtype))[0]
    along = toward / length
    across = frames.reshape(-1, rank)[:count]
    across = F.normalize(across - (across @ along)[:, None] * along, dim=1)
    # Inputs are of one length only roughly, and with few left there are few directions to go but many distances.
    far = torch.exp(SPREAD * torch.randn((count, 1), generator=generator, device=right.device, dtype=right.dtype))
    return (along + far * (rank - 1) ** 0.5 * across) @ back / length
