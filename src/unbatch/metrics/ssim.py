"""Structural similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from unbatch.contracts import Metric
from unbatch.metrics._pairs import checked, not_pictures
from unbatch.schema import Kind, Schema

__all__ = ["Ssim"]

WINDOW = 11
"""Pixels a side of the window of σ = 1.5: skimage's reaches round(3.5 σ) = 5 to each side."""


@dataclass(frozen=True)
class Ssim(Metric):
    """SSIM of Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", mean over pixels and channels.

    Their Gaussian window of 11 x 11 pixels with σ = 1.5; for pictures smaller than that, 7 x 7 with σ = 0.75. From -1 to 1.

    Example:
        >>> picture = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        >>> round(Ssim()(picture, picture, data_range=1.0).item(), 9)
        1.0
        >>> Ssim().undefined((1, 6, 6))
        'pictures of 6 x 6 pixels are below 7 x 7'
    """

    higher_is_better: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind]] = frozenset(("image", "vector"))
    title: ClassVar[str] = "SSIM"
    rank: ClassVar[int] = 2

    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """The window has to fit."""
        return not_pictures(shape, smallest=7)

    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """See ``Metric``."""
        left, right = checked(truth, guess, data_range)
        if self.undefined(tuple(truth.shape[1:])) is not None:
            return left.new_full((len(left),), torch.nan)
        sigma = 1.5 if min(truth.shape[2:]) >= WINDOW else 0.75
        scores = [
            structural_similarity(  # type: ignore[no-untyped-call]
                one, other, data_range=data_range, channel_axis=0, gaussian_weights=True, sigma=sigma, use_sample_covariance=False
            )
            for one, other in zip(left.numpy(), right.numpy(), strict=True)
        ]
        return left.new_tensor(scores)
