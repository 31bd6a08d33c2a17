"""Batches whose inputs depend on each other linearly, as rows of a table with one-hot columns soon do.

The first layer's gradient then has a rank r below the number b of samples, and no single sample's ∂ℓ/∂z lies in its column space: what SPEAR
and ``span`` read is gone. What a layer makes of the samples with its activation is independent again, so the gradients behind still have
rank b. Their row spaces ask m + 1 − b equations of every sample, which has only r − 1 unknowns: the fewer, the more its inputs depend.
A sample that is found is taken out of those row spaces, so that the next round finds others.

| here       | meaning                                                                                         |
|------------|-------------------------------------------------------------------------------------------------|
| p          | (r,) a sample in the coordinates of the first layer's row space: x = Rᵀ p                          |
| core       | (b, b) a later layer's gradient between the bases of its column and its row space                 |
| q, c       | (b,) what that layer is fed of a sample, and its ∂ℓ/∂z, in these bases: qᵢ · core⁻¹ cⱼ = 0 for i ≠ j |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from unbatch.clock import Clock
from unbatch.linalg.lowrank import NOISELESS, Factors, factor
from unbatch.span.equations import MARGIN, Equations, Space
from unbatch.span.guesses import random_starts, scaled, unmixed
from unbatch.span.least_squares import minimize, refine
from unbatch.span.network import network_behind
from unbatch.span.problem import CROWDED, PRECISION, layers_behind, other_spaces, together
from unbatch.span.search import DETERMINED, complement
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Observation, Progress, Schema

__all__ = ["dependent_samples", "invert_dependent"]

STARTS = 96
"""Guesses a round."""

IDLE = 8
"""Rounds without a new sample after which the search gives up."""

SAME = 1e-4
"""Two samples that differ by less, as a share of their length, are one."""

TRIED = 3
"""Later layers that are asked for the number of samples, at most: each takes a factorization."""


def dependent_samples(observation: Observation, call: LinearCall, factors: Factors, generator: Generator, clock: Clock) -> int | None:
    """How many samples there are, where that is more than the rank of the first gradient; None where nothing says so.

    Args:
        observation: what the server saw: one gradient.
        call: the layer that sees the raw input.
        factors: of its gradient.
        generator: of random sums of columns.
        clock: when to give up.
    """
    if not factors.clear or factors.noise > NOISELESS * float(factors.singular_values[0]):
        return None
    largest = 0
    for other in layers_behind(observation, [call])[:TRIED]:
        gradient = observation.update[other.weight]
        found = factor(gradient, generator, clock=clock)
        if found.clear and found.rank < min(gradient.shape):
            largest = max(largest, found.rank)
    return largest if largest > factors.rank else None


def invert_dependent(
    observation: Observation, call: LinearCall, factors: Factors, samples: int, generator: Generator, clock: Clock, progress: Progress
) -> Candidate:
    """Find samples by what the layers behind are fed.

    Args:
        observation: what the server saw: one gradient.
        call: the layer that sees the raw input.
        factors: of its gradient.
        samples: how many there are.
        generator: of all randomness.
        clock: of the search.
        progress: told how many samples are found.
    """
    told = f"{samples} samples whose inputs depend on each other, being of rank {factors.rank}"
    stats: dict[str, Any] = {"layer": call.weight, "width": len(factors.left), "rank": factors.rank, "gap": factors.gap, "samples": samples}
    search = _posed(observation, call, factors, samples, generator)
    if search is None:
        reason = f"{told}, and the layers behind give too few equations to find one by itself"
        return Candidate(reason=reason, exhausted=True, stats=stats)
    search.run(clock, progress)
    stats |= {"equations": search.proof.count, **search.counts}
    missing = samples - len(search.points)
    reason = f"{told}: {len(search.points)} of them found by what the layers behind are fed" if missing else ""
    if not len(search.points):
        return Candidate(reason=reason, exhausted=True, stats=stats)
    inputs = search.inputs.reshape(-1, *observation.input_shape)
    return Candidate(inputs, search.labels, reason=reason, exhausted=bool(missing), stats=stats)


@dataclass(frozen=True, eq=False)
class _Later:
    """A layer behind: its two spaces, and the gradient between their bases."""

    row: Space
    column: Space
    core: Float[Tensor, "b b"]

    def without(self, columns: Float[Tensor, "k m"]) -> Space:
        """The row space of all samples but those with these ∂ℓ/∂z."""
        if not len(columns):
            return self.row
        gone = torch.linalg.solve(self.core, (columns @ self.column.basis).T).T
        return self.row.restricted(complement(torch.nn.functional.normalize(gone, dim=1)))


def _posed(observation: Observation, call: LinearCall, factors: Factors, samples: int, generator: Generator) -> _Search | None:
    calls = together(observation, call)
    network = network_behind(observation.model, calls, factors.right, observation.input_shape, observation.loss)
    if network is None:
        return None
    spaces = other_spaces(observation, calls, samples, torch.finfo(observation.dtype).eps)
    behind = {other.weight: other for other in layers_behind(observation, calls)}
    later = []
    for row in (space for space in spaces if space.kind == "row"):
        column = next((space for space in spaces if space.kind == "column" and space.layer == row.layer), None)
        if column is not None:
            whole, bias = observation.update[row.layer].double(), behind[row.layer].bias
            whole = torch.cat([whole, observation.update[str(bias)].double()[:, None]], dim=1) if row.augmented else whole
            later.append(_Later(row, column, column.basis.T @ whole @ row.basis))
    sums = factors.left.T @ observation.update[str(call.bias)].double()
    unknowns = factors.rank - 1
    used = next((n for n in range(1, len(later) + 1) if CROWDED * sum(one.row.surplus for one in later[:n]) > unknowns), None)
    if used is None or sum(one.row.surplus for one in later) < unknowns + MARGIN:
        return None
    classes = torch.arange(observation.classes, device=observation.device)
    classes = classes if observation.labels is None else observation.labels.unique()
    proof = Equations(network, [space for one in later for space in (one.row, one.column)])
    precision = PRECISION[observation.rounding]
    return _Search(observation, factors, sums, later, used, proof, samples, classes, precision, generator)


@dataclass(eq=False)
class _Search:
    """State of a search: ``points`` (k, r), ``inputs`` (k, n) and ``labels`` (k,) of what is found."""

    observation: Observation
    factors: Factors
    sums: Float[Tensor, " r"]
    later: list[_Later]
    used: int
    proof: Equations
    samples: int
    classes: Int64[Tensor, " c"]
    precision: float
    generator: Generator
    counts: dict[str, int] = field(default_factory=lambda: {"rounds": 0, "starts": 0, "hits": 0})

    def __post_init__(self) -> None:
        """Nothing is found yet."""
        self.points = self.sums.new_zeros((0, self.factors.rank))
        self.inputs = self.sums.new_zeros((0, self.factors.right.shape[1]))
        self.labels = self.classes[:0]
        right, across = self.factors.right, complement(self.sums[None]).T
        squares, vectors = torch.linalg.eigh((across @ right) @ (across @ right).T)
        self.directions = (vectors / squares.clamp_min(1e-24 * float(squares[-1])).sqrt()).T @ across

    def run(self, clock: Clock, progress: Progress) -> None:
        """Rounds until all are found, nothing new turns up, or the clock is over."""
        idle = 0
        while len(self.points) < self.samples and idle < IDLE and not clock.over:
            before = len(self.points)
            self._round(idle, clock)
            idle = 0 if len(self.points) > before else idle + 1
            progress(f"{len(self.points)} of {self.samples} dependent samples found", len(self.points) / self.samples)

    def _round(self, idle: int, clock: Clock) -> None:
        used = self.later[: min(len(self.later), self.used + idle)]
        network = self.proof.network
        gone: dict[str, Tensor] = {}
        if len(self.points):
            gone, _ = network.sensitivities(self.points, self.labels, [one.column.layer for one in used])
        equations = Equations(network, [one.without(gone.get(one.row.layer, self.points[:0])) for one in used])
        starts = self._starts(idle)
        blank = self.classes[:1].expand(len(starts))
        self.counts["rounds"] += 1
        self.counts["starts"] += len(starts)
        points, values = minimize(equations, starts, blank, self.directions, clock, floor=1e-3 * self.precision)
        self._accept(Equations(network, [one.row for one in used]), points[values < 100 * max(self.precision, 1e-6)])

    def _starts(self, idle: int) -> Float[Tensor, "k r"]:
        right, schema = self.factors.right, self.observation.schema
        drawn = random_starts(STARTS // 2, self.sums, right, self.generator)
        if schema is not None and schema.kind == "table":
            rows = _plausible(schema, right, self.sums, STARTS // 2, self.generator)
            guessed = torch.linalg.lstsq(right.T, rows.T).solution.T
            guessed = guessed + (1 - guessed @ self.sums)[:, None] * self.sums / self.sums.square().sum()
        else:
            shape = self.observation.input_shape
            guessed = scaled(unmixed(right, shape, self.generator, (0.1, 0.02, 0.5)[idle % 3], even=idle % 2 == 0), self.sums, right)
        return torch.cat([guessed, drawn])

    def _accept(self, rows: Equations, points: Float[Tensor, "k r"]) -> None:
        """Refine, label and check by all equations; what is new is kept."""
        if not len(points):
            return
        blank = self.classes[:1].expand(len(points))
        points, errors = refine(rows, points, blank, self.directions)
        labels = Equations(self.proof.network, [self.later[0].column]).best_labels(points, self.classes)[1][:, 0]
        inputs = points @ self.factors.right
        fits = (self.proof.misfit(points, labels, self.precision) < 1) & (errors < DETERMINED * inputs.norm(dim=1))
        self.counts["hits"] += int(fits.sum())
        for point, row, label in zip(points[fits], inputs[fits], labels[fits], strict=True):
            apart = (self.inputs - row).norm(dim=1) > SAME * row.norm()
            if bool((apart | (self.labels != label)).all()) and len(self.points) < self.samples:
                self.points, self.inputs = torch.cat([self.points, point[None]]), torch.cat([self.inputs, row[None]])
                self.labels = torch.cat([self.labels, label[None]])


def _plausible(
    schema: Schema, right: Float[Tensor, "r n"], sums: Float[Tensor, " r"], count: int, generator: Generator
) -> Float[Tensor, "count n"]:
    """Rows of the table with levels that somebody in the batch has.

    The gradient of a column in raw units, 1 at its level and 0 elsewhere, is the sum of ∂ℓ/∂z over those who have the level: nobody, if it
    is zero, and the longer the more.
    """
    mean = right.new_tensor(schema.mean or (0.0,) * schema.width)
    deviation = right.new_tensor(schema.std or (1.0,) * schema.width)
    had = (deviation * right + torch.outer(sums, mean)).norm(dim=0)
    had = had.where(had > 1e-6 * had.max(), 0.0)
    rows = (-mean / deviation).expand(count, -1).clone()
    for fixed, span in zip(schema.discrete, schema.spans, strict=True):
        if not fixed:
            rows[:, span] = torch.randn((count, 1), generator=generator, device=right.device, dtype=right.dtype)
            continue
        level = torch.multinomial((had[span] + 1e-9 * had.max()).expand(count, -1), 1, generator=generator)[:, 0]
        rows[torch.arange(count, device=rows.device), span.start + level] += 1 / deviation[span][level]
    return rows
