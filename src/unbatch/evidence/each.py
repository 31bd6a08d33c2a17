"""The proof of single samples, where the whole batch cannot be replayed because others are missing or wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from unbatch.evidence.accuracy import (
    GROWTH,
    NOTHING,
    SAFETY,
    TELLING,
    TOLD,
    counted_by,
    from_conditions,
    from_finer_rows,
    from_rows,
    turning,
)
from unbatch.evidence.certificate import EVIDENCE, FINEST, MARGIN, Certificates, Entrance, certify, rounding_of
from unbatch.evidence.completeness import odd_beside
from unbatch.evidence.mirrors import mirrored
from unbatch.evidence.others import others_of
from unbatch.evidence.plain_means import beside_plain, counted_each, counts_freely, plain, plain_size
from unbatch.evidence.regions import outside_of, own_slopes, settled, turns
from unbatch.evidence.replay import entrance_of
from unbatch.evidence.rotations import hidden_from_certificates
from unbatch.evidence.slopes import slopes_of
from unbatch.evidence.spaces import spaces_of
from unbatch.evidence.tail import Tail, tail_of
from unbatch.linalg.lowrank import factor, multiply
from unbatch.linalg.rows import lengths_of_uneven
from unbatch.trace import TRIAL
from unbatch.types import Observation

__all__ = ["Each", "directions_by_rows", "directions_of", "entrance_to", "plainly_counted", "prove_each"]

SAME = 0.01
"""Two samples that share this much of one member's place in the gradient are not two members. Chosen: it is 1 for a twin and 0 for another
member. Swept."""

CLOSE = 10.0
"""Others are known as well as the best of them up to so many times its misfit. Chosen: it decides what is tried."""

NEARLY = 0.05
"""What counts otherwise than a plain mean's samples by more than this is taken to count freely, as with weights of classes. Chosen: a plain
mean's samples count to the last digit, and no mixture proved so far was off by more than a thousandth."""

EXPLAINED = 1e-6
"""A row of the gradient is explained when what the samples leave of it is below this share of what they add up to there. Chosen. Swept."""

LONE = 0.99
"""Share of a row of one length that no other row says any of, from which on it stands alone. Chosen, not swept."""

OBEYED = 1e-6
"""What a sample counts is no free number where it misses that of a plain mean's by less than this, relatively: it obeys that equation to
six digits, and what it misses is part of its accuracy. Chosen, not swept."""


@dataclass(frozen=True, eq=False)
class Each:
    """What was proved of single samples.

    Attributes:
        proved: (k,) whether a member of the batch is this sample, to the accuracy.
        accuracy: (k,) upper estimate of its relative error.
        inverse_weight: (k,) 1/w: how many samples there are in a mean that counts it once.
    """

    proved: Bool[Tensor, " k"]
    accuracy: Float[Tensor, " k"]
    inverse_weight: Float[Tensor, " k"]


def entrance_to(observation: Observation) -> Entrance | None:
    """The layer that sees the samples, the network behind it, and the spaces of its gradients; None where there is no such layer, the
    network behind it depends on more than that layer, samples are coupled, or the gradient has full rank.
    """
    if (tail := _tail_to(observation)) is None:
        return None
    biases = {call.weight: call.bias for call in observation.layers}
    spaces = spaces_of(observation, [(name, biases.get(name)) for name in (tail.start, *tail.layers)])
    if tail.start not in spaces:
        return None
    parameters = dict(observation.model.named_parameters())
    weight, name = parameters[tail.start].detach(), biases[tail.start]
    bias = weight.new_zeros(len(weight)) if name is None else parameters[name].detach()
    return Entrance(tail, spaces, multiply(weight, spaces[tail.start].right.T), bias.double())


def directions_of(observation: Observation) -> int:
    """The rank of the gradient of the layer that sees the samples; 0 where there is none, or noise has full rank.

    No batch has more directions there than samples, whatever follows, and be they coupled.
    """
    first = entrance_of(observation.layers, observation, TRIAL)
    space = None if first is None else spaces_of(observation, [(first.weight, first.bias)]).get(first.weight)
    return 0 if space is None else space.rank


def directions_by_rows(observation: Observation) -> int:
    """The same, where rows far shorter than others show samples that these drown; 0 where none is, or they show no rank.

    Every row is a sum of inputs, rounded beside its own numbers, so that no more of them are independent than there are samples. But noise
    of one size, as of fixed-point numbers, may be the most of a short row: what only one row says counts for nothing, and no more than
    the batch size that was told is believed. In a coarser type, stored in float64, what has no number there makes directions, too.
    """
    told = observation.one_gradient and not observation.coupled and observation.rounding == torch.float64
    first = entrance_of(observation.layers, observation, TRIAL) if told else None
    gradient = None if first is None else observation.update[first.weight]
    lengths = None if gradient is None else lengths_of_uneven(gradient)
    if gradient is None or lengths is None:
        return 0
    rows, generator = gradient / lengths[:, None], Generator(gradient.device).manual_seed(0)
    while len(rows) > 1:
        found = factor(rows, generator)
        alone = found.left.square().sum(dim=1) > LONE
        if not bool(alone.any()):
            most = min(*rows.shape, (observation.batch_size or found.rank) + 1)
            return found.rank if found.clear and found.rank < most else 0
        rows = rows[~alone]
    return 0


def _tail_to(observation: Observation) -> Tail | None:
    if observation.coupled:
        return None
    first = entrance_of(observation.layers, observation, TRIAL)
    return None if first is None else tail_of(observation, first.weight)


def prove_each(
    observation: Observation,
    entrance: Entrance,
    inputs: Float[Tensor, " k *shape"],
    labels: Int64[Tensor, " k"],
    acceptable: float,
    proved: Bool[Tensor, " k"] | None = None,
) -> Each:
    """Hold every sample against the observation by itself, then all that passed against each other.

    Args:
        observation: what the server saw: one gradient, up to a factor.
        entrance: see ``entrance_to``.
        inputs: (k, *shape), all different.
        labels: (k,).
        acceptable: largest relative error of a sample that is called proved.
        proved: (k,) samples that are proved already: they help the others, and what costs most is not asked of them.
    """
    flat = inputs.double().flatten(1)
    length = torch.linalg.vector_norm(flat, dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    coordinates = flat @ entrance.first.right
    outside = torch.linalg.vector_norm(flat - coordinates @ entrance.first.right.T, dim=1) / length
    shown = certify(entrance, coordinates, outside, labels)
    alone = _without_twins(entrance, coordinates, labels, shown)
    # A row that is explained fixes the sample: whoever makes one up has nothing left to tune. But what samples count is tuned, too, where
    # it is not what a plain mean counts: where the network is linear for a whole batch, one mixture of it leaves the same update.
    tuned = shown.digits(entrance.first.rank) >= EVIDENCE
    fixed = tuned | ((shown.digits(0) >= EVIDENCE) & observation.factor_known & plainly_counted(shown, alone, rounding_of(entrance)))
    accuracy, kept = torch.full_like(length, torch.inf), (alone & fixed).nonzero()[:, 0]
    beside = outside + SAFETY * shown.row_noise + _length(observation, entrance, coordinates, labels, shown, kept)
    alone_there, told, free, odd = _settled(observation, entrance, coordinates, labels, shown, kept)
    beside = beside.index_add(0, kept, _hidden(observation, entrance, coordinates, labels, shown, kept, free))
    while len(kept):
        weights = 1 / shown.inverse_weight[kept]
        weights = plain(weights) if observation.factor_known else weights
        by_rows = _explained(observation, entrance, coordinates[kept], labels[kept], weights).where(alone_there[kept], torch.inf)
        accuracy = torch.full_like(length, torch.inf).index_copy(0, kept, by_rows + beside[kept])
        known = kept[tuned[kept] & told[kept]]
        # All others, then those that are known best: what is known of one no better than of the rest tells nothing of these.
        best = known[shown.misfit[known] <= CLOSE * shown.misfit[known].amin()] if len(known) else known
        for members in (known, best) if len(best) < len(known) else (known,):
            open_yet = accuracy[known] > acceptable
            vague = known[open_yet if proved is None else open_yet & ~proved[known]]
            if not len(vague):
                break
            others = others_of(entrance, coordinates, labels, shown.misfit, members)
            hidden = from_conditions(entrance, coordinates[vague], labels[vague], shown.misfit[vague], others, vague, odd[vague])
            accuracy[vague] = accuracy[vague].minimum(hidden + beside[vague])
        # A column that is shown to be a member's explains rows, however vaguely its sample is known.
        right = kept[(accuracy[kept] <= acceptable) | (tuned[kept] & told[kept])]
        if len(right) == len(kept):
            break
        kept = right  # what is wrong may have spoiled the rows of the others
    return Each(alone & (accuracy <= acceptable), accuracy, shown.inverse_weight)


def plainly_counted(shown: Certificates, alone: Bool[Tensor, " k"], rounding: float) -> Bool[Tensor, " k"]:
    """(k,) those that count what samples of a plain mean do: all that met the conditions, or all of which the noise lets it be told.

    What a weak sample counts the noise may leave open: it then says nothing of what the others count.

    Args:
        shown: what the conditions said of the samples.
        alone: (k,) those that met them.
        rounding: see ``rounding_of``.
    """
    for asked in (alone, alone & counted_each(shown.inverse_weight, _noise(shown) + rounding)):
        if bool(asked.any()) and plain_size(1 / shown.inverse_weight[asked]) is not None:
            return asked
    return torch.zeros_like(alone)


def _off(entrance: Entrance, coordinates: Tensor, labels: Tensor, shown: Certificates, kept: Tensor) -> Float[Tensor, " k"]:
    """By how much, relatively, what samples count may be off.

    Passes lose digits of what a sample counts where its slope is small, as where the network is sure; where it is not, the last digits tell
    a member from the mean of several that leave one column between them (seed 902328).
    """
    scores = entrance.tail.outputs(entrance.at(coordinates[kept]))
    slope = slopes_of(entrance.tail.observation, scores, labels[kept]).nan_to_num(0.0).norm(dim=1)
    lost = (MARGIN * FINEST / slope).clamp(max=rounding_of(entrance))
    return _noise(shown)[kept] + lost


def _noise(shown: Certificates) -> Float[Tensor, " k"]:
    """The part of it that is the update's noise."""
    return MARGIN * shown.weight_noise + SAFETY * shown.misfit


def _hidden(
    observation: Observation,
    entrance: Entrance,
    coordinates: Tensor,
    labels: Tensor,
    shown: Certificates,
    kept: Int64[Tensor, " q"],
    free: Bool[Tensor, " k"],
) -> Float[Tensor, " q"]:
    """Relative errors that hide where samples can be turned together, or where a bit of another one is in them.

    With a bit of another one they count nearly what samples of a plain mean do, and miss it by more than noise explains.
    """
    if not len(kept):
        return shown.misfit[kept]
    weights = 1 / shown.inverse_weight[kept]
    missed = beside_plain(weights, _off(entrance, coordinates, labels, shown, kept), factor_known=observation.factor_known)
    turned = hidden_from_certificates(entrance, coordinates[kept], labels[kept], shown.misfit[kept], weights, free[kept])
    return turned + missed.where(missed < NEARLY, 0.0)


def _length(
    observation: Observation, entrance: Entrance, coordinates: Tensor, labels: Tensor, shown: Certificates, kept: Tensor
) -> Float[Tensor, " k"]:
    """Relative errors of the samples' lengths, by the bias gradient and by the turning of the columns."""
    told = SAFETY * shown.length_error
    vague = kept[told[kept] > TELLING]
    if len(vague):
        here, named = coordinates[vague], labels[vague]
        hidden = shown.misfit[vague] / turning(entrance, here, named)
        hidden = hidden.where(~_mirrored(observation, entrance, here, named, shown.misfit[vague]), torch.inf)
        number = plain_size(1 / shown.inverse_weight[kept])
        if observation.factor_known and number is not None and counted_by(told[kept], number):
            # What a sample counts is known to the last digit, so that aᵀ G⁺ d must give it.
            counts = number / shown.inverse_weight[vague]
            off = (counts / counts.round() - 1).abs().maximum(shown.misfit[vague])
            hidden = hidden.minimum(off / _growing(entrance, here, named))
        told = told.index_copy(0, vague, told[vague].minimum(hidden))
    return told


def _mirrored(observation: Observation, entrance: Entrance, coordinates: Tensor, labels: Tensor, misfit: Tensor) -> Bool[Tensor, " k"]:
    """(k,) whether the negative of each sample would meet the same conditions, see ``mirrors``."""
    tail, here, there = entrance.tail, entrance.at(coordinates), entrance.at(-coordinates)
    columns = tail(here, labels)[tail.start].columns
    if columns is None:
        return torch.ones_like(labels, dtype=torch.bool)
    scores = tail.outputs(here), tail.outputs(there)
    return mirrored(observation, labels, columns, scores, lambda named: tail(there, named)[tail.start].columns, misfit)


def _settled(
    observation: Observation, entrance: Entrance, coordinates: Tensor, labels: Tensor, shown: Certificates, kept: Tensor
) -> tuple[Bool[Tensor, " k"], Bool[Tensor, " k"], Bool[Tensor, " k"], Bool[Tensor, " k"]]:
    """(k,) each, False where not asked.

    Returns:
        whether no mixture of samples of one region could explain the same rows, see ``regions``; whether the conditions tell a sample from
        such mixtures, as where its column turns as it moves, unless all it can leave is one; whether what it counts is tuned; and whether
        no other sample counts as much, either.
    """
    found, told, tuned, odd = (torch.zeros(len(coordinates), dtype=torch.bool, device=coordinates.device) for _ in range(4))
    if len(kept):
        here, left = coordinates[kept], entrance.first.left
        slopes = own_slopes(observation, entrance.tail.outputs(entrance.at(here)), labels[kept])

        def pull(moved: Tensor) -> Tensor:
            return entrance.tail.pulled(entrance.at(moved), slopes)

        bias = shown.length_error[kept] < TOLD
        weights, off = 1 / shown.inverse_weight[kept], _off(entrance, coordinates, labels, shown, kept)
        free = (beside_plain(weights, off) > OBEYED) | (not observation.factor_known)
        odd[kept] = free & counts_freely(weights, off, factor_known=False)
        # As many members as there are independent columns leave one each; what several left together counts like no other.
        alone = ~odd[kept] | (observation.batch_size == entrance.first.rank)
        beside, pulled = ~odd_beside(observation, labels[kept], free), pull(here)
        found[kept], tuned[kept] = settled(pulled, left, bias=bias, free=free, alone=alone & beside), free
        told[kept] = found[kept]
        if not bool(found[kept].all()):
            smooth = turns(pull, here, left)
            told[kept] |= smooth & (outside_of(pulled, left)[1] > 1)
            found[kept] |= settled(pulled, left, bias=bias, free=free, alone=(alone | smooth) & beside)
    return found, told, tuned, odd


def _without_twins(entrance: Entrance, coordinates: Tensor, labels: Tensor, shown: Certificates) -> Bool[Tensor, " k"]:
    """Those that meet the conditions, without a second one in the same member's place.

    aⱼᵀ G⁺ dᵢ is 1/w for a sample itself and 0 for any other member.
    """
    alone = shown.met.clone()
    kept = alone.nonzero()[:, 0]
    if not len(kept):
        return alone
    columns = entrance.tail(entrance.at(coordinates[kept]), labels[kept])[entrance.tail.start].columns
    if columns is None:
        return alone & False
    places = entrance.first.solve_columns(columns) @ coordinates[kept].T / shown.inverse_weight[kept]
    order = shown.violation[kept].argsort()
    taken: list[int] = []
    for index in order.tolist():
        if all(abs(float(places[index, other])) < SAME and abs(float(places[other, index])) < SAME for other in taken):
            taken.append(index)
    alone[kept] = False
    alone[kept[taken]] = True
    return alone


def _explained(observation: Observation, entrance: Entrance, coordinates: Tensor, labels: Tensor, weights: Tensor) -> Float[Tensor, " k"]:
    """Relative errors from those rows of the first layer's gradient that the samples explain without any other."""
    columns = entrance.tail(entrance.at(coordinates), labels)[entrance.tail.start].columns
    if columns is None:
        return torch.full_like(weights, torch.inf)
    columns = columns * weights[:, None]
    space = entrance.first
    # In the coordinates of the row space; what the gradient has outside of it is its noise.
    gradient = space.left @ space.core
    rest = gradient - columns.T @ coordinates
    rows, parts = torch.linalg.vector_norm(rest, dim=1), columns.abs().T @ torch.linalg.vector_norm(coordinates, dim=1)
    noise = space.noise * torch.linalg.vector_norm(space.left, dim=1) + torch.finfo(observation.rounding).eps * parts
    explained = (rows <= EXPLAINED * parts + noise) & (parts > noise)
    if not bool(explained.any()):
        return torch.full_like(weights, torch.inf)
    told, rest, left, noise = columns.T[explained], rest[explained], rows.maximum(noise)[explained], noise[explained]
    # Samples may have been fitted to these rows: what a row would leave if it had been left out is more, on average so many times.
    fitted = len(told) / max(1, len(told) - len(coordinates))
    missing = fitted * float(left[left > MARGIN * noise].norm())
    even = from_rows(told, coordinates, fitted * left, torch.linalg.vector_norm(torch.linalg.pinv(told) @ rest, dim=1), missing)
    return even.minimum(from_finer_rows(told, coordinates, rest, parts[explained], noise))


def _growing(entrance: Entrance, coordinates: Tensor, labels: Tensor) -> Float[Tensor, " k"]:
    """By how much aᵀ G⁺ d changes when a sample is made longer, relatively and per relative length; 0 where that is nothing."""

    def counted(factor: float) -> Tensor:
        columns = entrance.tail(entrance.at(factor * coordinates), labels)[entrance.tail.start].columns
        if columns is None:
            return torch.zeros_like(coordinates[:, 0])
        return (factor * coordinates * entrance.first.solve_columns(columns)).sum(dim=1)

    here = counted(1.0)
    slopes = torch.stack([(counted(1 + step) / here - 1).abs() / GROWTH for step in (GROWTH, -GROWTH)])
    least = slopes.amin(dim=0).nan_to_num(0.0)
    return least.where(least > NOTHING, 0.0).clamp(max=1.0)
