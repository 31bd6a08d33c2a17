"""From poor guesses to rough ones by the next layer's gradient: many walks between two sets, none of which needs a good start.

A sample's pre-activations z lie in the column space of ``seen``, its activations h in the row space of the next layer's gradient, and
neuron by neuron h = ReLU(z). The first two are linear, and the nearest pair (h, z) is a projection; the third is two rays for each neuron,
and the nearest point on them is a choice. Steps that relax the reflection at both sets (as phase retrieval has them) do not come to rest
where neither is met, as alternating projections would: they wander until they are near a sample. From there ``descent`` goes on.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.spear.layer import Layer

__all__ = ["STEPS", "reflected", "steps_after"]

STEPS, RELAX = 100, 0.5
"""Steps of the first walks, and the share of a full one that each is. Chosen: MNIST at m=1000, b=350 had 54 samples with .85 of their signs
right after so many, 87 after four times as many, 6 at the start."""

SHORT, LONG, PAYING = 25, 1600, 0.1
"""Bounds on the steps of a walk, and the share of the samples sought that a round must find to make the next walks shorter. Chosen."""

HALF = 0.5**0.5
"""Length of the activations against that of the pre-activations, half of which are on. Derived."""

TINY = 1e-30
"""Of float32, what keeps a division of zero by zero. Derived."""


def reflected(
    layer: Layer, activations: Float[Tensor, "m c"], guesses: Float[Tensor, "k b"], clock: Clock = UNLIMITED, steps: int = STEPS
) -> Float[Tensor, "k b"]:
    """Better guesses, each from one of those given: where its walk came nearest to both sets; up to scale.

    The bias is left out, so that only the direction of a guess matters; ``descent`` has it back.

    Args:
        layer: the layer, perhaps with known samples taken out.
        activations: (m, c) the next layer's row space, on this layer's neurons: rows of orthonormal columns.
        guesses: (k, b) of p, of the right sign.
        clock: when to give up.
        steps: of every walk.
    """
    basis, change = torch.linalg.qr(layer.seen)
    seen, space = basis.float(), activations.float()
    z = _of_length(((guesses @ change.T) / guesses.norm(dim=1, keepdim=True)).float() @ seen.T, 1.0)
    h = z.relu()
    nearest, best = torch.full_like(z[:, :1], torch.inf), z @ seen
    for _ in range(steps):
        clock.check()
        point = z @ seen
        inner, linear = _of_length((h @ space) @ space.T, HALF), _of_length(point @ seen.T, 1.0)
        fed, on = _on_rays(2 * inner - h, 2 * linear - z)
        apart, off = fed - inner, on - linear
        left = apart.square().sum(dim=1, keepdim=True) + off.square().sum(dim=1, keepdim=True)
        best, nearest = torch.where(left < nearest, point, best), torch.minimum(left, nearest)
        h, z = h + RELAX * apart, z + RELAX * off
    return torch.linalg.solve_triangular(change, best.T.to(change.dtype), upper=True).T


def steps_after(steps: int, found: float) -> int:
    """Steps of the next walks: where these found little, of what is sought, twice as many, else half.

    Example:
        >>> steps_after(100, 0.3), steps_after(100, 0.0), steps_after(1600, 0.0)
        (50, 200, 1600)
    """
    return max(SHORT, steps // 2) if found > PAYING else min(LONG, 2 * steps)


def _of_length(vectors: Float[Tensor, "k m"], length: float) -> Float[Tensor, "k m"]:
    return vectors * (length / vectors.norm(dim=1, keepdim=True).clamp_min(TINY))


def _on_rays(h: Float[Tensor, "k m"], z: Float[Tensor, "k m"]) -> tuple[Float[Tensor, "k m"], Float[Tensor, "k m"]]:
    """The nearest pairs with h = ReLU(z): on the ray h = z ≥ 0, or on the other, h = 0 ≥ z."""
    both, below = ((h + z) / 2).clamp_min(0), z.clamp_max(0)
    on = (h - both).square() + (z - both).square() < h.square() + (z - below).square()
    return torch.where(on, both, 0.0), torch.where(on, both, below)
