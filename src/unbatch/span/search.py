"""Rounds of guesses, least squares, proof and deflation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.clock import ENDING, UNLIMITED, Clock, OutOfTime
from unbatch.linalg.complement import complement
from unbatch.span.equations import Equations
from unbatch.span.guesses import random_starts, scaled, unmixed
from unbatch.span.least_squares import minimize, refine
from unbatch.span.problem import Found, Problem, across
from unbatch.types import Progress

__all__ = ["COARSE", "CONTRASTS", "FLOOR", "NEAR", "SINGULAR", "Search"]

LENGTHS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
"""Lengths of a start that are tried where no bias tells it, in units of the usual one. Chosen."""

FEW = 12
"""Up to so many missing samples features count as strong as they are, first; see ``guesses.unmixed``."""

ALIKE = 1e-6
"""Two columns with a cosine that is this near to 1 are of one sample. Chosen."""

CONTRASTS = (0.1, 0.02, 0.5)
"""Softness of the contrast in component analysis, two rounds each. Chosen. Swept."""

STARTS, MOST = 4, 128
"""Random starts for every missing sample, and at most."""

LABELLED = 2
"""Rounds without a find from which on more labels than the likeliest are tried. Chosen."""

LIKELY = 3
"""Labels are tried that leave up to this many times what the likeliest leaves. Chosen. Swept."""

FLOOR = 1e-3
"""A start is done when its residual is below this share of the precision. Chosen."""

NEAR, COARSE = 100, 1e-6
"""A start whose residual is below so many times the precision, or so many times this, is held against all equations. Chosen: it decides
what is tried, not what is proved; the first one swept."""

SAME = 0.5
"""p · c is 1 for a sample and its own column and 0 for another's: from here on two are one. Derived: the middle."""

DOUBTED = 10.0
"""A candidate whose misfit is up to so many times what rounding explains is not proved here, but proposed where no other is found: the
judge decides. Chosen: what an update in float32 left of 20 samples behind six sigmoids came to 1.4."""

EACH, PATIENT = 6, 60
"""Rounds in a row without a find, for each missing sample and at most, after which a search ends by itself: in six, each method of guessing
has had all its turns. Measured: of nine or more samples none was found after more than 19 idle rounds, of fewer after 13 (honesty trials,
and narrow networks, with 100 rounds and more to search in)."""

PROPOSING = 3
"""Rounds without a proof after which the search ends where what is in doubt is all that is missing. Chosen."""

SINGULAR = 1e-24
"""Squares of singular values below this share of the largest are rounding of float64. Derived: (1e-12)²."""

DETERMINED = 1e-2
"""A sample is determined if its residual bounds its relative error by this. Chosen. Swept."""


@dataclass(eq=False)
class Search:
    """The search for all samples of a problem.

    Attributes:
        problem: the problem.
        classes: (c,) labels that samples may have.
        shape: of one input.
        generator: of all randomness.
        determined: see ``DETERMINED``.
        found: what is proved.
        movable: (k, b) columns of samples that meet all equations and have room to move, with their labels: behind ReLU the neurons that
            a sample leaves off do not tell where it is. Its column is known all the same, and leaves the others one unknown less.
        doubtful: points and labels of what nearly meets the equations: see ``DOUBTED``.
        counts: rounds and starts, and how many starts ended in a proof.
        gave_up: whether it ended with samples missing because rounds found nothing, and not by the clock.
    """

    problem: Problem
    classes: Int64[Tensor, " c"]
    shape: tuple[int, ...]
    generator: Generator
    determined: float = DETERMINED
    found: Found = field(init=False)
    movable: Found = field(init=False)
    doubtful: tuple[Tensor, Tensor] = field(init=False)
    counts: dict[str, int] = field(default_factory=lambda: {"rounds": 0, "starts": 0, "hits": 0})
    gave_up: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Nothing is found yet."""
        none = self.problem.sums.new_zeros
        size = self.problem.batch
        self.found = Found(none((0, size)), self.classes[:0], none((0, size)), none(0))
        self.movable, self.doubtful = self.found, (self.found.points, self.found.labels)

    @property
    def missing(self) -> int:
        """How many samples are still sought."""
        return self.problem.batch - len(self.found)

    @property
    def patience(self) -> int:
        """Rounds without a find after which no other is likely. Of one sample all starts are one, which is tried in every way."""
        return min(PATIENT, EACH * self.missing) if self.missing > 1 else LABELLED + len(self.problem.plans)

    def run(self, clock: Clock, progress: Progress, most: int = 1000, patience: int | None = None) -> Found:
        """Rounds until all is found, the clock is over, or so many rounds in a row, the patience, found nothing."""
        idle, searching = 0, clock.part(1 - ENDING)
        while self.missing and not searching.over and self.counts["rounds"] < most and idle < (patience or self.patience):
            before = len(self.found)
            self.round(idle, searching)
            idle = 0 if len(self.found) > before else idle + 1
            if idle >= PROPOSING and len(self._added(*self.doubtful)) == self.problem.batch:
                break
            progress(f"{len(self.found)} of {self.problem.batch} proved", len(self.found) / self.problem.batch)
        self.gave_up = patience is None and bool(self.missing) and idle >= self.patience
        return self.finished(clock)

    def finished(self, clock: Clock) -> Found:
        """What is proved so far, and what is in doubt beside it, as exact as the equations, and the time, make it."""
        self.found = self._added(*self.doubtful)
        self._tighten(clock)
        if not self.missing:
            self._invert()
        return self.found

    def round(self, idle: int, clock: Clock) -> None:
        """One round: guesses of what is missing, the least squares, the proof.

        Args:
            idle: how many rounds before it found nothing.
            clock: see ``minimize``.
        """
        inside, columns = complement(torch.cat([self.found.columns, self.movable.columns])), complement(self.found.points)
        if not inside.shape[1]:  # candidates that may still move hold all that is missing: it is sought beside what is proved alone
            inside = complement(self.found.columns)
        right, sums = inside.T @ self.problem.factors.right, inside.T @ self.problem.sums
        try:
            starts = self._starts(right, sums, idle, clock)
        except OutOfTime:
            return
        plan = self.problem.plans[idle % len(self.problem.plans)]
        self.descend(plan, starts, inside, columns, sums, clock, ranks=1 if idle < LABELLED else 3)
        self._settle()

    def descend(
        self,
        plan: Equations,
        starts: Float[Tensor, "k r"],
        inside: Float[Tensor, "b r"],
        columns: Float[Tensor, "b c"],
        sums: Float[Tensor, " r"],
        clock: Clock,
        ranks: int,
    ) -> None:
        """From some starts to proofs.

        Args:
            plan: the equations to use.
            starts: in the coordinates of what is missing.
            inside: samples p = inside @ start.
            columns: the same for columns c; the movable samples bound only p, so that these may be more than r.
            sums: start · sums = 1.
            clock: see ``minimize``.
            ranks: how many labels to try of every start, the likeliest first.
        """
        whole = self.problem.equations
        own = Equations(whole.network.restricted(inside), [whole.spaces[0].restricted(columns)])
        others = [space for space in plan.spaces if space is not whole.spaces[0]]
        equations = Equations(own.network, [*(own.spaces if whole.spaces[0] in plan.spaces else []), *others])
        labelled = any(space.kind == "column" for space in equations.spaces)
        try:
            starts = self._of_length(own, starts, clock)
            rising, labels = own.best_labels(starts, self.classes, ranks if labelled else 1, clock)
        except OutOfTime:
            return
        likely = (rising < LIKELY * rising[:, :1]) | (torch.arange(labels.shape[1], device=labels.device) == 0)
        which = likely.nonzero()[:, 0]
        directions = across(sums)
        self.counts["rounds"] += 1
        self.counts["starts"] += len(which)
        points, values = minimize(equations, starts[which], labels[likely], directions, clock, floor=FLOOR * self.problem.precision)
        near = values < NEAR * max(self.problem.precision, COARSE)
        if bool(near.any()):
            points = points[near] if labelled else self._of_length(own, points[near], UNLIMITED)
            told = labels[likely][near] if labelled else own.best_labels(points, self.classes)[1][:, 0]
            self.accept(points @ inside.T, told, clock, inside)

    def _of_length(self, own: Equations, points: Float[Tensor, "k r"], clock: Clock) -> Float[Tensor, "k r"]:
        """Where no bias tells the scale: the length, and the sign, that leave the smallest rest in the column space."""
        if bool(self.problem.sums.any()):
            return points
        unit = scaled(points, torch.zeros_like(points[0]), own.network.right)
        lengths = self.problem.length * torch.tensor([*LENGTHS, *(-length for length in LENGTHS)], dtype=points.dtype, device=points.device)
        tried = (lengths[:, None, None] * unit).flatten(0, 1)
        rests = own.best_labels(tried, self.classes, clock=clock)[0][:, 0].reshape(len(lengths), -1)
        return lengths[rests.argmin(dim=0), None] * unit

    def _starts(self, right: Tensor, sums: Tensor, idle: int, clock: Clock) -> Tensor:
        rank = len(sums)
        if rank == 1:
            return scaled(torch.ones_like(sums)[None], sums, right)
        even = (rank > FEW) == (idle % 2 == 0)
        contrast = CONTRASTS[idle // 2 % len(CONTRASTS)]
        rows = [unmixed(right, self.shape, self.generator, contrast, even=even, clock=clock)]
        if rank <= FEW or idle:
            rows.append(unmixed(right, self.shape, self.generator, contrast, even=not even, clock=clock))
        starts = [scaled(torch.cat(rows), sums, right)]
        if idle:
            starts.append(random_starts(min(STARTS * rank, MOST), sums, right, self.generator))
        return torch.cat(starts)

    def accept(
        self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"], clock: Clock, inside: Float[Tensor, "b r"] | None = None
    ) -> None:
        """Hold candidates against all equations of all samples; what meets them, has no room to move, and is new is kept.

        Args:
            points: the candidates.
            labels: theirs.
            clock: see ``minimize``.
            inside: where they may move: all that the found samples leave.
        """
        if not len(points):
            return
        whole = self.problem.equations
        told = bool(self.problem.sums.any())  # without a bias what a layer is fed need not tell the scale: see ``Problem.length``
        plan, steps = (self.problem.plans[0], 4) if told else (whole, 12)
        points, _ = minimize(plan, points, labels, across(self.problem.sums), clock, steps=steps, floor=1e-15)
        if told:  # of weak samples, what taking out the strong ones left wrong is lost in the square of the condition
            points, _ = refine(plan, points, labels, self._directions(), clock, steps=1)
        labels = self._pulling(points, labels) if told else labels
        misfit = whole.misfit(points, labels, self.problem.precision, self.problem.unknowns)
        near = misfit < DOUBTED
        points, labels, proved = points[near], labels[near], misfit[near] < 1
        fixed = self._determined(points, labels, inside, clock)
        if told:
            self._keep_open(points[proved & ~fixed], labels[proved & ~fixed])
        self.counts["hits"] += int((proved & fixed).sum())
        self.found = self._added(points[proved & fixed], labels[proved & fixed])
        if bool((fixed & ~proved).any()):
            self.doubtful = points[fixed & ~proved], labels[fixed & ~proved]

    def _added(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"]) -> Found:
        """What is found, and those of some samples that are new beside it, and beside each other."""
        if not len(points):
            return self.found
        along, columns = self._columns(points, labels)
        fresh = (along > 0) & ((points @ self.found.columns.T).abs() < SAME).all(dim=1)
        kept: list[int] = []
        for i in fresh.nonzero()[:, 0].tolist():
            if bool(((columns[kept] @ points[i]).abs() < SAME).all()):
                kept.append(i)
        room = kept[: self.missing]
        chosen = torch.tensor(room, device=points.device, dtype=torch.int64)
        old = self.found
        return Found(
            torch.cat([old.points, points[chosen]]),
            torch.cat([old.labels, labels[chosen]]),
            torch.cat([old.columns, columns[chosen]]),
            torch.cat([old.errors, along.new_zeros(len(room))]),
        )

    def _keep_open(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"]) -> None:
        """Remember the columns of samples that have room to move, one of each sample."""
        if not len(points):
            return
        along, columns = self._columns(points, labels)
        known = F.normalize(torch.cat([self.found.columns, self.movable.columns, columns]), dim=1)
        same = (known @ known.T).abs().tril(-1) > 1 - ALIKE
        new = ~same[-len(points) :].any(dim=1) & columns.isfinite().all(dim=1)
        chosen = new.nonzero()[: self.missing - len(self.movable), 0]
        self.movable = Found(*(torch.cat([old, part[chosen]]) for old, part in self._pairs(points, labels, columns, along)))

    def _pairs(self, points: Tensor, labels: Tensor, columns: Tensor, along: Tensor) -> list[tuple[Tensor, Tensor]]:
        old = self.movable
        return [(old.points, points), (old.labels, labels), (old.columns, columns), (old.errors, along)]

    def _settle(self) -> None:
        """Open samples whose columns became dependent on found ones are dropped; with all columns there, the inverse says where each is."""
        if not len(self.movable):
            return
        known = F.normalize(torch.cat([self.found.columns, self.movable.columns]), dim=1)
        same = (known @ known.T).abs().tril(-1)[len(self.found) :] > 1 - ALIKE
        kept = ~same.any(dim=1)
        one = self.movable
        self.movable = one = Found(one.points[kept], one.labels[kept], one.columns[kept], one.errors[kept])
        if len(self.found) + len(one) != self.problem.batch:  # more of them than there are samples: not all are members
            return
        columns = torch.cat([self.found.columns, one.columns])
        labels = torch.cat([self.found.labels, one.labels])
        inverse, failed = torch.linalg.inv_ex(columns.T)
        points = inverse / (inverse @ self.problem.sums)[:, None]
        good = self.problem.equations.misfit(points, labels, self.problem.precision, self.problem.unknowns) < 1
        self.movable = Found(one.points[:0], one.labels[:0], one.columns[:0], one.errors[:0])
        if int(failed) or not bool(good.all()):
            return
        self.found = Found(points, labels, self._columns(points, labels)[1], points.new_zeros(len(points)))

    def _pulling(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
        """The labels, or others where p · c is not above zero: of two classes ∂ℓ/∂z differ by a negative factor alone."""
        wrong = (self._columns(points, labels)[0] <= 0).nonzero()[:, 0]
        if not len(wrong):
            return labels
        space = self.problem.column
        columns = self.problem.equations.network.by_label(points[wrong], space.layer, self.classes)
        rest, inside = space.rest(columns.flatten(0, 1))
        along = (points[wrong] * inside.reshape(*columns.shape[:2], -1)).sum(dim=-1)
        rests = rest.norm(dim=1).reshape(along.shape).nan_to_num(torch.inf)
        return labels.index_copy(0, wrong, self.classes[rests.where(along > 0, torch.inf).argmin(dim=0)])

    def _columns(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"]) -> tuple[Float[Tensor, " k"], Float[Tensor, "k b"]]:
        """p · Uᵀd / ‖d‖ of every sample, and its c."""
        first = Equations(self.problem.equations.network, self.problem.equations.spaces[:1])
        _, inside = first.blocks(points, labels)[0]
        along = (points * inside).sum(dim=1)
        return along, inside / along[:, None]

    def _determined(self, points: Float[Tensor, "k b"], labels: Int64[Tensor, " k"], inside: Tensor | None, clock: Clock) -> Tensor:
        """(k,) whether the equations leave a sample no room: a zero that can be moved along proves nothing.

        A sample that fires fewer neurons than there are others has room, until enough of the others are found and taken out. Behind ReLU
        and one more layer, ∂ℓ/∂z within a mask moves with the softmax alone: c − 1 numbers for b − 1 unknowns.
        """
        size = (points @ self.problem.factors.right).norm(dim=1)
        determined = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for plan in self.problem.plans:
            open_ = (~determined).nonzero()[:, 0]
            _, errors = refine(plan, points[open_], labels[open_], self._directions(inside), clock, steps=1)
            determined[open_] = errors < self.determined * size[open_]
        return determined

    def _directions(self, inside: Float[Tensor, "b r"] | None = None) -> Float[Tensor, "q b"]:
        """Along which p · s stays 1, inside of some space; a step of length one changes an input by length one."""
        free = across(self.problem.sums) if inside is None else across(inside.T @ self.problem.sums) @ inside.T
        right = self.problem.factors.right
        if not len(free):
            return free
        squares, vectors = torch.linalg.eigh((free @ right) @ (free @ right).T)
        return (vectors / squares.clamp_min(SINGULAR * float(squares[-1])).sqrt()).T @ free

    def _tighten(self, clock: Clock) -> None:
        """Solve once more for the proved samples, in the coordinates of the whole batch, with the equations that determine each best."""
        if not len(self.found):
            return
        told = bool(self.problem.sums.any())  # where it is not, the last plan alone may determine the scale
        plans = (self.problem.plans[:-1] if told else ()) or self.problem.plans
        points, labels = self.found.points, self.found.labels
        tries = [refine(plan, points, labels, self._directions(), clock) for plan in plans]
        errors, best = torch.stack([error for _, error in tries]).min(dim=0)
        refined = torch.stack([tried for tried, _ in tries])[best, torch.arange(len(points), device=points.device)]
        fixed = errors < self.determined * (points @ self.problem.factors.right).norm(dim=1)  # the others rest on what was taken out
        self.found.errors = errors
        self.found.points = torch.where(fixed[:, None], refined, points)

    def _invert(self, rounds: int = 4) -> None:
        """With all columns there, the samples are the inverse of their matrix: p_i · c_j is 0 for i ≠ j.

        A column moves with the scores alone while no neuron is turned on or off, so that errors shrink from round to round.
        """
        found, equations = self.found, self.problem.equations
        rest = equations.residuals(found.points, found.labels).norm()
        for _ in range(rounds):
            _, columns = self._columns(found.points, found.labels)
            inverse, failed = torch.linalg.inv_ex(columns.T)
            reached = torch.inf if int(failed) else equations.residuals(inverse, found.labels).norm()
            if not reached < rest:
                break
            found.points, found.columns, rest = inverse, columns, reached
