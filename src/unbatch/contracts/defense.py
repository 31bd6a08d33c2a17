"""What a defense must be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from unbatch.contracts.plugin import Plugin

__all__ = ["Defense", "Stage"]


class Stage(Enum):
    """What a defense is given."""

    EXAMPLE = "the gradient of every sample, in every step"
    CLIENT = "a client's update, before it is sent"
    SERVER = "the aggregate of the round"


@dataclass(frozen=True)
class Defense(Plugin, ABC):
    """A pure transform of gradients. With its neutral setting it is the identity."""

    stage: ClassVar[Stage]
    rescales: ClassVar[bool] = False
    """Whether what is left is the gradient times a factor that the server does not know."""

    @abstractmethod
    def __call__(self, gradients: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """New tensors, the given ones untouched.

        Args:
            gradients: parameter name -> (*shape), or (b, *shape) at the stage ``EXAMPLE``.
            generator: of all randomness.
        """
