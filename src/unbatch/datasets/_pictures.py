"""What the picture data sets share: a pool of labelled pictures, read only as far as they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unbatch.contracts import Dataset
from unbatch.errors import Misuse
from unbatch.types import Batch, Schema

__all__ = ["PictureDataset", "Pictures", "pool"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Read = Callable[[Ints], Floats]
"""(b,) indices -> (b, C, H, W), where 0 is black and 1 is white."""

CONSTANT = 1e-6
"""Deviation up to which a channel is constant: rounding alone leaves 1e-8 of it, one of 256 levels in one of 10,000 pixels 4e-5."""

SAMPLE = 2000
"""Most pictures that mean and deviation are computed from."""

CHUNK = 1 << 22
"""Most numbers that are converted to float at once for them."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """A pool of pictures.

    Attributes:
        read: gives the pictures of some indices.
        labels: (N,) class indices.
        shape: (C, H, W) of every picture.
        schema: how to read an input.
    """

    read: Read
    labels: Ints
    shape: tuple[int, ...]
    schema: Schema


def pool(read: Read, labels: npt.NDArray[Any], shape: tuple[int, ...], classes: tuple[str, ...]) -> Pictures:
    """A pool whose schema normalizes each channel by its own mean and deviation.

    These come from at most ``SAMPLE`` pictures, evenly spaced, so they are the same on every machine. A channel without contrast is
    not scaled.

    Example:
        >>> black_and_white = np.array([0.0, 1.0]).reshape(2, 1, 1, 1)
        >>> pool(lambda indices: black_and_white[indices], np.array([0, 1]), (1, 1, 1), ("black", "white")).schema.std
        (0.5,)
    """
    count = len(labels)
    sample = np.arange(count) if count <= SAMPLE else np.linspace(0, count - 1, SAMPLE).round().astype(np.int64)
    step = max(1, CHUNK // int(np.prod(shape)))
    moments = np.zeros((2, shape[0]))
    for start in range(0, len(sample), step):
        pictures = read(sample[start : start + step])
        moments += [pictures.sum((0, 2, 3)), (pictures**2).sum((0, 2, 3))]
    mean, square = moments / (len(sample) * shape[1] * shape[2])
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    std = np.where(deviation > CONSTANT, deviation, 1.0)
    return Pictures(read, labels.astype(np.int64), shape, Schema("image", tuple(mean.tolist()), tuple(std.tolist()), classes))


@dataclass(frozen=True)
class PictureDataset(Dataset):
    """A data set that is a pool of pictures: implement ``pictures``."""

    @property
    @abstractmethod
    def pictures(self) -> Pictures:
        """The pool; cached by whoever makes it."""

    @property
    def schema(self) -> Schema:
        """See ``Dataset.schema``."""
        return self.pictures.schema

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.pictures.shape

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.pictures.labels)

    def take(self, indices: Tensor) -> Batch:
        """See ``Dataset.take``.

        Raises:
            Misuse: the indices are not (b,) int64 from 0 to N - 1.
        """
        pictures, count = self.pictures, len(self)
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise Misuse("indices of shape (b,) and type int64", f"{indices.dtype} of shape {tuple(indices.shape)}", "give a list of them")
        outside = indices[(indices < 0) | (indices >= count)]
        if len(outside):
            raise Misuse(f"indices from 0 to {count - 1}", str(int(outside[0])), f"{self.spec} has {count} pictures")
        chosen = indices.cpu().numpy()
        raw = torch.from_numpy(np.ascontiguousarray(pictures.read(chosen)))
        return Batch(pictures.schema.to_network(raw), torch.from_numpy(pictures.labels[chosen]), pictures.schema)
