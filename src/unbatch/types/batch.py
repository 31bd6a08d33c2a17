"""The secret."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbatch.errors import Misuse
from unbatch.schema import Schema

__all__ = ["Batch"]


@dataclass(frozen=True, repr=False)
class Batch:
    """The secret: ``inputs`` (b, *shape) as the network sees them, ``labels`` (b,) int64, and how to read them.

    Raises:
        Misuse: the schema cannot read inputs of this shape, or tokens are not whole numbers below the size of the vocabulary.

    Example:
        >>> Batch(torch.zeros(2, 3, 8, 8), torch.tensor([1, 0]), Schema("image"))
        Batch(2 samples of shape (3, 8, 8), torch.float32, kind 'image')
    """

    inputs: Tensor
    labels: Tensor
    schema: Schema = field(default_factory=Schema)

    def __post_init__(self) -> None:
        """Refuse a schema that contradicts the inputs."""
        self.schema.check(self.inputs.shape[1:])
        if self.schema.kind != "tokens":
            return
        if self.inputs.dtype != torch.int64:
            raise Misuse("tokens of type int64", str(self.inputs.dtype), "give indices into the vocabulary")
        if len(self.inputs) and not 0 <= int(self.inputs.min()) <= int(self.inputs.max()) < self.schema.vocabulary:
            came = f"{int(self.inputs.min())} to {int(self.inputs.max())}"
            raise Misuse(f"tokens from 0 to {self.schema.vocabulary - 1}", came, "make the vocabulary's size that of the embedding")

    def __len__(self) -> int:
        """How many samples."""
        return len(self.inputs)

    def __repr__(self) -> str:
        """What it is, never what is in it: a batch may be printed into a log."""
        return f"Batch({len(self)} samples of shape {tuple(self.inputs.shape[1:])}, {self.inputs.dtype}, kind {self.schema.kind!r})"
