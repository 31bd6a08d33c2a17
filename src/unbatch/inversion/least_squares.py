"""Solve f(x) = y exactly, sample by sample, where f is known by its products with its Jacobian only: damped Gauss-Newton.

Levenberg, 1944; Marquardt, 1963. Every linear problem is solved by conjugate gradients on its least squares (Hestenes, Stiefel, 1952),
all samples side by side, each with steps and damping of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Solved", "solve"]

DAMPING, FACTOR = 1e-3, 10
"""The first damping, as a share of the error, and what a good step divides and a bad one multiplies it by: Marquardt's (1963).
Published."""

LEAST, MOST = 1e-12, 1e6
"""Between which the damping stays. At the upper end a step is a millionth of one along the gradient, and the solution has stalled.
Chosen."""

SOLVED = 1e-28
"""Square of the relative length of a slope at which conjugate gradients end: a hundred roundings of float64. Derived: (1e-14)²."""

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Solved:
    """Where it ended.

    Attributes:
        point: (k, d).
        errors: (k,) ‖f(x) − y‖ / ‖y‖.
        steps: Gauss-Newton steps that were tried.
    """

    point: Float[Tensor, "k d"]
    errors: Float[Tensor, " k"]
    steps: int


def solve(
    function: Callable[[Tensor], Tensor],
    wanted: Float[Tensor, "k n"],
    start: Float[Tensor, "k d"],
    steps: int = 30,
    inner: int = 200,
    enough: float = 1e-13,
    deadline: float = math.inf,
) -> Solved:
    """Lower ‖f(x) − y‖ for every row.

    Args:
        function: (k, d) -> (k, n), rows independent of each other, differentiable twice by autograd (kinks do no harm).
        wanted: y.
        start: x to begin with.
        steps: of Gauss-Newton at most.
        inner: iterations of conjugate gradients a step at most.
        enough: stop when every row's relative error is at most this.
        deadline: on ``time.monotonic``'s clock.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
        >>> truth = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
        >>> found = solve(lambda x: (x @ matrix.T).sinh(), (truth @ matrix.T).sinh(), torch.zeros_like(truth))
        >>> bool((found.point - truth).abs().max() < 1e-9)
        True
    """
    scale = wanted.norm(dim=1, keepdim=True).clamp_min(torch.finfo(wanted.dtype).tiny)
    point, damping = start.detach(), torch.full_like(scale, DAMPING)
    errors, taken = torch.full_like(scale, torch.inf), 0
    for taken in range(steps + 1):
        leaf = point.clone().requires_grad_()
        with torch.enable_grad():
            rest = (function(leaf) - wanted) / scale
            weights = torch.zeros_like(rest, requires_grad=True)
            (pulled,) = torch.autograd.grad(rest, leaf, weights, create_graph=True)
        errors = rest.detach().norm(dim=1, keepdim=True)
        if taken == steps or bool((errors <= enough).all()) or time.monotonic() > deadline:
            break

        def forward(v: Tensor, pulled: Tensor = pulled, weights: Tensor = weights) -> Tensor:
            return torch.autograd.grad(pulled, weights, v, retain_graph=True)[0]

        def back(u: Tensor, rest: Tensor = rest, leaf: Tensor = leaf) -> Tensor:
            return torch.autograd.grad(rest, leaf, u, retain_graph=True)[0]

        step = _least_squares(forward, back, -rest.detach(), damping * errors, inner, deadline)
        with torch.no_grad():
            tried = (function(point + step) - wanted) / scale
        better = tried.norm(dim=1, keepdim=True) < errors
        point = torch.where(better, point + step, point)
        damping = torch.where(better, damping / FACTOR, damping * FACTOR).clamp(LEAST, MOST)
        if not bool(better.any()) and bool((damping >= MOST).all()):
            break
    return Solved(point, errors[:, 0], taken)


def _least_squares(forward: Product, back: Product, wanted: Tensor, damping: Tensor, most: int, deadline: float) -> Tensor:
    """argmin ‖J s − w‖² + λ ‖s‖², row by row."""
    rest = wanted
    slope = back(rest)
    step, direction = torch.zeros_like(slope), slope
    size = slope.square().sum(dim=1, keepdim=True)
    first = size.clone()
    for _ in range(most):
        if bool((size <= SOLVED * first).all()) or time.monotonic() > deadline:
            break
        pushed = forward(direction)
        curvature = pushed.square().sum(dim=1, keepdim=True) + damping * direction.square().sum(dim=1, keepdim=True)
        length = torch.where(curvature > 0, size / curvature.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
        step, rest = step + length * direction, rest - length * pushed
        slope = back(rest) - damping * step
        following = slope.square().sum(dim=1, keepdim=True)
        direction = slope + torch.where(size > 0, following / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0) * direction
        size = following
    return step
