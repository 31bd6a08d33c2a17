"""Sparse directions by dictionary learning: many starts at once, only matrix products.

Finding q with ``left @ q`` sparse is complete dictionary learning with half-sparse codes. With a guess p of a sample the problem is convex:
the smallest weighted ‖left q‖₁ with p · q = 1. Without one, a fixed-point iteration with a sharpening tanh leads from random rows to
nearly sparse directions, each start inside the null space of a few random rows (the bridge to SPEAR's sampling).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.clock import UNLIMITED, Clock
from unbatch.spear.layer import Layer

__all__ = ["blind_directions", "off_weights", "promising", "random_samples", "sparse_directions"]

SETTLED, THRESHOLD = 20, 0.3
"""Steps in which the threshold follows the columns, and its share of their root mean square. Chosen. The second swept."""

FEW, MOST = 16, 0.38
"""Up to so many samples every direction is promising; share of small entries above which any is. Chosen. Both swept."""

SCATTER = 0.3
"""Noise that is added to a row to start from, as a share of its length. Chosen."""


def off_weights(layer: Layer, samples: Float[Tensor, "k b"], sigma: float = 0.2) -> Float[Tensor, "k m"]:
    """How probable it is that a sample leaves a neuron off, from a guess of it.

    Args:
        layer: the layer.
        samples: (k, b) guesses of p, scaled and with the right sign.
        sigma: error of the guessed pre-activations as a share of their spread.
    """
    z = layer.extremes(samples)[1]
    return torch.special.ndtr(-z / (sigma * z.std(dim=1, correction=min(1, z.shape[1] - 1), keepdim=True)))


def sparse_directions(
    left: Float[Tensor, "m b"],
    guesses: Float[Tensor, "k b"],
    weights: Float[Tensor, "k m"] | Float[Tensor, "1 1"],
    steps: int = 150,
    relax: float = 1.6,
    clock: Clock = UNLIMITED,
) -> Float[Tensor, "k b"]:
    """argmin Σ_j w_ij |left_j · q| with p_i · q = 1, for all guesses p_i at once, by over-relaxed ADMM.

    Args:
        left: (m, b) orthonormal columns.
        guesses: (k, b) the p_i; their length does not matter.
        weights: (k, m) the w_ij, or (1, 1) for equal weights.
        steps: iterations.
        relax: over-relaxation, between 1 and 2.
        clock: when to give up.
    """
    anchors, across, one = F.normalize(guesses, dim=1), left.T, left.new_ones(())
    directions, columns = anchors, anchors @ across
    sparse, dual, buffer = columns, torch.zeros_like(columns), torch.empty_like(columns)
    threshold = below = torch.zeros_like(columns[:, :1])
    for step in range(steps):  # written over what is not needed any more: most of the time is one of a few small tensors each
        clock.check()
        pulled = torch.sub(sparse, dual, out=buffer) @ left
        directions = torch.sub(one, (anchors * pulled).sum(dim=1, keepdim=True)).mul(anchors).add_(pulled)
        columns = directions @ across
        if step < SETTLED:  # the scale of the problem settles in the first steps
            threshold = THRESHOLD * columns.square().mean(dim=1, keepdim=True).sqrt() * weights
            below = -threshold
        relaxed = columns.mul_(relax).sub_(torch.mul(sparse, relax - 1, out=buffer)) if step else columns
        target = relaxed.add_(dual)
        sparse = target - torch.clamp(target, below, threshold, out=buffer)
        dual = target.sub_(sparse)
    return directions


def promising(left: Float[Tensor, "m b"], directions: Float[Tensor, "k b"], small: float = 0.03, above: float = 0.06) -> Bool[Tensor, " k"]:
    """Which directions have clearly more small entries than any corner of the ℓ1 problem has: b of the m."""
    size = (directions @ left.to(directions.dtype).T).abs()
    near = (size < small * size.square().mean(dim=1, keepdim=True).sqrt()).double().mean(dim=1)
    height, batch = left.shape
    return near >= (0.0 if batch <= FEW else min(batch / height + above, MOST))


def blind_directions(
    left: Float[Tensor, "m b"],
    generator: Generator,
    starts: int = 512,
    conditioned: int = 6,
    stages: tuple[tuple[float, int], ...] = ((1.5, 15), (3.0, 8), (8.0, 8)),
    clock: Clock = UNLIMITED,
) -> Float[Tensor, "starts b"]:
    """Directions where ``left @ q`` tends to be sparse, without any guess.

    Args:
        left: (m, b) orthonormal columns.
        generator: of the starts.
        starts: how many.
        conditioned: start i stays in the null space of i mod (conditioned + 1) random rows.
        stages: (sharpness of the tanh, iterations), in order.
        clock: when to give up.
    """
    height, batch = left.shape
    left = left.float()
    conditioned = min(conditioned, batch // 4)

    def random_rows(*shape: int) -> Tensor:
        return left[torch.randint(height, shape, generator=generator, device=left.device)]

    noise = torch.randn((starts, batch), generator=generator, device=left.device) / height**0.5
    directions = random_rows(starts) + SCATTER * noise
    rows = random_rows(starts, max(conditioned, 1)).mT
    count = torch.arange(starts, device=left.device) % (conditioned + 1)
    held = torch.linalg.qr(rows)[0]
    held = held * (torch.arange(held.shape[2], device=left.device) < count[:, None])[:, None]

    def free(vectors: Tensor) -> Tensor:
        return F.normalize(vectors - (held @ (held.mT @ vectors[..., None]))[..., 0], dim=1)

    directions = free(directions)
    for sharpness, steps in stages:
        for _ in range(steps):
            clock.check()
            flat = torch.tanh((sharpness * height**0.5) * (directions @ left.T))
            slope = sharpness * (1 - flat.square().mean(dim=1, keepdim=True))
            directions = free(flat @ left / height**0.5 - slope * directions)
    return directions


def random_samples(layer: Layer, left: Float[Tensor, "b r"], generator: Generator, count: int = 200) -> Float[Tensor, "count b"]:
    """Random p in the space spanned by ``left``, uniform in the direction of their pre-activations."""
    _, change = torch.linalg.qr(layer.seen @ left)
    noise = torch.randn((left.shape[1], count), generator=generator, device=left.device, dtype=left.dtype)
    return torch.linalg.solve_triangular(change, noise, upper=True).T @ left.T
