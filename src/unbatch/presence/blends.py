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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY
from unbatch.linalg.complement import complement
from unbatch.presence.fed import Passes, near
from unbatch.presence.rows import Rows

__all__ = ["Apart", "apart_from_blends", "apart_from_changes", "beyond_count", "moved_within"]

STEP = 1e-6
"""Of the finite differences, as a share of the record's length. Chosen, as in ``accuracy``."""

NEARBY = 0.01
"""A record is moved by this share of its length to see whether its column tells. Chosen, not swept: far above the rounding of float32."""

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

WAYS = (
    (LONGER, 0.0, 0.0),
    (1 / LONGER, 0.0, 0.0),
    (1.0, 0.0, LONGER - 1),
    (1.0, 0.0, 1 - LONGER),
    (-1.0, 0.0, 0.0),
    (0.5, 0.5, 0.0),
)
"""A changed copy is so many times the record, its nearest other record, and its own level everywhere. Of a copy that was changed in one
direction, the other one is nearer to the member. Chosen, not swept."""

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
    count, device = len(records), records.device
    shown = torch.ones(count, dtype=torch.bool, device=device)
    hidden = torch.zeros(count, dtype=torch.float64, device=device)
    whole = _View.of(passes, records)
    behind = (whole.behind(first, inner) if linear else None) or whole
    asked = [*((behind, rows) for rows in inner), (whole, first)]
    ways = list(_ways(whole, linear=linear))
    for part in passes.parts(records, [rows.weight for rows in (first, *inner)]):
        here = torch.arange(count, device=device)[part]
        own, noise = behind.outside(inner[0], behind.values[here])
        for make, share in ways:
            unseen = (shown[here] & (share[here] > 0)).nonzero()[:, 0]
            for turn, (view, rows) in enumerate(asked):
                if not len(unseen):
                    break
                at = here[unseen]
                left = view.outside(rows, view.values[at]) if turn else (own[unseen], noise[unseen])
                seen, nearer, hides = _held(rows, left, view.outside(rows, make(view, at)), rounding)
                shown[at] = seen & nearer
                hidden[at] = hidden[at].maximum((share[at] * hides).where(seen, 0))
                unseen = unseen[~seen]
    return Apart(shown, hidden)


@dataclass(frozen=True, eq=False)
class _View:
    """Records as they are, or as a layer makes them that sees blends as blends, less what it makes of nothing.

    Attributes:
        passes: of records as far as a layer.
        values: (c, …).
        ones: (1, …) a record of ones.
        nearest: (c,) index of the nearest other record of each, or of itself where there is none.
        distance: (c,) how far that is.
        level: (c,) root mean square of each record's numbers.
        weight: name of the layer's weight, or empty.
        zero: (1, …) what the layer makes of nothing.
    """

    passes: Passes
    values: Tensor
    ones: Tensor
    nearest: Int64[Tensor, " c"]
    distance: Float[Tensor, " c"]
    level: Float[Tensor, " c"]
    weight: str = ""
    zero: Tensor | None = None

    @classmethod
    def of(cls, passes: Passes, records: Tensor) -> _View:
        """As they are; tokens have no nearest, and no level."""
        own, none = torch.arange(len(records), device=records.device), records.new_zeros(len(records), dtype=torch.float64)
        if not records.is_floating_point():
            return cls(passes, records, records[:1], own, none, none)
        values = records.double()
        nearest, distance = _nearest(values.flatten(1))
        level = values.flatten(1).square().mean(dim=1).sqrt()
        return cls(passes, values, torch.ones_like(values[:1]), nearest.where(nearest >= 0, own), distance, level)

    def behind(self, first: Rows, layers: list[Rows]) -> _View | None:
        """As the first layer makes them, so that changes pass it at once; None where the others see more of a record than that."""
        probe, names = self.passes.observation.probe.double(), [rows.weight for rows in layers]
        made = self.passes.made(torch.cat([torch.zeros_like(self.ones), self.ones, probe]), first.weight)
        if made is None:
            return None
        through = self.passes(torch.zeros_like(probe), names, given={first.weight: made[2:]})
        direct = self.passes(probe, names)
        if not all(name in through and near(through[name], direct[name]) for name in names):
            return None
        found = [self.passes.made(self.values[part], first.weight) for part in self.passes.parts(self.values, [first.weight])]
        values = torch.cat([part for part in found if part is not None]) - made[:1]
        return replace(self, values=values, ones=made[1:2] - made[:1], weight=first.weight, zero=made[:1])

    def outside(self, rows: Rows, values: Tensor) -> tuple[Float[Tensor, "k t n1"], Float[Tensor, "k t"]]:
        """What of such values lies outside of a layer's row space, and the length that noise explains of that."""
        if self.zero is None:
            fed = self.passes(values, [rows.weight])
        else:
            nothing = values.new_zeros(len(values), *self.passes.observation.input_shape)
            fed = self.passes(nothing, [rows.weight], given={self.weight: values + self.zero})
        left, noise = rows.outside(fed[rows.weight].flatten(0, 1))
        return left.reshape(len(values), -1, left.shape[1]), noise.reshape(len(values), -1)


def _ways(whole: _View, *, linear: bool) -> Iterator[tuple[Callable[[_View, Tensor], Tensor], Float[Tensor, " c"]]]:
    """How records are changed as a whole: what makes changed ones of those at some indices, and how much of each changes, as a share.

    Args:
        whole: the records as they are.
        linear: whether the first layer sees a blend of two records as a blend. Then every change is one.
    """
    size = whole.values.flatten(1).double().norm(dim=1)
    share = whole.distance / size.clamp_min(torch.finfo(size.dtype).tiny)

    def mixed(one: float, other: float, even: float) -> Callable[[_View, Tensor], Tensor]:
        def make(view: _View, at: Tensor) -> Tensor:
            made = one * view.values[at]
            if other:
                made += other * view.values[view.nearest[at]]
            return made + even * view.level[at].reshape(-1, *[1] * (made.ndim - 1)) * view.ones if even else made

        return make

    def turned(turn: Callable[[Tensor], Tensor], where: Tensor | bool = True) -> tuple[Callable[[_View, Tensor], Tensor], Tensor]:
        return lambda view, at: turn(view.values[at]), (turn(whole.values) != whole.values).flatten(1).any(dim=1).double() * where

    if whole.values.is_floating_point():
        for one, other, even in WAYS:
            changes = share * other if other else (size > 0) * max(abs(1 - one), abs(even))
            yield mixed(one, other, even), changes
        if not linear:
            yield turned(lambda x: (x + x.flip(-1)) / 2, share == 0)
    if not linear and (whole.values.ndim > 2 or not whole.values.is_floating_point()):
        yield turned(lambda x: x.flip(-1))
        yield turned(lambda x: x.roll(1, -1))
        if whole.values.ndim > 2:
            yield turned(lambda x: x.roll(1, -2))


def _nearest(flat: Float[Tensor, "c n"]) -> tuple[Int64[Tensor, " c"], Float[Tensor, " c"]]:
    """The index of the nearest other record for each, and how far it is; −1 and 0 where there is none but copies of it."""
    distances = torch.cdist(flat, flat).fill_diagonal_(torch.inf)  # what rounding leaves of a record's own may be the smallest but for zero
    for one, other in (distances <= COPY * flat.norm(dim=1, keepdim=True)).nonzero().tolist():
        if torch.equal(flat[one], flat[other]):
            distances[one, other] = torch.inf
    least, nearest = distances.min(dim=1)
    return nearest.where(least.isfinite(), -1), least.where(least.isfinite(), 0)


def _held(
    rows: Rows, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor], rounding: float
) -> tuple[Bool[Tensor, " c"], Bool[Tensor, " c"], Float[Tensor, " c"]]:
    """Whether changes show at a layer; whether they were not made already; and the share of each that is hidden."""
    (left, noise), (more, other) = here, there
    sure = 1.0 if rows.deviation else SAFETY  # what is told of random noise is SAFETY deviations already
    turned = more - left
    size = turned.norm(dim=2)
    limit = rounding + sure * noise
    visible = size > limit + sure * other
    along = (left * turned).sum(dim=2).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)
    hides = ((limit + sure * noise) / size).where(visible, torch.inf).amin(dim=1)
    return visible.any(dim=1), ~(visible & (along > limit)).any(dim=1), hides


def moved_within(first: Rows, records: Float[Tensor, " c *shape"], share: float = NEARBY) -> list[Tensor]:
    """The records, each moved within the row space of the layer that sees them, in two ways that were drawn.

    Args:
        first: the layer's row space. What it sees must be the records themselves; otherwise they are not moved at all.
        records: (c, *shape).
        share: of each record's length, by which it is moved.
    """
    flat, numbers = records.double().flatten(1), records[0].numel()
    if first.right.shape[1] not in (numbers, numbers + 1) or first.rank <= bool(first.shift):
        return []
    directions, generator = _directions(first, numbers), torch.Generator(records.device).manual_seed(0)
    drawn = torch.randn((2, len(directions)), generator=generator, dtype=flat.dtype, device=flat.device) @ directions
    drawn /= drawn.norm(dim=1, keepdim=True)
    return [(flat + share * flat.norm(dim=1, keepdim=True) * way).reshape(records.shape) for way in drawn]


def _directions(first: Rows, numbers: int) -> Float[Tensor, "d n"]:
    """Orthonormal ways to move within the row space without moving the number that stands for the bias."""
    if not first.shift:
        return first.right
    made = complement(first.right[:, -1:].T).T @ first.right[:, :numbers]
    return made / made.norm(dim=1, keepdim=True).clamp_min(torch.finfo(made.dtype).tiny)


def _left(passes: Passes, inner: list[Rows], records: Tensor) -> Float[Tensor, "k e"]:
    """What of the records lies outside of the layers' row spaces, as shares of what feeds these, side by side."""
    seen = passes(records, [rows.weight for rows in inner])
    return torch.cat([rows.outside(seen[rows.weight].flatten(0, 1))[0].reshape(len(records), -1) for rows in inner], dim=1)


def beyond_count(records: Tensor, fits: Bool[Tensor, " c"], most: int) -> Bool[Tensor, " c"]:
    """Which of the records that fit depend on each other, where more different ones fit than there were samples: one of them is a blend.

    Args:
        records: (c, *shape).
        fits: (c,) which may have been there.
        most: samples that there were, or directions if these are more.
    """
    tangled, place = torch.zeros_like(fits), fits.nonzero()[:, 0]
    if len(place) <= most:
        return tangled
    flat = records.double().flatten(1)[place]
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    near = torch.cdist(flat, flat) < COPY
    first = near.double().argmax(dim=1)  # of those alike
    different = (first == torch.arange(len(first), device=first.device)).nonzero()[:, 0]
    if len(different) > most:
        left, values, _ = torch.linalg.svd(flat[different], full_matrices=True)
        free = left[:, int((values > COPY * values[0]).sum()) :]
        part = different[free.norm(dim=1) > COPY]
        tangled[place] = torch.isin(first, part)
    return tangled
