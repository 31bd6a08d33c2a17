"""Independent component analysis: the rows of a right factor are unknown mixtures of b inputs, and this unmixes them roughly.

The observation behind the Cocktail Party Attack (Kariyappa et al., ICML 2023). Differences of neighboring pixels serve best: they are
nearly independent and far from Gaussian, those of colors and of differences most of all: of 250 CIFAR-10 pictures 155 are guessed with a
cosine above .95, of plain differences 12. FastICA is Hyvärinen's, with a smooth absolute value as contrast.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.clock import UNLIMITED, Clock

__all__ = ["fast_ica", "views_of"]


EACH, LEAST, MOST = 100, 1000, 9000
"""Features for each mixture, and of them at least and at most. Measured: at 20 and 60 mixtures of CIFAR-10 pictures 50 to 450 for each find
the same batches, and the time goes with their number."""


def views_of(right: Float[Tensor, "b n"], shape: tuple[int, ...], generator: Generator) -> Float[Tensor, "b N"]:
    """Linear features that tell inputs apart: differences of neighboring pixels of pictures, else the inputs less their mean.

    The differences across and down of brightness and of the colors, and of every channel the difference across of those down.

    Args:
        right: (b, n) mixtures of inputs.
        shape: of one input, (C, H, W) for pictures; larger ones than 64 pixels are averaged down.
        generator: picks features where there are too many.
    """
    if len(shape) == 3 and min(shape[1:]) > 1:
        pictures = right.reshape(-1, *shape)
        step = math.ceil(max(shape[1:]) / 64)
        if step > 1:
            pictures = F.avg_pool2d(pictures, step)
        kinds = [pictures.sum(dim=1, keepdim=True), pictures.diff(dim=1)]
        views = torch.cat(
            [
                pictures.diff(dim=3).diff(dim=2).flatten(1),
                *(kind.diff(dim=axis).flatten(1) for kind in kinds for axis in (3, 2)),
            ],
            dim=1,
        )
    else:
        views = right - right.mean(dim=1, keepdim=True)
    most = min(MOST, max(LEAST, EACH * len(right)))
    if views.shape[1] > most:
        views = views[:, torch.randperm(views.shape[1], generator=generator, device=views.device)[:most]]
    return views.contiguous()


def fast_ica(
    white: Float[Tensor, "b N"],
    generator: Generator,
    contrast: float = 0.1,
    steps: int = 100,
    moved: float = 1e-3,
    clock: Clock = UNLIMITED,
) -> Float[Tensor, "b b"]:
    """Symmetric FastICA with the contrast √(y² + ε): orthogonal rows that make rows @ white as sparse as can be.

    Args:
        white: (b, N) with white whiteᵀ = N·1.
        generator: of the starting point.
        contrast: ε.
        steps: iterations at most.
        moved: stop when no row turns by more than this (1 − cosine).
        clock: when to give up.
    """
    count = white.shape[1]
    rows = _nearest_orthogonal(torch.randn((len(white),) * 2, generator=generator, device=white.device, dtype=white.dtype))
    for _ in range(steps):
        clock.check()
        components = rows @ white
        inverse = components.square().add_(contrast).rsqrt_()
        pulled = components.mul_(inverse) @ white.T / count
        slope = contrast * inverse.pow_(3).mean(dim=1, keepdim=True)
        turned = _nearest_orthogonal(slope * rows - pulled)
        still = 1 - (turned * rows).sum(dim=1).abs().min()
        rows = turned
        if still < moved:
            break
    return rows


def _nearest_orthogonal(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix)
    return left @ right
