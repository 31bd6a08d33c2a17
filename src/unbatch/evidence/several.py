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
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.accuracy import NOTHING, SAFETY, STEP
from unbatch.evidence.completeness import counts, counts_evenly, repeated
from unbatch.evidence.plain_means import plain_size
from unbatch.evidence.slopes import slopes_of
from unbatch.evidence.spaces import Space, spaces_of
from unbatch.evidence.turning import Around, of_one_way, slope, turning
from unbatch.linalg.blocks import length
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
    around = Around(observation, inputs, labels)
    several = _counted_as_several(observation, labels, weights, members, explained=explained)
    off = len(labels) <= ALL and _off_within(around, weights)
    if off and explained:
        several = torch.ones_like(several)
    if not bool(several.any()):
        found = _twins_of_all(around, weights, residual, space, explained=explained)
    elif explained:
        found = _hidden(around, weights, residual, several)
    else:
        # What the mean of two leaves wrong is a square of their distance, and is no more than the accuracy accounts for (seed 161474).
        hidden = torch.full_like(weights, torch.inf) if plain_size(weights) is not None else SAFETY * accuracy.sqrt()
        found = hidden.where(several, _twins_of_all(around, weights, residual, space, explained=False))
    if off and not (explained and counts_evenly(observation, labels)):
        found = found.maximum(SAFETY * accuracy.sqrt())
    found = found.maximum(_of_two(around, accuracy, members, explained=explained))
    if observation.batch_size is not None:
        return found
    pairs = _of_pairs(around)
    alike = pairs <= accuracy
    if explained and around.columns is not None:  # as each counts the same, each would have to be a pair
        alike = alike & (_together(around, around.columns, weights, pairs) <= SAFETY * residual)
    return found.where(~(_still(around, explained=explained) | alike), torch.inf)


def _counted_as_several(observation: Observation, labels: Tensor, weights: Tensor, members: int, *, explained: bool) -> Bool[Tensor, " k"]:
    """Which samples may stand for several, by what they count, and by how many members there are."""
    several = counts(observation, weights, labels, explained=explained) > MORE
    if observation.batch_size is not None:
        return several
    if members > len(labels):
        # Where fewer samples explain all of it, any may stand for two; elsewhere what counts more than one of so many members is several.
        several = several | explained | (observation.factor_known & counts_evenly(observation, labels) & (weights * members > MORE))
    return several


def _twins_of_all(around: Around, weights: Tensor, residual: float, space: Space | None, *, explained: bool) -> Float[Tensor, " k"]:
    """(k,) how far two members may be from each of samples that all count alike, where no size was told: as far, relatively, from one as
    from another. Where no more is left than rounding, what that hides, as such twins are believed to be one; 0 of a type that hides them in
    any case.

    Of some of a batch what is left is not known, but twins may leave as much as the noise: that is asked of a few samples alone. That each
    of many has as many twins is not believed (see the module), and under noise nothing would be proved without a batch size. But twins that
    differ in length alone leave one direction between them, and of the bias gradient a part outside of it: that is no noise, and is asked
    of many where the rest of the layer's gradient has none.
    """
    observation, labels, columns = around.observation, around.labels, around.columns
    rounding = max(torch.finfo(observation.rounding).eps, observation.resolution)
    if observation.batch_size is not None or observation.rounding != torch.float64:
        return torch.zeros_like(weights)
    every = torch.ones_like(labels, dtype=torch.bool)
    if explained and not residual <= ROUNDED * rounding:
        return _hidden(around, weights, residual, every).amin().expand_as(weights)
    if columns is None or around.first is None:
        return torch.zeros_like(weights)
    parts = _parts(around, columns, weights)
    if not explained:
        space = space or spaces_of(observation, [(around.first, around.bias)]).get(around.first)
        if space is None:
            return torch.zeros_like(weights)
        within = ROUNDED * rounding * float(space.core.norm())
        noise = max(space.noise, space.bias_noise * float(around.flat.norm(dim=1).amax()))
        if noise > within and (space.noise <= within or len(labels) <= ALL):
            return _apart(around, columns, space.weight, SAFETY * noise / parts).amin().expand_as(weights)
    share = SAFETY * torch.finfo(torch.float64).eps * parts.sum() / parts
    return _apart(around, columns, around.first, share).amin().clamp(max=BELIEVED).expand_as(weights)


def _of_two(around: Around, accuracy: Float[Tensor, " k"], members: int, *, explained: bool) -> Float[Tensor, " k"]:
    """(k,) how far two members may be from each of some samples, where all of these may stand for two: they leave no more than the accuracy
    accounts for. 0 where these explain the whole update, where what they count tells, or where there are too few members for that.
    """
    observation, labels = around.observation, around.labels
    number = members if observation.batch_size is None else observation.batch_size
    if explained or 2 * len(labels) > number or (observation.factor_known and counts_evenly(observation, labels)):
        return torch.zeros_like(accuracy)
    if around.columns is None or around.first is None:
        return SAFETY * accuracy.sqrt()
    return SAFETY * (accuracy / turning(around, around.columns, around.first).clamp(max=1)).sqrt()


def _hidden(around: Around, weights: Tensor, residual: float, several: Bool[Tensor, " k"]) -> Float[Tensor, " k"]:
    """The same of those that count several times, where all together explain the update."""
    none = torch.zeros_like(weights)
    if around.columns is None or around.first is None:
        return none.where(~several, torch.inf)
    columns, flat = around.columns.nan_to_num(0.0), around.flat  # of a class that counts nothing: 0 / 0
    parts, update = _parts(around, columns, weights), around.observation.update
    made, gradient = (weights[:, None] * columns).T, update[around.first]
    size = float((made @ flat).norm()) if gradient.numel() <= MOST else float(parts.sum())
    beside = math.hypot(*map(length, update.values())) / length(gradient)
    misfit = residual * beside
    if gradient.numel() <= MOST:  # noise has less in any one direction than in all
        there, here = gradient.double(), made @ flat
        left = there / there.norm() - here / size
        misfit = min(misfit, float(torch.linalg.matrix_norm(left, ord=2)))
    share = SAFETY * (misfit * size / parts).clamp_min(torch.finfo(torch.float64).eps)
    return _apart(around, columns, around.first, share).where(several, 0.0)


def _parts(around: Around, columns: Float[Tensor, "k m"], weights: Tensor) -> Float[Tensor, " k"]:
    """Length of what each sample leaves in the gradient of the layer that sees it."""
    return weights * columns.norm(dim=1) * around.flat.norm(dim=1)


def _apart(around: Around, columns: Float[Tensor, "k m"], first: str, share: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """How far two may be from each sample whose misfit may be this share of what it leaves."""
    turns = turning(around, columns, first)
    hidden = (share / turns).sqrt()
    taken_up = hidden.maximum(BY_CHANCE * share.sqrt() / turns)
    return torch.where(of_one_way(around, columns), taken_up, hidden).nan_to_num(torch.inf)


def _off_within(around: Around, weights: Tensor) -> bool:
    """Whether the gradient is off along the samples by far more than elsewhere, so that it is no noise, and by no more than a square of
    ``NEARBY``, as where others are missing.
    """
    observation, flat = around.observation, around.flat
    if around.columns is None or around.first is None or observation.update[around.first].numel() > MOST:
        return False
    gradient, spare = observation.update[around.first].double(), flat.shape[1] - len(flat)
    made = (weights[:, None] * around.columns.nan_to_num(0.0)).T @ flat
    rest = gradient / gradient.norm() - made / made.norm().clamp_min(torch.finfo(made.dtype).tiny)
    along = rest @ torch.linalg.qr(flat.T)[0]
    elsewhere = (rest.square().sum() - along.square().sum()).clamp_min(0)
    rounding = torch.finfo(observation.rounding).eps
    if spare <= 0 or float(rest.norm()) > NEARBY**2:
        return False
    return float(along.norm()) > FAR * max(float((elsewhere * len(flat) / spare).sqrt()), FAR * rounding)


def _still(around: Around, *, explained: bool) -> Bool[Tensor, " k"]:
    """(k,) whether a sample's column stays what it is as the sample moves: then it is the mean of any number of members of its region.

    So it is of a hinge, and of a network that is as sure as numbers are, and wrong. Nor does such a column tell the sample's length: of the
    losses with a name the layers behind do, where all is explained.
    """
    observation, labels = around.observation, around.labels
    nothing = torch.zeros_like(labels, dtype=torch.bool)
    if explained and isinstance(observation.loss, str):
        return nothing
    slopes = [slopes_of(observation, factor * around.outputs, labels) for factor in (1, 1 + STEP, 1 - STEP)]
    if around.columns is None or not all(
        bool(((other - slopes[0]).norm(dim=1) <= NOTHING * STEP * other.norm(dim=1)).any()) for other in slopes
    ):
        return nothing
    return slope(around, around.columns) == 0


def _of_pairs(around: Around) -> Float[Tensor, " k"]:
    """What each sample leaves wrong, as a share of what it leaves, if it is the mean of two members ``NEARBY`` to either side of it."""
    here, there = around.columns, around.moved(NEARBY)
    if here is None or there is None:
        return torch.zeros(len(around.labels), dtype=torch.float64, device=around.labels.device)
    found = []
    for ahead, behind in there:
        bent, turned = ((ahead + behind) / 2 - here).norm(dim=1), NEARBY * (ahead - behind).norm(dim=1) / 2
        found.append(torch.hypot(bent, turned) / here.norm(dim=1))
    return torch.stack(found).amin(dim=0).nan_to_num(0.0)


def _together(around: Around, columns: Float[Tensor, "k m"], weights: Tensor, shares: Float[Tensor, " k"]) -> float:
    """Length of what shares of what samples leave at the first layer, at random beside each other, as a share of the whole update."""
    if around.first is None:
        return 0.0
    made, flat, update = weights[:, None] * columns.nan_to_num(0.0), around.flat, around.observation.update
    size = ((made @ made.T) * (flat @ flat.T)).sum().clamp_min(torch.finfo(made.dtype).tiny).sqrt()
    whole = math.hypot(*map(length, update.values()))
    return float((shares * made.norm(dim=1) * flat.norm(dim=1)).norm() / size) * length(update[around.first]) / whole
