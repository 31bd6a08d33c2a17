"""What a pool of samples must be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from unbatch import seeds
from unbatch.contracts.plugin import Plugin
from unbatch.errors import Misuse
from unbatch.types import Batch, Schema

__all__ = ["Dataset"]


@dataclass(frozen=True)
class Dataset(Plugin, ABC):
    """A pool of labelled samples from which clients draw their batches."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """How to read an input."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def take(self, indices: Tensor) -> Batch:
        """The samples of these indices, (b,) int64, as the network sees them, float64."""

    @final
    def batch(self, size: int, seed: int = 0) -> Batch:
        """``size`` samples drawn without replacement.

        Raises:
            Misuse: the size is not between 1 and the number of samples.
        """
        if not 1 <= size <= len(self):
            raise Misuse(f"a batch size from 1 to {len(self)}", str(size), f"{self.spec} has {len(self)} samples")
        return self.take(torch.randperm(len(self), generator=torch.Generator().manual_seed(seeds.checked(seed)))[:size])
