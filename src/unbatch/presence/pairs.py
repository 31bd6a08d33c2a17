"""Whether the mean of two members that are much alike would show by its column, where no layer behind tells it from a member.

Members x ± δ of one label leave columns d(x ± δ), and both lie in the column space. What of d(x) does not is of second order,

    d(x) − (d(x + δ) + d(x − δ)) / 2,

and a tolerance of 2e-5 hides a hundredth: two rows of a table that are alike but for one number, and the row between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY
from unbatch.evidence.replay import slices
from unbatch.gradients import sensitivities
from unbatch.presence.blends import moved_within
from unbatch.presence.fed import CHUNK, Passes
from unbatch.presence.rows import Rows

__all__ = ["bends_hide", "means_show", "pairs_hide"]

DISTANCES = (0.1, 0.03, 0.01, 0.003, 0.001)
"""Two members are held apart by these shares of their length to see whether they would leave two directions. Chosen: the first as
``evidence.several.NEARBY``, the others as two that are nearer may lie in one region, where they leave less than their distance says."""

TINY = torch.finfo(torch.float64).tiny
"""Derived: what is divided by is no zero."""


def means_show(
    passes: Passes,
    rows: Rows,
    records: Float[Tensor, " c *shape"],
    labels: Int64[Tensor, " c"],
    allowed: Float[Tensor, " c"],
) -> Bool[Tensor, " c"]:
    """Whether each record would show if it were the mean of two members a hundredth of its length to either side, within the row space.

    Args:
        passes: of records as far as a layer.
        rows: row space of the layer that sees the records.
        records: that fit it.
        labels: (c,) theirs.
        allowed: (c,) what of a member's column may lie outside of the column space, as a share.
    """
    shown = torch.ones_like(labels, dtype=torch.bool)
    if not len(records):
        return shown
    exact = records.double()
    here = _columns(passes, rows, exact, labels)
    for moved in moved_within(rows, records):
        bent = (_columns(passes, rows, moved, labels) + _columns(passes, rows, 2 * exact - moved, labels)) / 2 - here
        outside = bent - (bent @ rows.left) @ rows.left.T
        shown &= outside.norm(dim=1) > allowed * here.norm(dim=1)
    return shown


def pairs_hide(
    passes: Passes, rows: Rows, records: Num[Tensor, " c *shape"], labels: Int64[Tensor, " c"], inverse: Float[Tensor, " c"]
) -> Float[Tensor, " c"]:
    """How far two members may lie to either side of a record and leave one direction, as one that counts as much.

    Members x ± δ with columns d ± ε leave w (d xᵀ + ε δᵀ): a second direction only so far as ε lies outside of the column space, which
    both shrink with δ, and it is not counted up to the noise of the row space. Under a hinge ε is nothing, and behind two classes it is a
    share of d within a region: then any distance hides.

    Args:
        passes: of records as far as a layer.
        rows: row space of the layer that sees the records.
        records: that fit it.
        labels: (c,) theirs.
        inverse: (c,) 1/w, what each counts in the update.

    Returns:
        (c,) at most, beside the length of what feeds the layer; infinite where a pair at the first of ``DISTANCES`` would not show.
    """
    if not records.is_floating_point():
        return torch.zeros_like(inverse)  # nothing lies between two words
    exact, found = records.double(), torch.zeros_like(inverse)
    generator = torch.Generator(exact.device).manual_seed(0)
    for distance in DISTANCES:
        pair = _pair(exact, distance, generator)
        ahead, behind = (_columns(passes, rows, one, labels) for one in pair)
        fed = [rows.extended(passes(one, [rows.weight])[rows.weight][:, 0]) for one in (exact, *pair)]
        apart = (fed[1] - fed[2]).norm(dim=1) / 2
        share = SAFETY * rows.noise * inverse.abs() / (apart * rows.outside_columns((ahead - behind) / 2)).clamp_min(TINY)
        hidden = apart / fed[0].norm(dim=1).clamp_min(TINY) * share.sqrt().clamp(max=1.0)
        found = found.maximum(hidden.where((share <= 1) | (distance < DISTANCES[0]), torch.inf))
    return found


def bends_hide(
    passes: Passes, behind: Sequence[tuple[str, Float[Tensor, " c"]]], records: Float[Tensor, " c *shape"]
) -> Float[Tensor, " c"]:
    """How far two members may lie to either side of a record for the layers behind to take what they leave together for it.

    That is the mean of what they feed a layer with, and differs from what the record feeds it with as the square of their distance.

    Args:
        passes: of records as far as a layer.
        behind: weights of the layers, and what of each record may lie outside of their row spaces.
        records: that fit all of them.

    Returns:
        (c,) as of ``pairs_hide``.
    """
    hidden = torch.full_like(behind[0][1], torch.inf)
    exact, generator = records.double(), torch.Generator(records.device).manual_seed(0)
    ahead, back = _pair(exact, DISTANCES[0], generator)
    for weight, allowed in behind:
        own, one, other = (passes(given, [weight])[weight].flatten(1) for given in (exact, ahead, back))
        share = allowed * own.norm(dim=1) / (own - (one + other) / 2).norm(dim=1).clamp_min(TINY)
        hidden = hidden.minimum((DISTANCES[0] * share.sqrt()).where(share <= 1, torch.inf))
    return hidden


def _pair(exact: Float[Tensor, " c *shape"], distance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """To either side of each record one that is so far away, as a share of its length, in a direction that is drawn."""
    way = torch.randn(exact.shape, generator=generator, dtype=torch.float64, device=exact.device)
    size = [one.flatten(1).norm(dim=1).reshape(-1, *[1] * (exact.ndim - 1)) for one in (exact, way)]
    moved = distance * way * size[0] / size[1]
    return exact + moved, exact - moved


def _columns(passes: Passes, rows: Rows, given: Tensor, labels: Int64[Tensor, " c"]) -> Float[Tensor, "c m"]:
    """What each record of this label leaves at the layer."""
    model, loss = passes.observation.model, passes.observation.loss
    parts = slices(len(given), CHUNK // (64 * len(rows.left)))
    found = [sensitivities(model, given[part], rows.weight, loss) for part in parts]
    return torch.cat([each[labels[part], torch.arange(each.shape[1], device=each.device)] for each, part in zip(found, parts, strict=True)])
