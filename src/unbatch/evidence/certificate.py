"""The certificate of one sample: what a member of the batch leaves in every layer, and nothing else does.

With G = Σ wᵢ dᵢ aᵢᵀ of rank r at a layer, a pair (x, y) is a member if the d and a that the model gives it obey

    d in the column space of G,    a in its row space,    aᵀ G⁺ d = 1/w,    aᵀ G⁺ g = 1 for the bias gradient g = Σ wᵢ dᵢ,

at every layer that shows the whole batch. A member obeys them up to the noise of G: ν ‖G⁺d‖ / ‖d‖ and its like (see ``spaces``).

**When that is a proof.** Whoever makes up a sample inside the row space tunes r numbers, and the conditions of one layer are m − r: at
m = 200 and r = 120 a search finds zeros that are no members, at r = 96 none. So equations are counted, not on paper but by trying: samples
drawn at random from the same row space violate the conditions in as many independent ways as there are equations. Only the surplus over
r counts, and it counts by how nearly the conditions are met: ``EVIDENCE`` decimal digits in all, or nothing is proved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from unbatch.evidence.spaces import Space
from unbatch.evidence.tail import Seen, Tail
from unbatch.linalg.lowrank import NOISELESS

__all__ = [
    "EVIDENCE",
    "FINEST",
    "INDEPENDENT",
    "MARGIN",
    "SPARE",
    "Certificates",
    "Entrance",
    "certify",
    "conditions",
    "labels_that_fit",
    "rounding_of",
]

EVIDENCE = 24.0
"""Surplus equations times the decimal digits to which they hold, below which a coincidence, or a search for one, is not excluded. Chosen:
chance would have to be one in 1e24. Swept."""

LOOSEST = 1e-3
"""Relative violation above which a sample is never taken for a member, whatever the noise. Chosen. Swept."""

MARGIN = 10.0
"""A violation may be this many times what the noise explains, and so much rounding. Chosen. Swept."""

LOST = 1e-7
"""What passes and attacks may lose of float64: half of its digits. Chosen. Swept."""

FINEST = 1e-15
"""No condition is taken to hold better than this: float64 has no more digits. Derived."""

OVER = 1e-9
"""By how much rounding may make a part longer than the whole. Chosen, far above the rounding of a norm."""

SPARE = 32
"""Surplus equations that are counted at most: more say nothing new. Chosen. Swept."""


@dataclass(frozen=True, eq=False)
class Entrance:
    """The layer that sees the samples, and all that is needed to try one.

    Attributes:
        tail: the network behind it.
        spaces: of the gradients of that layer, first, and of those behind it that show the whole batch.
        weight_in_rows: (m, r) W V: z = weight_in_rows @ c + bias for x = V c.
        bias: (m,).
    """

    tail: Tail
    spaces: Mapping[str, Space]
    weight_in_rows: Float[Tensor, "m r"]
    bias: Float[Tensor, " m"]

    @property
    def first(self) -> Space:
        """The space of the layer itself."""
        return self.spaces[self.tail.start]

    def at(self, coordinates: Float[Tensor, "k r"]) -> Float[Tensor, "k m"]:
        """z of the samples x = V c."""
        return coordinates @ self.weight_in_rows.T + self.bias


@dataclass(frozen=True, eq=False)
class Certificates:
    """What the conditions said of k samples.

    Attributes:
        violation: (k,) the largest relative violation over all layers.
        noise: (k,) what of it the update's noise explains.
        inverse_weight: (k,) 1/w, the median over the layers.
        row_noise: (k,) how far, relatively, noise turns the first layer's row space away from a sample.
        weight_noise: (k,) how far, relatively, noise moves 1/w at the first layer.
        length_error: (k,) how far, relatively, the first layer's bias gradient leaves the length of a sample open; infinite without one.
        equations: how many conditions there are, independent of each other; counted up to r + ``SPARE``.
        met: (k,) whether they are met, up to the noise.
        together: (k,) length of all relative violations side by side.
    """

    violation: Float[Tensor, " k"]
    noise: Float[Tensor, " k"]
    inverse_weight: Float[Tensor, " k"]
    row_noise: Float[Tensor, " k"]
    weight_noise: Float[Tensor, " k"]
    length_error: Float[Tensor, " k"]
    equations: int
    met: Bool[Tensor, " k"]
    together: Float[Tensor, " k"]

    @property
    def misfit(self) -> Float[Tensor, " k"]:
        """(k,) what an error may hide behind: all violations together, and no less than the noise."""
        return self.together.maximum(self.noise)

    def digits(self, tuned: int) -> Float[Tensor, " k"]:
        """(k,) surplus equations, beyond the numbers that are tuned, times the decimal digits to which each sample meets them."""
        surplus = min(SPARE, max(0, self.equations - tuned))
        return -surplus * self.violation.maximum(self.noise).clamp_min(FINEST).log10()


def certify(
    entrance: Entrance, coordinates: Float[Tensor, "k r"], outside: Float[Tensor, " k"], labels: Int64[Tensor, " k"]
) -> Certificates:
    """Hold samples against the conditions.

    Args:
        entrance: the layer that sees them.
        coordinates: (k, r) c of x = V c + what is outside of the row space.
        outside: (k,) relative length of that.
        labels: (k,).
    """
    seen = entrance.tail(entrance.at(coordinates), labels)
    seen[entrance.tail.start] = replace(seen[entrance.tail.start], inputs=coordinates)
    violations, noises, inverses = [outside], [torch.zeros_like(outside)], []
    length_error, weight_noise = torch.full_like(outside, torch.inf), torch.full_like(outside, torch.inf)
    for name, space in entrance.spaces.items():
        here = seen.get(name)
        if here is None or here.columns is None or here.inputs is None:
            continue
        own = name == entrance.tail.start
        size, length = _norm(here.columns), _norm(here.inputs)
        by_columns, by_rows = space.solve_columns(here.columns), _solve_rows(space, here.inputs, own)
        inside = here.inputs if own else here.inputs @ space.right
        product = (inside * by_columns).sum(dim=1)
        violations.append(_norm(space.outside_columns(here.columns)) / size)
        noises.append(space.noise * _norm(by_columns) / size)
        if not own:
            violations.append(_norm(space.outside_rows(here.inputs)) / length)
        noises.append(space.noise * _norm(by_rows) / length)
        if own:
            weight_noise = space.noise * _norm(by_rows) * _norm(by_columns) / product.clamp_min(torch.finfo(product.dtype).tiny)
        if space.bias_gradient is not None:
            sums = space.solve_columns(space.bias_gradient[None])[0]
            violations.append((inside @ sums - 1).abs())
            noises.append(_norm(by_rows) * (space.noise * float(sums.norm()) + space.bias_noise))
            length_error = violations[-1] + noises[-1] if own else length_error
        # 1/w must be positive, and the same at every layer.
        inverses.append(torch.where(product > 0, product, torch.inf))
    inverse = torch.stack(inverses)
    middle = inverse.median(dim=0).values
    spread = ((inverse - middle).abs() / middle).amax(dim=0).nan_to_num(nan=torch.inf)
    together = torch.stack([*violations, spread]).nan_to_num(nan=torch.inf)
    violation = together.amax(dim=0)
    noise = torch.stack(noises).amax(dim=0).nan_to_num(nan=torch.inf)
    met = violation <= (MARGIN * noise + rounding_of(entrance)).clamp(max=LOOSEST)
    equations = _equations_of(entrance, coordinates) if bool(met.any()) else 0
    return Certificates(
        violation, noise, middle, noises[2], weight_noise, length_error, equations, met, torch.linalg.vector_norm(together, dim=0)
    )


def labels_that_fit(entrance: Entrance, coordinates: Float[Tensor, "k r"], most: int = 4096) -> Int64[Tensor, " k"]:
    """For every sample the class whose column is nearest to the first layer's column space."""
    z, classes = entrance.at(coordinates), entrance.tail.observation.classes
    outside = []
    every = torch.arange(classes, device=z.device)
    for part in torch.split(every, max(1, most // max(1, len(z)))):
        labels = part.repeat_interleave(len(z))
        columns = entrance.tail(z.repeat(len(part), 1), labels)[entrance.tail.start].columns
        if columns is None:
            return torch.zeros(len(z), dtype=torch.int64, device=z.device)
        outside.append((_norm(entrance.first.outside_columns(columns)) / _norm(columns)).reshape(len(part), -1))
    return torch.cat(outside).nan_to_num(nan=torch.inf).argmin(dim=0)


def rounding_of(entrance: Entrance) -> float:
    """What a few more digits lost in the passes, or in the attack, may leave where the noise itself is that of float64."""
    return LOST if entrance.first.noise < NOISELESS * float(entrance.first.core.norm()) else 0.0


def conditions(
    entrance: Entrance, seen: Mapping[str, Seen], sizes: Mapping[str, tuple[Tensor | None, Tensor | None]]
) -> Float[Tensor, "k E"]:
    """All violations as numbers: what lies outside of the spaces, layer by layer, in units of the given sizes.

    Not those of neurons that are silent for the whole batch: a made-up sample leaves them silent in an open set, without solving anything.
    """
    parts = []
    for name, space in entrance.spaces.items():
        here = seen.get(name)
        if here is None:
            continue
        size, length = sizes[name]
        if here.columns is not None and size is not None:
            parts.append((space.outside_columns(here.columns) / size)[:, _speaks(space.left)])
        if here.inputs is not None and length is not None:
            parts.append((space.outside_rows(here.inputs) / length)[:, _speaks(space.right)])
    return torch.cat(parts, dim=1)


def _speaks(basis: Tensor) -> Tensor:
    """Rows of a basis that are not zero."""
    length = _norm(basis)
    return length > SILENT * length.max()


SILENT = 1e-10
"""A row of a basis below this share of the largest belongs to a neuron that is silent for the whole batch. Chosen: such rows are zero but
for the rounding of the factors."""


def _equations_of(entrance: Entrance, coordinates: Float[Tensor, "k r"]) -> int:
    """How many independent ways random samples of the same row space have to violate the conditions: at most r + ``SPARE``.

    However many are drawn, they show no more ways than there are, but some show what others do: where a few inputs outweigh the rest, most
    of r + ``SPARE`` lie near these. So as many are drawn again where the first do not show that many.
    """
    space, device = entrance.first, coordinates.device
    generator, count = Generator(device).manual_seed(0), space.rank + SPARE
    scale, classes = coordinates.norm(dim=1).median() if len(coordinates) else space.core.norm(), entrance.tail.observation.classes
    found, ways = [], 0
    for _ in range(DRAWS):
        drawn = torch.randn((count, space.rank), generator=generator, dtype=torch.float64, device=device) @ space.core
        drawn = drawn * (scale / drawn.norm(dim=1, keepdim=True))
        labels = torch.randint(classes, (count,), generator=generator, device=device)
        seen = entrance.tail(entrance.at(drawn), labels)
        shown = conditions(entrance, seen, sizes_of(seen))
        found.append(shown[(shown.abs() <= 1 + OVER).all(dim=1)])  # no part is longer than the whole, unless it left the range of float64
        together = torch.cat(found)
        values = torch.linalg.svdvals(together @ together.T).clamp_min(0).sqrt() if len(together) else together.new_zeros(1)
        ways = int((values > INDEPENDENT * max(float(values[0]), 1.0)).sum())
        if ways >= count:
            break
    return min(ways, count)


DRAWS = 2
"""Times that so many random samples are drawn. Measured on four batches of 256 of CIFAR-10, two layers of width 1000: r + 32 samples showed
r - 19 to r + 18 ways, twice as many r + 84 to r + 146."""

INDEPENDENT = 1e-5
"""A way to violate the conditions counts when it is this large beside the largest. Chosen. Swept."""


def sizes_of(seen: Mapping[str, Seen]) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """(k, 1) lengths of the columns and of the inputs at every layer, where there are any."""

    def length(vectors: Tensor | None) -> Tensor | None:
        return None if vectors is None else _norm(vectors)[:, None].clamp_min(torch.finfo(vectors.dtype).tiny)

    return {name: (length(here.columns), length(here.inputs)) for name, here in seen.items()}


def _solve_rows(space: Space, inputs: Tensor, own: bool) -> Tensor:
    return torch.linalg.solve(space.core.T, (inputs if own else inputs @ space.right).T).T


def _norm(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=1)
