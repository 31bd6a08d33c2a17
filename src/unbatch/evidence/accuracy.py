"""How exactly a sample is known: by how much it could be moved before that would show in the update.

Two answers, each an upper estimate of ‖error‖ / ‖x‖; the smaller one counts.

- From the rows of the first layer's gradient that the samples explain: G = D Xᵀ there, so an error N of those rows moves sample i by
  (D⁺)ᵢ N. N is seen in what the replay leaves, never below the rounding of the numbers that were added up.
- From the conditions of the certificate: their derivative along every direction of the row space, by finite differences; its smallest
  singular value says how large an error may hide behind the violation that is left.

The rows take D for what it is, but D follows from the samples, and G = D Xᵀ leaves open which part of a product is d and which the length
of x: a layer norm behind the layer makes d ∝ 1/‖x‖, and any length fits. Two things tell it: the bias gradient Σ d, which knows nothing of
x; and d itself, where it turns as x grows. Where the bias gradient is only good enough to tell 1/n from 1/(n + 1), what a sample of a plain
mean counts is known to the last digit, and then the size of d xᵀ tells too. What none of them tells is not known.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.certificate import SPARE, Entrance, conditions, sizes_of
from unbatch.evidence.others import Others
from unbatch.evidence.regions import around, outside_of, own_slopes, random_slopes
from unbatch.evidence.tail import Seen

__all__ = [
    "FITTED",
    "GROWTH",
    "NOTHING",
    "SAFETY",
    "STEP",
    "TELLING",
    "TOLD",
    "across",
    "counted_by",
    "from_conditions",
    "from_finer_rows",
    "from_rows",
    "turning",
]

SAFETY = 3.0
"""Standard deviations that an estimate from noise is multiplied by. Chosen: 3 of a normal distribution are exceeded once in 370. Swept."""

STEP = 1e-6
"""Of the finite differences, as a share of the sample's length. Chosen between 1e-8 and 5e-6, the square and the cube root of float64's
rounding, where its error and that of the step meet."""

GROWTH = 1e-3
"""By how much a sample is made longer and shorter to see its column turn: far above what rounding turns it. Chosen."""

TELLING = 1e-5
"""A length that the bias gradient tells no better than this is asked of the turning column as well. Chosen: what is known better costs
nothing more. Swept."""

SINGULAR = 1e-13
"""A direction of the columns below this share of the largest is rounding of float64. Derived: 450 roundings."""

FINER = tuple(10 ** (-half / 2) for half in range(12, 25))
"""Shares of what was added up in a row, down to which it may be explained. Derived: half a digit each, from a millionth to a ten-thousandth
of it. What lies between can cost a proof, never make one."""

ALONE = 1e-12
"""A row is confirmed by nothing where 1 − h is below this. Chosen above rounding, 1e-14."""

FITTED = 11.0
"""Chosen rows say so many times less than rows that are not. Measured (``benchmarks/fitted_rows.py``): of 6,011 sets of wrong samples
fitted to rows of all kinds, none was off by more than 0.89 of what is stated with this factor."""

APART = 1e-6
"""How far the inverse of the columns may be from one: a direction that was cut leaves about 1 of some sample, rounding 1e-13 to 1e-9.
Chosen in between."""

BETWEEN = 0.5
"""Derived: a weight is told from its neighbor, 1/n from 1/(n + 1), by half of the distance between them."""

TOLD = 1e-2
"""The gradient of the bias says what samples count where it does so to this share. Chosen, not swept."""

CHUNK = 1 << 22
"""Numbers of pre-activations that are passed at a time."""


def from_rows(
    columns: Float[Tensor, "m k"],
    inputs: Float[Tensor, "k n"] | Float[Tensor, "k r"],
    row_errors: Float[Tensor, " m"],
    shift: Float[Tensor, " k"] | None = None,
    missing: float = 0.0,
) -> Float[Tensor, " k"]:
    """Relative errors from the rows that the samples explain.

    Noise is drawn for every row anew, and most of it cancels. A faint sample that is missing is on all rows at once, perhaps with a column
    like that of one that was found, in which most of it hides: all that it leaves counts in full.

    Args:
        columns: (m, k) D on those rows.
        inputs: (k, n) the samples.
        row_errors: (m,) lengths of the rows of N.
        shift: (k,) lengths of (D⁺ N)ᵢ, where N itself is at hand.
        missing: length of what missing samples leave on all of the rows.

    Returns:
        (k,); infinite where the rows do not tell a sample from the others.
    """
    length = torch.linalg.vector_norm(inputs, dim=1)
    inverse, apart = _inverse(columns)
    typical = row_errors.square().mean().sqrt()
    noise = (inverse.square() @ torch.maximum(row_errors, typical).square()).sqrt() + missing * torch.linalg.vector_norm(inverse, dim=1)
    error = SAFETY * noise + (0 if shift is None else shift)
    return (error / length).where(apart & (length > 0), torch.inf)


def from_finer_rows(
    columns: Float[Tensor, "e k"],
    inputs: Float[Tensor, "k r"],
    rest: Float[Tensor, "e r"],
    parts: Float[Tensor, " e"],
    noise: Float[Tensor, " e"],
) -> Float[Tensor, " k"]:
    """Relative errors from rows of which less or more is left: a weak sample that is missing spoils those on which it is, and no others.

    Rows that are chosen for what is left of them may have been fitted: k wrong samples can be made to leave nothing of any k rows. So there
    must be more rows than that; each is taken to be off by as much as the choice allows; and where a least-squares fit leaves r of an error
    s, r = s √(1 − h), h being by how much the row determines what is held against it: each counts as 1 / √(1 − h) times that, and one that
    nothing else confirms as off by all that was added up there. Rows of which more is left are taken to be off by more, and confirm the
    samples up to that: a finer choice without them would hardly have more rows than samples.

    Args:
        columns: (e, k) D on the rows.
        inputs: (k, r) the samples.
        rest: (e, r) N.
        parts: (e,) sum of the lengths of what the samples add to each row.
        noise: (e,) its rounding.

    Returns:
        (k,); infinite where the rows do not tell a sample from the others.
    """
    length, left = torch.linalg.vector_norm(inputs, dim=1), torch.linalg.vector_norm(rest, dim=1)
    allowed = torch.stack([share * parts + noise for share in FINER])
    explained = (left <= allowed) & (allowed > 0)  # a row on which nothing was added up says nothing
    found, finest, rows = torch.full_like(length, torch.inf), explained.sum(dim=0) - 1, explained[0]
    counts = explained.sum(dim=1).tolist()
    for step, count in enumerate(counts):
        if count < len(inputs) + SPARE:
            break
        if count in counts[step + 1 :]:  # the same rows may be off by less
            continue
        unit = allowed.gather(0, finest.clamp(0, step)[None])[0][rows]
        weighed = columns[rows] / unit[:, None]
        inverse, apart = _inverse(weighed)
        size = torch.linalg.vector_norm(weighed, dim=0)
        free = 1 - torch.linalg.qr(weighed / size.where(size > 0, 1.0))[0].square().sum(dim=1)
        worth = torch.where(free > ALONE, free.clamp_min(ALONE).rsqrt(), parts[rows] / unit)
        error = FITTED * SAFETY * (inverse.square() @ worth.square()).sqrt() + (inverse @ (rest[rows] / unit[:, None])).norm(dim=1)
        found = found.minimum((error / length).where(apart & (length > 0), torch.inf))
    return found


def _inverse(columns: Float[Tensor, "m k"]) -> tuple[Float[Tensor, "k m"], Bool[Tensor, " k"]]:
    """D⁺, and which samples are no mixtures of others on these rows."""
    scale = torch.linalg.vector_norm(columns, dim=0)
    there = scale.where(scale > 0, 1.0)
    inverse = torch.linalg.pinv(columns / there, rtol=SINGULAR) / there[:, None]
    return inverse, ((inverse * columns.T).sum(dim=1) - 1).abs() < APART


def from_conditions(
    entrance: Entrance,
    coordinates: Float[Tensor, "k r"],
    labels: Int64[Tensor, " k"],
    violation: Float[Tensor, " k"],
    others: Others | None = None,
    samples: Int64[Tensor, " k"] | None = None,
    odd: Bool[Tensor, " k"] | None = None,
) -> Float[Tensor, " k"]:
    """Relative errors that may hide behind violations of this size; infinite where the conditions do not fix a sample.

    The forward pass as far as the next layer is enough in most networks and costs little; the whole pass is made where it is not. What the
    forward pass lets move, only the columns can hold: they must have more to say there than there are directions to tune (``regions``).

    Where a sample counts like no other (``odd``), what they say is counted at the sample itself. A sure network asks next to nothing of
    most classes, and with so few equations a sample beside a member has the column that this one and its copy of another label leave
    together: 2p − e for p, where that is one of the network's answers (found: 0.9 % off, counted as 8.04 for 8; trial 372554).
    """
    behind = [name for name in entrance.spaces if name != entrance.tail.start]
    grams = coordinates.new_zeros(len(coordinates), 1, 1)
    if others is not None and samples is not None:
        grams = torch.stack(list(others.grams(samples)))
        violation = torch.hypot(violation, others.off(entrance, coordinates, samples))
    held = _held(entrance, coordinates, None, behind[0] if behind else entrance.tail.start, grams)
    weakest = held[:, 0].clone()
    vague = ((violation > LOOSE * weakest) | (weakest < NOTHING)).nonzero()[:, 0]
    if len(vague):
        loose = ((violation[vague, None] > LOOSE * held[vague]) | (held[vague] < NOTHING)).sum(dim=1)
        seen, named = entrance.tail.observation, labels[vague]
        slopes = random_slopes(seen, len(vague), 1 + min(int(loose.max()) + 1, seen.classes))
        if odd is not None and bool(odd[vague].any()):
            own = own_slopes(seen, entrance.tail.outputs(entrance.at(coordinates[vague])), named, len(slopes) - 1)
            slopes = torch.where(odd[vague, None], own, slopes)
        enough = _outside(entrance, coordinates[vague], slopes, loose) > loose
        asked = vague[enough]
        weakest[asked] = weakest[asked].maximum(_held(entrance, coordinates[asked], named[enough], None, grams[asked])[:, 0])
    return torch.where(weakest > NOTHING, violation / weakest, torch.inf)


def _outside(
    entrance: Entrance, coordinates: Float[Tensor, "k r"], slopes: Float[Tensor, "s k c"], loose: Int64[Tensor, " k"]
) -> Int64[Tensor, " k"]:
    """In how many dimensions the columns that each sample can have leave those of the update, as it is moved in its ``loose`` ways."""
    outside = torch.zeros_like(loose)
    for ways in sorted(set(loose.tolist())):
        size = (ways + 1) * len(slopes) * len(entrance.bias)
        for part in torch.split((loose == ways).nonzero()[:, 0], max(1, TOGETHER // size)):
            near = around(_pulling(entrance, slopes[:, part]), coordinates[part], ways)
            if len(near) > ways:  # fewer are never enough
                outside[part] = outside_of(near, entrance.first.left)[0]
    return outside


def _pulling(entrance: Entrance, slopes: Float[Tensor, "s k c"]) -> Callable[[Tensor], Tensor]:
    return lambda coordinates: entrance.tail.pulled(entrance.at(coordinates), slopes)


LOOSE = 1e-4
"""Relative error up to which the next layer's conditions alone are enough. Chosen: it decides how much is computed, not what is proved.
Swept."""

TOGETHER = 2**23
"""Numbers of the columns of samples that are looked at at a time: 64 MB. Chosen."""

NOTHING = 1e-6
"""A derivative below this is nothing: finite differences see no less. Chosen above what rounding over ``STEP`` leaves, 1e-10."""


def turning(entrance: Entrance, coordinates: Float[Tensor, "k r"], labels: Int64[Tensor, " k"]) -> Float[Tensor, " k"]:
    """By how much the conditions are violated for every sample that is made longer, per relative length; 0 where that is nothing."""
    sizes = sizes_of(here := entrance.tail(entrance.at(coordinates), labels))
    base = conditions(entrance, here, sizes)
    slopes = [
        (conditions(entrance, entrance.tail(entrance.at((1 + step) * coordinates), labels), sizes) - base) / step
        for step in (GROWTH, -GROWTH)  # where one of them meets a kink, the other does not
    ]
    return _of_note(torch.stack([torch.linalg.vector_norm(slope, dim=1) for slope in slopes]))


def counted_by(told: Float[Tensor, " k"], number: int | None) -> bool:
    """Whether lengths that are known so far tell a plain mean of n samples from that of n − 1 or n + 1.

    Args:
        told: (k,) relative errors of the lengths by the bias gradient, and so of what the samples count.
        number: n; None where the samples are those of no plain mean.
    """
    return number is not None and bool((told < BETWEEN / (number + 1)).all())


def across(
    here: Float[Tensor, "k m"], passed: Callable[[float], Float[Tensor, "k m"] | None], *, counted: bool = False
) -> Float[Tensor, "k m"]:
    """How every column turns when all samples are made longer, per relative length and beside its own; 0 where that is nothing.

    Args:
        here: the columns.
        passed: the columns of the samples times a factor.
        counted: whether what the samples count is known: then all of d xᵀ tells, and not only where d points.
    """
    length, turned = torch.linalg.vector_norm(here, dim=1).clamp_min(torch.finfo(here.dtype).tiny), []
    unit = here / length[:, None]
    for step in (GROWTH, -GROWTH):
        moved = passed(1 + step)
        slope = torch.zeros_like(here) if moved is None else (moved - here) / step / length[:, None]
        turned.append(slope + unit if counted and moved is not None else slope - (slope * unit).sum(dim=1, keepdim=True) * unit)
    longer, shorter = turned
    least = torch.linalg.vector_norm(longer, dim=1) <= torch.linalg.vector_norm(shorter, dim=1)
    found = longer.where(least[:, None], shorter).nan_to_num(0.0)
    return found.where(torch.linalg.vector_norm(found, dim=1, keepdim=True) > NOTHING, 0.0)


def _of_note(found: Float[Tensor, "2 k"]) -> Float[Tensor, " k"]:
    least = found.amin(dim=0).nan_to_num(0.0)
    return least.where(least > NOTHING, 0.0).clamp(max=1.0)


def _held(entrance: Entrance, coordinates: Tensor, labels: Tensor | None, stop: str | None, grams: Tensor) -> Float[Tensor, "k r"]:
    """Singular values, from the smallest, of the derivative of the conditions by the sample, both in relative units.

    Those of the first layer's bias gradient alone where the pass is stopped at that layer itself.
    """
    rank, first = entrance.first.rank, entrance.first
    every = torch.eye(rank, dtype=coordinates.dtype, device=coordinates.device)
    found = []
    for index, own in enumerate(coordinates):
        length = own.norm()

        def passed(moved: Tensor, index: int = index) -> dict[str, Seen]:
            given = None if labels is None else labels[index].expand(len(moved))
            return entrance.tail(entrance.at(moved), given, stop)

        gram = torch.zeros_like(every) + grams[index]
        if stop != entrance.tail.start:
            sizes = sizes_of(here := passed(own[None]))
            base = conditions(entrance, here, sizes)
            slopes = [
                (conditions(entrance, passed(own + STEP * length * part), sizes) - base) / STEP
                for part in torch.split(every, max(1, CHUNK // len(entrance.bias)))
            ]
            gram = gram + torch.cat(slopes) @ torch.cat(slopes).T
        if first.bias_gradient is not None:
            sums = length * first.solve_columns(first.bias_gradient[None])[0]
            gram = gram + torch.outer(sums, sums)
        found.append(torch.linalg.eigvalsh(gram).clamp_min(0).sqrt())
    return torch.stack(found) if found else coordinates.new_zeros(0, rank)
