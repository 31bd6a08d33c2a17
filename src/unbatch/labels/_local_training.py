"""Local training as label restorers see it: the update is the average gradient along the way that the weights went.

The identities of ``last_layer`` hold at every step, so they hold for the averages over the steps, with the mean probability along the way
in place of the batch's: n = K (mean p along the way − g). The server knows both ends of the way; it is taken to be straight (in the spirit
of Dimitrov, Balunović, Konstantinov, Vechev, "Data Leakage in Federated Averaging", TMLR 2022), but not to be gone at one speed: gradients
shrink as the probabilities approach the shares of the classes.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unbatch.linalg.simplex import onto_simplex
from unbatch.types import Observation

__all__ = ["along", "average_position", "halfway", "steps", "told", "unevenness", "way_average"]

KNOTS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
"""Places on the way, from the broadcast weights to the final ones, at which probabilities are looked at. Chosen."""

MANY = 10_000
"""Steps that are told from each other; of more only the number counts."""

SLOWEST = 0.1
"""Speed on the way that is not gone below, as a share of the average speed. Chosen. Swept."""


def along(observation: Observation) -> list[Observation]:
    """The same update as one gradient of the model at every knot of its way; itself alone if it is one gradient.

    Where the server does not know how far the weights went, the model stays where it was.
    """
    if observation.one_gradient:
        return [observation]
    length = _moved_by(observation)
    if length is None:
        return [replace(observation, training=None)]
    return [_at(observation, length * knot) for knot in KNOTS]


def halfway(observation: Observation) -> Observation:
    """The same update as one gradient of the model at its average position on a way gone at one speed."""
    if observation.one_gradient:
        return observation
    length = _moved_by(observation)
    return _at(observation, 0.0 if length is None else length * average_position(observation))


def steps(observation: Observation) -> int | None:
    """How many local steps, or None if the server cannot tell."""
    local, total = observation.training, observation.batch_size
    if local is None:
        return 1
    return None if total is None and local.batch_size is not None else local.steps(total or 1)


def told(observation: Observation) -> dict[str, Any]:
    """What a reader of the counts must know of local training, as ``reason`` and ``stats`` of an estimate. Empty for a single gradient."""
    if observation.one_gradient:
        return {}
    count = steps(observation)
    sentence = f"the update is an average over {count or 'several'} local steps of a changing model: counts read from it are less certain"
    return {"reason": sentence, "stats": {"local_steps": count}}


def unevenness(observation: Observation) -> float:
    """Deviation of what a sample counts in the update, as a share of the mean: small last steps and momentum make some count more."""
    local, total, count = observation.training, observation.batch_size, steps(observation)
    if local is None or total is None or count is None or observation.one_gradient:
        return 0.0
    size = min(local.batch_size or total, total)
    number = count // local.epochs
    last = total - (number - 1) * size
    if count > MANY:  # momentum is lost among so many steps: all full steps are equal
        each = [((number - 1) * size, 1 / size), (last, 1 / last)]
        return float((local.epochs * _variance(each)) ** 0.5 * total / count)
    variance = 0.0
    for epoch in range(local.epochs):
        sizes = [size] * (number - 1) + [last]
        variance += _variance([(n, local.weight(epoch * number + step, total) / n) for step, n in enumerate(sizes)])
    return float(variance**0.5 * total / local.total(total))


def _variance(values: list[tuple[int, float]]) -> float:
    """Of values that occur so often."""
    number = sum(times for times, _ in values)
    mean = sum(times * value for times, value in values) / number
    return sum(times * (value - mean) ** 2 for times, value in values) / number


def average_position(observation: Observation) -> float:
    """Where on its way the average gradient was taken, from 0 to 1, if all gradients were equal: before the middle, where steps start."""
    local, count = observation.training, steps(observation)
    if local is None or count is None or count > MANY:
        return 0.5
    weights = [local.weight(step, observation.batch_size or 1) for step in range(count)]
    position = passed = 0.0
    for weight, speed in zip(weights, reversed(weights), strict=True):
        position, passed = position + weight * passed, passed + speed
    return position / (sum(weights) * passed)


def way_average(
    probabilities: Float[Tensor, "k c"], shift: Float[Tensor, " c"], count: int | None, rounds: int = 60, most: int = 200
) -> Float[Tensor, " c"]:
    """The mean probability that the steps saw on average.

    The speed at a place is that part of its gradient, mean p − n/K, which points along the average one. The shares n/K follow from the
    average, and the average from the speeds: they take turns.

    Args:
        probabilities: (k, C) mean probability at the knots.
        shift: (C,) g, the average of mean p − n/K.
        count: steps, many if None.
        rounds: of taking turns.
        most: places that stand for more steps.
    """
    knots = shift.new_tensor(KNOTS)
    number = min(count or most, most)
    starts = torch.arange(number, dtype=shift.dtype, device=shift.device) / number
    shares = onto_simplex(probabilities[len(KNOTS) // 2] - shift, 1.0)
    average = probabilities[0]
    for _ in range(rounds):
        speed = ((probabilities - shares) @ shift / shift.square().sum()).clamp_min(SLOWEST)
        taken = (1 / speed[1:] + 1 / speed[:-1]) / 2 * knots.diff()
        clock = torch.cat([taken.new_zeros(1), taken.cumsum(0) / taken.sum()])
        after = torch.searchsorted(clock, starts, right=True).clamp(1, len(KNOTS) - 1)
        part = ((starts - clock[after - 1]) / (clock[after] - clock[after - 1])).clamp(0, 1)[:, None]
        average = ((1 - part) * probabilities[after - 1] + part * probabilities[after]).mean(dim=0)
        shares = (shares + onto_simplex(average - shift, 1.0)) / 2
    return average


def _moved_by(observation: Observation) -> float | None:
    """The factor that makes the update the difference of the weights; None where the server does not know it."""
    local = observation.training
    if local is None:
        return None
    factor = local.factor(observation.batch_size)
    if factor is None:
        return 1.0  # the update is the difference as it came
    return factor if observation.factor_known else None


def _at(observation: Observation, share: float) -> Observation:
    """The same update as one gradient of a copy of the model, with its weights lessened by a share of the update."""
    return replace(observation, model=_displaced(observation, share) if share else observation.model, training=None)


def _displaced(observation: Observation, share: float) -> nn.Module:
    with torch.no_grad():
        model = copy.deepcopy(observation.model)
        for name, parameter in model.named_parameters():
            if name in observation.update:
                parameter.sub_((share * observation.update[name].double()).to(parameter))
    return model
