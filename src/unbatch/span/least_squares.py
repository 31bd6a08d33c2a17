"""Levenberg–Marquardt for many starts at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.clock import Clock
from unbatch.span.equations import Equations

__all__ = ["minimize", "refine"]

LARGE = 256
"""Systems of so many unknowns are solved by Cholesky factors, in half the time. MKL's LU of a batch of them fails in two threads (measured
on MNIST, b=600). Chosen."""

PATIENCE = 6
"""Steps after which a start must have become better by ``PROGRESS``."""

PROGRESS = 0.9
"""See ``PATIENCE``. Chosen. Swept."""

DAMPING, LESS, MORE, HOPELESS = 1e-2, 0.15, 5.0, 1e8
"""The first damping, what a good and a bad step make of it, and from which on a start is given up. Chosen; the first one swept."""

EVEN = 1e-3
"""Of the mean curvature, what every direction is damped by at least. Chosen."""

PIECE = 16
"""Points whose Jacobians are factored at a time. Chosen."""

REACH = 0.1
"""Longest step of a refinement, in lengths of the point: what lies farther away is another zero, and no refinement of this one. Chosen.
Swept."""


def minimize(
    equations: Equations,
    points: Float[Tensor, "k b"],
    labels: Int64[Tensor, " k"],
    directions: Float[Tensor, "q b"],
    clock: Clock,
    steps: int = 40,
    floor: float = 1e-12,
    room: int = 1 << 22,
) -> tuple[Float[Tensor, "k b"], Float[Tensor, " k"]]:
    """Make the residuals small along some directions.

    Args:
        equations: whose residuals.
        points: the starts.
        labels: of every start.
        directions: along which the points may move.
        clock: no step begins after it is over.
        steps: at most.
        floor: a start whose residual is below it is done.
        room: numbers that a Jacobian of one piece may have.

    Returns:
        the points, and the norms of their residuals.
    """
    if not len(points):
        return points, points.new_zeros(0)
    width = max(1, equations.residuals(points[:1], labels[:1]).shape[1])
    pieces = max(1, room // (width * max(1, len(directions))))
    parts = [
        _minimize_piece(equations, p, y, directions, clock, steps, floor)
        for p, y in zip(torch.split(points, pieces), torch.split(labels, pieces), strict=True)
    ]
    return torch.cat([p for p, _ in parts]), torch.cat([v for _, v in parts])


def _minimize_piece(
    equations: Equations, points: Tensor, labels: Tensor, directions: Tensor, clock: Clock, steps: int, floor: float
) -> tuple[Tensor, Tensor]:
    points = points.clone()
    values = equations.residuals(points, labels).norm(dim=1).nan_to_num(torch.inf, torch.inf)
    if not len(directions):
        return points, values
    damping = torch.full_like(values, DAMPING)
    before = [values.clone()]
    for _ in range(steps):
        moving = _moving(values, before, damping, floor)
        if not len(moving) or clock.over:
            break
        rest, slopes = equations.linearized(points[moving], labels[moving], directions)
        gram, pull = slopes @ slopes.mT, slopes @ rest[..., None]
        size = gram.diagonal(dim1=1, dim2=2)
        lift = damping[moving, None] * (size + EVEN * size.mean(dim=1, keepdim=True)) + torch.finfo(gram.dtype).tiny
        step = _solved(gram + torch.diag_embed(lift), pull)
        tried = points[moving] - step[..., 0] @ directions
        reached = equations.residuals(tried, labels[moving]).norm(dim=1).nan_to_num(torch.inf, torch.inf)
        better = reached < values[moving]
        points[moving[better]], values[moving[better]] = tried[better], reached[better]
        damping[moving] *= torch.where(better, LESS, MORE)
        before.append(values.clone())
    return points, values


def _solved(curvature: Tensor, pull: Tensor) -> Tensor:
    """The steps of a batch of positive definite systems; what comes of one that is singular is no step that helps."""
    if curvature.shape[-1] < LARGE:
        return torch.linalg.solve_ex(curvature, pull)[0]
    factor, _ = torch.linalg.cholesky_ex(curvature)
    return torch.cholesky_solve(pull, factor)


def _moving(values: Tensor, before: list[Tensor], damping: Tensor, floor: float) -> Int64[Tensor, " k"]:
    """The starts that are worth another step."""
    moving: Bool[Tensor, " k"] = (values > floor) & values.isfinite() & (damping < HOPELESS)
    if len(before) > PATIENCE:
        moving &= values < PROGRESS * before[-1 - PATIENCE]
    return moving.nonzero()[:, 0]


def refine(
    equations: Equations,
    points: Float[Tensor, "k b"],
    labels: Int64[Tensor, " k"],
    directions: Float[Tensor, "q b"],
    clock: Clock,
    steps: int = 3,
) -> tuple[Float[Tensor, "k b"], Float[Tensor, " k"]]:
    """Gauss–Newton steps by an orthogonal factoring, which unlike ``minimize`` does not square the condition.

    Args:
        equations: whose residuals.
        points: where to start.
        labels: of every point.
        directions: along which the points may move.
        clock: points whose turn comes after it is over stay where they are.
        steps: of each.

    Returns:
        the points, and for each how far along the directions it may be off: its residual over the smallest singular value; infinitely far
        where time was up.
    """
    parts = [
        (p, torch.full_like(p[:, 0], torch.inf)) if clock.over else _refine_piece(equations, p, y, directions, steps)
        for p, y in zip(torch.split(points, PIECE), torch.split(labels, PIECE), strict=True)
    ]
    return torch.cat([p for p, _ in parts]), torch.cat([e for _, e in parts])


def _refine_piece(equations: Equations, points: Tensor, labels: Tensor, directions: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    points = points.clone()
    error = points.new_zeros(len(points))
    values = equations.residuals(points, labels).norm(dim=1)
    for _ in range(steps if len(directions) else 0):
        rest, slopes = equations.linearized(points, labels, directions)
        usable = slopes.isfinite().flatten(1).all(dim=1)
        basis, change = torch.linalg.qr(slopes.where(usable[:, None, None], 0.0).mT)
        step = torch.linalg.solve_triangular(change, basis.mT @ rest[..., None], upper=True)
        error = (values / torch.linalg.svdvals(change)[:, -1].clamp_min(torch.finfo(change.dtype).tiny)).where(usable, torch.inf)
        tried = points - step[..., 0] @ directions
        reached = equations.residuals(tried, labels).norm(dim=1)
        near = torch.linalg.vector_norm(tried - points, dim=1) < REACH * torch.linalg.vector_norm(points, dim=1)
        better = near & (reached < values)
        points[better], values[better] = tried[better], reached[better]
    return points, error
