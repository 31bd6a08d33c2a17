"""SPEAR's shallow setting: the layer is followed by the output layer alone, whose gradient then tells far more.

Not a plug-in: ``spear`` calls it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from unbatch.clock import Clock
from unbatch.linalg.lowrank import Factors, multiply, row_space
from unbatch.spear.shallow.peeling import batch_of
from unbatch.spear.shallow.recovery import recover
from unbatch.spear.shallow.two_layer import TwoLayer
from unbatch.trace import LinearCall, run
from unbatch.types import Candidate, Observation, Progress

__all__ = ["invert_shallow"]

ROUNDING = 3e-14
"""A direction of the inputs' span is there when its singular value is above this share of the largest. Derived: 140 roundings of
float64."""

SPANNED = 4000
"""Gradients with more rows and columns than this are spanned by their factors, which takes less."""


def invert_shallow(
    observation: Observation,
    call: LinearCall,
    reader: LinearCall | None,
    factors: Factors,
    generator: Generator,
    clock: Clock,
    progress: Progress,
) -> Candidate | None:
    """Recover the batch from the first layer and the output layer behind it; None where the setting is another one.

    Args:
        observation: what the server saw.
        call: the Linear + ReLU layer that sees the raw input.
        reader: the Linear layer that reads its activations, if any.
        factors: of the gradient of ``call``'s weight.
        generator: of the search.
        clock: when to end with what is known.
        progress: told how many samples are known.
    """
    if reader is None or not _is_shallow(observation, call, reader):
        return None
    basis = _span(observation.update[call.weight], factors, generator, clock)
    if basis is None:
        return None
    problem = _problem(observation, call, reader, basis)
    problem = replace(problem, batch=_batch_size(observation, problem, factors))
    try:
        found = recover(problem, generator, clock, progress)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # the output layer's rows depend on each other: the ordinary search asks less
        return None
    known = len(found.samples)
    stats: dict[str, Any] = {
        "layer": call.weight,
        "width": len(factors.left),
        "rank": factors.rank,
        "gap": factors.gap,
        "search": "shallow",
        "found by": found.tools,
        "batch size": problem.batch,
        "visible": found.visible,
        "found": known,
        "accuracy": float(found.doubt.max()) if known else None,
    }
    reason = f"{known} of {found.visible} samples found that are above the update's rounding" if known < found.visible else ""
    if not reason and known < round(problem.batch):
        reason = f"{round(problem.batch) - known} more samples left so little in the update that they cannot be told from rounding"
    if not known:
        return Candidate(reason=reason, exhausted=True, stats=stats)
    inputs = (found.samples @ basis).reshape(-1, *observation.input_shape)
    return Candidate(inputs, found.labels, reason=reason, exhausted=known < round(problem.batch), stats=stats)


def _is_shallow(observation: Observation, call: LinearCall, reader: LinearCall) -> bool:
    """Whether the model is input, ``call``, ReLU, ``reader``, softmax, and the update as exact as the search needs."""
    update = observation.update
    if not call.raw or call.bias not in update or reader.weight not in update or reader.bias not in update:
        return False
    if observation.loss != "cross_entropy" or observation.dtype != torch.float64:
        return False
    if update[reader.weight].shape[0] > update[reader.weight].shape[1]:  # fewer neurons than classes do not tell what the classes got
        return False
    if len(observation.layers) != 2:
        return False
    noise = torch.randn((2, *observation.input_shape), generator=Generator().manual_seed(0), dtype=torch.float64)
    trial = run(observation.model, noise.to(observation.device))
    return len(trial.linears) == 2 and torch.equal(trial.outputs, trial.linears[1].output)


def _span(gradient: Tensor, factors: Factors, generator: Generator, clock: Clock) -> Tensor | None:
    """Orthonormal rows that span all inputs that the gradient shows, however small their part: its rows are scaled to one length.

    None where no row is large enough to be scaled.

    The last gap of the gradient itself would leave out samples of which the network is nearly sure.
    """
    length = gradient.norm(dim=1)
    alive = length > torch.finfo(length.dtype).tiny * gradient.shape[1]
    if min(gradient.shape) > SPANNED:
        return torch.linalg.qr(factors.right.T)[0].T
    clock.check()
    if not bool(alive.any()):
        return None
    return row_space(gradient[alive] / length[alive, None], ROUNDING, factors.rank, generator)


def _batch_size(observation: Observation, problem: TwoLayer, factors: Factors) -> float:
    """What the samples' gradients were divided by: as rows tell it, as it was told, or the gradient's rank."""
    shown = batch_of(problem)
    if shown is not None and (observation.batch_size is None or not observation.factor_known):
        return shown
    return float(observation.batch_size or factors.rank)


def _problem(observation: Observation, call: LinearCall, reader: LinearCall, basis: Tensor) -> TwoLayer:
    parameters = {name: tensor.detach() for name, tensor in observation.model.named_parameters()}
    update = observation.update
    return TwoLayer(
        multiply(update[call.weight], basis),
        update[str(call.bias)].double(),
        update[reader.weight].double(),
        update[str(reader.bias)].double(),
        multiply(parameters[call.weight], basis),
        parameters[str(call.bias)].double(),
        parameters[reader.weight].double(),
        parameters[str(reader.bias)].double(),
        float(basis.shape[0]),
    )
