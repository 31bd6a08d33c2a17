"""From tensors to small PNG pictures that live inside a page."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["Scale", "amplification", "data_uri", "side"]

LARGEST = 224
"""Longest side of a picture in a report, in pixels."""

BEYOND = 0.01
"""How far beyond 0 to 1 values may reach and still be shown as they are: 2.5 of 256 levels, which nobody sees."""

SEEN = 0.1
"""A typical difference, where 1 is white, that is seen without being amplified: 26 of 256 levels."""

_BUDGET = 2_200_000
"""Pixels in all pictures of a report: at most 3 bytes each, a third more in base64, stays below 10 MB."""


@dataclass(frozen=True)
class Scale:
    """Which values are black and white.

    Attributes:
        low: shown black.
        high: shown white.
    """

    low: float = 0.0
    high: float = 1.0

    @staticmethod
    def fit(values: Tensor, *, raw: bool) -> Scale:
        """0 to 1 where the values are known to be in raw units or look as if; else their own range, less the outermost 0.5 %.

        Args:
            values: what will be shown, any shape.
            raw: whether the values are known to span 0 to 1.

        Example:
            >>> Scale.fit(torch.tensor([0.1, 0.9]), raw=False)
            Scale(low=0.0, high=1.0)
            >>> Scale.fit(torch.tensor([-2.0, 2.0]), raw=False)
            Scale(low=-2.0, high=2.0)
        """
        array = values.detach().double().nan_to_num(0.0, 0.0, 0.0).numpy()
        if raw or not array.size or (array.min() >= -BEYOND and array.max() <= 1 + BEYOND):
            return Scale()
        low, high = np.percentile(array, [0.5, 99.5], method="nearest")
        return Scale(float(low), float(high)) if high > low else Scale(float(low), float(low) + 1.0)

    @property
    def stretched(self) -> bool:
        """Whether it is not simply 0 to 1."""
        return (self.low, self.high) != (0.0, 1.0)

    def __call__(self, picture: Tensor) -> Tensor:
        """Map to 0 … 1, clamped; NaN becomes black."""
        return ((picture.double() - self.low) / (self.high - self.low)).nan_to_num(0.0).clamp(0, 1)


def side(pictures: int) -> int:
    """The longest side that so many pictures may have for their page to stay small.

    Example:
        >>> side(24), side(3 * 128)
        (224, 75)
    """
    return max(40, min(LARGEST, math.isqrt(_BUDGET // max(1, pictures))))


def amplification(differences: Tensor) -> int:
    """A power of ten, at most 1000, that makes the typical picture's difference visible.

    Args:
        differences: (k, ...) absolute, where 1 is white.

    Example:
        >>> amplification(torch.full((3, 4), 1e-9)), amplification(torch.full((3, 4), 0.3)), amplification(torch.full((3, 4), 0.02))
        (1000, 1, 10)
    """
    if not differences.numel():
        return 1
    typical = float(differences.flatten(1).nan_to_num(1.0).square().mean(dim=1).sqrt().median())
    return next((factor for factor in (1, 10, 100) if typical * factor >= SEEN), 1000)


def data_uri(picture: Tensor, longest: int = LARGEST) -> str:
    """A PNG as a ``data:`` URI.

    Args:
        picture: (1 or 3, H, W) from 0 to 1.
        longest: larger pictures are scaled down to this side, smaller ones are left alone.

    Example:
        >>> data_uri(torch.zeros(3, 2, 2))[:22]
        'data:image/png;base64,'
    """
    pixels: NDArray[np.uint8] = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
