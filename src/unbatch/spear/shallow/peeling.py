"""Two-sided peeling: rows of the gradient that one sample made alone, and rows that all but one made.

A neuron that is on for a single sample shows that sample in its row (Shariati, Alambardar Meybodi, "LT peeling", 2026). The mirror
image: a neuron that is on for the whole batch has G₁_j = w₂_j · F with F = Σ e pᵀ, so C − 1 such rows give F, and w₂_j · F − G₁_j is then
made by the samples that leave neuron j *off*; where that is one sample alone, it is seen as well. Every sample that is found is
subtracted, which makes new rows of both kinds.

Errors decide how far this goes, and every sample measures its own: the e that its row shows, C − 1 numbers, must be the e that the sample
causes; their relative distance, the mismatch, is an upper estimate of the relative error of p. (Worst-case bounds grow tenfold a
round where the errors do not grow.) Samples are therefore taken in the order of their mismatch, the best row of each. Notation: see
``two_layer``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.spear.shallow.joint import solve_jointly
from unbatch.spear.shallow.two_layer import CLEAR, Found, Residual, TwoLayer, always_on, first_of_each, residual_of, zero_sum_basis

__all__ = ["ROUGH", "batch_of", "peel"]

SINGULAR = 1e-4
"""Least singular value of the system of the neurons that are always on, beside the largest, with which it is solved. Chosen."""

DOUBTS, KNOWN = 10.0, 1e-3
"""A reading is of a known sample when it is no farther than this many times both doubts, or this share of its length. Chosen."""

ABOVE = 10.0
"""Where no row is clear, one that is this many times its noise may be read. Chosen, below ``two_layer.CLEAR``."""

ROUGH = 0.03
"""Largest mismatch of a sample that is read from such a row. Chosen. Swept."""

FEW, IDLE = 3, 3
"""So many of these are taken at a time; so many rounds without a new sample end the peeling."""

MATCH = 1e-4
"""Largest mismatch of a sample. Chosen. Swept."""

TIER = 10.0
"""Samples with more than this many times the least mismatch wait for the next round. Chosen. Swept."""

SURE = 1e-11
"""No sample with a mismatch below waits. Chosen: rounding of float64 after a few sums."""


def peel(problem: TwoLayer, found: Found | None = None, more: Callable[[int], bool] | None = None) -> Found:
    """Find samples alone in a row, or alone missing from one, until there are no more.

    What is known is solved for together after every round (see ``joint``). Where no row is clear, those that stand out from the noise
    are read: their samples are rough, and become exact with all others when they are right.

    Args:
        problem: the two layers.
        found: what is known already.
        more: told how many samples are known, once a round; whether to go on.

    Returns:
        all that is known, ``found`` first.
    """
    found, idle = Found.none(problem) if found is None else found, 0
    reading = found
    while len(found) < problem.rank and idle < IDLE and (more is None or more(len(found))):
        rest = residual_of(problem, found)
        shown = _shown(problem, rest.rows, rest.sums, rest.outer, rest.noise, rough=idle > 0)
        mirror = _mirrored(problem, rest)
        new = _fresh(found, shown if mirror is None else shown + _shown(problem, *mirror, rough=idle > 0))
        new = new[torch.arange(min(len(new), FEW))] if idle else new
        idle = 0 if len(new) else idle + 1
        found, reading = found + new, reading + new
        if len(found):
            found = solve_jointly(problem, found, reading)
            reading = _nearer(reading, found)
    return found


def batch_of(problem: TwoLayer, alike: float = 1e-6, least: int = 2) -> float | None:
    """The batch size as rows that one sample made alone tell it: their e is (softmax − onehot) / b.

    Rows of several samples give any number; those of one sample agree. A number that is whole to rounding is given as one.

    Args:
        problem: the two layers; its own batch size is not used.
        alike: relative distance between numbers that agree.
        least: so many samples must agree, those whose rows differ.

    Returns:
        b, or None where fewer agree.
    """
    rest = residual_of(problem, Found.none(problem))
    neuron = ((rest.rows.norm(dim=1) > CLEAR * rest.noise) & (rest.sums != 0)).nonzero()[:, 0]
    samples = rest.rows[neuron] / rest.sums[neuron, None]
    hidden = (samples * problem.seen[neuron]).sum(dim=1) + problem.bias[neuron]
    errors = rest.outer.T[neuron] / hidden[:, None]
    expected = replace(problem, batch=1.0).errors(problem.logits(samples), errors.argmin(dim=1))
    shares = (errors * expected).sum(dim=1) / expected.square().sum(dim=1)
    fits = ((errors - shares[:, None] * expected).norm(dim=1) < MATCH * errors.norm(dim=1)) & (shares > 0)
    samples, sizes = samples[fits], 1 / shares[fits]
    kept = first_of_each(samples)
    sizes = sizes[kept]
    if not len(sizes):
        return None
    agree = ((sizes[:, None] - sizes).abs() < alike * sizes).sum(dim=1)
    if int(agree.max()) < least:
        return None
    size = float(sizes[(sizes - sizes[agree.argmax()]).abs() < alike * sizes[agree.argmax()]].median())
    return float(round(size)) if abs(size - round(size)) < 10 * alike * size and round(size) > 0 else size


def _nearer(one: Found, other: Found) -> Found:
    """The same samples, each as it is known better."""
    better = other.doubt < one.doubt
    pick = better[:, None]
    return Found(
        torch.where(pick, other.samples, one.samples),
        one.labels,
        other.doubt.minimum(one.doubt),
        torch.where(better, other.scale, one.scale),
    )


def _shown(
    problem: TwoLayer,
    rows: Float[Tensor, "m r"],
    sums: Float[Tensor, " m"],
    outer: Float[Tensor, "C m"],
    noise: Float[Tensor, " m"],
    *,
    rough: bool,
) -> Found:
    """Samples of rows that one sample made alone: p = row / sum, e = outer / h, where the forward pass of p gives that e."""
    length = rows.norm(dim=1)
    neuron = ((length > (ABOVE if rough else CLEAR) * noise) & (sums != 0)).nonzero()[:, 0]
    samples = rows[neuron] / sums[neuron, None]
    hidden = (samples * problem.seen[neuron]).sum(dim=1) + problem.bias[neuron]
    errors = outer.T[neuron] / hidden[:, None]
    labels = errors.argmin(dim=1)
    expected = problem.errors(problem.logits(samples), labels)
    mismatch = (errors - expected).norm(dim=1) / expected.norm(dim=1)
    by_noise = (CLEAR * noise[neuron] / length[neuron]).clamp_max(ROUGH)
    fits = mismatch < (by_noise.clamp_min(MATCH) if rough else MATCH)
    doubt = mismatch.clamp_min(4 * problem.rounding) * samples.norm(dim=1)
    return Found.read(samples[fits], labels[fits], doubt[fits])


def _mirrored(problem: TwoLayer, rest: Residual) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """The rows w₂_j · F − G₁_j, their sums, outer gradient and noise; None where fewer than C − 1 neurons are always on."""
    basis = zero_sum_basis(problem.outer)
    on = always_on(problem, rest)
    if int(on.sum()) < basis.shape[1]:
        return None
    weight = 1 / rest.noise[on, None]
    system = problem.outer.T[on] @ basis * weight
    values = torch.linalg.svdvals(system / system.norm(dim=1, keepdim=True))
    if values[-1] < SINGULAR * values[0]:
        return None
    inverse = torch.linalg.pinv(system)
    spread = problem.outer.T @ basis @ inverse
    class_map = basis @ inverse @ (rest.rows[on] * weight)
    rows = problem.outer.T @ class_map - rest.rows
    sums = problem.outer.T @ rest.outer_sums - rest.sums
    outer = class_map @ problem.seen.T + rest.outer_sums[:, None] * problem.bias - rest.outer
    return rows, sums, outer, (rest.noise.square() + spread.square().sum(dim=1)).sqrt()


def _fresh(found: Found, new: Found) -> Found:
    """Of the samples that are not known, the best reading of each, without those that had better wait."""
    near = (DOUBTS * (new.doubt[:, None] + found.doubt)).maximum(KNOWN * new.samples.norm(dim=1)[:, None])
    new = new[~(torch.cdist(new.samples, found.samples) < near).any(dim=1)]
    if not len(new):
        return new
    relative = new.doubt / new.samples.norm(dim=1)
    new = new[relative < max(TIER * float(relative.min()), SURE)]
    new = new[new.doubt.argsort()]
    return new[first_of_each(new.samples)]
