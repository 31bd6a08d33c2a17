"""The share of a row's cells that are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unbatch.contracts import Metric
from unbatch.errors import Misuse
from unbatch.linalg.matching import TOLERANCE, wrong_cells
from unbatch.metrics._pairs import checked_cells
from unbatch.schema import Kind, Schema

__all__ = ["CellAccuracy"]


@dataclass(frozen=True)
class CellAccuracy(Metric):
    """The share of cells that are right, as in Vero et al., "TabLeak: Tabular Data Leakage in Federated Learning", ICML 2023.

    A level has to be the right one; a number may be off by a share of its column's standard deviation.

    Attributes:
        tolerance: that share. TabLeak's by default.

    Raises:
        Misuse: the tolerance is below zero.

    Example:
        >>> import torch
        >>> from unbatch.schema import Categorical, Continuous
        >>> schema = Schema("table", columns=(Continuous("age"), Categorical("sex", ("Female", "Male"))))
        >>> CellAccuracy()(torch.tensor([[39.0, 1.0]]), torch.tensor([[39.3, 0.0]]), 1.0, schema).tolist()
        [0.5]
    """

    tolerance: float = TOLERANCE
    higher_is_better: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind]] = frozenset(("table",))
    title: ClassVar[str] = "Cells right"
    rank: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse a tolerance that nothing meets."""
        if not self.tolerance >= 0:
            raise Misuse("a tolerance of zero or more", str(self.tolerance), "give a share of the standard deviation")

    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """None: defined for all tables."""
        return None

    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """See ``Metric``."""
        left, right, table = checked_cells(truth, guess, schema)
        return 1 - wrong_cells(left, right, table.discrete, table.scales, self.tolerance).double().mean(dim=1)
