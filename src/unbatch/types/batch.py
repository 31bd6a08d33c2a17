"""The secret."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from unbatch.schema import Schema

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """The secret: ``inputs`` (b, *shape) as the network sees them, ``labels`` (b,) int64, and how to read them."""

    inputs: Tensor
    labels: Tensor
    schema: Schema = field(default_factory=Schema)

    def __len__(self) -> int:
        """How many samples."""
        return len(self.inputs)
