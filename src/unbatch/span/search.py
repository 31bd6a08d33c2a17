"""Rounds of guesses, least squares, proof and deflation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from unbatch.clock import Clock
from unbatch.span.equations import Equations
from unbatch.span.guesses import random_starts, scaled, unmixed
from unbatch.span.least_squares import minimize, refine
from unbatch.span.problem import Problem
from unbatch.types import Progress

__all__ = ["Found", "Search"]

DETERMINED = 1e-2
"""A sample is determined if its residual bounds its relative error by this."""


@dataclass(eq=False)
class Found:
    """Proved samples.

    Attributes:
        points: (k, b) p.
        labels: (k,).
        columns: (k, b) c.
        errors: (k,) how far the inputs may be off, in their own units, as the residual and the least determined direction bound it.
    """

    points: Float[Tensor, "k b"]
    labels: Int64[Tensor, " k"]
    columns: Float[Tensor, "k b"]
    errors: Float[Tensor, " k"]

    def __len__(self) -> int:
        """k."""
        return len(self.points)


def complement(vectors: Float[Tensor, "k b"]) -> Float[Tensor, "b r"]:
    """Orthonormal basis of all that is orthogonal to the rows."""
    basis, _ = torch.linalg.qr(vectors.T, mode="complete")
    return basis[:, len(vectors) :]


@dataclass(eq=False)
class Search:
    """The search for all samples of a problem.

    Attributes:
        problem: the problem.
        classes: (c,) labels that samples may have.
        shape: of one input.
        generator: of all randomness.
        found: what is proved.
        counts: rounds and starts, and how many starts ended in a proof.
    """

    problem: Problem
    classes: Int64[Tensor, " c"]
    shape: tuple[int, ...]
    generator: Generator
    found: Found = field(init=False)
    counts: dict[str, int] = field(default_factory=lambda: {"rounds": 0, "starts": 0, "hits": 0})

    def __post_init__(self) -> None:
        """Nothing is found yet."""
        none = self.problem.sums.new_zeros
        size = self.problem.batch
        self.found = Found(none((0, size)), self.classes[:0], none((0, size)), none(0))

    @property
    def missing(self) -> int:
        """How many samples are still sought."""
        return self.problem.batch - len(self.found)

    def run(self, clock: Clock, progress: Progress, most: int = 1000) -> Found:
        """Rounds until all is found or the clock is over."""
        idle = 0
        while self.missing and not clock.over and self.counts["rounds"] < most:
            before = len(self.found)
            self.round(idle, clock)
            idle = 0 if len(self.found) > before else idle + 1
            progress(f"{len(self.found)} of {self.problem.batch} proved", len(self.found) / self.problem.batch)
        self._tighten()
        return self.found

    def round(self, idle: int, clock: Clock) -> None:
        """One round: guesses of what is missing, the least squares, the proof.

        Args:
            idle: how many rounds before it found nothing.
            clock: see ``minimize``.
        """
        inside, columns = complement(self.found.columns), complement(self.found.points)
        right, sums = inside.T @ self.problem.factors.right, inside.T @ self.problem.sums
        starts = self._starts(right, sums, idle)
        plan = self.problem.plans[idle % len(self.problem.plans)]
        self.descend(plan, starts, inside, columns, sums, clock, ranks=1 if idle < 2 else 3)

    def descend(
        self,
        plan: Equations,
        starts: Float[Tensor, "k r"],
        inside: Float[Tensor, "b r"],
        columns: Float[Tensor, "b r"],
        sums: Float[Tensor, " r"],
        clock: Clock,
        ranks: int,
    ) -> None:
        """From some starts to proofs.

        Args:
            plan: the equations to use.
            starts: in the coordinates of what is missing.
            inside: samples p = inside @ start.
            columns: the same for columns c.
            sums: start · sums = 1.
            clock: see ``minimize``.
            ranks: how many labels to try of every start, the likeliest first.
        """
        whole = self.problem.equations
        own = Equations(whole.network.restricted(inside), [whole.spaces[0].restricted(columns)])
        others = [space for space in plan.spaces if space is not whole.spaces[0]]
        equations = Equations(own.network, [*(own.spaces if whole.spaces[0] in plan.spaces else []), *others])
        labelled = any(space.kind == "column" for space in equations.spaces)
        rising, labels = own.best_labels(starts, self.classes, ranks if labelled else 1)
        likely = (rising < 3 * rising[:, :1]) | (torch.arange(labels.shape[1], device=labels.device) == 0)
        which = likely.nonzero()[:, 0]
        directions = complement(sums[None]).T
        self.counts["rounds"] += 1
        self.counts["starts"] += len(which)
        points, values = minimize(equations, starts[which], labels[likely], directions, clock, floor=1e-3 * self.problem.precision)
        near = values < 100 * max(self.problem.precision, 1e-6)
        if bool(near.any()):
            told = labels[likely][near] if labelled else own.best_labels(points[near], self.classes)[1][:, 0]
            self.accept(points[near] @ inside.T, told, clock)

    def _starts(self, right: Tensor, sums: Tensor, idle: int) -> Tensor:
        rank = len(sums)
        if rank == 1:
            return 1 / sums[None]
        even = (rank > 12) == (idle % 2 == 0)
        contrast = (0.1, 0.1, 0.02, 0.02, 0.5, 0.5)[idle % 6]
        rows = [unmixed(right, self.shape, self.generator, contrast, even=even)]
        if rank <= 12 or idle:
            rows.append(unmixed(right, self.shape, self.generator, contrast, even=not even))
        starts = [scaled(torch.cat(rows), sums, right)]
        if idle:
            starts.append(random_starts(min(4 * rank, 128), sums, right, self.generator))
        return torch.cat(starts)

    def accept(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"], clock: Clock) -> None:
        """Prove candidates against all equations of all samples; what is proved and new is kept."""
        if not len(points):
            return
        whole, first = self.problem.equations, Equations(self.problem.equations.network, self.problem.equations.spaces[:1])
        points, _ = minimize(self.problem.plans[0], points, labels, complement(self.problem.sums[None]).T, clock, steps=4, floor=1e-15)
        labels = self._pulling(points, labels)
        proved = whole.misfit(points, labels, self.problem.precision) < 1
        proved[proved.clone()] = self._determined(points[proved], labels[proved])
        self.counts["hits"] += int(proved.sum())
        points, labels = points[proved], labels[proved]
        if not len(points):
            return
        _, inside = first.blocks(points, labels)[0]
        along = (points * inside).sum(dim=1)
        columns = inside / along[:, None]
        fresh = (along > 0) & ((points @ self.found.columns.T).abs() < 0.5).all(dim=1)
        kept: list[int] = []
        for i in fresh.nonzero()[:, 0].tolist():
            if bool(((columns[kept] @ points[i]).abs() < 0.5).all()):
                kept.append(i)
        room = kept[: self.missing]
        chosen = torch.tensor(room, device=points.device, dtype=torch.int64)
        old = self.found
        self.found = Found(
            torch.cat([old.points, points[chosen]]),
            torch.cat([old.labels, labels[chosen]]),
            torch.cat([old.columns, columns[chosen]]),
            torch.cat([old.errors, along.new_zeros(len(room))]),
        )

    def _pulling(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
        """The labels, or others where p · c is not above zero: of two classes ∂ℓ/∂z differ by a negative factor alone."""
        network, space = self.problem.equations.network, self.problem.column
        _, inside = Equations(network, [space]).blocks(points, labels)[0]
        wrong = ((points * inside).sum(dim=1) <= 0).nonzero()[:, 0]
        if not len(wrong):
            return labels
        columns = network.by_label(points[wrong], space.layer, self.classes)
        rest, inside = space.rest(columns.flatten(0, 1))
        along = (points[wrong] * inside.reshape(*columns.shape[:2], -1)).sum(dim=-1)
        rests = rest.norm(dim=1).reshape(along.shape).nan_to_num(torch.inf)
        return labels.index_copy(0, wrong, self.classes[rests.where(along > 0, torch.inf).argmin(dim=0)])

    def _determined(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"]) -> Tensor:
        """(k,) whether the equations leave a sample no room: a zero that can be moved along proves nothing.

        Behind ReLU and one more layer, ∂ℓ/∂z within a mask moves with the softmax alone: c − 1 numbers for b − 1 unknowns.
        """
        size = (points @ self.problem.factors.right).norm(dim=1)
        determined = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for plan in self.problem.plans:
            open_ = (~determined).nonzero()[:, 0]
            for part in torch.split(open_, 16):
                _, errors = refine(plan, points[part], labels[part], self._directions(), steps=1)
                determined[part] = errors < DETERMINED * size[part]
        return determined

    def _directions(self) -> Float[Tensor, "q b"]:
        """Along which p · s stays 1; a step of length one changes an input by length one."""
        across, right = complement(self.problem.sums[None]).T, self.problem.factors.right
        if not len(across):
            return across
        squares, vectors = torch.linalg.eigh((across @ right) @ (across @ right).T)
        return (vectors / squares.clamp_min(1e-24 * float(squares[-1])).sqrt()).T @ across

    def _tighten(self) -> None:
        """Solve once more for the proved samples, in the coordinates of the whole batch, with the equations that determine each best."""
        if not len(self.found):
            return
        plans = self.problem.plans[:-1] or self.problem.plans
        points, labels = self.found.points, self.found.labels
        tries = [refine(plan, points, labels, self._directions()) for plan in plans]
        errors, best = torch.stack([error for _, error in tries]).min(dim=0)
        self.found.errors = errors
        self.found.points = torch.stack([tried for tried, _ in tries])[best, torch.arange(len(points), device=points.device)]
