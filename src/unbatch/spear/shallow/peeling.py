"""Two-sided peeling: rows of the gradient that one sample made alone, and rows that all but one made.

A neuron that is on for a single sample shows that sample in its row (Shariati, Alambardar Meybodi, "LT peeling", 2026). The mirror
image: a neuron that is on for the whole batch has G₁_j = w₂_j · F with F = Σ e pᵀ, so C − 1 such rows give F, and w₂_j · F − G₁_j is then
made by the samples that leave neuron j *off*; where that is one sample alone, it is seen as well. Every sample that is found is
subtracted, which makes new rows of both kinds.

Errors decide how far this goes, and every sample measures its own: the e that its row shows, C − 1 numbers, must be the e that the sample
causes; their relative distance, the mismatch, is an upper estimate of the relative error of p. (Worst-case bounds grow tenfold a
round where the errors do not grow.) Samples are therefore taken in the order of their mismatch, the best row of each, and read again
from a better row when one has become clear. Notation: see ``two_layer``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.spear.shallow.two_layer import Found, Residual, TwoLayer, first_of_each, residual_of, zero_sum_basis

__all__ = ["always_on", "peel", "reread"]

CLEAR = 100.0
"""A row shows something when it is this many times its noise."""

SILENT = 30.0
"""A row is explained when it is below this many times its noise."""

MATCH = 1e-4
"""Largest mismatch of a sample."""

TIER = 10.0
"""Samples with more than this many times the least mismatch wait for the next round."""

SURE = 1e-11
"""No sample with a mismatch below waits."""


def peel(problem: TwoLayer, found: Found | None = None, more: Callable[[int], bool] | None = None) -> Found:
    """Find samples alone in a row, or alone missing from one, until there are no more.

    Args:
        problem: the two layers.
        found: what is known already.
        more: told how many samples are known, once a round; whether to go on.

    Returns:
        all that is known, ``found`` first.
    """
    found, idle = Found.none(problem) if found is None else found, 0
    while len(found) < problem.rank and idle < 3 and (more is None or more(len(found))):
        rest = residual_of(problem, found)
        shown = _shown(problem, rest.rows, rest.sums, rest.outer, rest.noise)
        mirror = _mirrored(problem, rest)
        new = _fresh(found, shown if mirror is None else shown + _shown(problem, *mirror))
        idle = 0 if len(new) else idle + 1
        found = found + new if len(new) else reread(problem, found)
    return found


def _shown(
    problem: TwoLayer, rows: Float[Tensor, "m r"], sums: Float[Tensor, " m"], outer: Float[Tensor, "C m"], noise: Float[Tensor, " m"]
) -> Found:
    """Samples of rows that one sample made alone."""
    neuron = ((rows.norm(dim=1) > CLEAR * noise) & (sums != 0)).nonzero()[:, 0]
    return _read(problem, neuron, rows[neuron], sums[neuron], outer.T[neuron])


def _read(
    problem: TwoLayer,
    neuron: Int64[Tensor, " k"],
    rows: Float[Tensor, "k r"],
    sums: Float[Tensor, " k"],
    outer: Float[Tensor, "k C"],
) -> Found:
    """Take each row as made by one sample: p = row / sum, e = outer / h; keep those whose forward pass gives that e."""
    samples = rows / sums[:, None]
    hidden = (samples * problem.seen[neuron]).sum(dim=1) + problem.bias[neuron]
    errors = outer / hidden[:, None]
    labels = errors.argmin(dim=1)
    expected = problem.errors(problem.logits(samples), labels)
    mismatch = (errors - expected).norm(dim=1) / expected.norm(dim=1)
    fits = mismatch < MATCH
    doubt = mismatch.clamp_min(4 * problem.rounding) * samples.norm(dim=1)
    return Found(samples[fits], labels[fits], doubt[fits])


def _mirrored(problem: TwoLayer, rest: Residual) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """The rows w₂_j · F − G₁_j, their sums, outer gradient and noise; None where fewer than C − 1 neurons are always on."""
    basis = zero_sum_basis(problem.outer)
    on = always_on(problem, rest)
    if int(on.sum()) < basis.shape[1]:
        return None
    weight = 1 / rest.noise[on, None]
    system = problem.outer.T[on] @ basis * weight
    values = torch.linalg.svdvals(system / system.norm(dim=1, keepdim=True))
    if values[-1] < 1e-4 * values[0]:
        return None
    inverse = torch.linalg.pinv(system)
    spread = problem.outer.T @ basis @ inverse
    class_map = basis @ inverse @ (rest.rows[on] * weight)
    rows = problem.outer.T @ class_map - rest.rows
    sums = problem.outer.T @ rest.outer_sums - rest.sums
    outer = class_map @ problem.seen.T + rest.outer_sums[:, None] * problem.bias - rest.outer
    return rows, sums, outer, (rest.noise.square() + spread.square().sum(dim=1)).sqrt()


def always_on(problem: TwoLayer, rest: Residual) -> Bool[Tensor, " m"]:
    """Neurons that are on for every sample that is left: g₁_j = w₂_j · g₂, and something is left in their row."""
    gap = (rest.sums - problem.outer.T @ rest.outer_sums).abs()
    slack = rest.sum_noise + problem.rounding * (problem.outer.abs().T @ problem.outer_bias_gradient.abs())
    return (rest.rows.norm(dim=1) > CLEAR * rest.noise) & (gap < SILENT * slack)


def _fresh(found: Found, new: Found) -> Found:
    """Of the samples that are not known, the best reading of each, without those that had better wait."""
    new = new[~(torch.cdist(new.samples, found.samples) < 1e-3 * new.samples.norm(dim=1)[:, None]).any(dim=1)]
    if not len(new):
        return new
    relative = new.doubt / new.samples.norm(dim=1)
    new = new[relative < max(TIER * float(relative.min()), SURE)]
    new = new[new.doubt.argsort()]
    return new[first_of_each(new.samples)]


def reread(problem: TwoLayer, found: Found, readings: int = 4) -> Found:
    """Read known samples again, each from the rows that by now show it best: its own part is added back to what is left of them.

    Args:
        problem: the two layers.
        found: what is known.
        readings: rows that are tried for each sample.
    """
    rest, known = residual_of(problem, found), problem.columns(found.samples, found.labels)
    columns = known.columns
    others = (rest.noise.square() - (columns * found.doubt[:, None]).square()).clamp_min(0).sqrt() + rest.rounding
    explained = (rest.rows.norm(dim=1) < SILENT * rest.noise) & (columns != 0)
    expected = torch.where(explained, others / columns.abs(), torch.inf)
    least, neuron = expected.topk(min(readings, expected.shape[1]), dim=1, largest=False)
    sample = torch.arange(len(found), device=neuron.device)[:, None].expand_as(neuron)[least.isfinite()]
    neuron = neuron[least.isfinite()]
    own = columns[sample, neuron]
    rows = rest.rows[neuron] + own[:, None] * found.samples[sample]
    outer = rest.outer.T[neuron] + known.errors[sample] * known.hidden[sample, neuron, None]
    again = found + _read(problem, neuron, rows, rest.sums[neuron] + own, outer)
    best = again[again.doubt.argsort(stable=True)]
    return best[first_of_each(best.samples)]
