"""SPEAR's shallow setting: the layer is followed by the output layer alone, whose gradient then tells far more.

Not a plug-in: ``spear`` calls it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from unbatch.clock import Clock
from unbatch.linalg.lowrank import Factors, multiply
from unbatch.spear.shallow.recovery import recover
from unbatch.spear.shallow.two_layer import TwoLayer
from unbatch.trace import LinearCall, run
from unbatch.types import Candidate, Observation, Progress

__all__ = ["invert_shallow"]


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
    if reader is None or not _is_shallow(observation, call, reader, factors):
        return None
    basis = torch.linalg.qr(factors.right.T)[0].T
    problem = _problem(observation, call, reader, basis)
    try:
        found = recover(problem, generator, clock, progress)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # the output layer's rows depend on each other: the ordinary search asks less
        return None
    stats: dict[str, Any] = {
        "layer": call.weight,
        "width": len(factors.left),
        "rank": factors.rank,
        "gap": factors.gap,
        "search": "shallow",
        "found by": found.tools,
        "certificate": float(found.certificates.max()) if len(found.samples) else None,
    }
    reason = f"{len(found.samples)} of {problem.rank} samples found and certified" if found.missing else ""
    if not len(found.samples):
        return Candidate(reason=reason, exhausted=True, stats=stats)
    inputs = (found.samples @ basis).reshape(-1, *observation.input_shape)
    partial = found.missing > 0
    return Candidate(inputs, found.labels, reason=reason, exhausted=partial, stats=stats)


def _is_shallow(observation: Observation, call: LinearCall, reader: LinearCall, factors: Factors) -> bool:
    """Whether the model is input, ``call``, ReLU, ``reader``, softmax, and the update as exact as the search needs."""
    update = observation.update
    if not call.raw or call.bias not in update or reader.weight not in update or reader.bias not in update:
        return False
    # With repeated samples the rank is smaller than the batch; e is then not (softmax − onehot) / b.
    if observation.batch_size not in (None, factors.rank) or not factors.clear:
        return False
    if observation.loss != "cross_entropy" or observation.dtype != torch.float64:
        return False
    noise = torch.randn((2, *observation.input_shape), generator=Generator().manual_seed(0), dtype=torch.float64)
    trial = run(observation.model, noise.to(observation.device))
    return len(trial.linears) == 2 and torch.equal(trial.outputs, trial.linears[1].output)


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
        basis.shape[0],
    )
