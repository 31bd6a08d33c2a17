"""Whether the layers would tell a record from a changed copy of it, or from a blend of members.

Behind a change that is not linear a blend becomes something else than the blend of what its parts become; but not where all its parts lie
in one region of a ReLU network, or inputs are so small that a tanh is a line. Then a blend of members passes for one. Seen in two ways:

- the record is moved along the first layer's row space, in every direction: the layers behind must see as many of these as they can;
- it is changed as a whole: mixed half and half with the nearest other record that fits as well; made longer and shorter, brighter and
  darker; turned to its negative; and, of pictures and tokens behind layers that do not see every place by itself, moved by a place, or
  mirrored. Without a bias layers keep a record's length, or its sign, and means over all places see no order.

A change must be seen, and the record must be nearer than it. What the record leaves outside of a layer's row space is l, and J what the
change adds to that. J must be longer than noise may make it, and no more of l may point along J than noise explains: of a copy that was
changed so already, nearly all does. How much of a change is hidden in that, as a share of the record, is told.

A record that feeds the first layer with nothing lies in every span.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY
from unbatch.evidence.fed import Passes
from unbatch.evidence.rows import Rows

__all__ = ["Apart", "apart_from_blends", "apart_from_changes"]

STEP = 1e-6
"""Of the finite differences, as a share of the record's length. Chosen, as in ``accuracy``."""

THIRD = 1 / 3
"""A blend that is this far from the record, as a share of its length, must show above what a member may leave. Chosen: nearer ones are held
against the nearest record that fits as well."""

VISIBLE = 1e-4
"""A direction is seen when it leaves the row space by this share of what the record moves, and by more than rounding may. Chosen, not
swept."""

COPY = 1e-6
"""Distances below this share of a record are rounding of ``cdist``, so that the numbers themselves are compared. Derived: the root of
float64's rounding, some times."""

LONGER = 1.1
"""A copy is made so much longer: a tenth is what the eye takes for the same picture. Chosen, not swept."""

MOST = 1 << 14
"""Records are moved in so many ways in all."""


@dataclass(frozen=True, eq=False)
class Apart:
    """What changed copies of c records would leave.

    Attributes:
        shown: (c,) whether every change of a record would show.
        hidden: (c,) share of the record by which it may be changed, in one of the ways tried, before that shows.
    """

    shown: Bool[Tensor, " c"]
    hidden: Float[Tensor, " c"]


def apart_from_blends(
    passes: Passes, first: Rows, inner: list[Rows], records: Float[Tensor, " c *shape"], allowed: Float[Tensor, " c"]
) -> Bool[Tensor, " c"]:
    """Whether blends of members in the place of each record would show behind the first layer, in whatever direction they lie.

    Args:
        passes: of records as far as a layer.
        first: row space of the layer that sees the records themselves.
        inner: of those behind it.
        records: that lie in all of them.
        allowed: (c,) what a member may leave.
    """
    numbers, flat = records[0].numel(), records.double().flatten(1)
    apart = flat.norm(dim=1) > 0
    ways = first.rank - bool(first.shift)
    if not inner or first.right.shape[1] not in (numbers, numbers + 1) or not ways or ways * len(records) > MOST:
        return apart
    directions = _directions(first, numbers)
    for index in apart.nonzero()[:, 0].tolist():
        length = flat[index].norm()
        moved = (flat[index] + STEP * length * directions).reshape(-1, *records.shape[1:])
        slopes = (_left(passes, inner, moved) - _left(passes, inner, records[index : index + 1].double())) / STEP
        seen = int((torch.linalg.svdvals(slopes) > max(VISIBLE, float(allowed[index]) / THIRD)).sum())
        apart[index] = seen >= min(len(directions), max(rows.spare for rows in inner))
    return apart


def apart_from_changes(passes: Passes, first: Rows, inner: list[Rows], records: Tensor, rounding: float, *, linear: bool) -> Apart:
    """Whether changed copies of each record would show.

    Args:
        passes: of records as far as a layer.
        first: row space of the first layer that was asked. It is asked where those behind do not see a change.
        inner: of those behind it, one at least.
        records: (c, *shape) that lie in all of them.
        rounding: what a member may leave by the rounding of the client's own pass.
        linear: whether the first layer sees a blend of two records as a blend.
    """
    count = len(records)
    shown, hidden = (torch.full((count,), value, dtype=torch.float64, device=records.device) for value in (1, 0))
    nearest = _nearest(records.double().flatten(1)) if records.is_floating_point() else None
    for part in passes.parts(records, [rows.weight for rows in (first, *inner)]):
        one = records[part] if nearest is None else records[part].double()
        other = None if nearest is None else records[nearest[part]].double().where(_over(nearest[part] >= 0, one), one)
        own = _outside(passes, inner, one)
        for copy in _changed(one, other, linear=linear):
            asked = (shown[part].bool() & (copy != one).flatten(1).any(dim=1)).nonzero()[:, 0]
            if not len(asked):
                continue
            given, told = copy[asked], [(left[asked], noise[asked]) for left, noise in own]
            seen, nearer, share = _held(inner, told, _outside(passes, inner, given), rounding)
            unseen = (~seen).nonzero()[:, 0]
            if len(unseen):
                pair = (_outside(passes, [first], records_of[asked[unseen]]) for records_of in (one, copy))
                seen[unseen], nearer[unseen], share[unseen] = _held([first], *pair, rounding)
            shown[part][asked] = (seen & nearer).double()
            if nearest is not None:
                size = (given - one[asked]).flatten(1).norm(dim=1) / one[asked].flatten(1).norm(dim=1)
                hidden[part][asked] = hidden[part][asked].maximum(size * share)
    return Apart(shown.bool(), hidden)


def _over(values: Tensor, records: Tensor) -> Tensor:
    """(c,) as (c, 1, …), to stand beside the records."""
    return values.reshape(-1, *[1] * (records.ndim - 1))


def _changed(one: Tensor, other: Tensor | None, *, linear: bool) -> Iterator[Tensor]:
    """The records, each changed as a whole. Where one cannot be changed so, it stays as it is.

    Args:
        one: (c, *shape).
        other: (c, *shape) the nearest other record of each, or itself where there is none; None for tokens.
        linear: whether the first layer sees a blend of two records as a blend.
    """
    moved = [one.flip(-1), one.roll(1, -1), *([one.roll(1, -2)] if one.ndim > 2 else [])]
    if other is None:
        yield from moved
        return
    bright = _over((LONGER - 1) * one.flatten(1).square().mean(dim=1).sqrt(), one)
    yield from (LONGER * one, one / LONGER, one + bright, one - bright, -one)
    if linear:
        yield (one + other) / 2
        return
    alone = _over((other == one).flatten(1).all(dim=1), one)
    yield (one + other.where(~alone, one.flip(-1))) / 2
    if one.ndim > 2:
        yield from moved


def _nearest(flat: Float[Tensor, "c n"]) -> Int64[Tensor, " c"]:
    """The index of the nearest other record for each; −1 where there is none but copies of it."""
    distances = torch.cdist(flat, flat).fill_diagonal_(torch.inf)  # what rounding leaves of a record's own may be the smallest but for zero
    for one, other in (distances <= COPY * flat.norm(dim=1, keepdim=True)).nonzero().tolist():
        if torch.equal(flat[one], flat[other]):
            distances[one, other] = torch.inf
    least, nearest = distances.min(dim=1)
    return nearest.where(least.isfinite(), -1)


def _outside(passes: Passes, layers: list[Rows], records: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each layer: (c, t, n + 1) what of the records lies outside of its row space, and (c, t) what noise explains of that."""
    seen = passes(records, [rows.weight for rows in layers])
    found = []
    for rows in layers:
        left, noise = rows.outside(seen[rows.weight].flatten(0, 1))
        found.append((left.reshape(len(records), -1, left.shape[1]), noise.reshape(len(records), -1)))
    return found


def _held(
    layers: list[Rows], here: list[tuple[Tensor, Tensor]], there: list[tuple[Tensor, Tensor]], rounding: float
) -> tuple[Bool[Tensor, " c"], Bool[Tensor, " c"], Float[Tensor, " c"]]:
    """Whether changes show at a layer; whether none was made already, as far as any of them tells; and the share of them that is hidden."""
    count, device = len(there[0][0]), there[0][0].device
    seen, nearer = (torch.full((count,), value, dtype=torch.bool, device=device) for value in (False, True))
    share = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
    for rows, (left, noise), (more, other) in zip(layers, here, there, strict=True):
        sure = 1.0 if rows.deviation else SAFETY  # what is told of random noise is SAFETY deviations already
        turned = more - left
        size = turned.norm(dim=2)
        limit = rounding + sure * noise
        visible = size > limit + sure * other
        along = (left * turned).sum(dim=2).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)
        seen |= visible.any(dim=1)
        nearer &= ~(visible & (along > limit)).any(dim=1)
        share = share.minimum(((limit + sure * noise) / size).where(visible, torch.inf).amin(dim=1))
    return seen, nearer, share


def _directions(first: Rows, numbers: int) -> Float[Tensor, "d n"]:
    """Orthonormal ways to move within the row space without moving the number that stands for the bias."""
    if not first.shift:
        return first.right
    across, _ = torch.linalg.qr(first.right[:, -1:], mode="complete")
    made = across[:, 1:].T @ first.right[:, :numbers]
    return made / made.norm(dim=1, keepdim=True).clamp_min(torch.finfo(made.dtype).tiny)


def _left(passes: Passes, inner: list[Rows], records: Tensor) -> Float[Tensor, "k e"]:
    """What of the records lies outside of the layers' row spaces, as shares of what feeds these, side by side."""
    return torch.cat([left.flatten(1) for left, _ in _outside(passes, inner, records)], dim=1)
