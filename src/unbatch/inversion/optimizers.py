"""First and second order steps for many restarts at once: every row goes its own way, as if it ran alone.

``torch.optim.LBFGS`` takes all of its parameters for one problem, so that restarts would share a step and one that diverges would take the
others with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LBFGS", "Adam", "Optimizer"]

EPSILON = 1e-8
"""What Adam divides by at least, as published and in PyTorch. Published."""

CURVED = 1e-10
"""A pair has curvature when it is above this share of what its lengths allow: PyTorch's number, there without the lengths. Published."""


class Optimizer(ABC):
    """Proposes where to go."""

    @abstractmethod
    def step(self, point: Float[Tensor, "r n"], gradient: Float[Tensor, "r n"], rate: float) -> Float[Tensor, "r n"]:
        """What to add to every row of the point."""


class Adam(Optimizer):
    """Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, with its usual constants.

    Example:
        >>> Adam().step(torch.zeros(1, 2).double(), torch.tensor([[2.0, -5.0]]).double(), 0.1).round(decimals=4).tolist()
        [[-0.1, 0.1]]
    """

    def __init__(self, momentum: float = 0.9, memory: float = 0.999) -> None:
        self.momentum, self.memory, self.steps = momentum, memory, 0
        self.mean: Tensor | None = None
        self.square: Tensor | None = None

    def step(self, point: Float[Tensor, "r n"], gradient: Float[Tensor, "r n"], rate: float) -> Float[Tensor, "r n"]:
        """See ``Optimizer.step``."""
        if self.mean is None or self.square is None:
            self.mean, self.square = torch.zeros_like(point), torch.zeros_like(point)
        self.steps += 1
        self.mean.lerp_(gradient, 1 - self.momentum)
        self.square.mul_(self.memory).addcmul_(gradient, gradient, value=1 - self.memory)
        scale = (self.square / (1 - self.memory**self.steps)).sqrt_().add_(EPSILON)
        return self.mean.div(scale).mul_(-rate / (1 - self.momentum**self.steps))


class LBFGS(Optimizer):
    """Liu, Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization", 1989, without a line search.

    As ``torch.optim.LBFGS`` for each row alone: the first step has length at most ``rate`` in the sum of absolute values, and pairs without
    curvature are not remembered; here curvature is relative, so that the scale of an objective does not matter.

    Args:
        history: pairs of steps and changes of the gradient that are remembered.

    Example:
        >>> optimizer, point = LBFGS(), torch.tensor([[3.0, -2.0], [50.0, 1.0]], dtype=torch.float64)
        >>> for _ in range(30):
        ...     point = point + optimizer.step(point, point * torch.tensor([1.0, 10.0]).double(), 1.0)
        >>> bool(point.abs().max() < 1e-9)
        True
    """

    def __init__(self, history: int = 100) -> None:
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=history)
        self.point: Tensor | None = None
        self.gradient: Tensor | None = None
        self.scale: Tensor | None = None

    def step(self, point: Float[Tensor, "r n"], gradient: Float[Tensor, "r n"], rate: float) -> Float[Tensor, "r n"]:
        """See ``Optimizer.step``."""
        if self.point is None or self.gradient is None or self.scale is None:
            self.point, self.gradient, self.scale = point, gradient, torch.ones_like(point[:, :1])
            return -gradient * rate * (1 / gradient.abs().sum(dim=1, keepdim=True).clamp_min(torch.finfo(point.dtype).tiny)).clamp_max(1)
        moved, changed = point - self.point, gradient - self.gradient
        self.point, self.gradient = point, gradient
        curvature, square = _inner(moved, changed), _inner(changed, changed)
        curved = curvature > CURVED * (_inner(moved, moved) * square).sqrt()
        # A pair without curvature has weight zero in its row, which leaves that row as if the pair were not there.
        weight = torch.where(curved, 1 / curvature, 0.0)
        self.pairs.append((moved, changed, weight))
        self.scale = torch.where(curved, curvature / square, self.scale)
        return -rate * self._inverse_hessian_times(gradient, self.scale)

    def _inverse_hessian_times(self, direction: Tensor, scale: Tensor) -> Tensor:
        """The two loops."""
        shares = []
        for moved, changed, weight in reversed(self.pairs):
            share = weight * _inner(moved, direction)
            direction = direction - share * changed
            shares.append(share)
        direction = scale * direction
        for (moved, changed, weight), share in zip(self.pairs, reversed(shares), strict=True):
            direction = direction + moved * (share - weight * _inner(changed, direction))
        return direction


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """(r, 1) inner products of rows."""
    return (a * b).sum(dim=1, keepdim=True)
