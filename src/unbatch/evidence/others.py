r"""What the other members say of one: with pⱼ = G⁺ dⱼ, a member's input a is at right angles to pⱼ of every other member j.

    a_iᵀ G⁺ dⱼ = 0 for i ≠ j, whatever the batch holds beside them.

Behind one layer of ReLU the column of a sample fixes C − 1 numbers of it, and of r in all. Where most of the batch is proved to be there,
the others fix the rest: r − k numbers are left to tune when k columns are known.

An error of dⱼ, of a share μⱼ, and the noise ν of G move a_iᵀ pⱼ by at most ‖(Gᵀ)⁺ a_i‖ (μⱼ ‖dⱼ‖ + ν ‖pⱼ‖).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.evidence.certificate import Entrance

__all__ = ["Others", "others_of"]


@dataclass(frozen=True, eq=False)
class Others:
    """Members whose columns are proved.

    Attributes:
        members: (e,) which of the samples they are.
        directions: (e, r) pⱼ, of length one.
        error: (e,) by how much each may be off, beside ‖(Gᵀ)⁺ a‖ / ‖a‖ of the sample that it is asked about.
    """

    members: Int64[Tensor, " e"]
    directions: Float[Tensor, "e r"]
    error: Float[Tensor, " e"]

    def off(self, entrance: Entrance, coordinates: Float[Tensor, "k r"], samples: Int64[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Length of what the conditions of the others leave of each sample, relatively, and of what may hide there.

        Args:
            entrance: the layer that sees the samples.
            coordinates: (k, r) the samples.
            samples: (k,) which they are.
        """
        length = torch.linalg.vector_norm(coordinates, dim=1)
        seen = torch.linalg.vector_norm(torch.linalg.solve(entrance.first.core.T, coordinates.T), dim=0) / length
        left = coordinates @ self.directions.T / length[:, None]
        apart = samples[:, None] != self.members
        return (apart * (left.square() + (seen[:, None] * self.error).square())).sum(dim=1).sqrt()

    def grams(self, samples: Int64[Tensor, " k"]) -> Iterator[Float[Tensor, "r r"]]:
        """Of every sample, PᵀP of the directions of all others."""
        whole = self.directions.T @ self.directions
        for sample in samples:
            own = self.directions[self.members == sample]
            yield whole - own.T @ own


def others_of(
    entrance: Entrance,
    coordinates: Float[Tensor, "k r"],
    labels: Int64[Tensor, " k"],
    misfit: Float[Tensor, " k"],
    members: Int64[Tensor, " e"],
) -> Others | None:
    """What those samples say of each other that are proved to have a member's column.

    Args:
        entrance: the layer that sees them.
        coordinates: (k, r) all samples.
        labels: (k,).
        misfit: (k,) relative violation of the conditions of each by itself.
        members: (e,) which of them have such a column.
    """
    columns = entrance.tail(entrance.at(coordinates[members]), labels[members])[entrance.tail.start].columns
    if columns is None:
        return None
    across = entrance.first.solve_columns(columns)
    length = torch.linalg.vector_norm(across, dim=1)
    error = misfit[members] * torch.linalg.vector_norm(columns, dim=1) / length + entrance.first.noise
    return Others(members, across / length[:, None], error)
