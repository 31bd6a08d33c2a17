"""Whether the layers behind the first would tell a record from a blend of members.

Behind a change that is not linear a blend becomes something else than the blend of what its parts become; but not where all its parts lie
in one region of a ReLU network, or inputs are so small that a tanh is a line. Then a blend of members passes for one. Seen in two ways:

- the record is moved along the first layer's row space, in every direction: the layers behind must see as many of these as they can;
- it is mixed half and half with the nearest other record that fits as well: that must lie outside where the record itself does not.

So must longer and shorter copies, brighter and darker ones, the negative and, of pictures and tokens behind layers that do not see every
place by itself, one that is moved by a place, or mirrored: without a bias layers keep a record's length, or its sign, and means over all
places see no order.

All lie outside by what is measured, give or take what the noise moves of it. So the blend shows where it is further out than the record by
more than both may be off: whatever lies so far outside, the record is nearer. It need not be further than what any member may leave, which
for weak ones is ten times the noise.

A record that feeds the first layer with nothing lies in every span.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY
from unbatch.evidence.fed import Passes
from unbatch.evidence.rows import Rows

__all__ = ["apart_from_blends", "apart_from_changes"]

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


def apart_from_blends(
    passes: Passes,
    first: Rows,
    inner: list[Rows],
    records: Float[Tensor, " c *shape"],
    allowed: Float[Tensor, " c"],
    rounding: float,
) -> Bool[Tensor, " c"]:
    """Whether a blend of members in the place of each record would show.

    Args:
        passes: of records as far as a layer.
        first: row space of the layer that sees the records themselves.
        inner: of those behind it.
        records: that lie in all of them.
        allowed: (c,) what a member may leave.
        rounding: what of that is the rounding of the client's own pass.
    """
    numbers, flat = records[0].numel(), records.double().flatten(1)
    apart = flat.norm(dim=1) > 0
    if not inner or first.right.shape[1] not in (numbers, numbers + 1):
        return apart
    nearest = _nearest(flat)
    mixed = (nearest >= 0).nonzero()[:, 0]
    if len(mixed):
        one = records[mixed].double()
        apart[mixed] &= _further_out(passes, inner, one, (one + records[nearest[mixed]].double()) / 2, rounding)
    ways = first.rank - bool(first.shift)
    if not ways or ways * len(records) > MOST:
        return apart
    directions = _directions(first, numbers)
    for index in apart.nonzero()[:, 0].tolist():
        length = flat[index].norm()
        moved = (flat[index] + STEP * length * directions).reshape(-1, *records.shape[1:])
        slopes = (_left(passes, inner, moved) - _left(passes, inner, records[index : index + 1].double())) / STEP
        seen = int((torch.linalg.svdvals(slopes) > max(VISIBLE, float(allowed[index]) / THIRD)).sum())
        apart[index] = seen >= min(len(directions), max(rows.spare for rows in inner))
    return apart


def apart_from_changes(passes: Passes, asked: list[Rows], records: Tensor, rounding: float, *, blends: bool) -> Bool[Tensor, " c"]:
    """Whether changed copies of each record would show at one of the layers.

    Args:
        passes: of records as far as a layer.
        asked: row spaces of the layers, the first one that was asked among them.
        records: (c, *shape) that lie in all of them.
        rounding: what a member may leave by the rounding of the client's own pass.
        blends: whether a blend of two records is no blend at the first of these layers, so that one with the nearest of the others, or with
            its own mirror image, is a change as well.
    """
    apart = torch.ones(len(records), dtype=torch.bool, device=records.device)
    moved = [records.flip(-1), records.roll(1, -1), *([records.roll(1, -2)] if records.ndim > 2 else [])]
    if not records.is_floating_point():
        changed = moved
    else:
        one = records.double()
        level = one.flatten(1).square().mean(dim=1).sqrt().reshape(-1, *[1] * (one.ndim - 1))
        bright = (LONGER - 1) * level
        changed = [LONGER * one, one / LONGER, one + bright, one - bright, -one]  # of a copy, one of these is nearer to the member
        if blends:
            nearest = _nearest(one.flatten(1))
            other = torch.where((nearest >= 0).reshape(level.shape), one[nearest], one.flip(-1))
            changed += [(one + other) / 2, *(moved if records.ndim > 2 else [])]
    here = _outside(passes, asked, records)
    for copy in changed:
        other = (apart & (copy != records).flatten(1).any(dim=1)).nonzero()[:, 0]
        if len(other):
            own = [(left[other], noise[other]) for left, noise in here]
            apart[other] = _beyond(asked, own, _outside(passes, asked, copy[other]), rounding)
    return apart


def _nearest(flat: Float[Tensor, "c n"]) -> Int64[Tensor, " c"]:
    """The index of the nearest other record for each; −1 where there is none but copies of it."""
    distances = torch.cdist(flat, flat).fill_diagonal_(torch.inf)  # what rounding leaves of a record's own may be the smallest but for zero
    for one, other in (distances <= COPY * flat.norm(dim=1, keepdim=True)).nonzero().tolist():
        if torch.equal(flat[one], flat[other]):
            distances[one, other] = torch.inf
    least, nearest = distances.min(dim=1)
    return nearest.where(least.isfinite(), -1)


def _further_out(passes: Passes, inner: list[Rows], records: Tensor, blends: Tensor, rounding: float) -> Bool[Tensor, " c"]:
    """Whether each blend lies further outside of a layer's row space than the record, by more than noise and rounding may move both."""
    return _beyond(inner, _outside(passes, inner, records), _outside(passes, inner, blends), rounding)


def _outside(passes: Passes, inner: list[Rows], records: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(c, t) of each layer: what of the records lies outside of its row space, and what noise explains of that."""
    seen = passes(records, [rows.weight for rows in inner])
    found = []
    for rows in inner:
        left, noise = rows.residuals(seen[rows.weight].flatten(0, 1))
        found.append((left.reshape(len(records), -1), noise.reshape(len(records), -1)))
    return found


def _beyond(
    inner: list[Rows], here: list[tuple[Tensor, Tensor]], there: list[tuple[Tensor, Tensor]], rounding: float
) -> Bool[Tensor, " c"]:
    found = torch.zeros(len(there[0][0]), dtype=torch.bool, device=there[0][0].device)
    for rows, (left, noise), (more, other) in zip(inner, here, there, strict=True):
        sure = 1.0 if rows.deviation else SAFETY  # what is told of random noise is SAFETY deviations already
        found |= (more - left > rounding + sure * (noise + other)).any(dim=1)
    return found


def _directions(first: Rows, numbers: int) -> Float[Tensor, "d n"]:
    """Orthonormal ways to move within the row space without moving the number that stands for the bias."""
    if not first.shift:
        return first.right
    across, _ = torch.linalg.qr(first.right[:, -1:], mode="complete")
    made = across[:, 1:].T @ first.right[:, :numbers]
    return made / made.norm(dim=1, keepdim=True).clamp_min(torch.finfo(made.dtype).tiny)


def _left(passes: Passes, inner: list[Rows], records: Tensor) -> Float[Tensor, "k e"]:
    """What of the records lies outside of the layers' row spaces, as shares of what feeds these, side by side."""
    found, seen = [], passes(records, [rows.weight for rows in inner])
    for rows in inner:
        fed = rows.extended(seen[rows.weight].flatten(0, 1))
        found.append((fed - fed @ rows.right.T @ rows.right) / fed.norm(dim=1, keepdim=True).clamp_min(torch.finfo(fed.dtype).tiny))
    each = len(found[0]) // len(records)
    return torch.cat([part.reshape(len(records), each * part.shape[1]) for part in found], dim=1)
