"""A Linear + ReLU layer in the coordinates of its gradient's factors.

| paper (SPEAR)  | here            | meaning                                                                        |
|----------------|-----------------|--------------------------------------------------------------------------------|
| L              | left            | (m, b) orthonormal columns; rows of the gradient are scaled to equal length    |
| q              | rows of ``(k, b)`` | ``left @ q`` is a column of ∂L/∂Z up to scale: zero where its sample is off |
| row p of Q⁻¹   | rows of ``(k, b)`` | a sample: x = Rᵀ p, its pre-activations are ``seen @ p + bias``              |
|                |                 | p_i · q_j = 1 if i = j, else 0                                                 |

Scaling the rows to equal length and leaving dead neurons out matters where masks are correlated, as on pictures with a common background.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from unbatch.linalg.complement import complement

__all__ = ["CHANCE", "Layer", "deflate", "layer_in_factors"]

DEAD = 1e-9
"""A row below this share of the longest is that of a neuron that no sample fires, or as good as. Chosen. Swept."""

NOISES, CHANCE = 5.0, 2e-6
"""Standard deviations of the noise up to which an entry is zero: a normal distribution exceeds them once in two million. Chosen. Swept.
And share of all entries, four times as many, that may by chance. Derived."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What is known of the layer and of the b samples that are still sought.

    Attributes:
        left: (m, b) orthonormal columns.
        seen: (m, b) pre-activations of a sample p are ``seen @ p + bias``.
        bias: (m,).
        sums: (b,) p · sums = 1 for every sample: the bias gradient in these coordinates.
        views: (b, N) linear features of the inputs, one column a feature: p @ views are those of sample p.
        length: (m,) what the rows of the left factor were divided by.
        noise: (r, b) the noise of ``left @ q`` in row j has standard deviation ‖noise @ q‖ / length_j.
        tolerance: entries of left @ q below this share of the largest count as zero, however small the noise.
        moved: by how much ``seen`` and ``bias`` fell while the client trained, where it did: a neuron is zero in a sample's column only
            if it was off all along.
        evened: (m,) what the rows of the gradient were divided by before it was factored, where they were.
    """

    left: Float[Tensor, "m b"]
    seen: Float[Tensor, "m b"]
    bias: Float[Tensor, " m"]
    sums: Float[Tensor, " b"]
    views: Float[Tensor, "b N"]
    length: Float[Tensor, " m"]
    noise: Float[Tensor, "r b"]
    tolerance: float
    moved: tuple[Float[Tensor, "m b"], Float[Tensor, " m"]] | None = None
    evened: Float[Tensor, " m"] | None = None

    @property
    def batch(self) -> int:
        """Number of samples sought."""
        return self.left.shape[1]

    @property
    def divided(self) -> Float[Tensor, " m"]:
        """What the rows of the gradient were divided by in all."""
        return self.length if self.evened is None else self.length * self.evened

    @property
    def made(self) -> Float[Tensor, "m b"]:
        """What takes a sample p to its pre-activations, as p · sums = 1; of p up to scale they come up to the same scale."""
        return self.seen + self.bias[:, None] * self.sums

    @property
    def noise_level(self) -> float:
        """Noise of a typical entry of left @ q, as a share of the largest entry of a typical column."""
        typical = self.noise.norm() / self.batch**0.5 / self.length.median()
        return float(typical * len(self.left) ** 0.5 / 3)

    def threshold(self, directions: Float[Tensor, "k b"]) -> Float[Tensor, "k m"]:
        """Below it an entry of left @ q is zero: five standard deviations of the noise, and never under the tolerance."""
        size = (directions @ self.left.T).abs().amax(dim=1, keepdim=True)
        noise = (directions @ self.noise.T).norm(dim=1, keepdim=True)
        return torch.maximum(self.tolerance * size, NOISES * noise / self.length)

    def off(self, directions: Float[Tensor, "k b"]) -> Bool[Tensor, "k m"]:
        """Where left @ q is zero."""
        return (directions @ self.left.T).abs() < self.threshold(directions)

    def pre_activations(self, samples: Float[Tensor, "k b"]) -> Float[Tensor, "k m"]:
        """W x + bias of the samples p."""
        return samples @ self.seen.T + self.bias

    def extremes(self, samples: Float[Tensor, "k b"]) -> tuple[Float[Tensor, "k m"], Float[Tensor, "k m"]]:
        """The smaller and the larger of the pre-activations before and after the client's training; the same twice for a gradient."""
        before = self.pre_activations(samples)
        if self.moved is None:
            return before, before
        after = before - samples @ self.moved[0].T - self.moved[1]
        return torch.minimum(before, after), torch.maximum(before, after)


def layer_in_factors(
    left: Float[Tensor, "m b"],
    bias_gradient: Float[Tensor, " m"],
    seen: Float[Tensor, "m b"],
    bias: Float[Tensor, " m"],
    views: Float[Tensor, "b N"],
    noise: Float[Tensor, "b b"],
    tolerance: float,
    moved: tuple[Float[Tensor, "m b"], Float[Tensor, " m"]] | None = None,
    evened: Float[Tensor, " m"] | None = None,
) -> tuple[Layer, Float[Tensor, "b b"], Bool[Tensor, " m"]] | None:
    """Scale the rows of the left factor to equal length, leave dead ones out, make the columns orthonormal again.

    Args:
        left: (m, b) left factor of the gradient, G = left @ right.
        bias_gradient: (m,) ∂L/∂bias.
        seen: (m, b) W rightᵀ.
        bias: (m,) of the layer.
        views: (b, N) features of the rows of right.
        noise: (b, b) the noise of ``left @ q`` has standard deviation ‖noise @ q‖.
        tolerance: see ``Layer``.
        moved: see ``Layer``; in the coordinates of ``seen`` as given here.
        evened: see ``Layer``.

    Returns:
        the layer; the (b, b) matrix T such that x = rightᵀ Tᵀ p; and which rows are alive, (m,). None where fewer than b rows are.
    """
    length = left.norm(dim=1)
    alive = length > (DEAD * length.max()).maximum(NOISES * noise.norm())
    if int(alive.sum()) < left.shape[1]:
        return None
    columns, change = torch.linalg.qr(left[alive] / length[alive, None])
    sums = torch.linalg.lstsq(columns, (bias_gradient[alive] / length[alive])[:, None]).solution[:, 0]
    noise = torch.linalg.solve_triangular(change, noise, upper=True, left=False)
    moved = None if moved is None else (moved[0][alive] @ change.T, moved[1][alive])
    evened = None if evened is None else evened[alive]
    layer = Layer(columns, seen[alive] @ change.T, bias[alive], sums, change @ views, length[alive], noise, tolerance, moved, evened)
    return layer, change, alive


def deflate(
    layer: Layer, samples: Float[Tensor, "k b"], directions: Float[Tensor, "k b"]
) -> tuple[Layer, Bool[Tensor, " m"], Float[Tensor, "b r"]]:
    """Take k known samples out: the directions of the others are orthogonal to them, so r = b − k dimensions are left.

    Args:
        layer: the layer with all b samples.
        samples: (k, b) exact p.
        directions: (k, b) their q, scaled so that p_i · q_i = 1.

    Returns:
        the smaller layer, on the rows that are still alive; those rows, (m,); and M (b, r): directions q = M q', samples p' = Mᵀ p.
    """
    basis, samples_left = complement(samples), complement(directions)
    columns = layer.left @ basis
    length = columns.norm(dim=1)
    rows = length > (DEAD * length.max()).maximum(NOISES * layer.noise.norm() / layer.length)
    left, change = torch.linalg.qr(columns[rows] / length[rows, None])
    change_right = change @ torch.linalg.solve(samples_left.T @ basis, samples_left.T)
    sums = change @ (basis.T @ (layer.sums - directions.sum(dim=0)))
    basis = torch.linalg.solve_triangular(change, basis, upper=True, left=False)
    length = layer.length[rows] * length[rows]
    seen, views = layer.seen[rows] @ change_right.T, change_right @ layer.views
    moved = None if layer.moved is None else (layer.moved[0][rows] @ change_right.T, layer.moved[1][rows])
    evened = None if layer.evened is None else layer.evened[rows]
    return Layer(left, seen, layer.bias[rows], sums, views, length, layer.noise @ basis, layer.tolerance, moved, evened), rows, basis


def unit(vectors: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
    """The rows, at length one."""
    return F.normalize(vectors, dim=1)
