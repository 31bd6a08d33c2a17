"""Guesses of samples that are still missing, in the small space that the known ones leave to them: half of them like these, half like none.

The samples of a batch are of one kind. Those that are known say where the others lie, about their mean, and how far apart: of a batch of
256 pictures of CIFAR-10, of which seven are missing, one that is guessed like the known ones has the mask of a missing one but for 8 % of
the neurons, one that is guessed blindly but for 45 %.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.linalg.complement import complement

__all__ = ["guessed"]


def guessed(
    inputs: Float[Tensor, "k r"],
    sums: Float[Tensor, " k"],
    seen: Float[Tensor, "m r"],
    known: Float[Tensor, "f r"],
    count: int,
    generator: Generator,
) -> Float[Tensor, "n r"]:
    """Random samples p = c · inputs with c · sums = 1.

    Args:
        inputs: (k, r) rows that span the space.
        sums: (k,) what these are of the gradient of the bias.
        seen: (m, r) the pre-activations of a sample p are ``seen @ p``, and a bias.
        known: (f, r) samples; half of the guesses are like these, if there are two or more.
        count: n.
        generator: of the guesses.
    """
    like = count // 2 if len(known) > 1 and len(inputs) > 1 else 0
    found = _anywhere(inputs, sums, seen, count - like, generator)
    return torch.cat([found, _alike(inputs, sums, known, like, generator)]) if like else found


def _anywhere(inputs: Tensor, sums: Tensor, seen: Tensor, count: int, generator: Generator) -> Float[Tensor, "n r"]:
    """Their pre-activations as far in one direction as in any other."""
    _, change = torch.linalg.qr((inputs @ seen.T).T)
    noise = torch.randn((len(inputs), count), generator=generator, dtype=inputs.dtype, device=inputs.device)
    shares = torch.linalg.solve_triangular(change, noise, upper=True).T
    return shares / (shares @ sums)[:, None] @ inputs


def _alike(inputs: Tensor, sums: Tensor, known: Tensor, count: int, generator: Generator) -> Float[Tensor, "n r"]:
    """As a normal distribution has them that has the mean and the covariance of the known ones.

    Fewer samples than numbers say nothing of the directions in which none of them lies. There the others are taken to be as far from the
    known as each of these is from the rest.
    """
    mean, each = known.mean(dim=0), torch.eye(known.shape[1], dtype=known.dtype, device=known.device)
    apart = 1 / torch.linalg.pinv(known @ known.T, hermitian=True).diagonal()
    spread = (known - mean).T @ (known - mean) / len(known) + apart.median() * each
    start = sums / sums.square().sum() @ inputs
    ways = complement(sums[None]).T @ inputs
    weighed = torch.linalg.solve(spread, ways.T)  # p = start + y · ways
    triangle = torch.linalg.cholesky(ways @ weighed)
    middle = torch.cholesky_solve((weighed.T @ (mean - start))[:, None], triangle)
    noise = torch.randn((len(ways), count), generator=generator, dtype=inputs.dtype, device=inputs.device)
    return start + (middle + torch.linalg.solve_triangular(triangle.T, noise, upper=True)).T @ ways
