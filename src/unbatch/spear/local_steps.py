"""SPEAR under local training (FedAvg): what a sample's column is when the weights move, and in which step it was used.

The difference of the weights is Σ_i c_i x_iᵀ still, with c_i the sum of the sample's columns over the steps that it took part in: as low in
rank, and zero wherever the neuron was off in all of those steps. The samples come out as exactly as from a gradient. Labels and the
order of the steps are told by the columns: in the first step they are those at the broadcast weights.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unbatch.gradients import sensitivities
from unbatch.training import LocalTraining, train
from unbatch.types import Observation

__all__ = ["follow_steps", "sensitivities_along"]


def sensitivities_along(
    observation: Observation,
    inputs: Float[Tensor, " b *shape"],
    weight: str,
    z: Float[Tensor, "b m"],
    classes: Int64[Tensor, " c"] | None = None,
) -> Float[Tensor, "c b m"]:
    """``gradients.sensitivities``; after local training the mean of those before and after it, where the server knows the way.

    Args:
        observation: what the server saw.
        inputs: (b, *shape).
        weight: name of the layer's weight.
        z: (b, m) what the layer makes of the inputs, before local training.
        classes: (c,) those that are asked for; None for all.
    """
    before = sensitivities(observation.model, inputs, weight, observation.loss, z, classes)
    local = observation.training
    factor = None if local is None else local.factor(observation.batch_size)
    if observation.one_gradient or factor is None or not observation.factor_known:
        return before
    after = _moved_by(observation.model, {name: factor * tensor.double() for name, tensor in observation.update.items()})
    return (before + sensitivities(after, inputs, weight, observation.loss, classes=classes)) / 2


def _moved_by(model: nn.Module, difference: dict[str, Tensor]) -> nn.Module:
    """The model in float64 with its weights lessened by the difference."""
    moved = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            if name in difference:
                parameter.sub_(difference[name])
    return moved


def follow_steps(
    observation: Observation,
    weight: str,
    inputs: Float[Tensor, " b *shape"],
    labels: Int64[Tensor, " b"],
    columns: Float[Tensor, "m b"],
) -> tuple[Int64[Tensor, " b"], Int64[Tensor, "1 b"] | None]:
    """Labels and order of the samples in one epoch of small steps: each step's columns are exact at the weights that it started from.

    Args:
        observation: what the server saw.
        weight: of the layer that was inverted.
        inputs: (b, *shape) its samples.
        labels: (b,) as told by the columns at large.
        columns: (m, b) of the samples.

    Returns:
        the labels, and (1, b) the order; as given, and None, where the steps cannot be followed: several epochs, or all samples at once.
    """
    local, count = observation.training, len(inputs)
    if local is None or local.epochs > 1 or local.whole(count):
        return labels, None
    labels, order = labels.clone(), torch.empty(0, dtype=torch.int64, device=inputs.device)
    model = copy.deepcopy(observation.model).double()
    inputs, columns, rate = inputs.double(), columns.T, local.learning_rate
    for step, part in enumerate(local.parts(count)):
        known = None if rate is None or not len(order) else replace(local, learning_rate=rate)
        moved = model if known is None else _after(model, inputs, labels, known, order, observation)
        expected = sensitivities(moved, inputs, weight, observation.loss)
        shares = (expected * columns).sum(dim=-1) / expected.square().sum(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
        distance = (columns - shares[..., None] * expected).norm(dim=-1) / columns.norm(dim=1)
        rest, guess = distance.where(shares > 0, torch.inf).min(dim=0)
        rest[order] = torch.inf
        used = rest.argsort()[: part.stop - part.start]
        labels[used], order = guess[used], torch.cat([order, used])
        if rate is None:
            share = float(shares[guess[used], used].median())
            rate = share * len(used) / local.weight(step, count)
    return labels, order[None]


def _after(model: nn.Module, inputs: Tensor, labels: Tensor, local: LocalTraining, order: Tensor, observation: Observation) -> nn.Module:
    """The model after the steps on these samples, in this order."""
    return _moved_by(model, train(model, inputs[order], labels[order], local, torch.arange(len(order))[None], observation.loss))
