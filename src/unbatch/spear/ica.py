"""First guesses of the samples from the inputs alone: the right factor is an unknown mixture of b pictures.

The rows of the right factor are linear combinations of the inputs, so independent component analysis (``linalg.ica``) finds the inputs
roughly; a few steps towards sparse features make these guesses better.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.linalg.ica import fast_ica
from unbatch.spear.dictionary_learning import sparse_directions

__all__ = ["guesses"]

NUMBERS = 2_700_000
"""Of features, at most, for rough guesses. Measured: of 600 pictures 128 guesses led to as many samples by 4,000 features as by 9,000; of
300, where this is 9,000, 4,500 led to four fifths as many."""

SPARSE, SPARSE_ROUGHLY = 40, 10
"""Steps towards sparse features. Chosen; the second measured: of 300 pictures it leads to as many samples as the first, none to a tenth
fewer."""

BLANK, SINGULAR = 1e-9, 1e-12
"""Shares of the longest view, and of the largest squared singular value, below which all is rounding. Chosen."""


def guesses(
    views: Float[Tensor, "b N"],
    generator: Generator,
    contrast: float,
    steps: int = 100,
    *,
    even: bool = True,
    rough: bool = False,
    clock: Clock = UNLIMITED,
) -> Float[Tensor, "b b"]:
    """Rows p, up to scale and sign, whose features p @ views look like those of single inputs.

    Args:
        views: (b, N) features of mixtures.
        generator: of the starting point.
        contrast: softness of the absolute value in FastICA.
        steps: iterations at most.
        even: whether features count alike however strong they are: better for many samples, worse for few.
        rough: whether fewer steps and features do, as for guesses that are led.
        clock: when to give up.
    """
    views = torch.ldexp(views, -torch.frexp(views.abs().max()).exponent)  # the squares of what taken-out samples leave may vanish
    if rough and views.numel() > NUMBERS:
        views = views[:, torch.randperm(views.shape[1], generator=generator, device=views.device)[: NUMBERS // len(views)]]
    length = views.norm(dim=0)
    kept = length > BLANK * length.max()
    if not bool(kept.any()):  # nothing tells the inputs apart
        return torch.eye(len(views), dtype=views.dtype, device=views.device)
    views = views[:, kept] / length[kept] if even else views
    squares, vectors = torch.linalg.eigh(views @ views.T / views.shape[1])
    whitening = (vectors / squares.clamp_min(SINGULAR * float(squares[-1])).sqrt()) @ vectors.T
    white = (whitening @ views).float()
    rows = fast_ica(white, generator, contrast, steps, clock=clock)
    rows = sparse_directions(
        white.T / white.shape[1] ** 0.5,
        rows,
        torch.ones((1, 1), device=white.device),
        steps=SPARSE_ROUGHLY if rough else SPARSE,
        clock=clock,
    )
    return rows.to(views.dtype) @ whitening
