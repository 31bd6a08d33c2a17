"""Whether a row, or a text, came back whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unbatch.contracts import Metric
from unbatch.linalg.matching import wrong_cells
from unbatch.metrics._pairs import checked, checked_cells
from unbatch.schema import Kind, Schema

__all__ = ["ExactRow"]

SAME = 1e-5
"""A number whose column is not rounded is the same if it is off by less than this share of its standard deviation: 100 dB."""


@dataclass(frozen=True)
class ExactRow(Metric):
    """1 where every cell of a row, or every token of a text, is the client's own, else 0. Its mean is the rate of exact matches.

    Example:
        >>> import torch
        >>> ExactRow()(torch.tensor([[5, 6], [7, 8]]), torch.tensor([[5, 6], [7, 9]]), 1.0, Schema("tokens", vocabulary=10)).tolist()
        [1.0, 0.0]
    """

    higher_is_better: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind]] = frozenset(("table", "tokens"))
    title: ClassVar[str] = "Exact"
    rank: ClassVar[int] = 3

    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """None: defined for all tables and texts."""
        return None

    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """See ``Metric``."""
        if schema is not None and schema.kind == "tokens":
            left, right = checked(truth, guess, data_range=1.0)
            return (left == right).all(dim=1).double()
        left, right, table = checked_cells(truth, guess, schema)
        # A rounded number is one of the column's values: the next one is a whole step away, however small beside the deviation.
        return (~wrong_cells(left, right, table.discrete, table.grains(SAME), tolerance=1.0)).all(dim=1).double()
