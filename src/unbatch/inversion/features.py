"""From what an inner layer is fed back to pictures: pictures whose features point the same way, then all numbers of them, if they suffice.

Kariyappa et al., "Cocktail Party Attack", ICML 2023, section on feature inversion: 1 − cosine of features plus total variation, by Adam
inside the box of pictures; then the same beside the distance of gradients, over the whole batch. The exact solution goes beyond the paper.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.inversion import least_squares, priors
from unbatch.inversion.descent import Descended, Descent, Variables
from unbatch.inversion.matching import GradientMatching, Weights
from unbatch.inversion.trunk import Trunk, dimensions
from unbatch.types import Candidate, Observation, Progress

__all__ = ["Determined", "FeatureInversion"]

EXACT = 1e-9
"""Relative error of features from which pictures are solutions, not neighbors. Chosen."""

INNER = 200
"""Iterations of conjugate gradients for a step of Gauss-Newton, at most. Chosen: the linear problems behind two convolutions took up to
this many to a tenth of the error."""

SPEED = 2e9
"""Additions a second that a slow core makes, to judge beforehand whether counting dimensions fits into the time that is left. Chosen."""


@dataclass(frozen=True, eq=False)
class Determined:
    """How many numbers of each sample its features determine.

    Attributes:
        counts: one a sample that was counted.
        size: numbers in a sample.
        bound: whether these are bounds.
    """

    counts: tuple[int, ...]
    size: int
    bound: bool

    @property
    def may_suffice(self) -> bool:
        """Whether every sample that was counted may be determined wholly."""
        return all(count >= self.size for count in self.counts)

    @property
    def sentence(self) -> str:
        """For people.

        Example:
            >>> Determined((400, 390), 3072, False).sentence
            'the features determine 390 to 400 of the 3,072 numbers of a sample (rank of the Jacobian)'
        """
        if not self.counts:
            return "how many numbers of a sample the features determine was not counted: there was no time"
        low, high = min(self.counts), max(self.counts)
        told = f"{high:,}" if low == high else f"{low:,} to {high:,}"
        return f"the features determine {'at most ' * self.bound}{told} of the {self.size:,} numbers of a sample (rank of the Jacobian)"


class FeatureInversion:
    """Features of k samples, made ready for a descent.

    Args:
        observation: what the server saw.
        layer: name of the weight of the layer that is fed the features.
        features: (k, n), by estimate up to a positive factor each.
        total_variation: weight of this prior; of pictures only.

    Example:
        >>> from torch import nn
        >>> from unbatch.gradients import capture
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(96, 9), nn.ReLU(), nn.Linear(9, 3)).double()
        >>> secret = torch.rand(2, 1, 6, 6).double()
        >>> seen = Observation(net, capture(net, secret, torch.tensor([0, 2])), (1, 6, 6), batch_size=2)
        >>> stage = FeatureInversion(seen, "3.weight", net[:3](secret).detach())
        >>> found = stage.descend(Descent(steps=100), 1, torch.Generator())
        >>> bool((stage.solve(found).point.view_as(secret) - secret).abs().max() < 1e-9)
        True
    """

    def __init__(self, observation: Observation, layer: str, features: Float[Tensor, "k n"], total_variation: float = 0.0) -> None:
        self.observation, self.layer, self.features = observation, layer, features.double()
        self.dtype = torch.promote_types(observation.dtype, torch.float32)
        self.trunk = Trunk.of(observation, layer, self.dtype)
        self.shape, self.count = observation.input_shape, len(features)
        schema = observation.schema
        pictures = schema is not None and schema.kind == "image" and len(self.shape) == 3
        self.total_variation = total_variation if pictures else 0.0
        like = torch.zeros((), dtype=self.dtype, device=observation.device)
        self.box = None if schema is None else priors.box(schema, self.shape, like)

    def project(self, variables: Variables) -> Variables:
        """Into the box."""
        return variables if self.box is None else {**variables, "inputs": variables["inputs"].clamp(*self.box)}

    def unlikeness(self, inputs: Float[Tensor, "r k *shape"]) -> Float[Tensor, "r k"]:
        """1 − cosine of the features of every sample and the wanted ones."""
        found = self.trunk(inputs.flatten(0, 1)).view(*inputs.shape[:2], -1)
        return 1 - F.cosine_similarity(found, self.features.to(found), dim=2)

    def descend(
        self, descent: Descent, restarts: int, generator: Generator, deadline: float = math.inf, progress: Progress | None = None
    ) -> Descended:
        """Every sample by itself, each from so many starts; variables ``inputs`` (k, 1, *shape) are the best of each."""
        shape = (restarts * self.count, 1, *self.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=self.dtype).to(self.observation.device)
        every = self.features.to(self.dtype).repeat(restarts, 1)

        def objective(variables: Variables) -> Tensor:
            inputs = variables["inputs"]
            apart = 1 - F.cosine_similarity(self.trunk(inputs[:, 0]), every, dim=1)
            return apart + self.total_variation * priors.total_variation(inputs) if self.total_variation else apart

        told = {} if progress is None else {"progress": progress}
        found = descent.run(objective, self.project({"inputs": noise}), self.project, deadline, **told)
        values = found.values.view(restarts, self.count)
        rows = values.argmin(dim=0) * self.count + torch.arange(self.count, device=values.device)
        best = {name: tensor[rows] for name, tensor in found.variables.items()}
        return replace(found, variables=best, values=found.values[rows], diverged=found.diverged[rows])

    def solve(
        self, found: Descended, steps: int = 30, deadline: float = math.inf, generator: Generator | None = None
    ) -> least_squares.Solved:
        """A solution of features = wanted, in float64, from where the descent ended: exact where features suffice.

        Args:
            found: the descent.
            steps: of Gauss-Newton at most.
            deadline: on ``time.monotonic``'s clock.
            generator: to go on from other places where a sample stalls; None to leave it there.
        """
        trunk = Trunk.of(self.observation, self.layer, torch.float64)
        start = found.variables["inputs"].double().flatten(1)

        def misfit(points: Tensor, rows: Tensor) -> Tensor:
            return trunk.misfit(points.view(-1, *self.shape), self.features[rows])

        return least_squares.solve(misfit, start, steps, min(INNER, 2 * start.shape[1]), deadline=deadline, generator=generator)

    def determined(self, inputs: Float[Tensor, " k *shape"], generator: Generator, deadline: float = math.inf) -> Determined:
        """Counted at the samples as found, as many as there is time for."""
        trunk = Trunk.of(self.observation, self.layer, torch.float64)
        size, counts, bound = inputs[0].numel(), [], False
        work = 3 * min(self.features.shape[1], size + 32) ** 2 * size / SPEED
        for sample in inputs.double():
            if time.monotonic() + work > deadline:
                break
            count, counted = dimensions(trunk, sample, generator)
            counts.append(count)
            bound = bound or not counted
        return Determined(tuple(counts), size, bound)

    def refine(
        self,
        descent: Descent,
        inputs: Float[Tensor, " b *shape"],
        labels: Int64[Tensor, " b"],
        weights: tuple[float, float],
        *,
        fixed: Tensor | None = None,
        deadline: float = math.inf,
        progress: Progress | None = None,
    ) -> tuple[Candidate, Descended]:
        """Gradients and features together, over the whole batch: the first k samples are those of the features.

        Args:
            descent: how.
            inputs: (b, *shape) to begin with.
            labels: (b,).
            weights: of gradients and of features.
            fixed: (k,) which of the first k samples stay as they are; none if None.
            deadline: on ``time.monotonic``'s clock.
            progress: told the best objective now and then.
        """
        known = replace(self.observation, labels=labels, batch_size=len(labels))
        matching = GradientMatching(known, "cosine", Weights(self.total_variation), box=self.box)

        def objective(variables: Variables) -> Tensor:
            alike = self.unlikeness(variables["inputs"][:, : self.count]).mean(dim=1)
            return weights[0] * matching.objective(variables) + weights[1] * alike

        told = {} if progress is None else {"progress": progress}
        held = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        if fixed is not None:
            held[: len(fixed)] = fixed
        held = held.view(1, -1, *[1] * len(self.shape))
        kept = inputs[None].to(self.dtype)

        def project(variables: Variables) -> Variables:
            moved = self.project(variables)
            return {**moved, "inputs": torch.where(held, kept, moved["inputs"])}

        start = project({"inputs": inputs[None].to(self.dtype)})
        found = descent.run(objective, start, project, deadline, **told)
        return matching.candidate(found), found
