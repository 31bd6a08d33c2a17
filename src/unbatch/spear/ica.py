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

BLANK, SINGULAR = 1e-9, 1e-12
"""Shares of the longest view, and of the largest squared singular value, below which all is rounding. Chosen."""


def guesses(
    views: Float[Tensor, "b N"],
    generator: Generator,
    contrast: float,
    steps: int = 100,
    *,
    even: bool = True,
    clock: Clock = UNLIMITED,
) -> Float[Tensor, "b b"]:
    """Rows p, up to scale and sign, whose features p @ views look like those of single inputs.

    Args:
        views: (b, N) features of mixtures.
        generator: of the starting point.
        contrast: softness of the absolute value in FastICA.
        steps: iterations at most.
        even: whether features count alike however strong they are: better for many samples, worse for few.
        clock: when to give up.
    """
    views = torch.ldexp(views, -torch.frexp(views.abs().max()).exponent)  # the squares of what taken-out samples leave may vanish
    length = views.norm(dim=0)
    kept = length > BLANK * length.max()
    if not bool(kept.any()):  # nothing tells the inputs apart
        return torch.eye(len(views), dtype=views.dtype, device=views.device)
    views = views[:, kept] / length[kept] if even else views
    squares, vectors = torch.linalg.eigh(views @ views.T / views.shape[1])
    whitening = (vectors / squares.clamp_min(SINGULAR * float(squares[-1])).sqrt()) @ vectors.T
    white = (whitening @ views).float()
    rows = fast_ica(white, generator, contrast, steps, clock=clock)
    rows = sparse_directions(white.T / white.shape[1] ** 0.5, rows, torch.ones((1, 1), device=white.device), steps=40, clock=clock)
    return rows.to(views.dtype) @ whitening
