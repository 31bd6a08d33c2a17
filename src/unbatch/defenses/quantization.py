"""Quantization: an update in fewer bits.

fp16 and bf16 are casts, int8 is the usual symmetric quantization. ``sign`` follows Bernstein et al., "signSGD: Compressed Optimisation for
Non-Convex Problems", ICML 2018, with a scale for every tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from unbatch.contracts import Defense, Stage
from unbatch.errors import Misuse

__all__ = ["Quantization"]

CASTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Kinds that the server receives in their own type."""

KINDS = (*CASTS, "int8", "sign", "none")
STEPS = 127
"""Steps of int8 to either side of zero."""


@dataclass(frozen=True)
class Quantization(Defense):
    """Every number rounded to few bits. What the server receives is fp16 or bf16; int8 and signs are decoded to the update's own type.

    Attributes:
        kind: ``fp16`` or ``bf16``: the type; ``int8``: 127 equal steps to either side up to the largest magnitude of the tensor; ``sign``:
            the sign times the mean magnitude of the tensor, zeros staying zeros; ``none``: as it is.
        stochastic: whether int8 rounds up or down at random, so that the mean is right, instead of to the nearest.

    Example:
        >>> Quantization("sign")({"w": torch.tensor([1.0, -3.0, 2.0, 0.0])}, torch.Generator())
        {'w': tensor([ 1.5000, -1.5000,  1.5000,  0.0000])}
    """

    stage: ClassVar[Stage] = Stage.CLIENT

    kind: Literal["fp16", "bf16", "int8", "sign", "none"] = "int8"
    stochastic: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if self.kind not in KINDS:
            raise Misuse(f"a kind among {', '.join(KINDS)}", repr(self.kind), "use one of them")
        if self.stochastic and self.kind != "int8":
            raise Misuse("stochastic rounding with int8 only", f"kind {self.kind}", "leave stochastic out, or take int8")

    @property
    def rescales(self) -> bool:  # type: ignore[override]
        """Signs keep no scale but that of their tensor."""
        return self.kind == "sign"

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """See ``Defense``; fp16 and bf16 change the dtype."""
        return {name: self._quantized(tensor, generator) for name, tensor in gradients.items()}

    def _quantized(self, tensor: Tensor, generator: Generator) -> Tensor:
        if self.kind in CASTS:
            return tensor.to(CASTS[self.kind], copy=True)
        if self.kind == "none" or not tensor.numel():
            return tensor.clone()
        if self.kind == "sign":
            return tensor.sign() * tensor.abs().mean()
        step = tensor.abs().max() / STEPS
        if not bool(step):
            return torch.zeros_like(tensor)
        if not self.stochastic:
            return (tensor / step).round().clamp(-STEPS, STEPS) * step
        offset = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)
        return (tensor / step + offset).floor().clamp(-STEPS, STEPS) * step
