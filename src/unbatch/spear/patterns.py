"""Samples of which the pattern is known, the neurons that they fire: their columns are as exact as the gradient, with few zeros or none.

Column d_i of ∂L/∂Z is J_iᵀ s_i, where s_i (c,) is the slope of the loss at the outputs, and J_i (c, m) says what moves them when z does.
In a network of ReLU J_i depends on the pattern alone, and a sample that is known roughly has the right one. But d_i = left @ q_i as well.
Two subspaces of c and b dimensions, among m > c + b rows, have nothing but this column in common: q_i is the smallest singular vector of

    left − B_i (B_iᵀ left),    B_i an orthonormal basis of the rows of J_i.

Zeros are a part of that: J_i is zero where neuron i is off. The samples are dual to the columns, p_i · q_j = 0: what is missing lies across
all columns that are known, in a space of a few dimensions, where random points soon have the pattern of a sample. Ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.clock import Clock, OutOfTime
from unbatch.gradients import jacobians
from unbatch.linalg.blocks import BLOCK
from unbatch.linalg.complement import complement
from unbatch.spear.candidate import Attempt, read_out
from unbatch.spear.dictionary_learning import random_samples
from unbatch.spear.problem import Problem
from unbatch.spear.selection import Solution, agreement, independent, scaled
from unbatch.types import Candidate, Observation, Progress

__all__ = ["exact_by_patterns", "whole_by_patterns"]

MEET, ALONE = 1e-5, 1e-2
"""Sine of the angle at which two subspaces meet; and the largest share of it that it may be of the next one, which a second column would
have. Chosen: of networks that know a batch by heart right patterns have 1e-15 to 2e-8, wrong ones 1e-4 to .8, and shares below 1e-6."""

SPARE = 20
"""Rows beyond the dimensions of both subspaces that must be there, as else they meet anyhow. Chosen: of a network with 40 rows for 26
dimensions a whole came out that held less than what was known."""

NOTHING = 1e-12
"""Share of the largest singular value of J_i below which one is rounding. Chosen."""

DRAWN, LOOKED_AT, FRUITLESS = 1024, 32, 4
"""Random points of what is left at a time; of which so many are looked at closely; and rounds without a find after which no more are
drawn. Chosen: with three missing of twenty the first round has a sample."""

NUMBERS = 1 << 26
"""Fewer points are drawn where inputs are so large that all points hold more numbers. Chosen: half a gigabyte."""

NEARER = 0.2
"""Share of their length that points are moved by around those that came nearest, and of that in every round without a find. Chosen."""

ACROSS = 0.3
"""Share of a point that must lie across all columns that are known, or it is a sample that is. Chosen."""

TRIES, KEPT = 4, 0.75
"""Times that what is missing is drawn, where it came out otherwise than its own patterns say: one of the columns may be the sum of two; so
another time begins with a part of those that were known. Chosen."""

SAME = 1e-6
"""Part of a direction beside others up to which it is one of them. Chosen."""


def whole_by_patterns(observation: Observation, problem: Problem, known: Candidate, generator: Generator, clock: Clock) -> Attempt | None:
    """All samples of a problem, from those that are known at least roughly; None where not all come out.

    It fits where each came out by its own pattern. Elsewhere one pattern only comes near to a column.

    Args:
        observation: what the server saw: one gradient, without batch statistics.
        problem: in the coordinates of the gradient's factors.
        known: samples of it, and others if need be.
        generator: of random points.
        clock: when to give up.

    Raises:
        OutOfTime: the clock ran out.
    """
    patterns, batch = _Patterns(observation, problem), problem.layer.batch
    room = len(problem.layer.left) - batch - observation.classes
    if known.inputs is None or min(batch, observation.classes) < 2 or room < SPARE:
        return None
    roughly = known.inputs.double().flatten(1)
    roughly = roughly[roughly.isfinite().all(dim=1)]
    if not len(roughly):
        return None
    given = some = best = patterns.among(patterns.directions(roughly, clock)[0])
    rough = problem.samples_of(roughly)
    for turn in range(TRIES):
        found = patterns.filled(some, rough, generator, clock)
        own = patterns.own(found, clock)
        if len(own) == batch:
            return _attempt(problem, own, known, fits=True)
        if len(found) < batch:
            if turn and len(found) <= len(best):
                break
            best = max(found, best, key=len)
        if len(own) > len(given):  # a wrong column spoils all samples but its own, most of which keep their patterns
            given = some = own
        else:
            some = given[torch.rand(len(given), generator=generator, device=given.device) < KEPT]
    completed = patterns.with_the_last(best, clock)
    return _attempt(problem, completed, known, fits=False) if len(patterns.own(completed, clock)) >= batch - 1 else None


def _attempt(problem: Problem, directions: Float[Tensor, "k b"], known: Candidate, *, fits: bool) -> Attempt | None:
    """The solution that these columns are; None if they are none."""
    batch = problem.layer.batch
    directions, samples = scaled(problem.layer, directions) if len(directions) == batch else (directions, None)
    if samples is None:
        return None
    solution = Solution(samples, directions, agreement(problem.layer, samples, directions), 0)
    return Attempt(problem, solution, fits, "", {**known.stats, "by patterns": batch})


def exact_by_patterns(
    observation: Observation, problem: Problem, known: Candidate, generator: Generator, clock: Clock, progress: Progress
) -> Candidate:
    """All samples of a problem as ``whole_by_patterns`` has them, or else the candidate as it is."""
    with suppress(OutOfTime):
        whole = whole_by_patterns(observation, problem, known, generator, clock)
        if whole is not None and whole.fits:
            return read_out(observation, whole, whole.samples, progress)
    return known


@dataclass(frozen=True, eq=False)
class _Patterns:
    observation: Observation
    problem: Problem

    def nearest(self, inputs: Float[Tensor, "k n"], clock: Clock) -> tuple[Float[Tensor, "k b"], Float[Tensor, "k 2"]]:
        """q of the column that each input's pattern comes nearest to; how far it is from it, and from any other, as sines."""
        left = self.problem.layer.left
        found, sines = [left.new_zeros((0, left.shape[1]))], [left.new_zeros((0, 2))]
        for bases in self._bases(inputs, clock):
            near, _ = torch.linalg.qr(left.T @ bases)  # all of left at right angles to these is so to the bases
            columns = left @ near
            _, apart, turned = torch.linalg.svd(columns - bases @ (bases.mT @ columns), full_matrices=False)
            found.append((near @ turned[:, -1, :, None])[..., 0])
            sines.append(apart[:, [-1, -2]])
        return torch.cat(found), torch.cat(sines)

    def directions(self, inputs: Float[Tensor, "k n"], clock: Clock) -> tuple[Float[Tensor, "j b"], Float[Tensor, " j"]]:
        """Of the inputs whose pattern meets the columns in one of them, its q; and how far any other is from it, a sine."""
        found, sines = self.nearest(inputs[inputs.isfinite().all(dim=1)], clock)
        meets = (sines[:, 0] < MEET) & (sines[:, 0] < ALONE * sines[:, 1])
        return found[meets], sines[meets, 1]

    def own(self, found: Float[Tensor, "k b"], clock: Clock) -> Float[Tensor, "j b"]:
        """Columns by the patterns of the samples that all b columns tell; none of fewer."""
        _, samples = scaled(self.problem.layer, found) if len(found) == self.problem.layer.batch else (found, None)
        return found[:0] if samples is None else self.among(self.directions(self.problem.inputs(samples), clock)[0])

    def with_the_last(self, found: Float[Tensor, "k b"], clock: Clock) -> Float[Tensor, "j b"]:
        """What was found; and where one column is missing, what the pattern of its sample, which the others tell, comes nearest to."""
        left = complement(found)
        if left.shape[1] != 1:
            return found
        last = self.problem.inputs(left.T / (left.T @ self.problem.layer.sums))
        return torch.cat([found, self.nearest(last[last.isfinite().all(dim=1)], clock)[0]])

    def among(self, directions: Float[Tensor, "k b"]) -> Float[Tensor, "j b"]:
        """Each column once."""
        return directions[independent(directions, self.problem.layer.off(directions), smallest=SAME)]

    def filled(self, found: Float[Tensor, "k b"], near: Float[Tensor, "p b"], generator: Generator, clock: Clock) -> Float[Tensor, "j b"]:
        """What was found, and columns of random points across it, until all are there or none turns up any more.

        First near to some samples, then anywhere; and while none turns up, nearer and nearer to where patterns come nearest to columns.
        """
        fruitless, spread = 0, NEARER
        while len(found) < self.problem.layer.batch and fruitless < FRUITLESS:
            drawn, near = self.drawn(found, near, spread, generator, clock)
            more = self.among(torch.cat([found, drawn]))
            fruitless, spread = (fruitless + 1, NEARER * spread) if len(more) == len(found) else (0, 1.0)
            near = near if fruitless else near[:0]
            found = more
        return found

    def drawn(
        self, found: Float[Tensor, "k b"], near: Float[Tensor, "p b"], spread: float, generator: Generator, clock: Clock
    ) -> tuple[Float[Tensor, "j b"], Float[Tensor, "q b"]]:
        """Columns of random points across those that were found, around some points if any are given; of the only one, where one is left.

        With the points that came nearest to a column.
        """
        layer, left = self.problem.layer, complement(found)
        count = max(LOOKED_AT, min(DRAWN, NUMBERS // self.problem.factors.right.shape[1]))
        points = left.T if left.shape[1] == 1 else random_samples(layer, left, generator, count)
        across = near @ left @ left.T
        if len(near := across[across.norm(dim=1) > ACROSS * near.norm(dim=1)]):
            near, points = (part / (part @ layer.seen.T).norm(dim=1, keepdim=True) for part in (near, points))
            points = torch.cat([near, near.repeat(-(-len(points) // len(near)), 1)[: len(points)] + spread * points])
        inputs = self.problem.inputs(points / (points @ layer.sums)[:, None])
        fine = inputs.isfinite().all(dim=1)
        inputs, points = inputs[fine], points[fine]
        if len(inputs) > LOOKED_AT:
            best = self._cosines(inputs, clock).topk(LOOKED_AT).indices
            inputs, points = inputs[best], points[best]
        directions, apart = self.directions(inputs, clock)
        clear = apart > MEET  # of a pattern that nearly meets in two columns, a sum of both may come out
        return directions[clear] if bool(clear.any()) else directions, points

    def _cosines(self, inputs: Float[Tensor, "k n"], clock: Clock) -> Float[Tensor, " k"]:
        """How near every input's pattern comes to a column: cosines, which are rounded above 1e-8 of an angle, but cheap."""
        left = self.problem.layer.left
        return torch.cat([torch.linalg.svdvals(bases.mT @ left)[:, 0] for bases in self._bases(inputs, clock)])

    def _bases(self, inputs: Float[Tensor, "k n"], clock: Clock) -> Iterator[Float[Tensor, "j m c"]]:
        """B of every input, block by block; zero columns fill it up."""
        observation, layer = self.observation, self.problem.layer
        for part in torch.split(inputs, max(1, BLOCK // layer.left.numel())) if len(inputs) else ():
            clock.check()
            moved = jacobians(observation.model, part.reshape(-1, *observation.input_shape), self.problem.call.weight)
            moved = (moved[:, :, self.problem.alive].permute(1, 2, 0) / layer.divided[:, None]).nan_to_num(0.0, 0.0, 0.0)
            basis, values, _ = torch.linalg.svd(moved, full_matrices=False)
            yield basis * (values > NOTHING * values[:, :1])[:, None]
