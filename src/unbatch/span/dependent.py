"""Batches whose inputs depend on each other linearly, as rows of a table with one-hot columns soon do.

The first layer's gradient then has a rank r below the number b of samples, and no single sample's ∂ℓ/∂z lies in its column space: what
SPEAR and ``span`` read is gone. What a layer makes of the samples with its activation is independent again, so the gradients behind still
have rank b. The row space of each asks m + 1 − b equations of every sample, which has only r − 1 unknowns: the more the inputs depend, the
fewer.

Samples that are found are taken out of the update, to the last digit where they are rows of a table, and the others are sought in what is
left: a smaller batch, of fewer unknowns. Large batches begin with walks (``spear.beyond_rank``), which take less time for each guess.

| here       | meaning                                                                                         |
|------------|-------------------------------------------------------------------------------------------------|
| p          | (r,) a sample in the coordinates of the first layer's row space: x = Rᵀ p                          |
| core       | (b, b) a later layer's gradient between the bases of its column and its row space                 |
| q, c       | (b,) what that layer is fed of a sample, and its ∂ℓ/∂z, in these bases: q · core⁻¹ c = 1/w          |
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from unbatch.clock import Clock, OutOfTime
from unbatch.linalg.complement import complement
from unbatch.linalg.lowrank import NOISELESS, Factors, rank_of
from unbatch.span.equations import MARGIN, Equations, Space
from unbatch.span.guesses import random_starts, scaled, unmixed
from unbatch.span.least_squares import minimize, refine
from unbatch.span.network import Network, network_behind
from unbatch.span.problem import CROWDED, PRECISION, entered, layers_behind, other_spaces
from unbatch.span.search import COARSE, CONTRASTS, FLOOR, NEAR, SINGULAR
from unbatch.spear.beyond_rank import SAME, Some, snapped
from unbatch.trace import LinearCall
from unbatch.types import Observation, Schema

__all__ = ["dependent_samples", "resolution_of", "some_by_least_squares"]

STARTS = 96
"""Guesses a round."""

IDLE = 6
"""Rounds without a new sample after which the search gives up."""

TRIED = 3
"""Later layers that are asked for the number of samples, at most: each takes a factorization."""

FIXED = 1e-6
"""Largest relative error of a sample that is taken out. Of two near twins, all that lies between them obeys the equations. Chosen."""

NOBODY, EVER = 1e-6, 1e-9
"""Share of the largest below which nobody in the batch has a level; and what is added to all, so that a column without one can be drawn.
Chosen."""

SUMMED = 8.0
"""How much more than in a typical direction of the first gradient rounding may be elsewhere. Chosen."""


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
        try:
            ranks, clear = rank_of(gradient, generator, clock)
        except OutOfTime:  # then the search ends with what it has, and says so
            return None
        if factors.rank in ranks:  # samples of which the network is nearly sure come after the same gap in every layer
            return None
        if clear and ranks[0] < min(gradient.shape):
            largest = max(largest, ranks[0])
    return largest if largest > factors.rank else None


def some_by_least_squares(
    observation: Observation, call: LinearCall, factors: Factors, samples: int, generator: Generator, clock: Clock
) -> Some:
    """Some samples by what the layers behind are fed; none where these give too few equations, or six rounds of guesses led to none.

    Args:
        observation: what the server saw: one gradient.
        call: the layer that sees the raw input.
        factors: of its gradient.
        samples: how many there are.
        generator: of all randomness.
        clock: of the search.
    """
    classes = torch.arange(observation.classes, device=observation.device)
    classes = classes if observation.labels is None else torch.unique(observation.labels)
    found, idle, stage = Some.none(factors.right), 0, None
    with suppress(OutOfTime):
        stage = _posed(observation, call, factors, samples, classes, resolution_of(observation, call, factors), generator, clock)
    while stage is not None and not len(found) and idle < IDLE and not clock.over:
        found, idle = stage.round(idle, clock), idle + 1
    return found


def resolution_of(observation: Observation, call: LinearCall, factors: Factors) -> float:
    """The relative rounding of an update, as its first gradient shows it: where samples were taken out, more than its type's."""
    shown = factors.noise * observation.update[call.weight].numel() ** 0.5 / float(factors.singular_values.norm())
    return max(SUMMED * shown, torch.finfo(observation.dtype).eps)


@dataclass(frozen=True, eq=False)
class _Later:
    """A layer behind: its two spaces, and the gradient between their bases."""

    row: Space
    column: Space
    core: Float[Tensor, "b b"]


def _posed(
    observation: Observation,
    call: LinearCall,
    factors: Factors,
    samples: int,
    classes: Int64[Tensor, " c"],
    resolution: float,
    generator: Generator,
    clock: Clock,
) -> _Stage | None:
    """One round's problem, or None where there are too few equations."""
    calls = entered(observation, call)
    network = network_behind(observation.model, calls, factors.right, observation.input_shape, observation.loss)
    if network is None:
        return None
    spaces = other_spaces(observation, calls, samples, resolution, clock)
    behind = {other.weight: other for other in layers_behind(observation, calls)}
    later = []
    for row in (space for space in spaces if space.kind == "row"):
        column = next((space for space in spaces if space.kind == "column" and space.layer == row.layer), None)
        if column is not None:
            whole, bias = observation.update[row.layer].double(), behind[row.layer].bias
            whole = torch.cat([whole, observation.update[str(bias)].double()[:, None]], dim=1) if row.augmented else whole
            later.append(_Later(row, column, column.basis.T @ whole @ row.basis))
    if call.bias is None or call.bias not in observation.update:
        return None  # that the weights sum to one is among the equations
    sums = factors.left.T @ observation.update[call.bias].double()
    unknowns = factors.rank - 1
    used = next((n for n in range(1, len(later) + 1) if CROWDED * sum(one.row.surplus for one in later[:n]) > unknowns), None)
    if used is None or sum(one.row.surplus for one in later) < unknowns + MARGIN:
        return None
    proof = Equations(network, [space for one in later for space in (one.row, one.column)])
    return _Stage(observation, factors, sums, later, used, proof, network, classes, PRECISION[observation.rounding], generator)


@dataclass(frozen=True, eq=False)
class _Stage:
    """The problem of one round.

    Attributes:
        observation: what is left of the update.
        factors: of its first gradient.
        sums: p · sums = 1.
        later: the layers behind.
        used: with the rows of how many of them to begin.
        proof: all equations.
        network: the model as a function of p.
        classes: labels that samples may have.
        precision: see ``span.problem``.
        generator: of the guesses.
    """

    observation: Observation
    factors: Factors
    sums: Float[Tensor, " r"]
    later: list[_Later]
    used: int
    proof: Equations
    network: Network
    classes: Int64[Tensor, " c"]
    precision: float
    generator: Generator

    def round(self, idle: int, clock: Clock) -> Some:
        """Guess, solve, prove.

        Args:
            idle: how many rounds before it found nothing.
            clock: see ``minimize``.
        """
        rows = Equations(self.network, [one.row for one in self.later[: min(len(self.later), self.used + idle % 2)]])
        starts, directions = self._starts(idle), self._directions()
        blank = self.classes[:1].expand(len(starts))
        points, values = minimize(rows, starts, blank, directions, clock, floor=FLOOR * self.precision)
        points = points[values < NEAR * max(self.precision, COARSE)]
        if len(points):
            points, errors = refine(rows, points, blank[: len(points)], directions, clock)
            points = points[errors < FIXED * (points @ self.factors.right).norm(dim=1)]
        return self._proved(points)

    def _directions(self) -> Float[Tensor, "q r"]:
        """Along which p · sums stays 1; a step of length one changes an input by length one."""
        right, across = self.factors.right, complement(self.sums[None]).T
        if not len(across):
            return across
        squares, vectors = torch.linalg.eigh((across @ right) @ (across @ right).T)
        return (vectors / squares.clamp_min(SINGULAR * float(squares[-1])).sqrt()).T @ across

    def _starts(self, idle: int) -> Float[Tensor, "k r"]:
        right, schema = self.factors.right, self.observation.schema
        drawn = random_starts(STARTS // 2, self.sums, right, self.generator)
        if schema is not None and schema.kind == "table":
            rows = _plausible(schema, right, self.sums, STARTS // 2, self.generator)
            guessed = torch.linalg.lstsq(right.T, rows.T).solution.T
            guessed = guessed + (1 - guessed @ self.sums)[:, None] * self.sums / self.sums.square().sum()
        else:
            shape, contrast = self.observation.input_shape, CONTRASTS[idle % len(CONTRASTS)]
            guessed = scaled(unmixed(right, shape, self.generator, contrast, even=idle % 2 == 0), self.sums, right)
        return torch.cat([guessed, drawn])

    def _proved(self, points: Float[Tensor, "k r"]) -> Some:
        """Those that obey all equations, one each."""
        inputs = snapped(self.observation.schema, points @ self.factors.right)
        points = torch.linalg.lstsq(self.factors.right.T, inputs.T).solution.T if len(points) else points
        labels, inverse = self._labels(points)
        fits: Bool[Tensor, " k"] = inverse > 0
        if len(points):
            fits &= self.proof.misfit(points, labels, self.precision, self.factors.rank - 1) < 1
        kept: list[int] = []
        for index in fits.nonzero()[:, 0].tolist():
            apart = (inputs[kept] - inputs[index]).norm(dim=1) > SAME * inputs[index].norm()
            if bool((apart | (labels[kept] != labels[index])).all()):
                kept.append(index)
        return Some.counted(inputs[kept], labels[kept], inverse[kept])

    def _labels(self, points: Float[Tensor, "k r"]) -> tuple[Int64[Tensor, " k"], Float[Tensor, " k"]]:
        """The label of every sample, and 1/w. Of two classes ∂ℓ/∂z differ by a factor alone, which is negative for the wrong one."""
        if not len(points):
            return self.classes[:0], points[:, 0]
        first, network = self.later[0], self.network
        columns = network.by_label(points, first.column.layer, self.classes)
        fed = network.fed(points, [first.row.layer])[first.row.layer]
        fed = torch.cat([fed, torch.ones_like(fed[:, :1])], dim=1) if first.row.augmented else fed
        solved = torch.linalg.solve(first.core, (columns.flatten(0, 1) @ first.column.basis).T).T.reshape(*columns.shape[:2], -1)
        inverse = (solved * (fed @ first.row.basis)).sum(dim=-1)
        rests = first.column.rest(columns.flatten(0, 1))[0].norm(dim=1).reshape(inverse.shape).nan_to_num(torch.inf)
        best = rests.where(inverse > 0, torch.inf).argmin(dim=0)
        return self.classes[best], inverse[best, torch.arange(len(points), device=points.device)]


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
    had = had.where(had > NOBODY * had.max(), 0.0)
    rows = (-mean / deviation).expand(count, -1).clone()
    for fixed, span in zip(schema.discrete, schema.spans, strict=True):
        if not fixed:
            rows[:, span] = torch.randn((count, 1), generator=generator, device=right.device, dtype=right.dtype)
            continue
        level = torch.multinomial((had[span] + EVER * had.max()).expand(count, -1), 1, generator=generator)[:, 0]
        rows[torch.arange(count, device=rows.device), span.start + level] += 1 / deviation[span][level]
    return rows
