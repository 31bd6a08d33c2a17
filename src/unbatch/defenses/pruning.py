"""Gradient pruning: only the largest numbers of an update are sent.

Aji, Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017; proposed against gradient inversion by Zhu, Liu, Han,
"Deep Leakage from Gradients", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from unbatch.contracts import Defense, Stage
from unbatch.errors import Misuse

__all__ = ["Pruning"]


@dataclass(frozen=True)
class Pruning(Defense):
    """A share of the numbers, those of the smallest magnitude, set to zero: the others are the top k.

    At least one number is left of what the smallest are sought in.

    Attributes:
        share: of the numbers that become zero, from 0 (none) to below 1. Zeros that are there already count.
        of: whether the smallest are sought in every ``tensor`` by itself or in the whole ``update``.

    Example:
        >>> Pruning(0.5)({"w": torch.tensor([1.0, -3.0, 2.0, 0.5])}, torch.Generator())
        {'w': tensor([ 0., -3.,  2.,  0.])}
    """

    stage: ClassVar[Stage] = Stage.CLIENT

    share: float = 0.9
    of: Literal["tensor", "update"] = "tensor"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if not 0 <= self.share < 1:
            raise Misuse("a share from 0 to below 1", f"{self.share}", "0.9 keeps a tenth of the numbers")
        if self.of not in ("tensor", "update"):
            raise Misuse("tensor or update", repr(self.of), "use one of them")

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """See ``Defense``."""
        magnitudes = [tensor.abs().flatten() for tensor in gradients.values()]
        if self.of == "tensor":
            kept = [self._kept(part) for part in magnitudes]
        else:
            together = self._kept(torch.cat([part.double() for part in magnitudes]))
            kept = list(torch.split(together, [len(part) for part in magnitudes]))
        return {
            name: tensor.where(keep.reshape(tensor.shape), torch.zeros_like(tensor))
            for (name, tensor), keep in zip(gradients.items(), kept, strict=True)
        }

    def _kept(self, magnitudes: Tensor) -> Tensor:
        """(n,) bool, false for the smallest of (n,) magnitudes; of equal ones the first go."""
        count = len(magnitudes)
        smallest = magnitudes.argsort(stable=True)[: max(0, min(round(self.share * count), count - 1))]
        return torch.ones_like(magnitudes, dtype=torch.bool).index_fill(0, smallest, value=False)
