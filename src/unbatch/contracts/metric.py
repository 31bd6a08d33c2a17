"""What a metric must be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unbatch.contracts.plugin import Plugin
from unbatch.schema import Kind
from unbatch.types import Schema

__all__ = ["Metric"]


@dataclass(frozen=True)
class Metric(Plugin, ABC):
    """Compares samples pair by pair, as people read them: see ``Schema.decode``."""

    higher_is_better: ClassVar[bool]
    kinds: ClassVar[frozenset[Kind]]
    """The kinds of samples that it is meant for. On others it is neither computed nor mentioned."""
    title: ClassVar[str] = ""
    """How a report calls it; its name if empty."""
    unit: ClassVar[str] = ""
    rank: ClassVar[int] = 100
    """A report shows metrics of lower rank first."""

    @abstractmethod
    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """Why the metric has no value for samples of this shape, or None if it has."""

    @abstractmethod
    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """Compare.

        Args:
            truth: (n, *shape) in raw units that span ``data_range``; (n, f) cells of a table; (n, length) tokens.
            guess: the same.
            data_range: what raw values span; for cells and tokens it means nothing.
            schema: how to read them; needed for cells.

        Returns:
            (n,) float64; NaN where undefined.

        Raises:
            Misuse: truth and guess cannot be compared.
        """
