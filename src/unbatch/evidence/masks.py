"""A neuron at its kink: which side it was on is decided by its mask, not by moving the sample.

Where a ReLU's input is zero to the accuracy of a sample, the client had it on or off by chance. Turning it changes nothing in the forward
pass and one row of one layer's gradient, by a known amount: what the replay leaves in that row says which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["Kink", "ReluMasks", "turned"]

TURNED = 0.5
"""Derived: a neuron that was the other way has a share of 1 in what is left, one that was not has 0; the middle."""

_RELU: set[Callable[..., Any]] = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


@dataclass(eq=False)
class Kink:
    """One use of a ReLU.

    Attributes:
        z: (k, m) what it was fed.
        output: (k, m) what it gave, a node of the graph.
        slope: (k, m) ∂L/∂output, once it is known.
    """

    z: Tensor
    output: Tensor
    slope: Tensor | None = None


@dataclass(eq=False)
class ReluMasks(TorchFunctionMode):
    """Notes every use of a ReLU, and holds those to a mask that have one.

    Attributes:
        held: number of the use -> (k, m) whether the neuron is on.
        noted: the uses, in order.
    """

    held: Mapping[int, Bool[Tensor, "k m"]] = field(default_factory=dict)
    noted: list[Kink] = field(default_factory=list)

    def __post_init__(self) -> None:
        """A mode has a state of its own."""
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let everything pass but ReLUs."""
        if func not in _RELU or not args[0].requires_grad:  # before the first layer there is nothing to hold
            return func(*args, **(kwargs or {}))
        z = args[0]
        mask = self.held.get(len(self.noted))
        output = z.clamp_min(0) if mask is None else torch.where(mask, z, torch.zeros_like(z))
        self.noted.append(Kink(z.detach(), output))
        return output


def turned(
    mask: Bool[Tensor, "k m"],
    unsure: Bool[Tensor, "k m"],
    at_output: Float[Tensor, "k m"],
    inputs: Float[Tensor, "k n"],
    rest: Float[Tensor, "m n"],
) -> Bool[Tensor, "k m"]:
    """The mask with those unsure neurons turned that bring the replay nearer to the observed gradient, row by row.

    Args:
        mask: whether the neuron was on in the replay.
        unsure: whether it may as well have been otherwise.
        at_output: ∂L/∂ of the ReLU's output.
        inputs: of the layer before the ReLU.
        rest: observed minus replayed gradient of its weight, or a few products of its rows.
    """
    mask = mask.clone()
    for row in unsure.any(dim=0).nonzero()[:, 0].tolist():
        samples = unsure[:, row].nonzero()[:, 0]
        sign = torch.where(mask[samples, row], -1.0, 1.0).to(at_output)
        changes = (sign * at_output[samples, row])[:, None] * inputs[samples]
        shares = torch.linalg.lstsq(changes.T, rest[row][:, None]).solution[:, 0]
        chosen = shares > TURNED
        left = rest[row] - chosen.to(changes) @ changes
        if bool(chosen.any()) and left.norm() < rest[row].norm():
            mask[samples[chosen], row] ^= True
    return mask
