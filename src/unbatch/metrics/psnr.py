"""Peak signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unbatch.contracts import Metric
from unbatch.metrics._pairs import checked
from unbatch.schema import Kind, Schema

__all__ = ["Psnr"]


@dataclass(frozen=True)
class Psnr(Metric):
    """10 log10(data range² / mean squared error), in dB; infinite where truth and guess are equal to the last bit.

    Nothing is clamped: values outside of the data range count with all of their error.

    Example:
        >>> import torch
        >>> truth = torch.zeros(2, 4)
        >>> Psnr()(truth, truth + torch.tensor([[0.1], [0.0]], dtype=torch.float64), data_range=1.0).tolist()
        [20.0, inf]
    """

    higher_is_better: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind]] = frozenset(("image", "vector"))
    title: ClassVar[str] = "PSNR"
    rank: ClassVar[int] = 1
    unit: ClassVar[str] = "dB"

    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """None: defined for all samples."""
        return None

    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """See ``Metric``."""
        left, right = checked(truth, guess, data_range)
        return -10 * ((left - right) / data_range).square().flatten(1).mean(1).log10()
