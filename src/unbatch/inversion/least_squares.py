"""Solve f(x) = 0 exactly, sample by sample, where f is known by its products with its Jacobian only: damped Gauss-Newton.

Levenberg, 1944; Marquardt, 1963. Every linear problem is solved by conjugate gradients on its least squares (Hestenes, Stiefel, 1952),
all samples side by side, each with steps and damping of its own. Through ReLU f is made of flat pieces, and a descent may end where some of
them meet: then numbers that the rest of the misfit hangs on are thrown anew, and the rest stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

__all__ = ["Solved", "solve"]

DAMPING, FACTOR = 1e-3, 10
"""The first damping, as a share of the error, and what a good step divides and a bad one multiplies it by: Marquardt's (1963).
Published."""

LEAST, MOST = 1e-12, 1e6
"""Between which the damping stays. At the upper end a step is a millionth of one along the gradient, and the solution has stalled.
Chosen."""

FORCING = 0.1
"""A linear problem is solved to this share of the error that is left: finer is wasted on slopes that the next step changes (Dembo,
Eisenstat, Steihaug, 1982). Measured: two pictures through two convolutions took 5 s with it, 9 s with 0.5, and one stalled with 0."""

SOLVED = 1e-28
"""Square of the relative length of a slope at which conjugate gradients end: a hundred roundings of float64. Derived: (1e-14)²."""

ROUND = 12
"""Steps of Gauss-Newton after which a row is looked at. Chosen: 15 to 20 solve most rows from the start, 5 to 10 after a throw."""

STALLED = 0.3
"""A row whose error does not fall below this share of itself in a round is thrown anew where it misfits. Chosen."""

PROBES = 8
"""Random signs of the misfit by which the numbers that it hangs on are found. Chosen."""

Function = Callable[[Tensor, Tensor], Tensor]
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Solved:
    """Where it ended.

    Attributes:
        point: (k, d).
        errors: (k,) ‖f(x)‖.
        steps: Gauss-Newton steps that were tried.
    """

    point: Float[Tensor, "k d"]
    errors: Float[Tensor, " k"]
    steps: int


def solve(
    function: Function,
    start: Float[Tensor, "k d"],
    steps: int = 30,
    inner: int = 200,
    enough: float = 1e-12,
    deadline: float = math.inf,
    generator: Generator | None = None,
) -> Solved:
    """Lower ‖f(x)‖ for every row.

    Args:
        function: points (j, d), and which of the k rows these are (j,) -> (j, n), rows independent of each other, differentiable twice by
            autograd (kinks do no harm), of a scale at which an error of 1 is large.
        start: x to begin with.
        steps: of Gauss-Newton at most.
        inner: iterations of conjugate gradients a step at most.
        enough: a row is solved when its error is at most this.
        deadline: on ``time.monotonic``'s clock.
        generator: of what is thrown anew; None to stop where a row stalls.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
        >>> truth = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
        >>> found = solve(lambda x, rows: (x @ matrix.T).sinh() - (truth[rows] @ matrix.T).sinh(), torch.zeros_like(truth))
        >>> bool((found.point - truth).abs().max() < 1e-9)
        True
    """
    point = start.detach().clone()
    every = torch.arange(len(point), device=point.device)
    with torch.no_grad():
        errors = function(point, every).norm(dim=1)
    stalled, taken = torch.zeros_like(errors, dtype=torch.bool), 0
    while taken < steps and time.monotonic() < deadline and len(rows := every[~(errors <= enough)]):
        begun, held = point[rows], stalled[rows]
        if bool(held.all()) and generator is None:
            break
        if bool(held.any()) and generator is not None:
            begun = torch.where(held[:, None], _thrown(function, begun, rows, generator), begun)
        found = _descended(function, begun, rows, min(steps - taken, ROUND), inner, enough, deadline)
        stalled[rows] = ~(found.errors < STALLED * errors[rows])
        better = found.errors < errors[rows]
        point[rows] = torch.where(better[:, None], found.point, point[rows])
        errors[rows] = torch.where(better, found.errors, errors[rows])
        taken += max(1, found.steps)
    return Solved(point, errors, taken)


def _descended(
    function: Function, start: Tensor, rows: Int64[Tensor, " k"], steps: int, inner: int, enough: float, deadline: float
) -> Solved:
    """From one start."""
    point, damping = start, torch.full_like(start[:, :1], DAMPING)
    errors, taken = torch.full_like(damping, torch.inf), 0
    for taken in range(steps + 1):
        leaf = point.clone().requires_grad_()
        with torch.enable_grad():
            rest = function(leaf, rows)
            weights = torch.zeros_like(rest, requires_grad=True)
            (pulled,) = torch.autograd.grad(rest, leaf, weights, create_graph=True)
        errors = rest.detach().norm(dim=1, keepdim=True)
        if taken == steps or bool(((errors <= enough) | (damping >= MOST)).all()) or time.monotonic() > deadline:
            break

        def forward(v: Tensor, pulled: Tensor = pulled, weights: Tensor = weights) -> Tensor:
            return torch.autograd.grad(pulled, weights, v, retain_graph=True)[0]

        def back(u: Tensor, rest: Tensor = rest, leaf: Tensor = leaf) -> Tensor:
            return torch.autograd.grad(rest, leaf, u, retain_graph=True)[0]

        small = (FORCING * errors).square().clamp(SOLVED, FORCING**2)
        step = _least_squares(forward, back, -rest.detach(), damping * errors, small, inner, deadline)
        with torch.no_grad():
            better = function(point + step, rows).norm(dim=1, keepdim=True) < errors
        point = torch.where(better, point + step, point)
        damping = torch.where(better, damping / FACTOR, damping * FACTOR).clamp(LEAST, MOST)
    return Solved(point, errors[:, 0], taken)


def _thrown(function: Function, point: Tensor, rows: Int64[Tensor, " k"], generator: Generator | None) -> Tensor:
    """The points with noise of their own spread on those numbers that the misfit hangs on, most where it hangs most."""
    leaf = point.clone().requires_grad_()
    with torch.enable_grad():
        rest = function(leaf, rows)
    device = "cpu" if generator is None else generator.device
    weight = torch.zeros_like(point)
    for _ in range(PROBES):
        signs = torch.randint(0, 2, rest.shape, generator=generator, device=device).to(rest) * 2 - 1
        weight += torch.autograd.grad(rest, leaf, signs * rest.detach(), retain_graph=True)[0].square()
    weight = (weight / weight.amax(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)).sqrt()
    noise = torch.randn(point.shape, generator=generator, device=device).to(point)
    return point + point.std(dim=1, keepdim=True) * weight * noise


def _least_squares(forward: Product, back: Product, wanted: Tensor, damping: Tensor, small: Tensor, most: int, deadline: float) -> Tensor:
    """argmin ‖J s − w‖² + λ ‖s‖², row by row, until the square of a slope is this small a share of the first."""
    rest = wanted
    slope = back(rest)
    step, direction = torch.zeros_like(slope), slope
    size = slope.square().sum(dim=1, keepdim=True)
    first = size.clone()
    for _ in range(most):
        if bool((size <= small * first).all()) or time.monotonic() > deadline:
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
