r"""Columns read off the column space of ∂L/∂W₁, where nearly every sample is known: what is missing does not spoil them.

Peeling subtracts what it knows, so that a sample that it does not find, however faint, and every error of the others stay in what is left,
where they hide the next. A column needs none of the others. With a sample's mask, which a rough reading has right, d = mask ∘ (W₂ᵀ e) has
C − 1 unknowns up to scale, and must lie in the column space U of G₁, which has m − r equations for it:

    (I − U Uᵀ) (mask ∘ (W₂ᵀ e)) = 0.

The error of that is the rounding of G₁ by the sample's own part in it: strong samples are known to the last digit beside weak ones that are
hardly known. With all columns but a few, those that are left are guessed in the small space that the known leave to them (see
``on_off_equations``). Samples then follow from G₁ = Σ d pᵀ, for all of them together. Notation: see ``two_layer``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import Clock
from unbatch.spear.shallow.on_off_equations import (
    FEW,
    Frame,
    distinct,
    exact,
    frame_of,
    nearer_off,
    oriented,
    polish,
    samples_of,
    search_pairs,
    unknowns_of,
)
from unbatch.spear.shallow.two_layer import Found, Residual, TwoLayer, residual_of, zero_sum_basis

__all__ = ["read_columns"]

TOLERANCE = 1e-2
"""Relative error to which a neuron obeys one of its two equations where a column is believed: that of a sample a hundred roundings above
the gradient's. A vector that is none obeys them at as small a share of the neurons. Chosen."""

SHARPENED, WEIGHED = 3, 5
"""Rounds of masks and columns, and of weights where samples are missing. Chosen: of batches of 256 the errors did not fall after these."""

DOUBTED = 10.0
"""Errors are taken to be so many times what the rows alone say, which take the columns for right. Measured: of 1,723 samples of CIFAR-10,
where all columns were known, one was off by 12 times that, and no other by more than 9."""

DEAD = 1e3
"""A row below this many roundings of its parts says nothing of any sample. Chosen."""

PATIENCE = 24
"""Rounds without a new column that end the search for the last few. Chosen, twice that of all: one that is missing leaves errors in the
others."""

CHUNK = 1 << 22
"""Numbers of the masked ranges that are looked at at a time."""


def read_columns(
    problem: TwoLayer,
    found: Found,
    generator: Generator,
    clock: Clock,
    more: Callable[[int], bool],
) -> Found | None:
    """All samples whose columns can be told, where no more than a few are missing; None where more are.

    Args:
        problem: the two layers.
        found: samples, their masks nearly right; wrong ones among them do no harm.
        generator: of guesses of the few that are missing.
        clock: what is known counts when it runs out.
        more: told how many samples are known; whether to go on.
    """
    rest = residual_of(problem, Found.none(problem))
    frame = frame_of(problem, rest, torch.zeros_like(rest.sums, dtype=torch.bool))
    if frame is None or not frame.sought - FEW <= len(found) or not len(found):
        return None
    sharpen = _Sharpen(problem, rest, frame, clock)
    t = sharpen(problem.columns(found.samples, found.labels).hidden > 0)
    t = distinct(t, t[:0])
    if len(t) < frame.sought - FEW:
        return None
    if len(t) < frame.sought - 1:
        t = search_pairs(problem, rest, frame, generator, TOLERANCE, more, patience=PATIENCE, clock=clock, known=t, like=found.samples)
    if len(t) == frame.sought - 1:
        last = samples_of(problem, rest, frame, t)[torch.tensor([-1], device=t.device)]
        if bool(last.samples.isfinite().all()):
            t = torch.cat([t, sharpen(problem.columns(last.samples, last.labels).hidden > 0)])
    if len(t) > int(sharpen.alive.sum()):
        return None  # where rounding lets anything pass for a column, as of a network that is sure of all, rows tell none of so many apart
    errors, columns = sharpen.columns(~nearer_off(t @ frame.pairs.T))
    read = _by_rows(rest, columns, errors, sharpen.alive, missing=len(t) < frame.sought)
    return read[read.samples.isfinite().all(dim=1) & read.doubt.isfinite()]


class _Sharpen:
    """Columns from masks, by the column space of the whole gradient; every row counts by its rounding."""

    def __init__(self, problem: TwoLayer, rest: Residual, frame: Frame, clock: Clock) -> None:
        self.frame, self.outer, self.clock = frame, problem.outer, clock
        self.alive = frame.live & (rest.rows.norm(dim=1) > DEAD * rest.rounding)
        self.weight = torch.where(self.alive, rest.rounding[self.alive].min() / rest.rounding, 0.0)
        self.space = torch.linalg.qr(frame.basis * self.weight[:, None])[0]
        self.classes = zero_sum_basis(problem.outer)
        self.signal = problem.outer.T @ self.classes

    def columns(self, on: Bool[Tensor, "k m"]) -> tuple[Float[Tensor, "k C"], Float[Tensor, "k m"]]:
        """The e and d of masks that come nearest to the column space, up to scale."""
        found, height = [], on.shape[1]
        for part in torch.split(on, max(1, CHUNK // (height * self.signal.shape[1]))):
            self.clock.check()
            ranges = part[:, :, None] * (self.signal * self.weight[:, None])
            length = ranges.norm(dim=1, keepdim=True).clamp_min(torch.finfo(ranges.dtype).tiny)
            outside = ranges / length - self.space @ (self.space.T @ (ranges / length))
            triangle = torch.linalg.qr(outside)[1]
            least = torch.linalg.svd(triangle)[2][:, -1] / length[:, 0]
            found.append(least / least.norm(dim=1, keepdim=True))
        errors = oriented(torch.cat(found) @ self.classes.T)
        return errors, (errors @ self.outer) * on

    def __call__(self, on: Bool[Tensor, "k m"]) -> Float[Tensor, "q d"]:
        """The unknowns of those columns that are exact, their masks mended on the way."""
        frame, done = self.frame, []
        for _ in range(SHARPENED):
            errors, columns = self.columns(on)
            t = unknowns_of(frame, columns, errors @ self.outer)
            right = exact(frame, t, TOLERANCE)
            done.append(t[right])
            if bool(right.all()):
                break
            rough = polish(frame, t[~right], clock=self.clock)
            on = ~nearer_off(rough @ frame.pairs.T)
        return torch.cat(done)


def _by_rows(
    rest: Residual, columns: Float[Tensor, "k m"], errors: Float[Tensor, "k C"], alive: Bool[Tensor, " m"], *, missing: bool
) -> Found:
    """The samples of these columns, whose scale is free: [G₁ g₁] = Σ d [pᵀ 1]. Where some are missing, by the rows that these spoil least.

    The label's entry of e is the one that is negative, which the scale tells: where one other class takes all, both are as large.
    """
    left, size = torch.cat([rest.rows, rest.sums[:, None]], dim=1), rest.rounding
    weight = torch.where(alive, 1 / size, 0.0)
    for _ in range(1 + missing * WEIGHED):
        system = columns.T * weight[:, None]
        length = system.norm(dim=0).clamp_min(torch.finfo(system.dtype).tiny)
        orthogonal, change = torch.linalg.qr(system / length)
        solved = torch.linalg.solve_triangular(change, orthogonal.T @ (left * weight[:, None]), upper=True) / length[:, None]
        gap = (left - columns.T @ solved).norm(dim=1)
        worth, weight = weight, torch.where(alive, 1 / (gap + size), 0.0)
    inverse = torch.linalg.solve_triangular(change, orthogonal.T, upper=True) / length[:, None]
    doubt = DOUBTED * inverse.norm(dim=1) * (gap * worth).norm() / int(alive.sum()) ** 0.5
    labels = (errors * solved[:, -1:].sign()).argmin(dim=1)
    return Found.read(solved[:, :-1] / solved[:, -1:], labels, doubt / solved[:, -1].abs())
