"""From rough guesses to samples by the next layer's gradient, for all guesses at once.

A sample's activations ReLU(W x + bias) lie in the row space of the next layer's gradient: b of m dimensions. As a function of p that is
m − b equations for fewer than b unknowns, and Levenberg and Marquardt's steps solve them, also from guesses that share only four fifths of
their signs with the sample. Guesses that lead nowhere are told early: what they leave no longer falls.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.linalg.complement import complement
from unbatch.spear.layer import Layer

__all__ = ["best_of_near", "descend"]

STEPS, PAIR = 16, 2
"""Steps at most, and after how many it is asked whether what is left still falls. Chosen."""

FALLING = 0.6
"""Share of what was left two steps before that must be undercut. Measured on CIFAR-10 at m=1000, b=400 and MNIST at b=280: guesses that led
to a sample came to a half or less in any two steps, the median of the others to 0.7 after the fourth."""

SOLVED = 1e-20
"""Squared share of the activations outside the row space at which a sample is there: rounding leaves 1e-28. Chosen."""

NEAR = 0.01
"""Share outside up to which a guess is tried even in the worse half. Measured as above: what led to a sample was in the better half."""

APART = 0.3
"""Distance of two points, as a share of their own, below which they are on their way to one sample: the worse is let go. Measured on
CIFAR-10 and MNIST at m=1000, b=400: of 273 guesses that led to a sample, only 101 led to different ones; half of those that led to the same
were so near from the start, and of those that led to others one pair in some thousands. What is lost is found in the next round."""

DAMPING, EASED, STIFFENED = 0.1, 0.3, 4.0
"""Of the first step, as a share of the mean curvature; what a step that fell, and one that did not, multiplies it by. Chosen."""

LEAST, LARGEST = 1e-7, 1e3
"""The damping's bounds: under the first float32 has no more. Chosen."""

SOFT, GRADIENTS = 1e-4, 25
"""Damping down to which steps are found by so many conjugate gradients. Chosen."""

TINY = 1e-30
"""Of float32, what keeps a division from zero by zero where a step is exact. Derived."""

MORE, CLOSE = 4, 1e-4
"""Where the damping is small, so many times as many; and the squared share of the slope that they may leave, or Cholesky has to. Chosen."""

CHUNK = 1 << 23
"""Entries of the slopes that are held at a time."""


def descend(
    layer: Layer, activations: Float[Tensor, "m c"], guesses: Float[Tensor, "k b"], clock: Clock = UNLIMITED
) -> Float[Tensor, "j b"]:
    """The samples that the guesses lead to; fewer than there are guesses.

    Args:
        layer: the layer, perhaps with known samples taken out.
        activations: (m, c) the next layer's row space, on this layer's neurons: rows of orthonormal columns.
        guesses: (k, b) with p · sums = 1.
        clock: when to give up.
    """
    sums = layer.sums
    middle = sums / (sums @ sums)
    across = complement(sums[None])  # along these p · sums = 1 holds
    basis, change = torch.linalg.qr(layer.seen @ across)
    start = layer.pre_activations(middle[None])
    points = (layer.pre_activations(guesses) - start) @ basis
    damping = points.new_full((len(points),), DAMPING)
    problem = _Problem(start, basis, activations)
    left = problem.left(points)
    kept = (left <= left.median().clamp_min(NEAR)) & best_of_near(points, left)
    points, left, damping = points[kept], left[kept], damping[kept]
    before = left
    for step in range(1, STEPS + 1):
        moved, going = points.clone(), left >= SOLVED
        moved[going] += problem.step(points[going], damping[going], clock)
        less = problem.left(moved)
        fell = less < left
        points, left = torch.where(fell[:, None], moved, points), torch.where(fell, less, left)
        damping = torch.where(fell, EASED * damping, STIFFENED * damping).clamp(LEAST, LARGEST)
        if step % PAIR == 0:
            kept = ((left < FALLING * before) | (left < SOLVED)) & best_of_near(points, left)
            points, left, damping = points[kept], left[kept], damping[kept]
            before = left
        if bool((left < SOLVED).all()):
            break
    free = torch.linalg.solve_triangular(change, points[left < SOLVED].T, upper=True).T
    return middle + free @ across.T


def best_of_near(points: Float[Tensor, "k r"], left: Float[Tensor, " k"]) -> Bool[Tensor, " k"]:
    """Which points have none beside them of which less is left; of several of which the same is left, the first."""
    rough = points.float()
    size = rough.norm(dim=1)
    near = torch.cdist(rough, rough) < APART * (size[:, None] * size).sqrt()
    order = left.argsort(stable=True).argsort()
    return ~(near & (order < order[:, None])).any(dim=1)


class _Problem:
    """What of the activations lies outside the row space, as a function of y: z = start + basis @ y."""

    def __init__(self, start: Float[Tensor, "1 m"], basis: Float[Tensor, "m r"], activations: Float[Tensor, "m c"]) -> None:
        self.start, self.basis, self.activations = start, basis, activations
        self.rough, self.space = basis.float(), activations.float()

    def _rest(self, points: Float[Tensor, "k r"]) -> tuple[Float[Tensor, "k m"], Float[Tensor, "k m"], Bool[Tensor, "k m"]]:
        """Activations, what of them is outside, and which neurons are on."""
        z = self.start + points @ self.basis.T
        fed = z.relu()
        return fed, fed - (fed @ self.activations) @ self.activations.T, z > 0

    def left(self, points: Float[Tensor, "k r"]) -> Float[Tensor, " k"]:
        """The squared share outside."""
        fed, rest, _ = self._rest(points)
        return rest.square().sum(dim=1) / fed.square().sum(dim=1).clamp_min(torch.finfo(fed.dtype).tiny)

    def step(self, points: Float[Tensor, "k r"], damping: Float[Tensor, " k"], clock: Clock) -> Float[Tensor, "k r"]:
        """Levenberg and Marquardt's, in float32: a step need not be exact, only what it leads to is measured in full."""
        if not len(points):
            return points
        _, rest, on = self._rest(points)
        mask = on.to(self.rough.dtype)
        held = damping.float() * (mask @ self.rough.square().sum(dim=1)) / self.basis.shape[1]
        slope = (rest.float() * mask) @ self.rough
        soft = float(damping.median()) <= SOFT
        found, near = self._conjugate(mask, slope, held[:, None], clock, GRADIENTS * (MORE if soft else 1))
        if soft and not bool(near.all()):
            far = ~near
            found[far] = self._factored(mask[far], slope[far], held[far, None], clock)
        return -found.to(points.dtype)

    def _conjugate(
        self, mask: Float[Tensor, "k m"], slope: Float[Tensor, "k r"], held: Float[Tensor, "k 1"], clock: Clock, most: int
    ) -> tuple[Float[Tensor, "k r"], Bool[Tensor, " k"]]:
        """By conjugate gradients, and whether they came near: where the damping is large a few of them do, at a tenth of the work."""
        found, rest, direction = torch.zeros_like(slope), slope, slope
        size = rest.square().sum(dim=1, keepdim=True)
        enough = CLOSE * size
        for _ in range(most):
            clock.check()
            changed = mask * (direction @ self.rough.T)
            curved = (mask * (changed - (changed @ self.space) @ self.space.T)) @ self.rough + held * direction
            length = size / (direction * curved).sum(dim=1, keepdim=True).clamp_min(TINY)
            found, rest = found + length * direction, rest - length * curved
            size, before = rest.square().sum(dim=1, keepdim=True), size
            if bool((size < enough).all()):
                break
            direction = rest + size / before.clamp_min(TINY) * direction
        return found, (size < enough)[:, 0]

    def _factored(
        self, mask: Float[Tensor, "k m"], slope: Float[Tensor, "k r"], held: Float[Tensor, "k 1"], clock: Clock
    ) -> Float[Tensor, "k r"]:
        """By Cholesky factors."""
        found = []
        for on, right, damping in zip(
            *(torch.split(part, max(1, CHUNK // self.rough.numel())) for part in (mask, slope, held)), strict=True
        ):
            clock.check()
            own = on[..., None] * self.rough
            inside = self.space.T @ own
            curvature = own.mT @ self.rough - inside.mT @ inside
            curvature.diagonal(dim1=1, dim2=2).add_(damping)
            factor, failed = torch.linalg.cholesky_ex(curvature)
            found.append(torch.cholesky_solve(right[..., None], factor)[..., 0].where(failed[:, None] == 0, 0.0))
        return torch.cat(found)
