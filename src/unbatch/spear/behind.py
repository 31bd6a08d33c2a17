"""The Linear layers behind the one that is searched: what each is fed, and what it makes of that, lie in spaces of b dimensions.

| here   | meaning                                                                                            |
|--------|----------------------------------------------------------------------------------------------------|
| fed    | (m, b) C: the row space of a layer's gradient; a sample's activations are h = C p                    |
| made   | (m', b) S = W C + bias sumsᵀ: its next pre-activations are S p, since p · sums = 1                   |
| column | the dual of p: ∂ℓ/∂z of the sample is D q, where the gradient is D Cᵀ, and p_i · q_j = 1 if i = j, else 0 |

Each layer adds b unknowns for a sample and m equations h = ReLU(z), so that two of them tell more than one. A sample that is known is
known in every layer: run forward it gives every p, and its column of the layer before gives q, because ∂ℓ/∂z is Wᵀ D q wherever a
neuron is on. What is missing then lies in spaces of b − k dimensions in every layer, not in the first alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.linalg.complement import complement
from unbatch.linalg.lowrank import factor
from unbatch.spear.layer import Layer
from unbatch.spear.next_layer import SINGULAR
from unbatch.spear.rounding import fitted
from unbatch.trace import LinearCall
from unbatch.types import Observation

__all__ = ["DEEP", "Behind", "Left", "Link", "Stage", "no_stages", "readers_of", "stages_behind"]

DEEP = 2
"""So many layers behind are asked. Measured on Gaussian vectors, m=400, b=130: after 400 steps 34 of 130 walks had .85 of a sample's signs
right with two layers (1.6 s), 50 with three (2.5 s), 59 with four (3.6 s); with one 3 after 1600 (7.6 s)."""

DUAL = 1e-5
"""p · q of a known sample may be so far from one: what is further off was not told well enough to be taken out. Chosen."""


@dataclass(frozen=True, eq=False)
class Link:
    """What of a layer behind is left to be found: activations lie in ``fed``, what the layer makes of the same p in ``made``.

    Attributes:
        fed: (m, r) orthonormal columns.
        made: (m', r); None of the last layer that is asked.
    """

    fed: Float[Tensor, "m r"]
    made: Float[Tensor, "m2 r"] | None = None


@dataclass(frozen=True, eq=False)
class Left:
    """The same of a layer that is asked for all: also ``sums``, (r,), with p · sums = 1."""

    fed: Float[Tensor, "m r"]
    made: Float[Tensor, "m2 r"]
    sums: Float[Tensor, " r"]


@dataclass(frozen=True, eq=False)
class Stage:
    """One layer behind, with the whole batch: see the module's table. ``back`` is Wᵀ D, on the neurons that it is fed by; p · sums = 1."""

    fed: Float[Tensor, "m b"]
    made: Float[Tensor, "m2 b"]
    columns: Float[Tensor, "m2 b"]
    back: Float[Tensor, "m b"]
    sums: Float[Tensor, " b"]


def readers_of(observation: Observation, call: LinearCall) -> list[LinearCall]:
    """The Linear layers behind a layer, each of which is fed with exactly the activations of the one before and has a gradient."""
    readers: list[LinearCall] = []
    known = [other for other in observation.layers if other.weight in observation.update]
    while (reader := next((other for other in known if _reads(other, call)), None)) is not None:
        readers.append(reader)
        call = reader
    return readers


def _reads(other: LinearCall, call: LinearCall) -> bool:
    return other.input.shape == call.output.shape and torch.equal(other.input, call.output.relu())


def stages_behind(
    readers: Sequence[LinearCall],
    parameters: Mapping[str, Tensor],
    update: Mapping[str, Tensor],
    alive: Bool[Tensor, " m"],
    batch: int,
    clock: Clock = UNLIMITED,
    deep: int = DEEP,
) -> list[Stage]:
    """The layers behind whose gradients have the rank of the batch, from the first on.

    Args:
        readers: Linear layers, each fed with ReLU of what the one before made; the first with that of the layer that is searched.
        parameters: of the model.
        update: the gradients.
        alive: neurons of the searched layer that some sample fires.
        batch: number of samples.
        clock: when to give up.
        deep: so many of them at most.

    Raises:
        OutOfTime: the clock ran out.
    """
    stages: list[Stage] = []
    for reader in readers[:deep]:
        clock.check()
        gradient, weight = update[reader.weight].double(), parameters[reader.weight].detach().double()
        if min(gradient.shape) < batch or reader.bias is None or reader.bias not in update:
            break
        factors = factor(gradient, Generator(gradient.device).manual_seed(0), rank=batch, clock=clock)
        if factors.singular_values[batch - 1] <= SINGULAR * factors.singular_values[0]:
            break
        fed, change = torch.linalg.qr(factors.right.T)
        columns = factors.left @ change.T
        sums = torch.linalg.solve_triangular(change.T, (factors.left.T @ update[reader.bias].double())[:, None], upper=False)[:, 0]
        made = weight @ fed + parameters[reader.bias].detach().double()[:, None] * sums
        back = weight.T @ columns
        first = alive if not stages else slice(None)
        stages.append(Stage(fed[first], made, columns, back[first], sums))
    return stages


def no_stages(_: Clock) -> list[Stage]:
    """Nothing is known of the layers behind."""
    return []


class Behind:
    """The layers behind, with what is known of the samples in them."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages
        self.missing = [torch.eye(stage.fed.shape[1], dtype=stage.fed.dtype, device=stage.fed.device) for stage in stages]
        self.duals = [stage.fed.new_zeros((0, stage.fed.shape[1])) for stage in stages]
        self.points, self.taken = list(self.duals), 0

    def take_out_certified(self, whole: Layer, samples: Float[Tensor, "k b"], directions: Float[Tensor, "k b"], clock: Clock) -> None:
        """All samples that are certified in the searched layer; those that were taken out before come first, as they did then."""
        new, self.taken = slice(self.taken, None), len(samples)
        self.take_out(whole.pre_activations(samples[new]), directions[new] @ whole.left.T * whole.length, clock)

    def take_out(self, z: Float[Tensor, "k m"], columns: Float[Tensor, "k m"], clock: Clock = UNLIMITED) -> None:
        """Samples that are known.

        Args:
            z: their pre-activations in the searched layer.
            columns: their ∂ℓ/∂z there, up to scale.
            clock: when to give up.
        """
        for i, stage in enumerate(self.stages):
            h, on = z.relu(), z > 0
            points = h @ stage.fed
            rest = complement(self.points[i])  # p · q = 0 for what is known
            duals = fitted(stage.back @ rest, on, columns, clock) @ rest.T
            scale = (points * duals).sum(dim=1, keepdim=True)
            left = ((duals @ stage.back.T) * on - columns).norm(dim=1) / columns.norm(dim=1)
            good = (left < DUAL) & (on.sum(dim=1) > stage.back.shape[1]) & (scale[:, 0] != 0)
            duals, z, scale = duals[good], z[good], scale[good]
            duals = duals / scale
            self.duals[i] = torch.cat([self.duals[i], duals])
            self.points[i] = torch.cat([self.points[i], points[good]])
            self.missing[i] = complement(self.duals[i])
            z, columns = points[good] @ stage.made.T, duals @ stage.columns.T

    def columns(self) -> Float[Tensor, "m2 r"]:
        """A space that the columns of what is left lie in, in the last of the layers."""
        return self.stages[-1].columns @ complement(self.points[-1])

    def links(self, rows: Bool[Tensor, " m"]) -> list[Link]:
        """What is left of every layer behind, on those rows of the first; the last one's ``made`` is not asked."""
        left = self.left(rows)
        return [Link(of.fed, None if of is left[-1] else of.made) for of in left]

    def left(self, rows: Bool[Tensor, " m"]) -> list[Left]:
        """The same, of the last one too."""
        found = []
        for i, (stage, missing) in enumerate(zip(self.stages, self.missing, strict=True)):
            orthonormal, change = torch.linalg.qr((stage.fed[rows] if i == 0 else stage.fed) @ missing)
            both = torch.cat([stage.made, stage.sums[None]]) @ missing
            both = torch.linalg.solve_triangular(change, both, upper=True, left=False)
            found.append(Left(orthonormal, both[:-1], both[-1]))
        return found
