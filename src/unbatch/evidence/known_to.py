"""How nearly proved samples are known, in words, where a reader must know of it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

__all__ = ["known_to"]

VISIBLE = 1e-5
"""Relative error from which it is told. Chosen: what ``scoring`` calls exact."""

COARSE = 1e-2
"""Error of a single number, in its own unit, from which it is told. Chosen: of a category, 0 or 1, or of a pixel a hundredth is seen."""


def known_to(inputs: Float[Tensor, " k *shape"], accuracy: Float[Tensor, " k"]) -> str:
    """What noise or rounding of the update leaves open of proved samples; empty where no reader would see it.

    An accuracy is a share of a sample's length. Beside a large number, as in a table of raw units, it may be all of another.

    Args:
        inputs: the samples.
        accuracy: of each, as a share of its length.

    Example:
        >>> import torch
        >>> known_to(torch.tensor([[1e6, 1.0], [2e6, 0.0]]), torch.tensor([1e-6, 1e-6]))
        'noise or rounding of the update may hide up to 2e+00 of any single number of a sample'
        >>> known_to(torch.tensor([[0.3, 1.0], [0.2, 0.0]]), torch.tensor([1e-6, 1e-6]))
        ''
    """
    worst, hidden = float(accuracy.max()), float((accuracy * inputs.flatten(1).norm(dim=1)).max())
    told = [f"bounds them to {worst:.0e} of their size"] if worst > VISIBLE else []
    if hidden > COARSE:
        told.append(f"may hide up to {hidden:.0e} of any single number of a sample")
    return f"noise or rounding of the update {' and '.join(told)}" if told else ""
