"""How to read an input back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Schema"]


@dataclass(frozen=True)
class Schema:
    """How to read an input back: what a number in it means.

    Attributes:
        kind: ``"image"`` (C, H, W) or ``"vector"``.
        mean: per channel, subtracted before training; in units of the raw data, where images span 0 to 1.
        std: per channel, divided by after that.
        classes: names of the classes, or empty.
    """

    kind: str = "vector"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    @staticmethod
    def guess(input_shape: Sequence[int]) -> Schema:
        """An image if the shape reads (1 or 3, H, W), else a vector.

        Example:
            >>> Schema.guess((3, 32, 32)).kind, Schema.guess((14,)).kind
            ('image', 'vector')
        """
        return Schema("image" if len(input_shape) == 3 and input_shape[0] in (1, 3) else "vector")

    def to_raw(self, inputs: Tensor) -> Tensor:
        """Undo the normalization: (b, C, ...) as the network sees it -> (b, C, ...) in raw units."""
        if not self.mean:
            return inputs
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        return inputs * inputs.new_tensor(self.std).view(shape) + inputs.new_tensor(self.mean).view(shape)

    def to_network(self, raw: Tensor) -> Tensor:
        """The inverse of ``to_raw``."""
        if not self.mean:
            return raw
        shape = (1, -1, *[1] * (raw.ndim - 2))
        return (raw - raw.new_tensor(self.mean).view(shape)) / raw.new_tensor(self.std).view(shape)
