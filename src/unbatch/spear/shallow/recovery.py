"""Recover a batch from a Linear + ReLU layer and the output layer behind it: peel, search pairs, peel again, read the columns.

Peeling costs a second at most and finds most of a batch of natural pictures. The search over pairs finds what has no row of its own
(digits and clothes: hardly any sample has). What is known is solved for together all along. Where that leaves some, as their errors keep
each other alive, all are read from the column space, each without the others. Notation: see ``two_layer``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from unbatch.clock import Clock, OutOfTime
from unbatch.spear.shallow.columns import read_columns
from unbatch.spear.shallow.joint import solve_jointly
from unbatch.spear.shallow.on_off_equations import BLUR, SHARP, frame_of, samples_of, search_pairs
from unbatch.spear.shallow.peeling import ROUGH, peel
from unbatch.spear.shallow.two_layer import Found, TwoLayer, always_on, residual_of

__all__ = ["Shallow", "certificates", "explained", "recover"]

ABOVE, SILENT = 10.0, 1e-14
"""Roundings above which a sample's part in a row tells something; share of the longest row below which one is rounding. Chosen."""

CERTIFIED = 1e-6
"""Largest certificate of a sample that is believed for it. Chosen. Swept."""

ACCURATE = 2e-5
"""Largest estimated relative error of a sample that is given away, and largest distance of its scale from 1. Chosen. Swept."""

READABLE = 1e-3
"""Largest estimated relative error of a sample that is given away, of those that were read from their columns: one that is known less is
not proved, and without the weak ones the others might stand for them. Chosen."""

EXPLAINED = 1e-3
"""A row is explained by a sample when what is left of it is below this share of the sample's part in it. Chosen. Swept."""

POLISHING, REPEATED = 8, 6
"""Rounds of a last joint solution, and how many of these there are at most: each holds the samples to where the one before it left them, so
that their errors go on falling. Chosen: a batch of 256 took five to come down to rounding."""

ROWS = 5
"""A sample is believed when so many rows are explained by it: one it may have been read from."""


@dataclass(frozen=True, eq=False)
class Shallow:
    """What was recovered.

    Attributes:
        samples: (k, r) p of the samples that explain rows of the gradient, or are certified by its column space.
        labels: (k,).
        doubt: (k,) estimated relative error.
        visible: how many samples are above the rounding of the gradient, as far as that can be told.
        tools: how many samples each tool found.
    """

    samples: Float[Tensor, "k r"]
    labels: Int64[Tensor, " k"]
    doubt: Float[Tensor, " k"]
    visible: int
    tools: dict[str, int]


def recover(problem: TwoLayer, generator: Generator, clock: Clock, progress: Callable[[str, float], None]) -> Shallow:
    """Find the batch, or what can be found of it.

    Args:
        problem: the two layers.
        generator: of the search over pairs.
        clock: when to end with what is known.
        progress: told how many samples are known.
    """

    def more(known: int) -> bool:
        progress(f"{known} of {problem.rank} samples, {clock.taken:.1f} s", min(1.0, known / problem.rank))
        return not clock.over

    found = peel(problem, more=more)
    tools = {"peeling": len(found)}
    while len(found) < problem.rank and more(len(found)):
        known = found if _is_sharp(problem, found) else Found.none(problem)
        new = _by_pairs(problem, known, generator, clock, more)
        if not len(new):
            break
        tools["pairs"] = tools.get("pairs", 0) + len(new)
        after = peel(problem, known + new, more)
        tools["peeling"] += len(after) - len(found) - len(new)
        found = after
    good = _believed(problem, found)
    if len(good) < problem.rank:
        with suppress(OutOfTime):  # then what is known stays as it is
            read = read_columns(problem, found, generator, clock, more)
            if read is not None and _better(read := read[read.doubt < READABLE * read.samples.norm(dim=1)], good):
                good, tools["columns"] = read, len(read)
    relative = good.doubt / good.samples.norm(dim=1)
    return Shallow(good.samples, good.labels, relative, _visible(problem, good), tools)


def _believed(problem: TwoLayer, found: Found) -> Found:
    """The samples that are accurate, and explain rows of the gradient or have its certificate."""
    if not len(found):
        return found
    for _ in range(REPEATED):
        before, found = found, solve_jointly(problem, found, found, POLISHING)
        if float((found.doubt / before.doubt).log2().mean()) > -1:  # not half of the errors that there were
            break
    believed = explained(problem, found) | (certificates(problem, found) < CERTIFIED)
    return found[believed & _accurate(found)]


def _better(read: Found, good: Found) -> bool:
    """Whether more were read from their columns; or as many, and these are known better: solved together, they have each other's errors."""
    if len(read) != len(good) or not len(read):
        return len(read) > len(good)
    return bool((read.doubt / read.samples.norm(dim=1)).median() < (good.doubt / good.samples.norm(dim=1)).median())


def _accurate(found: Found) -> Bool[Tensor, " k"]:
    return (found.doubt < ACCURATE * found.samples.norm(dim=1)) & ((found.scale - 1).abs() < ACCURATE)


def _is_sharp(problem: TwoLayer, found: Found) -> bool:
    """Whether the known samples are exact enough to be taken out while most are missing: what they are off by blurs what is left."""
    rest = residual_of(problem, found)
    frame = frame_of(problem, rest, always_on(problem, rest))
    return frame is None or frame.sought <= len(found) or BLUR * frame.noise <= SHARP


def _by_pairs(problem: TwoLayer, found: Found, generator: Generator, clock: Clock, more: Callable[[int], bool]) -> Found:
    """All samples that what is left still shows, or none: with more than one missing, no sample follows from the columns."""
    rest = residual_of(problem, found)
    frame = frame_of(problem, rest, always_on(problem, rest))
    if frame is None:
        return Found.none(problem)
    tolerance = min(ROUGH, max(SHARP, BLUR * frame.noise))
    columns = search_pairs(
        problem, rest, frame, generator, tolerance, lambda known: more(len(found) + known), clock=clock, like=found.samples
    )
    if not frame.sought - 1 <= len(columns) <= frame.sought:  # more of them than there are samples cannot all be right
        return Found.none(problem)
    new = samples_of(problem, rest, frame, columns)
    return new[new.samples.isfinite().all(dim=1)]


def _visible(problem: TwoLayer, found: Found) -> int:
    """How many are known, and how many directions of what is left are above the noise."""
    rest = residual_of(problem, found)
    frame = frame_of(problem, rest, torch.zeros_like(rest.sums, dtype=torch.bool))
    return min(len(found) + (0 if frame is None else frame.sought), max(len(found), round(problem.batch)))


def explained(problem: TwoLayer, found: Found, share: float = EXPLAINED, rows: int = ROWS) -> Bool[Tensor, " k"]:
    """Which samples have enough rows where their own part is far above what is left.

    A sample that is none makes the row that it was read from vanish, and no other.
    """
    rest = residual_of(problem, replace(found, doubt=torch.zeros_like(found.doubt)))
    own = problem.columns(found.samples, found.labels).columns.abs() * found.samples.norm(dim=1, keepdim=True)
    return ((rest.rows.norm(dim=1) < share * own) & (ABOVE * rest.rounding < own)).sum(dim=1) >= rows


def certificates(problem: TwoLayer, found: Found) -> Float[Tensor, " k"]:
    """For each sample, how far it is from belonging to the batch: at rounding level only where it does.

    (p, y) is in the batch if and only if its column d, computed from the model, lies in the column space of G₁, d = G₁ q, and p · q = 1;
    the larger violation is given. Rows are scaled to one length, which keeps samples with small gradients above the rounding.
    """
    if not len(found):
        return found.doubt
    length = problem.gradient.norm(dim=1)
    alive = length > SILENT * length.max()
    left, values, right = torch.linalg.svd(problem.gradient[alive] / length[alive, None], full_matrices=False)
    column = problem.columns(found.samples, found.labels).columns[:, alive] / length[alive]
    inside = column @ left
    outside = (column - inside @ left.T).norm(dim=1) / column.norm(dim=1)
    product = ((found.samples @ right.T) * inside / values).sum(dim=1)
    return outside.maximum((product - 1).abs())
