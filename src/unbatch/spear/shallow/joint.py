"""All known samples solved for together, from every row that they explain, while others are still missing.

A sample that was read from one row carries the errors of all that was subtracted from that row, and passes them on. Solving
[G₁ g₁] = Σ d [pᵀ 1] for all known p at once, each row weighted by 1 / (what is left of it + its rounding), takes the errors back to the
rounding: a row that a missing sample is part of has much left, and counts for little. A row where every missing sample is on counts as
well, with F = Σ e pᵀ of the missing as C − 1 unknowns more. The scale of every d is free: that of a sample that is nearly certain of its
label follows from p with a large error. Notation: see ``two_layer``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.spear.shallow.two_layer import Found, TwoLayer, always_on, residual_of, zero_sum_basis

__all__ = ["solve_jointly"]

HELD = 10.0
"""A sample may move from where it was read by about this many times the error that it was read with. Chosen. Swept."""


def solve_jointly(problem: TwoLayer, found: Found, reading: Found, rounds: int = 2) -> Found:
    """The known samples, as all rows together show them.

    Args:
        problem: the two layers.
        found: all known samples; their masks must be nearly right.
        reading: the same samples as they were read, with the error of that: it holds what no row holds as yet.
        rounds: columns, weights and samples are computed anew so many times.

    Returns:
        the samples of the round that leaves the least, with their errors as the weights tell them.
    """
    ones = torch.ones_like(found.doubt)[:, None]
    signal = problem.outer.T @ zero_sum_basis(problem.outer)
    others: Tensor | None = None
    best, least = found, torch.inf
    for turn in range(rounds + 1):
        rest = residual_of(problem, found)
        left, size = torch.cat([rest.rows, rest.sums[:, None]], dim=1), rest.rounding
        if others is None:
            others, shared = _of_the_missing(left, always_on(problem, rest), signal, rest.noise)
        if others is not None:
            without = left - signal @ others
            shared = without.norm(dim=1) < left.norm(dim=1) if turn else shared
            left = torch.where(shared[:, None], without, left)
            size = size + shared * problem.rounding * (signal @ others).norm(dim=1)
        length = left.norm(dim=1)
        score = float((length + size).log().sum())
        if score < least:
            best, least = found, score
        if turn == rounds:
            break
        columns = problem.columns(found.samples, found.labels).columns.T * found.scale
        shown = columns if others is None else torch.cat([columns, signal * shared[:, None]], dim=1)
        hold = 1 / (HELD * reading.doubt)
        held = torch.cat([torch.diag(hold), hold.new_zeros((len(hold), shown.shape[1] - len(hold)))], dim=1)
        back = torch.cat([(reading.samples - found.samples) * hold[:, None], 0 * ones], dim=1)
        weight = 1 / (length + size)
        step, error = _solved(torch.cat([shown * weight[:, None], held]), torch.cat([left * weight[:, None], back]))
        solved = torch.cat([found.samples, ones], dim=1) + step[: len(found)]
        others = None if others is None else others + step[len(found) :]
        samples = solved[:, :-1] / solved[:, -1:]
        if not bool(samples.isfinite().all()):
            break
        doubt = error[: len(found)].maximum(4 * problem.rounding * samples.norm(dim=1))
        found = replace(found, samples=samples, doubt=doubt, scale=found.scale * solved[:, -1])
    return best


def _of_the_missing(
    left: Float[Tensor, "m r1"], on: Bool[Tensor, " m"], signal: Float[Tensor, "m c"], noise: Float[Tensor, " m"]
) -> tuple[Float[Tensor, "c r1"] | None, Bool[Tensor, " m"]]:
    """F of the missing samples from the rows where all of them are on, where these are enough."""
    if int(on.sum()) < signal.shape[1] + 2:
        return None, on
    weight = 1 / noise[on, None]
    return torch.linalg.lstsq(signal[on] * weight, left[on] * weight).solution, on


def _solved(system: Float[Tensor, "j k"], wanted: Float[Tensor, "j r"]) -> tuple[Float[Tensor, "k r"], Float[Tensor, " k"]]:
    """Least squares, and the error of each unknown where every equation has an error of one."""
    length = system.norm(dim=0).clamp_min(torch.finfo(system.dtype).tiny)
    orthogonal, change = torch.linalg.qr(system / length)
    identity = torch.eye(len(change), dtype=change.dtype, device=change.device)
    inverse = torch.linalg.solve_triangular(change, identity, upper=True) / length[:, None]
    return inverse @ (orthogonal.T @ wanted), inverse.norm(dim=1)
