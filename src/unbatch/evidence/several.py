r"""Whether a sample that counts several times may be several samples that are much alike.

Members x + δ and x − δ leave what x leaves twice, but for

    d(x + δ)(x + δ)ᵀ + d(x − δ)(x − δ)ᵀ − 2 d(x) xᵀ  ≈  2 (J δ) δᵀ + …,    J = ∂d/∂x,

which is of second order. With γ = ‖J u‖ ‖x‖ / ‖d‖ for a unit vector u, a misfit μ of the replay, as a share of what the sample leaves,
hides a distance of ‖δ‖ = ‖x‖ √(μ / γ): a millionth hides a thousandth. Where d does not turn as x moves (a hinge, a number that the layer
gives no weight) it hides any distance. So γ is that of the number to which the layer gives the least weight.

Where all that a sample can leave is one column, as behind two classes, J δ is a share of d, which a shift of x along δ takes up. What is
left is of second order in what d grows by, γ ‖δ‖ / ‖x‖, and hides ‖δ‖ = ‖x‖ √μ / γ. There it is by chance how much two members differ in
that one number, so that the estimate is multiplied by ``BY_CHANCE``.

Where the batch size was told and as many different samples are proved, each of them is one, and nothing is asked, unless they count like
some that were there several times, or the update has more directions. Where none was told, those that count least are taken for one each: a
batch is not told from one in which each of them stands for as many that are alike. Some of a batch, of which the factor is not known, are
given the accuracy to which two may hide in each, unless they are more than half of its members. But where neither the slope of the loss nor
the network turns as a sample moves, as for a hinge behind ReLU, they need not even be alike. Nor need they where scores hardly move, as of
a softmax regression that starts from zeros. So a pair is made of every sample, a tenth of its length to either side: what the means leave
wrong must be more than what these samples leave.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import normalize

from unbatch.evidence.accuracy import GROWTH, NOTHING, SAFETY, STEP
from unbatch.evidence.completeness import counts, counts_evenly, repeated
from unbatch.evidence.mixtures import columns_of
from unbatch.evidence.plain_means import plain_size
from unbatch.evidence.regions import VISIBLE
from unbatch.evidence.replay import entrance_of
from unbatch.evidence.slopes import slopes_of
from unbatch.evidence.spaces import Space, spaces_of
from unbatch.evidence.tail import tail_of
from unbatch.linalg.blocks import length, times_transposed
from unbatch.trace import TRIAL, run
from unbatch.types import Observation

__all__ = ["ROUNDED", "hidden_by_counting"]

MORE = 1.5
"""A sample that counts more than this many times the least may be two. Derived: the middle of 1 and 2."""

ALL, FAR = 4, 10.0
"""So few samples may each stand for two that noise hides, or that differ in length alone, which no direction tells, unless as many were
told: the latter where what is left of the gradient along them is so many times what is left elsewhere. Chosen."""

ROUNDED = 30.0
"""Roundings, beside the update, that a replay leaves of it in any case. Chosen, as ``whole.UNSURE``."""

MOST = 1 << 22
"""A larger gradient is not held against the replay in one piece. Chosen."""

DIRECTIONS = 4
"""Random ways in which a sample is moved; the one that turns its column least counts. Chosen, not swept."""

BY_CHANCE = 100.0
"""Behind two classes one of so many pairs has scores that are nearer to each other than their distance tells by as much. Measured: of 390
made-up pairs in float64 three were nearer than 9, 40 and 580 times (trials 904251, 905073, 904018)."""

BELIEVED = 3e-4
"""Distance that rounding hides of which no more is said: a network that hardly turns as a sample moves hides any. Chosen: below what a
proved sample may be off by."""

NEARBY = 0.1
"""Members that are nearer to their mean than this share of its length are much alike. Chosen: where no size was told, such twins are
believed to be one, and no others."""


def hidden_by_counting(
    observation: Observation,
    inputs: Float[Tensor, " k *shape"],
    labels: Int64[Tensor, " k"],
    weights: Float[Tensor, " k"],
    residual: float,
    accuracy: Float[Tensor, " k"],
    *,
    explained: bool,
    members: int = 0,
    space: Space | None = None,
) -> Float[Tensor, " k"]:
    """(k,) how far, relatively, several members may be from the sample that stands for them; 0 for a sample that is one.

    Args:
        observation: what the server saw.
        inputs: (k, *shape), all different.
        labels: (k,).
        weights: (k,) what each counts in the update.
        residual: of the replay.
        accuracy: (k,) relative errors, were each of them one member.
        explained: whether these samples explain the whole update; otherwise the misfit is not known.
        members: how many there are at least, by the directions of the gradient.
        space: of the layer that sees them, where it is known: it takes long to factor.
    """
    if observation.batch_size == len(labels):
        times = repeated(observation, weights, labels, most=1)
        if times is None and members <= len(labels) * (1 if explained else MORE):
            return torch.zeros_like(weights)
        # One that counts as some others do together contradicts it, and so do directions that what they count leaves over.
        observation, members = replace(observation, batch_size=None), 0 if times is not None and members <= int(times.sum()) else members
    several = _counted_as_several(observation, labels, weights, members, explained=explained)
    off = len(labels) <= ALL and _off_within(observation, inputs, labels, weights)
    if off and explained:
        several = torch.ones_like(several)
    if not bool(several.any()):
        found = _twins_of_all(observation, inputs, labels, weights, residual, space, explained=explained)
    elif explained:
        found = _hidden(observation, inputs, labels, weights, residual, several)
    else:
        # What the mean of two leaves wrong is a square of their distance, and is no more than the accuracy accounts for (seed 161474).
        hidden = torch.full_like(weights, torch.inf) if plain_size(weights) is not None else SAFETY * accuracy.sqrt()
        found = hidden.where(several, _twins_of_all(observation, inputs, labels, weights, residual, space, explained=False))
    if off and not (explained and counts_evenly(observation, labels)):
        found = found.maximum(SAFETY * accuracy.sqrt())
    found = found.maximum(_of_two(observation, inputs, labels, accuracy, members, explained=explained))
    if observation.batch_size is not None:
        return found
    columns = columns_of(observation, inputs, labels)
    pairs = torch.zeros_like(accuracy) if columns is None else _of_pairs(observation, inputs, labels, columns)
    alike = pairs <= accuracy
    if explained and columns is not None:  # as each counts the same, each would have to be a pair
        alike = alike & (_together(observation, inputs, columns, weights, pairs) <= SAFETY * residual)
    return found.where(~(_still(observation, inputs, labels) | alike), torch.inf)


def _counted_as_several(observation: Observation, labels: Tensor, weights: Tensor, members: int, *, explained: bool) -> Bool[Tensor, " k"]:
    """Which samples may stand for several, by what they count, and by how many members there are."""
    several = counts(observation, weights, labels, explained=explained) > MORE
    if observation.batch_size is not None:
        return several
    if members > len(labels):
        # Where fewer samples explain all of it, any may stand for two; elsewhere what counts more than one of so many members is several.
        several = several | explained | (observation.factor_known & counts_evenly(observation, labels) & (weights * members > MORE))
    return several


def _twins_of_all(
    observation: Observation, inputs: Tensor, labels: Tensor, weights: Tensor, residual: float, space: Space | None, *, explained: bool
) -> Float[Tensor, " k"]:
    """(k,) how far two members may be from each of samples that all count alike, where no size was told: as far, relatively, from one as
    from another. Where no more is left than rounding, what that hides, as such twins are believed to be one; 0 of a type that hides them in
    any case.

    Of some of a batch what is left is not known, but twins may leave as much as the noise: that is asked of a few samples alone. That each
    of many has as many twins is not believed (see the module), and under noise nothing would be proved without a batch size. But twins that
    differ in length alone leave one direction between them, and of the bias gradient a part outside of it: that is no noise, and is asked
    of many where the rest of the layer's gradient has none.
    """
    rounding = max(torch.finfo(observation.rounding).eps, observation.resolution)
    if observation.batch_size is not None or observation.rounding != torch.float64:
        return torch.zeros_like(weights)
    every = torch.ones_like(labels, dtype=torch.bool)
    if explained and not residual <= ROUNDED * rounding:
        return _hidden(observation, inputs, labels, weights, residual, every).amin().expand_as(weights)
    columns, call = columns_of(observation, inputs, labels), entrance_of(observation.layers, observation, TRIAL)
    if columns is None or call is None:
        return torch.zeros_like(weights)
    parts = _parts(inputs, columns, weights)
    if not explained:
        space = space or spaces_of(observation, [(call.weight, call.bias)]).get(call.weight)
        if space is None:
            return torch.zeros_like(weights)
        within = ROUNDED * rounding * float(space.core.norm())
        noise = max(space.noise, space.bias_noise * float(inputs.double().flatten(1).norm(dim=1).amax()))
        if noise > within and (space.noise <= within or len(labels) <= ALL):
            return _apart(observation, inputs, labels, columns, space.weight, SAFETY * noise / parts).amin().expand_as(weights)
    share = SAFETY * torch.finfo(torch.float64).eps * parts.sum() / parts
    return _apart(observation, inputs, labels, columns, call.weight, share).amin().clamp(max=BELIEVED).expand_as(weights)


def _of_two(
    observation: Observation, inputs: Tensor, labels: Tensor, accuracy: Float[Tensor, " k"], members: int, *, explained: bool
) -> Float[Tensor, " k"]:
    """(k,) how far two members may be from each of some samples, where all of these may stand for two: they leave no more than the accuracy
    accounts for. 0 where these explain the whole update, where what they count tells, or where there are too few members for that.
    """
    number = members if observation.batch_size is None else observation.batch_size
    if explained or 2 * len(labels) > number or (observation.factor_known and counts_evenly(observation, labels)):
        return torch.zeros_like(accuracy)
    columns, call = columns_of(observation, inputs, labels), entrance_of(observation.layers, observation, TRIAL)
    if columns is None or call is None:
        return SAFETY * accuracy.sqrt()
    return SAFETY * (accuracy / _turning(observation, inputs, labels, columns, call.weight).clamp(max=1)).sqrt()


def _hidden(
    observation: Observation, inputs: Tensor, labels: Tensor, weights: Tensor, residual: float, several: Bool[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """The same of those that count several times, where all together explain the update."""
    none = torch.zeros_like(weights)
    columns, call = columns_of(observation, inputs, labels), entrance_of(observation.layers, observation, TRIAL)
    if columns is None or call is None:
        return none.where(~several, torch.inf)
    first, columns = call.weight, columns.nan_to_num(0.0)  # of a class that counts nothing: 0 / 0
    flat = inputs.double().flatten(1)
    parts = _parts(inputs, columns, weights)
    made, gradient = (weights[:, None] * columns).T, observation.update[first]
    size = float((made @ flat).norm()) if gradient.numel() <= MOST else float(parts.sum())
    beside = math.hypot(*map(length, observation.update.values())) / length(gradient)
    misfit = residual * beside
    if gradient.numel() <= MOST:  # noise has less in any one direction than in all
        there, here = gradient.double(), made @ flat
        left = there / there.norm() - here / size
        misfit = min(misfit, float(torch.linalg.matrix_norm(left, ord=2)))
    share = SAFETY * (misfit * size / parts).clamp_min(torch.finfo(torch.float64).eps)
    return _apart(observation, inputs, labels, columns, first, share).where(several, 0.0)


def _parts(inputs: Tensor, columns: Float[Tensor, "k m"], weights: Tensor) -> Float[Tensor, " k"]:
    """Length of what each sample leaves in the gradient of the layer that sees it."""
    return weights * columns.norm(dim=1) * inputs.double().flatten(1).norm(dim=1)


def _apart(
    observation: Observation, inputs: Tensor, labels: Tensor, columns: Float[Tensor, "k m"], first: str, share: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """How far two may be from each sample whose misfit may be this share of what it leaves."""
    turning = _turning(observation, inputs, labels, columns, first)
    hidden = (share / turning).sqrt()
    taken_up = hidden.maximum(BY_CHANCE * share.sqrt() / turning)
    return torch.where(_of_one_way(observation, inputs, labels, columns), taken_up, hidden).nan_to_num(torch.inf)


def _off_within(observation: Observation, inputs: Tensor, labels: Tensor, weights: Tensor) -> bool:
    """Whether the gradient is off along the samples by far more than elsewhere, so that it is no noise, and by no more than a square of
    ``NEARBY``, as where others are missing.
    """
    columns, call = columns_of(observation, inputs, labels), entrance_of(observation.layers, observation, TRIAL)
    if columns is None or call is None or observation.update[call.weight].numel() > MOST:
        return False
    flat, gradient = inputs.double().flatten(1), observation.update[call.weight].double()
    spare = flat.shape[1] - len(flat)
    made = (weights[:, None] * columns.nan_to_num(0.0)).T @ flat
    rest = gradient / gradient.norm() - made / made.norm().clamp_min(torch.finfo(made.dtype).tiny)
    along = rest @ torch.linalg.qr(flat.T)[0]
    elsewhere = (rest.square().sum() - along.square().sum()).clamp_min(0)
    rounding = torch.finfo(observation.rounding).eps
    if spare <= 0 or float(rest.norm()) > NEARBY**2:
        return False
    return float(along.norm()) > FAR * max(float((elsewhere * len(flat) / spare).sqrt()), FAR * rounding)


def _still(observation: Observation, inputs: Tensor, labels: Tensor) -> Bool[Tensor, " k"]:
    """(k,) whether a sample's column stays what it is as the sample moves: then it is the mean of any number of members of its region."""
    nothing = torch.zeros_like(labels, dtype=torch.bool)
    if isinstance(observation.loss, str):
        return nothing  # their slopes turn with the scores, if faintly where the network is sure
    scores = run(observation.model, inputs).outputs.detach()
    slopes = [slopes_of(observation, factor * scores, labels) for factor in (1, 1 + STEP, 1 - STEP)]
    columns = columns_of(observation, inputs, labels)
    if columns is None or not all(bool(((other - slopes[0]).norm(dim=1) <= NOTHING * STEP * other.norm(dim=1)).any()) for other in slopes):
        return nothing
    return _slope(observation, inputs, labels, columns) == 0


def _of_pairs(observation: Observation, inputs: Tensor, labels: Tensor, here: Float[Tensor, "k m"]) -> Float[Tensor, " k"]:
    """What each sample leaves wrong, as a share of what it leaves, if it is the mean of two members ``NEARBY`` to either side of it."""
    there = _beside(observation, inputs, labels)
    if there is None:
        return torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    found = []
    for ahead, behind in zip(there[::2], there[1::2], strict=True):
        bent, turned = ((ahead + behind) / 2 - here).norm(dim=1), NEARBY * (ahead - behind).norm(dim=1) / 2
        found.append(torch.hypot(bent, turned) / here.norm(dim=1))
    return torch.stack(found).amin(dim=0).nan_to_num(0.0)


def _beside(observation: Observation, inputs: Tensor, labels: Tensor) -> list[Float[Tensor, "k m"]] | None:
    """The columns of the samples moved by ``NEARBY`` of their lengths, there and back along each way; None where no layer sees them."""
    exact = inputs.double()
    large = 2 * DIRECTIONS * exact.numel() > MOST
    if large and (found := _beside_in_z(observation, inputs, labels)) is not None:
        return found
    moved = [exact + sign * way for way in _moves(exact, NEARBY) for sign in (1, -1)]
    # Samples that statistics of a batch couple are looked at batch by batch, and large ones, for the memory.
    groups = [[each] for each in moved] if observation.coupled or large else [moved]
    there: list[Tensor] = []
    for group in groups:
        columns = columns_of(observation, torch.cat(group), labels.repeat(len(group)))
        if columns is None:
            return None
        there += torch.split(columns, len(labels))
    return there


def _beside_in_z(observation: Observation, inputs: Tensor, labels: Tensor) -> list[Float[Tensor, "k m"]] | None:
    """The same by way of the first layer's z, which moves along W of the way: large inputs are not made again. None where it cannot be."""
    calls = run(observation.model, inputs).linears
    call = None if observation.coupled else entrance_of(calls, observation, len(inputs))
    tail = None if call is None or not call.raw else tail_of(observation, call.weight)
    if call is None or tail is None:
        return None
    weight, lengths = dict(observation.model.named_parameters())[call.weight].detach(), inputs.double().flatten(1).norm(dim=1)
    moves = [NEARBY * torch.outer(lengths, times_transposed(way.flatten(), weight)) for way in _ways(inputs)]
    moved = [call.output.detach() + sign * move for move in moves for sign in (1, -1)]
    columns = tail(torch.cat(moved), labels.repeat(len(moved)))[call.weight].columns
    return None if columns is None else list(torch.split(columns, len(labels)))


def _together(
    observation: Observation, inputs: Tensor, columns: Float[Tensor, "k m"], weights: Tensor, shares: Float[Tensor, " k"]
) -> float:
    """Length of what shares of what samples leave at the first layer, at random beside each other, as a share of the whole update."""
    call = entrance_of(observation.layers, observation, TRIAL)
    if call is None:
        return 0.0
    made, flat = weights[:, None] * columns.nan_to_num(0.0), inputs.double().flatten(1)
    size = ((made @ made.T) * (flat @ flat.T)).sum().clamp_min(torch.finfo(made.dtype).tiny).sqrt()
    whole = math.hypot(*map(length, observation.update.values()))
    return float((shares * made.norm(dim=1) * flat.norm(dim=1)).norm() / size) * length(observation.update[call.weight]) / whole


def _moves(given: Float[Tensor, " k *shape"], share: float) -> Iterator[Float[Tensor, " k *shape"]]:
    """Moves of every sample by this share of its length, along random ways."""
    lengths = given.flatten(1).norm(dim=1).reshape(-1, *[1] * (given.ndim - 1))
    yield from (share * lengths * way for way in _ways(given))


def _ways(given: Float[Tensor, " k *shape"]) -> Iterator[Float[Tensor, " *shape"]]:
    """Random ways in which samples are moved, of length one."""
    generator = Generator(given.device).manual_seed(0)
    for _ in range(DIRECTIONS):
        way = torch.randn(given.shape[1:], generator=generator, dtype=torch.float64, device=given.device)
        yield way / way.norm()


def _of_one_way(observation: Observation, inputs: Tensor, labels: Tensor, columns: Float[Tensor, "k m"]) -> Bool[Tensor, " k"]:
    """Whether all that other labels would make of a sample's column is a multiple of it."""
    others = [columns_of(observation, inputs, (labels + step) % observation.classes) for step in (1, 2)]
    ways = torch.stack([normalize(way, dim=1) for way in (columns, *others) if way is not None], dim=1)
    return (torch.linalg.svdvals(ways.nan_to_num(0.0)) > VISIBLE).sum(dim=1) <= 1


def _turning(observation: Observation, inputs: Tensor, labels: Tensor, columns: Float[Tensor, "k m"], first: str) -> Float[Tensor, " k"]:
    """γ of every sample: what a random way shows, beside it what the layer's least weighted number has."""
    weight = dict(observation.model.named_parameters())[first].detach().norm(dim=0).double()
    share = weight.min() / weight.square().mean().sqrt()
    around = (_slope(observation, inputs, labels, columns) * share).nan_to_num(0.0)
    return around.minimum(_bending(observation, inputs, labels, columns, first))


def _bending(observation: Observation, inputs: Tensor, labels: Tensor, columns: Float[Tensor, "k m"], first: str) -> Float[Tensor, " k"]:
    """γ of each sample for two that differ in length alone: half of what (1 + s) d(x + s x) bends by as s grows, and d, by the bias.

    Behind a layer norm d shrinks as x grows, and the bias alone tells them.
    """
    exact, lengths = inputs.double(), inputs.double().flatten(1).norm(dim=1)
    bias = next((call.bias for call in observation.layers if call.weight == first), None)
    told = 1 / lengths[:, None] if bias in observation.update else torch.zeros_like(lengths[:, None])

    def left(step: float) -> Tensor | None:
        """(k, 2 m) what the sample leaves of G along itself, and of the bias gradient beside it."""
        there = columns_of(observation, (1 + step) * exact, labels)
        return None if there is None else torch.cat([(1 + step) * there, told * there], dim=1)

    here, longer, shorter = torch.cat([columns, told * columns], dim=1), left(GROWTH), left(-GROWTH)
    if longer is None or shorter is None:
        return torch.zeros_like(lengths)
    # One sample of another length takes up a part of that, and where the factor is not known, one that counts otherwise.
    taken = torch.stack([longer - shorter, *([here] if len(labels) == 1 and not observation.factor_known else [])], dim=2)
    bent = (longer + shorter - 2 * here)[:, :, None]
    bent = (bent - taken @ (torch.linalg.pinv(taken) @ bent))[:, :, 0]
    found = bent.norm(dim=1) / GROWTH**2 / 2 / columns.norm(dim=1)
    return found.where(found > NOTHING, 0.0).nan_to_num(0.0)


def _slope(observation: Observation, inputs: Tensor, labels: Tensor, columns: Float[Tensor, "k m"]) -> Float[Tensor, " k"]:
    """By how much each column turns along a random way, per relative length; 0 where that is nothing."""
    found = []
    for moved in _moves(inputs.double(), STEP):
        for sign in (1, -1):  # where one of them meets a kink, the other does not
            there = columns_of(observation, inputs.double() + sign * moved, labels)
            found.append(torch.zeros_like(columns[:, 0]) if there is None else (there - columns).norm(dim=1) / STEP / columns.norm(dim=1))
    slope = torch.stack(found).amin(dim=0)
    return slope.where(slope > NOTHING, 0.0)
