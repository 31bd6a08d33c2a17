"""What must hold for a sample that is in the batch: vectors that the model computes from it lie in spaces that the update shows.

With G = Σ wᵢ dᵢ hᵢᵀ the gradient of a Linear layer, every dᵢ = ∂ℓᵢ/∂z lies in G's column space and every hᵢ, what the layer is fed, in its
row space; with the bias's gradient beside G, so does (hᵢ, 1). Each such space is one block of equations: the part of the unit vector that
sticks out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.linalg.complement import complement
from unbatch.span.network import MovingNetwork, Network

__all__ = ["MARGIN", "Equations", "Space", "spaces_of_gradient"]

TOGETHER = 2**20
"""Numbers of the columns of all labels that are computed before the clock is read: a tenth of a second, or a few where weights moved.
Chosen."""

ROUNDING = 10.0
"""A residual of this many times the noise that is expected is still noise. Chosen. Swept."""

LARGEST = 300.0
"""Noise of this many times the precision of the arithmetic is too much for a proof. Chosen. Swept."""

FINE = 1e-5
"""A finer precision than this makes no difference to that: a weak sample of a float64 update is known as one of a float32 update is.
Chosen, not swept."""

MARGIN = 4
"""How many more equations than unknowns there must be: with fewer, a zero proves nothing. Chosen. Swept."""


@dataclass(frozen=True, eq=False)
class Space:
    """A space that holds one vector of every sample.

    Attributes:
        kind: ``column`` for ∂ℓ/∂z of the layer, ``row`` for what it is fed.
        layer: weight name.
        basis: (m, b) orthonormal.
        noise: (r, b) a vector v of the batch sticks out by about ‖noise @ basisᵀ v‖, because the update is rounded.
        augmented: whether a 1 stands behind the vector, for the bias.
    """

    kind: Literal["column", "row"]
    layer: str
    basis: Float[Tensor, "m b"]
    noise: Float[Tensor, "r b"]
    augmented: bool = False

    @property
    def surplus(self) -> int:
        """How many equations it gives."""
        return self.basis.shape[0] - self.basis.shape[1]

    @cached_property
    def outside(self) -> Float[Tensor, "m e"]:
        """Orthonormal basis of all that is orthogonal to the space: what sticks out has so many coordinates and no more."""
        return complement(self.basis.T)

    def restricted(self, inside: Float[Tensor, "b r"]) -> Space:
        """The part of the space that the columns of ``inside`` (orthonormal) span."""
        return Space(self.kind, self.layer, self.basis @ inside, self.noise @ inside, self.augmented)

    def rest(self, vectors: Float[Tensor, "k n"]) -> tuple[Float[Tensor, "k e"], Float[Tensor, "k b"]]:
        """Coordinates of what sticks out of the unit vectors, and of what does not."""
        if self.augmented:
            vectors = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
        unit = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(torch.finfo(vectors.dtype).tiny)
        return unit @ self.outside, unit @ self.basis


@dataclass(frozen=True, eq=False)
class Equations:
    """The equations of samples p with labels y.

    Attributes:
        network: the model as a function of p.
        spaces: one block each.
    """

    network: Network | MovingNetwork
    spaces: Sequence[Space]

    @property
    def count(self) -> int:
        """How many equations there are."""
        return sum(space.surplus for space in self.spaces)

    def blocks(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"]) -> list[tuple[Tensor, Tensor]]:
        """``Space.rest`` of every block."""
        columns, fed = self.network.sensitivities(
            points,
            labels,
            [space.layer for space in self.spaces if space.kind == "column"],
            [space.layer for space in self.spaces if space.kind == "row"],
        )
        return [space.rest((columns if space.kind == "column" else fed)[space.layer]) for space in self.spaces]

    def residuals(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"]) -> Float[Tensor, "k e"]:
        """All blocks side by side: zero for a sample of the batch."""
        return torch.cat([rest for rest, _ in self.blocks(points, labels)], dim=1)

    def linearized(
        self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"], directions: Float[Tensor, "q b"]
    ) -> tuple[Float[Tensor, "k e"], Float[Tensor, "k q e"]]:
        """The residuals, and how they change along the directions: forward mode over reverse mode."""

        def along(direction: Tensor) -> tuple[Tensor, Tensor]:
            value, slope, *_ = torch.func.jvp(lambda p: self.residuals(p, labels), (points,), (direction.expand_as(points),))
            return value, slope

        values, slopes = torch.func.vmap(along, out_dims=(None, 0))(directions)  # type: ignore[arg-type]
        return values, slopes.movedim(0, 1)

    def misfit(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"], precision: float, unknowns: int) -> Float[Tensor, " k"]:
        """The worst block's residual in units of what rounding explains: of the model's own arithmetic, and of the update.

        A block in which noise may explain more than ``LARGEST`` × precision can contradict a sample but not prove it. Where the other
        blocks together have too few equations for a proof, the answer is infinite.

        Args:
            points: the samples.
            labels: theirs.
            precision: of the model's own arithmetic.
            unknowns: of every sample.
        """
        worst, proving = points.new_zeros(len(points)), points.new_zeros(len(points))
        for space, (rest, inside) in zip(self.spaces, self.blocks(points, labels), strict=True):
            explained = ROUNDING * (inside @ space.noise.T).norm(dim=1)
            proving += torch.where(explained < LARGEST * max(precision, FINE), space.surplus, 0)
            worst = torch.maximum(worst, rest.norm(dim=1) / explained.clamp_min(precision))
        return worst.where(proving >= unknowns + MARGIN, torch.inf).nan_to_num(torch.inf, torch.inf)

    def best_labels(
        self, points: Float[Tensor, "k b"], classes: Int64[Tensor, " c"], count: int = 1, clock: Clock = UNLIMITED
    ) -> tuple[Float[Tensor, "k l"], Int64[Tensor, "k l"]]:
        """The labels that leave the smallest rests in the first column space: these rests, rising, and the labels.

        Raises:
            OutOfTime: the clock ran out.
        """
        space, rest = next(space for space in self.spaces if space.kind == "column"), []
        for part in torch.split(points, max(1, TOGETHER // (len(classes) * len(space.basis)))):
            clock.check()
            columns = self.network.by_label(part, space.layer, classes)
            rest.append(space.rest(columns.flatten(0, 1))[0].norm(dim=1).reshape(columns.shape[:2]))
        rests = torch.cat(rest, dim=1)
        least, order = rests.T.nan_to_num(torch.inf, torch.inf).topk(min(count, len(classes)), dim=1, largest=False)
        return least, classes[order]


def spaces_of_gradient(
    layer: str, gradient: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None, batch: int, resolution: float
) -> list[Space]:
    """Column and row space of another layer's gradient, where its rank is that of the batch and there is room beside it.

    Args:
        layer: weight name.
        gradient: of the weight.
        bias: gradient of the bias, or None.
        batch: the rank of the first layer's gradient.
        resolution: relative rounding of the update.
    """
    whole = gradient.double() if bias is None else torch.cat([gradient.double(), bias.double()[:, None]], dim=1)
    if min(whole.shape) < batch:
        return []
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    noise = float(values[batch:].square().sum()) ** 0.5 / max(1, (len(whole) - batch) * (whole.shape[1] - batch)) ** 0.5
    noise = max(noise, resolution * float(values[0]) / max(whole.shape) ** 0.5)
    if values[batch - 1] < ROUNDING * noise * max(whole.shape) ** 0.5:
        return []
    largest = float(values[batch]) if batch < len(values) else 0.0  # samples under the rounding lie in few directions, unlike noise
    found: list[Space] = []
    for kind, basis, other in (("column", left[:, :batch], whole.shape[0]), ("row", right[:batch].T, whole.shape[1])):
        if other > batch:
            spread = torch.diag(max(largest, noise * (other - batch) ** 0.5) / values[:batch])
            found.append(Space("column" if kind == "column" else "row", layer, basis, spread, kind == "row" and bias is not None))
    return found
