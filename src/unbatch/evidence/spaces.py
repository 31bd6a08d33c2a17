"""The column space and the row space of one layer's gradient: where every member of the batch leaves its column and its input.

| here   | meaning                                                                                      |
|--------|----------------------------------------------------------------------------------------------|
| G      | ∂L/∂W = Σ wᵢ dᵢ aᵢᵀ, of rank r; dᵢ = ∂ℓᵢ/∂z and aᵢ, what the layer is fed, of sample i       |
| U, V   | orthonormal bases of its columns (m, r) and rows (n, r); G = U C Vᵀ                          |
| ν      | length of the noise of G: no unit vector is moved by more                                    |

With full rank, G (G⁺dᵢ) = dᵢ. What the noise moves of that is at most ν ‖G⁺dᵢ‖: a sample that is weak, or nearly a mixture of others, has
a long G⁺dᵢ, and is seen only up to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.evidence.replay import carried
from unbatch.linalg.lowrank import factor
from unbatch.types import Observation

__all__ = ["Space", "spaces_of"]

ABOVE = 10.0
"""A singular value counts when it is this many times the noise. Chosen. Swept."""

ROUNDINGS = 4
"""Roundings that a singular value may be off by, of the largest one's size; as in ``linalg.lowrank``."""

WEAK = 1e4
"""A direction this near to the noise may be lost in another layer, which then shows a smaller rank. Chosen. Swept."""


@dataclass(frozen=True, eq=False)
class Space:
    """One layer's gradient, G = left @ core @ right.T; see the module's notation.

    Attributes:
        weight: name of the layer's weight.
        left: (m, r) U.
        right: (n, r) V.
        core: (r, r) C.
        noise: ν.
        bias_gradient: (m,) ∂L/∂b, or None where the update has none.
        bias_noise: length of its noise.
    """

    weight: str
    left: Float[Tensor, "m r"]
    right: Float[Tensor, "n r"]
    core: Float[Tensor, "r r"]
    noise: float
    bias_gradient: Float[Tensor, " m"] | None
    bias_noise: float = 0.0

    @property
    def rank(self) -> int:
        """r."""
        return self.left.shape[1]

    def outside_columns(self, columns: Float[Tensor, "k m"]) -> Float[Tensor, "k m"]:
        """What of these is not in the column space."""
        return columns - (columns @ self.left) @ self.left.T

    def outside_rows(self, inputs: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """What of these is not in the row space."""
        return inputs - (inputs @ self.right) @ self.right.T

    def solve_columns(self, columns: Float[Tensor, "k m"]) -> Float[Tensor, "k r"]:
        """G⁺d in the coordinates of the rows: V (C⁻¹ Uᵀ d)."""
        return torch.linalg.solve(self.core, (columns @ self.left).T).T


def spaces_of(observation: Observation, layers: Sequence[tuple[str, str | None]]) -> dict[str, Space]:
    """The spaces of the layers whose gradients have the rank of the first one's, or nearly; empty where that one shows no rank.

    The gradient of an output layer has at most C − 1 dimensions: a batch with more samples is not seen in it one by one.

    Args:
        observation: what the server saw.
        layers: names of weight and bias, first the layer that sees the samples.
    """
    found: dict[str, Space] = {}
    update, least = observation.update, 1
    for weight, bias in layers:
        if weight not in update or not bool(update[weight].any()):
            continue
        space, near = _space(observation, weight, bias)
        if space is None or space.rank < least:
            if not found:
                return {}
            continue
        if not found:
            least = max(1, space.rank - near)
        found[weight] = space
    return found


def _space(observation: Observation, weight: str, bias: str | None) -> tuple[Space | None, int]:
    """The space, None where noise has full rank; and how many of its directions are so near to the noise that others may miss them."""
    gradient, eps = observation.update[weight], torch.finfo(observation.rounding).eps
    factors = factor(gradient, Generator(gradient.device).manual_seed(0))
    height, width = gradient.shape
    # Weak samples lie beyond the last clear gap: every direction above the rounding belongs to the batch, unless noise fills them all.
    spectrum = factors.singular_values
    seen = int((spectrum > ABOVE * ROUNDINGS * eps * spectrum[0]).sum())
    if factors.rank < seen < min(height, width):
        factors = factor(gradient, Generator(gradient.device).manual_seed(0), rank=seen)
    # Random sums of columns stand for a wide gradient, so the spectrum is read off the factors themselves.
    right, change = torch.linalg.qr(factors.right.T)
    inner, values, _ = torch.linalg.svd(change.T)
    # Noise of this length spread over all entries has this spectral norm.
    spread = (height**0.5 + width**0.5) / (height * width) ** 0.5
    noise = max(factors.noise * (height**0.5 + width**0.5), eps * float(values[0]), carried(observation, weight) * spread)
    rank = int((values > ABOVE * noise).sum())
    if rank == 0 or rank >= min(height, width) > 1:
        return None, 0
    left = factors.left @ inner[:, :rank]
    right, change = torch.linalg.qr(right @ change @ inner[:, :rank])
    near = int((values[:rank] < WEAK * noise).sum())
    if bias is None or bias not in observation.update:
        return Space(weight, left, right, change.T, noise, None), near
    sums = observation.update[bias].double()
    # The members' sum lies in their column space: what of it does not is noise, and tells the length of all of it.
    outside = float((sums - left @ (left.T @ sums)).norm()) * (height / (height - rank)) ** 0.5 if height > rank else 0.0
    own = max(eps * float(sums.norm()), carried(observation, bias), outside)
    return Space(weight, left, right, change.T, noise, sums, own), near
