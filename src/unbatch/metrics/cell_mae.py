"""How far off the numbers in a row are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unbatch.contracts import Metric
from unbatch.metrics._pairs import checked_cells
from unbatch.schema import Kind, Schema

__all__ = ["CellMae"]


@dataclass(frozen=True)
class CellMae(Metric):
    """The mean absolute error of a row's continuous cells, each in the unit of its column: dollars and years are added up as they are.

    ``by_column`` tells them apart.

    Example:
        >>> from unbatch.schema import Categorical, Continuous
        >>> schema = Schema("table", columns=(Continuous("age"), Continuous("hours"), Categorical("sex", ("Female", "Male"))))
        >>> truth, guess = torch.tensor([[39.0, 40.0, 1.0]]), torch.tensor([[41.0, 40.0, 0.0]])
        >>> CellMae()(truth, guess, 1.0, schema).tolist(), CellMae().by_column(truth, guess, schema)
        ([1.0], {'age': 2.0, 'hours': 0.0})
    """

    higher_is_better: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset(("table",))
    title: ClassVar[str] = "MAE of numbers"
    rank: ClassVar[int] = 2

    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """A table of levels alone has no numbers."""
        return "no column is continuous" if schema is not None and all(schema.discrete) else None

    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """See ``Metric``."""
        return self._errors(truth, guess, schema).mean(dim=1)

    def by_column(self, truth: Tensor, guess: Tensor, schema: Schema) -> dict[str, float]:
        """Name of a continuous column -> its mean absolute error over the rows, in its unit; the cells are as in ``__call__``."""
        names = [column.name for column, fixed in zip(schema.columns, schema.discrete, strict=True) if not fixed]
        return dict(zip(names, self._errors(truth, guess, schema).mean(dim=0).tolist(), strict=True))

    def _errors(self, truth: Tensor, guess: Tensor, schema: Schema | None) -> Tensor:
        left, right, table = checked_cells(truth, guess, schema)
        return (left - right).abs()[:, ~torch.tensor(table.discrete)]
