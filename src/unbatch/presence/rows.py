r"""The row space of [∂L/∂W | ∂L/∂b] of one layer: every sample of the batch feeds the layer with a vector of it.

| here | meaning                                                                                                  |
|------|----------------------------------------------------------------------------------------------------------|
| ã    | [a; τ], what a record feeds the layer with, and one more number for the bias                               |
| A    | [G \| τ g] = Σ wᵢ dᵢ ãᵢᵀ, of rank r: m rows, n + 1 columns                                                  |
| V    | (n + 1, r) orthonormal basis of its rows                                                                  |
| ν    | length of its noise: no unit vector is moved by more                                                      |
| h    | (m,) lengths that the noise of its rows has outside of V                                                  |

With noise E of A a sample's ã is left outside of V by Eᵀ (Aᵀ)⁺ ã, at most ν ‖(Aᵀ)⁺ã‖: a weak sample is seen less sharply. Where the noise
of the rows has nothing to do with one another, it is √ Σ (hᵢ ((Aᵀ)⁺ã)ᵢ)². A row is rounded in proportion to itself; by how much more than
the last digit says, because many numbers were added up, is seen in directions of columns that no sample uses: what is left there is noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY
from unbatch.evidence.replay import carried
from unbatch.linalg.complement import complement
from unbatch.linalg.lowrank import COARSE, Spectrum, spectrum
from unbatch.presence.fed import Passes, Witness
from unbatch.types import Observation

__all__ = ["Rows", "outside_without_bias", "rows_of"]

ABOVE = 10.0
"""A singular value counts when it is this many times the rounding. Chosen. Swept."""

HALF = 0.5
"""Derived: a number that is rounded to the nearest is off by at most half of its last digit."""

NEAR = 1e-2
"""Share outside, below which the difference of two squares is not exact to ten digits. Derived: 1e-16 beside its square."""

FAR = 0.1
"""Share outside, above which single precision shows it to a thousandth and better. Derived: 1e-6 beside its square."""

MANY, TRIED = 64, 4
"""Records from which on they are asked in single precision first, and how many of them show what that is worth. Chosen, for time alone."""

EDGE = 1.05
"""With noise in every entry, a singular value counts when it is this far above the largest of noise alone. Chosen: the largest of noise
varies by a few hundredths at a hundred rows. Swept."""

FEW = 128
"""Directions without a sample that noise is measured in. Chosen: a budget, for less than a tenth of the work of finding them."""

SEEN = 100
"""Numbers that noise is measured on at least. Derived: their length then tells its size to 7 %, 1 / √200."""

MEDIAN = 0.19
"""The median singular value of noise of standard deviation 1, beside the square root of its longer side, is 1 less this times the ratio of
its sides (fitted to the law of Marchenko and Pastur). Derived."""


@dataclass(frozen=True, eq=False)
class Rows:
    """See the module's notation.

    Attributes:
        weight: name of the layer's weight.
        left: (m, r) orthonormal basis of the columns.
        values: (r,) singular values that count.
        right: (r, n + 1) Vᵀ.
        shift: τ; zero without a bias.
        noise: ν.
        deviation: standard deviation of an entry of A where noise lies on all of them; 0 for rounding.
        clear: whether every direction stands clear of the noise, so that the rank is that of the samples.
        each: h, or None where it was not measured.
    """

    weight: str
    left: Float[Tensor, "m r"]
    values: Float[Tensor, " r"]
    right: Float[Tensor, "r n1"]
    shift: float
    noise: float
    deviation: float
    clear: bool
    each: Float[Tensor, " m"] | None = None

    @property
    def rank(self) -> int:
        """r."""
        return len(self.values)

    @property
    def spare(self) -> int:
        """Directions that are no samples': n + 1 − r."""
        return self.right.shape[1] - self.rank

    def extended(self, fed: Float[Tensor, "k n"]) -> Float[Tensor, "k n1"]:
        """ã of what records feed the layer with."""
        return torch.cat([fed, fed.new_full((len(fed), 1), self.shift)], dim=1) if self.shift else fed

    def residuals(self, fed: Float[Tensor, "k n"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """What of ã lies outside, and what the noise explains of it if the record was there; both as shares of ‖ã‖.

        Of what lies far outside the noise is not asked more closely than by its longest row.
        """
        length = torch.linalg.vector_norm(fed, dim=1)
        if self.shift:  # as of ``extended``, without a copy of all that was fed
            length = torch.hypot(length, length.new_tensor(self.shift))
        length = length.clamp_min(torch.finfo(torch.float64).tiny)
        inside = self._inside(fed, length)
        # By Pythagoras, which is half of the work; of what lies nearly inside it leaves no digits, and that is subtracted instead.
        outside = (1 - (torch.linalg.vector_norm(inside, dim=1) / length).square()).clamp_min(0).sqrt()
        near = (outside < NEAR).nonzero()[:, 0]
        if len(near):
            outside[near] = (self.extended(fed[near]) - inside[near] @ self.right).norm(dim=1) / length[near]
        noise = self._noise(inside.div_(self.values)) / length
        if self.each is not None and len(near):
            noise[near] = torch.linalg.vector_norm((inside[near] @ self.left.T).mul_(self.each), dim=1) / length[near]
        return outside, noise

    def _inside(self, fed: Float[Tensor, "k n"], length: Float[Tensor, " k"]) -> Float[Tensor, "k r"]:
        """V ã; of records that lie far outside in single precision, which is half of the work."""
        numbers, bias = fed.shape[1], self.shift * self.right[:, -1] if self.shift else self.right.new_zeros(())

        def exact(some: Tensor) -> Tensor:
            return some @ self.right[:, :numbers].T + bias

        if len(fed) < MANY:
            return exact(fed)
        inside = ((fed / length[:, None]).float() @ self.right[:, :numbers].float().T).double().mul_(length[:, None]).add_(bias)
        first = exact(fed[:TRIED])  # a machine may be told to take fewer digits still
        coarse = bool(((inside[:TRIED] - first).norm(dim=1) > FAR**2 * NEAR * length[:TRIED]).any())
        close = (inside.norm(dim=1) >= (1 - FAR**2) ** 0.5 * length) | coarse
        inside[close] = exact(fed[close])
        return inside

    def outside(self, fed: Float[Tensor, "k n"]) -> tuple[Float[Tensor, "k n1"], Float[Tensor, " k"]]:
        """As ``residuals``, with what lies outside as vectors, and the noise as exactly as it is known."""
        extended = self.extended(fed)
        inside = extended @ self.right.T
        length = extended.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
        left = (extended - inside @ self.right) / length[:, None]
        inside.div_(self.values)
        noise = self._noise(inside) if self.each is None else torch.linalg.vector_norm((inside @ self.left.T).mul_(self.each), dim=1)
        return left, noise / length

    def _noise(self, mixture: Float[Tensor, "k r"]) -> Float[Tensor, " k"]:
        """Length that noise gives at most to what is left of a record with this Uᵀ (Aᵀ)⁺ ã."""
        spread = torch.linalg.vector_norm(mixture, dim=1)
        return self.noise_on(spread) if self.each is None else spread * float(self.each.max())

    def noise_on(self, spread: Tensor) -> Tensor:
        """Length that the noise gives to what lies outside, for a record with this ‖(Aᵀ)⁺ã‖, or to a column with this ‖A⁺d‖."""
        return spread * (self.deviation * (self.spare**0.5 + SAFETY) if self.deviation else self.noise)

    def outside_columns(self, columns: Float[Tensor, "*many m"]) -> Float[Tensor, "*many"]:
        """Length of what lies outside the column space."""
        if len(self.left) - self.rank < 2 * self.rank:  # fewer directions to ask than there and back
            return torch.linalg.vector_norm(columns @ self._unused, dim=-1)
        return torch.linalg.vector_norm(columns - columns @ self.left @ self.left.T, dim=-1)

    @cached_property
    def _unused(self) -> Float[Tensor, "m u"]:
        """Orthonormal basis of the columns that no sample uses."""
        return complement(self.left.T)

    def inverse_weights(self, fed: Float[Tensor, "k n"], columns: Float[Tensor, "*many k m"]) -> Float[Tensor, "*many k"]:
        """1/w of records that were there: ãᵀ A⁺ d."""
        inside = self.extended(fed) @ self.right.T
        return (inside / self.values * (columns @ self.left)).sum(dim=-1)


def rows_of(
    observation: Observation, witness: Witness, typical: float, deviation: float | None = None, told: int | None = None, wanted: float = 1
) -> Rows | None:
    """The row space of a layer's gradient; None where it is full, so that everything lies in it, or too small to be of use.

    Args:
        observation: what the server saw.
        witness: the layer.
        typical: size of an entry of what records feed it with, which becomes τ.
        deviation: of the noise on an entry of the update, where that is known.
        told: how many rows there are at most, where that is known.
        wanted: directions that it must have: the work of finding them is not done for fewer.
    """
    gradient = observation.update[witness.weight].double()
    shift = typical if witness.bias is not None else 0.0
    if witness.bias is not None:
        gradient = torch.cat([gradient, shift * observation.update[witness.bias].double()[:, None]], dim=1)
    height, width = gradient.shape
    if not bool(gradient.any()):
        return None
    spread = height**0.5 + width**0.5
    eps = torch.finfo(observation.rounding).eps
    # Noise that is told may be less than the rounding of what it was put on: then every digit may count.
    found = spectrum(gradient, eps if deviation is None else 0.0)
    values = found.values
    rms = float(gradient.square().mean().sqrt())
    own = carried(observation, witness.weight) / (height * width) ** 0.5 * spread
    beside = 0.0 if witness.bias is None else shift * carried(observation, witness.bias)
    rounding = max(eps * float(values[0]), HALF * eps * rms * spread, own, beside)
    rank = int((values > ABOVE * rounding).sum())
    least = min(int((gradient != 0).any(dim=1).sum()) - _balanced(gradient, rounding), width)
    if deviation is None and rank < least:
        noise = max(rounding, float(values[rank]))
        if rank < wanted:
            return None
        # How large the rounding of weights is in an update hangs on the rate and the factor, which may be others than those told.
        clear = observation.training is None or float(values[rank - 1]) > ABOVE * float(values[rank])
        rows = _rows(witness, found, rank, shift, noise, clear=clear)
        # Of numbers as fine as the ones that we reckon with, our own rounding is as large.
        return (
            replace(rows, each=_measured(gradient, rows, found.left[:, rank:], least - rank, observation.rounding))
            if eps >= COARSE
            else rows
        )
    if deviation is None and told is not None and told < least:
        deviation = float(values[told:].square().sum() / ((height - told) * (width - told))) ** 0.5
    elif deviation is None:
        long, short = max(least, width), min(least, width)
        deviation = float(values[:least].median()) / ((1 - MEDIAN * short / long) * long**0.5)
    edge = EDGE * deviation * spread
    rank = min(int((values > edge).sum()), told or height)
    if not wanted <= rank < least:
        return None
    clear = float(values[rank - 1]) > ABOVE * edge > ABOVE * float(values[rank])
    return _rows(witness, found, rank, shift, max(edge, rounding), deviation, clear=clear)


def outside_without_bias(passes: Passes, rows: Rows, records: Tensor) -> Float[Tensor, " k"]:
    """The largest share of what each record feeds a layer with that lies outside of the row space of G alone: the bias gradient may have
    been multiplied by anything.
    """
    basis, _ = torch.linalg.qr(rows.right[:, : -1 if rows.shift else None].T)
    left = []
    for part in passes.parts(records, [rows.weight]):
        fed = passes(records[part], [rows.weight])[rows.weight]
        size = fed.norm(dim=2).clamp_min(torch.finfo(torch.float64).tiny)
        left.append(((fed - (fed @ basis) @ basis.T).norm(dim=2) / size).amax(dim=1))
    return torch.cat(left) if left else records.new_zeros(0, dtype=torch.float64)


def _rows(witness: Witness, found: Spectrum, rank: int, shift: float, noise: float, deviation: float = 0.0, *, clear: bool = True) -> Rows:
    left, right = found.leading(rank)
    return Rows(witness.weight, left, found.values[:rank], right, shift, noise, deviation, clear)


def _measured(gradient: Tensor, rows: Rows, unused: Float[Tensor, "m u"], count: int, stored: torch.dtype) -> Tensor | None:
    """h, as seen in directions of columns that no sample uses; ``count`` of them are not of rows of zeros. None where these are too few."""
    if count * rows.spare < SEEN:
        return None
    few = unused[:, :FEW]
    kind = torch.finfo(stored)
    rounded = HALF * kind.eps * torch.hypot(gradient.norm(dim=1), gradient.new_tensor(kind.smallest_normal * gradient.shape[1] ** 0.5))
    left = few.T @ gradient
    left -= left @ rows.right.T @ rows.right
    expected = (few.T.square() @ rounded.square()).sqrt().clamp_min(torch.finfo(rounded.dtype).tiny)
    least = (rows.spare / rows.right.shape[1]) ** 0.5  # no client rounds to nothing
    return rounded * max(least, float((left.norm(dim=1) / expected).max()))


def _balanced(gradient: Tensor, rounding: float) -> int:
    """1 where the rows sum to zero, as of scores behind a softmax: one dimension fewer."""
    return int(float(gradient.sum(dim=0).norm()) <= ABOVE * rounding * len(gradient) ** 0.5)
