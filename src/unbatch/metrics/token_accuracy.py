"""The share of a text's tokens that are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unbatch.contracts import Metric
from unbatch.metrics._pairs import checked
from unbatch.schema import Kind, Schema

__all__ = ["TokenAccuracy"]


@dataclass(frozen=True)
class TokenAccuracy(Metric):
    """The share of places whose token is the client's own.

    Example:
        >>> import torch
        >>> TokenAccuracy()(torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6, 7, 9]]), 1.0).tolist()
        [0.75]
    """

    higher_is_better: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind]] = frozenset(("tokens",))
    title: ClassVar[str] = "Tokens right"
    rank: ClassVar[int] = 1

    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """None: defined for all texts."""
        return None

    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """See ``Metric``."""
        left, right = checked(truth, guess, data_range=1.0)
        return (left == right).double().mean(dim=1)
