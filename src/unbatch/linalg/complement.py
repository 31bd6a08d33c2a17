"""All that is orthogonal to given vectors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["complement"]


def complement(vectors: Float[Tensor, "*many k n"]) -> Float[Tensor, "*many n left"]:
    """Orthonormal basis, one column a dimension, of all that is orthogonal to the rows, which must be independent.

    Example:
        >>> complement(torch.tensor([[1.0, 0.0]])).abs()
        tensor([[0.],
                [1.]])
    """
    basis, _ = torch.linalg.qr(vectors.mT, mode="complete")
    return basis[..., vectors.shape[-2] :].contiguous()
