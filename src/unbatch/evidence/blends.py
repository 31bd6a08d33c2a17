"""Whether the layers behind the first would tell a record from a blend of members.

Behind a change that is not linear a blend becomes something else than the blend of what its parts become; but not where all its parts lie
in one region of a ReLU network, or inputs are so small that a tanh is a line. Then a blend of members passes for one. Seen in two ways:

- the record is moved along the first layer's row space, in every direction: the layers behind must see as many of these as they can;
- it is mixed half and half with the nearest other record that fits as well: that must not fit.

A record that feeds the first layer with nothing lies in every span.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.evidence.rows import Rows

__all__ = ["Feeding", "apart_from_blends"]

Feeding = Callable[[Tensor, str], Tensor]
"""Records (k, *shape) and the name of a weight -> (k, t, n), what its layer is fed."""

STEP = 1e-6
"""Of the finite differences, as a share of the record's length. Chosen, as in ``accuracy``."""

THIRD = 1 / 3
"""A blend that is this far from the record, as a share of its length, must show above what a member may leave. Chosen: nearer ones are held
against the nearest record that fits as well."""

VISIBLE = 1e-4
"""A direction is seen when it leaves the row space by this share of what the record moves, and by more than rounding may. Chosen, not
swept."""

MOST = 1 << 14
"""Records are moved in so many ways in all."""


def apart_from_blends(
    feeding: Feeding, first: Rows, inner: list[Rows], records: Float[Tensor, " c *shape"], allowed: Float[Tensor, " c"]
) -> Bool[Tensor, " c"]:
    """Whether a blend of members in the place of each record would show.

    Args:
        feeding: passes records as far as a layer.
        first: row space of the layer that sees the records themselves.
        inner: of those behind it.
        records: that lie in all of them.
        allowed: (c,) what a member may leave.
    """
    numbers, flat = records[0].numel(), records.double().flatten(1)
    apart = flat.norm(dim=1) > 0
    if not inner or first.right.shape[1] not in (numbers, numbers + 1):
        return apart
    for index, other in enumerate(_nearest(flat)):
        if other != index and not torch.equal(flat[index], flat[other]):
            half = (records[index : index + 1].double() + records[other : other + 1].double()) / 2
            apart[index] &= bool((_left(feeding, inner, half).norm(dim=1) > allowed[index]).all())
    directions = _directions(first, numbers)
    if not len(directions) or len(directions) * len(records) > MOST:
        return apart
    for index in apart.nonzero()[:, 0].tolist():
        length = flat[index].norm()
        moved = (flat[index] + STEP * length * directions).reshape(-1, *records.shape[1:])
        slopes = (_left(feeding, inner, moved) - _left(feeding, inner, records[index : index + 1].double())) / STEP
        seen = int((torch.linalg.svdvals(slopes) > max(VISIBLE, float(allowed[index]) / THIRD)).sum())
        apart[index] = seen >= min(len(directions), max(rows.spare for rows in inner))
    return apart


def _nearest(flat: Float[Tensor, "c n"]) -> list[int]:
    if len(flat) < 2:
        return list(range(len(flat)))
    distances = torch.cdist(flat, flat)
    same = distances <= 1e-12 * flat.norm(dim=1, keepdim=True)
    nearest: list[int] = distances.masked_fill(same, torch.inf).argmin(dim=1).tolist()
    return nearest


def _directions(first: Rows, numbers: int) -> Float[Tensor, "d n"]:
    """Orthonormal ways to move within the row space without moving the number that stands for the bias."""
    if not first.shift:
        return first.right
    across, _ = torch.linalg.qr(first.right[:, -1:], mode="complete")
    made = across[:, 1:].T @ first.right[:, :numbers]
    return made / made.norm(dim=1, keepdim=True).clamp_min(torch.finfo(made.dtype).tiny)


def _left(feeding: Feeding, inner: list[Rows], records: Tensor) -> Float[Tensor, "k e"]:
    """What of the records lies outside of the layers' row spaces, as shares of what feeds these, side by side."""
    found = []
    for rows in inner:
        fed = rows.extended(feeding(records, rows.weight).flatten(0, 1))
        found.append((fed - fed @ rows.right.T @ rows.right) / fed.norm(dim=1, keepdim=True).clamp_min(torch.finfo(fed.dtype).tiny))
    each = len(found[0]) // len(records)
    return torch.cat([part.reshape(len(records), each * part.shape[1]) for part in found], dim=1)
