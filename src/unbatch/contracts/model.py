"""What a victim network must be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from unbatch.contracts.plugin import Plugin

__all__ = ["Model"]


@dataclass(frozen=True)
class Model(Plugin, ABC):
    """Builds a victim network."""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """A fresh network, float32, initialized from ``seed`` without touching the global random state."""
