"""Clipping of a client's update to a largest norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Generator, Tensor

from unbatch.contracts import Defense, Stage
from unbatch.errors import Misuse

__all__ = ["Clipping"]


@dataclass(frozen=True)
class Clipping(Defense):
    """The update, scaled down to an L2 norm over all tensors together if it is longer.

    The direction stays as it is; the server does not know by what it was scaled.

    Attributes:
        norm: the largest L2 norm that is let through; inf leaves every update as it is.

    Example:
        >>> import torch
        >>> Clipping(1.0)({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}, torch.Generator())
        {'w': tensor([0.6000]), 'b': tensor([0.8000])}
    """

    stage: ClassVar[Stage] = Stage.CLIENT
    rescales: ClassVar[bool] = True

    norm: float = field(default=1.0, metadata={"infinite": True})

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if not self.norm > 0:
            raise Misuse("a norm above zero", f"{self.norm}", "inf clips nothing")

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """See ``Defense``."""
        length = sum(float(tensor.double().square().sum()) for tensor in gradients.values()) ** 0.5
        factor = min(1.0, self.norm / length) if length else 1.0
        return {name: factor * tensor for name, tensor in gradients.items()}
