"""Weights that were given as a gradient or a difference: the commonest mistake, and one that the numbers show."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unbatch.errors import BadUpdate

__all__ = ["check_not_weights"]

NEAR = 0.5
"""‖sent − broadcast‖ / ‖broadcast‖ below which what was sent are weights: no gradient is that near, and no training moves so little."""


def check_not_weights(broadcast: Mapping[str, Tensor], sent: Mapping[str, Tensor], kind: str) -> None:
    """Refuse weights in the place of a gradient or a difference.

    Args:
        broadcast: the parameters as broadcast.
        sent: what the client sent of them.
        kind: what it is said to be.

    Raises:
        BadUpdate: it is nearly the broadcast weights.

    Example:
        >>> weights = {"w": torch.ones(3)}
        >>> check_not_weights(weights, {"w": torch.tensor([0.2, -0.1, 0.0])}, "gradient")
        >>> check_not_weights(weights, {"w": torch.tensor([1.1, 0.9, 1.0])}, "gradient")
        Traceback (most recent call last):
        unbatch.errors.BadUpdate: expected the mean gradient of a batch, got nearly the broadcast weights ...
    """
    distance = size = torch.zeros((), dtype=torch.float64)
    for name, tensor in sent.items():
        before = broadcast[name].detach().to(tensor.device)
        distance = distance + (tensor.double() - before.double()).square().sum()
        size = size + before.double().square().sum()
    if float(size) > 0 and float((distance / size).sqrt()) < NEAR:
        what = "the mean gradient of a batch" if kind == "gradient" else "weights after training less those before"
        raise BadUpdate(
            what,
            f"nearly the broadcast weights ({float((distance / size).sqrt()):.2g} of their size away)",
            "these look like the weights after training: say --update-is weights (kind='weights')",
        )
