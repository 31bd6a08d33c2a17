"""Mean squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unbatch.contracts import Metric
from unbatch.metrics._pairs import checked
from unbatch.schema import Kind, Schema

__all__ = ["Mse"]


@dataclass(frozen=True)
class Mse(Metric):
    """Mean of the squared differences, in raw units squared.

    Example:
        >>> import torch
        >>> Mse()(torch.zeros(1, 4), torch.full((1, 4), 0.5), data_range=1.0).tolist()
        [0.25]
    """

    higher_is_better: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset(("image", "vector"))
    title: ClassVar[str] = "MSE"
    rank: ClassVar[int] = 3

    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """None: defined for all samples."""
        return None

    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """See ``Metric``."""
        left, right = checked(truth, guess, data_range)
        return (left - right).square().flatten(1).mean(1)
