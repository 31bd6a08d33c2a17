"""Gaussian noise on a client's update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from unbatch.contracts import Defense, Stage
from unbatch.errors import Misuse

__all__ = ["GaussianNoise"]


@dataclass(frozen=True)
class GaussianNoise(Defense):
    """Independent Gaussian noise of mean zero on every number of the update.

    Without clipping it promises nothing: for differential privacy take ``dp_sgd``.

    Attributes:
        deviation: standard deviation of the noise, in units of ``unit``; 0 leaves the update as it is.
        unit: ``update``: the root mean square of all numbers of the update together; ``tensor``: that of the tensor that the noise is
            added to; ``absolute``: 1.

    Example:
        >>> noisy = GaussianNoise(0.5, "absolute")({"w": torch.zeros(10_000)}, torch.Generator().manual_seed(0))["w"]
        >>> bool(abs(noisy.std() - 0.5) < 0.02)
        True
    """

    stage: ClassVar[Stage] = Stage.CLIENT

    deviation: float = 0.01
    unit: Literal["update", "tensor", "absolute"] = "update"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if not 0 <= self.deviation < math.inf:
            raise Misuse("a finite standard deviation from 0", f"{self.deviation}", "0 adds no noise")
        if self.unit not in ("update", "tensor", "absolute"):
            raise Misuse("a unit among update, tensor, absolute", repr(self.unit), "use one of them")

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """See ``Defense``."""
        together = _root_mean_square(list(gradients.values()))

        def noise(tensor: Tensor) -> Tensor:
            scale = {"update": together, "tensor": _root_mean_square([tensor]), "absolute": 1.0}[self.unit]
            return self.deviation * scale * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)

        return {name: tensor + noise(tensor) for name, tensor in gradients.items()}


def _root_mean_square(tensors: list[Tensor]) -> float:
    count = sum(tensor.numel() for tensor in tensors)
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors) / count) if count else 0.0
