"""Whether a guessed batch is the observed one: compute the update that it would have caused, and compare."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unbatch.gradients import Replay, compare, replay
from unbatch.linalg.completion import is_pruned
from unbatch.training import LocalTraining, train
from unbatch.types import Observation

__all__ = ["Proof", "prove"]

PRUNED = "the update was pruned, and is compared where it is not zero; elsewhere the replay must have nothing that would have been sent"

NEAR = 0.1
"""A replay this near to the update may miss it by single neurons at the kink of their ReLU."""


@dataclass(frozen=True)
class Proof:
    """What the replay of a guess gave.

    Attributes:
        residual: ‖replayed − observed‖ / ‖observed‖.
        holds: whether that is rounding, in all tensors together and in each alone.
        remark: what a reader must know about it, or empty.
        untraced: how many more samples the batch held that left no trace in the update.
    """

    residual: float
    holds: bool
    remark: str = ""
    untraced: int = 0


def prove(
    observation: Observation, inputs: Tensor, labels: Tensor, limit: float, weights: Tensor | None = None, order: Tensor | None = None
) -> Proof:
    """Replay a guess as the client would have computed it.

    Args:
        observation: what the server saw.
        inputs: (k, *shape) the guess.
        labels: (k,) its labels.
        limit: residual that counts as rounding; a single tensor may have 100 times that.
        weights: (k,) what each sample's gradient counts, tried where equal shares do not give the update.
        order: (E, k) the order of the samples in the local epochs, where it is known.
    """
    if observation.training is not None and not observation.one_gradient:
        return _after_training(observation, observation.training, inputs, labels, limit, weights, order)

    proof = _of_gradient(observation, inputs, labels, limit, weights, pruned=False)
    if proof.holds or not any(tensor.ndim > 1 and is_pruned(tensor.flatten(1)) for tensor in observation.update.values()):
        return proof
    sparse = _of_gradient(observation, inputs, labels, limit, weights, pruned=True)
    return replace(sparse, remark=sparse.remark or PRUNED) if sparse.residual < proof.residual else proof


def _of_gradient(observation: Observation, inputs: Tensor, labels: Tensor, limit: float, weights: Tensor | None, *, pruned: bool) -> Proof:
    def at(x: Tensor) -> Replay:
        free = not observation.factor_known
        return replay(observation.model, observation.update, x, labels, observation.loss, scale_free=free, pruned=pruned)

    even = _at_kinks(at, inputs, at(inputs), limit, observation.rounding)
    if _holds(even, limit) or weights is None:
        return Proof(even.residual, _holds(even, limit))
    own = replay(observation.model, observation.update, inputs, labels, observation.loss, weights, pruned=pruned)
    if not _holds(own, limit):
        return Proof(min(even.residual, own.residual), False)
    if observation.factor_known and (untraced := _untraced(weights)):
        remark = f"{untraced} more samples of the batch left no trace in the update: the network is sure of them to the last digit"
        return Proof(own.residual, True, remark, untraced)
    low, high = float(weights.min() / weights.mean()), float(weights.max() / weights.mean())
    return Proof(own.residual, True, f"the samples count differently, from {low:.2g} to {high:.2g} of an even share: clipped or weighted")


def _untraced(weights: Tensor) -> int:
    """How many samples are missing in a mean of which these are the weights: all equal to one over a whole number larger than theirs.

    At most as many as there are: with more, almost any factor would be near to one over a whole number.
    """
    size = round(1 / float(weights.median()))
    missing = size - len(weights)
    return missing if 0 < missing <= len(weights) and bool(((weights * size - 1).abs() < 1e-4).all()) else 0


def _holds(result: Replay, limit: float) -> bool:
    return result.residual <= limit and result.worst <= 100 * limit


def _at_kinks(
    at: Callable[[Tensor], Replay], inputs: Tensor, result: Replay, limit: float, rounding: torch.dtype, tries: int = 16
) -> Replay:
    """The replay of the guess, or of one that differs by the rounding of the update, where that comes nearer.

    A ReLU whose input is zero to rounding was on or off by chance at the client; both guesses are the same sample to the accuracy that
    the update has, and which of them replays is found by trying.
    """
    step = 10 * torch.finfo(rounding).eps
    if rounding is torch.float64 or result.residual > NEAR:
        return result
    generator = torch.Generator(inputs.device).manual_seed(0)
    size = step * inputs.flatten(1).square().mean(dim=1).sqrt().view(-1, *[1] * (inputs.ndim - 1))
    for attempt in range(tries):
        if _holds(result, limit):
            break
        moved = torch.rand(len(inputs), generator=generator, device=inputs.device) < (1.0 if attempt == 0 else 0.3)
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
        tried = inputs + noise * size * moved.view_as(size)
        if (other := at(tried)).residual < result.residual:
            inputs, result = tried, other
    return result


def _after_training(
    observation: Observation,
    local: LocalTraining,
    inputs: Tensor,
    labels: Tensor,
    limit: float,
    weights: Tensor | None,
    order: Tensor | None,
) -> Proof:
    count = len(inputs)
    known = order is not None or local.whole(count)
    if order is None:
        order = torch.arange(count, device=inputs.device).expand(local.epochs, count)
    model = copy.deepcopy(observation.model).double()
    inputs = inputs.double()

    def moved(rate: float) -> dict[str, Tensor]:
        """The update of training at this rate, in the observation's scale."""
        at_rate = replace(local, learning_rate=rate)
        factor = local.factor(count) or 1.0
        return {name: tensor / factor for name, tensor in train(model, inputs, labels, at_rate, order, observation.loss).items()}

    remark = ""
    if local.learning_rate is None:
        rate = _rate(observation, moved, 1.0 if weights is None else float(weights.sum()) / local.total(count))
        replayed, remark = moved(rate), f"the learning rate was found to be {rate:.6g}"
    else:
        replayed = moved(local.learning_rate)
        if not observation.factor_known:
            factor = _alignment(observation, replayed)
            replayed = {name: factor * tensor for name, tensor in replayed.items()}
    result = compare(observation.update, replayed)
    if not known:
        remark = "the order of the samples in the local steps is not known, which bounds how near a replay can come"
    return Proof(result.residual, known and _holds(result, limit), remark)


def _rate(observation: Observation, moved: Callable[[float], dict[str, Tensor]], start: float, rounds: int = 8) -> float:
    """The learning rate that explains the size of the difference, by fixed-point iteration: the difference is nearly linear in it."""
    rate = start
    for _ in range(rounds):
        step = _alignment(observation, moved(rate))
        if not 0 < step < float("inf"):
            break
        rate *= step
    return rate


def _alignment(observation: Observation, replayed: dict[str, Tensor]) -> float:
    """The factor that brings the replayed update nearest to the observed one."""
    aligned = sum(float((observation.update[name].double() * tensor).sum()) for name, tensor in replayed.items())
    size = sum(float(tensor.square().sum()) for tensor in replayed.values())
    return aligned / size if size else 0.0
