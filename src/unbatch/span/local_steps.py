"""Local training whose every step takes all samples (FedAvg): the same identity, with a sample's columns averaged along the way.

The difference of the weights of the first layer is Σ_i c_i x_iᵀ still, with c_i the mean of the sample's columns ∂ℓ/∂z over the steps: as
low in rank, and the bias's difference is Σ_i c_i. So all that changes is what must lie in the column space: the mean over the weights that
the client passed. These are not known, but the last ones are; between them the way is nearly straight. Samples found along the straight way
are near, the steps on them give a better way, the least squares along that nearer samples: each turn leaves a fraction of the error.
The layers behind the first move and are fed what moves: their gradients have no rank of b, and are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from unbatch.clock import Clock
from unbatch.errors import Inapplicable
from unbatch.gradients import capture
from unbatch.span.equations import Equations
from unbatch.span.least_squares import refine
from unbatch.span.network import MovingNetwork, Network, network_behind
from unbatch.span.problem import Found, Problem, across, entered, pose
from unbatch.span.search import Search
from unbatch.trace import LinearCall
from unbatch.training import LocalTraining
from unbatch.types import Observation, Progress

__all__ = ["followed", "obstacle", "straight"]

NODES = 6
"""At most so many weights stand for the way before the samples are known."""

ROUGH = (1e-3, 1e-2, 5e-2)
"""Residuals that a straight way is allowed, one after the other while samples are missing. Chosen."""

LOOSE = float("inf")
"""How far a sample may be off, as its residual bounds it, before the way is known."""

STILL, SLOW, HALF = 1e-13, 1e-9, 0.5
"""Samples that move by less than the first are at rest, to the rounding; by less than the second, where a turn no longer halves it.
Chosen."""

TURNS = 30
"""Of steps and least squares, at most."""


def obstacle(observation: Observation) -> str | None:
    """Why the way of the weights cannot be followed, or None."""
    local = observation.training
    if local is None or observation.one_gradient:
        return None
    if not local.whole(observation.batch_size):
        return "the client trained on parts of its data, and which sample was in which step is not known: every sample has a way of its own"
    if local.learning_rate is None or not observation.factor_known:
        return "the client took several steps of a size that is not known: without the learning rate their way cannot be followed"
    return None


def straight(observation: Observation, call: LinearCall, generator: Generator) -> Problem:
    """The problem along a straight way from the broadcast weights to the last ones, in as many steps as the client took.

    Raises:
        Inapplicable: see ``obstacle`` and ``problem.pose``.
    """
    local = _local(observation)
    if (reason := obstacle(observation)) is not None:
        raise Inapplicable(reason)
    if not call.raw:
        raise Inapplicable(f"what {call.weight} is fed moved while the client trained")
    problem = pose(observation, call, generator, alone=True)
    weights = local.weights(1)
    steps, size = len(weights), sum(weights)
    count = min(NODES, steps)
    nodes = [(i + 0.5) * steps / count - 0.5 for i in range(count)]
    difference = {name: (local.factor(1) or 0.0) * tensor.double() for name, tensor in observation.update.items()}
    passed = [_moved(observation.model, difference, node / steps) for node in nodes]
    shares = [weights[round(node)] / size for node in nodes]
    return _along(problem, observation, passed, [share / sum(shares) for share in shares])


def followed(observation: Observation, problem: Problem, classes: Tensor, generator: Generator, clock: Clock, progress: Progress) -> Search:
    """Search along the straight way, then take the steps on what was found and search along them, until nothing moves any more.

    Args:
        observation: what the server saw.
        problem: see ``straight``.
        classes: (c,) labels that samples may have.
        generator: of all randomness.
        clock: when to give up.
        progress: told how many samples are near.
    """
    found: Search | None = None
    for precision in ROUGH:
        rough = replace(problem, precision=precision)
        found = Search(rough, classes, observation.input_shape, generator, LOOSE)
        found.run(clock, progress, most=4)
        if not found.missing or clock.over:
            break
    if found is None or found.missing:
        return found or Search(problem, classes, observation.input_shape, generator)
    before = float("inf")
    for turn in range(TURNS):
        near, moved = _turn(observation, found, clock)
        found.found = near
        progress(f"turn {turn + 1} along the local steps: samples move by {moved:.0e}", float("nan"))
        if clock.over or moved < STILL or (moved < SLOW and moved > HALF * before):
            break
        before = moved
    return found


def _turn(observation: Observation, search: Search, clock: Clock) -> tuple[Found, float]:
    """Better samples from the steps on those that are known; and how far they moved, relatively."""
    problem, old = search.problem, search.found
    inputs = (old.points @ problem.factors.right).reshape(-1, *observation.input_shape)
    local = _local(observation)
    weights = local.weights(len(inputs))
    path = _along(problem, observation, _steps(observation, local, inputs, old.labels), [w / sum(weights) for w in weights])
    points, _ = refine(path.equations, old.points, old.labels, across(problem.sums), clock, steps=1)
    size = (old.points @ problem.factors.right).norm(dim=1)
    moved = float((((points - old.points) @ problem.factors.right).norm(dim=1) / size).max())
    return replace(old, points=points), moved


def _along(problem: Problem, observation: Observation, models: Sequence[nn.Module], shares: Sequence[float]) -> Problem:
    """The problem with columns averaged over some weights."""
    networks = [_network(observation, problem, model) for model in models]
    equations = Equations(MovingNetwork(tuple(networks), tuple(shares)), problem.equations.spaces[:1])
    return replace(problem, equations=equations, plans=(equations,))


def _network(observation: Observation, problem: Problem, model: nn.Module) -> Network:
    calls = entered(observation, problem.call)
    network = network_behind(model, calls, problem.factors.right, observation.input_shape, observation.loss)
    if network is None:
        raise Inapplicable(f"the model's scores depend on more than what {problem.call.weight} is fed: a path goes past it")
    return network


def _steps(observation: Observation, local: LocalTraining, inputs: Float[Tensor, " b *shape"], labels: Tensor) -> list[nn.Module]:
    """The model before every step on these samples."""
    moving = _moved(observation.model, {}, 0.0)
    passed, speed = [], {name: torch.zeros_like(p) for name, p in moving.named_parameters() if name in observation.update}
    for _ in range(local.steps(len(inputs))):
        passed.append(moving)
        gradient = capture(moving, inputs, labels, observation.loss, check=False)
        speed = {name: local.momentum * speed[name] + gradient[name] for name in speed}
        moving = _moved(moving, speed, local.learning_rate or 0.0)
    return passed


def _moved(model: nn.Module, difference: Mapping[str, Tensor], share: float) -> nn.Module:
    """A copy in float64 whose weights are lessened by a share of the difference."""
    with torch.no_grad():
        moved = copy.deepcopy(model).double()
        for name, parameter in moved.named_parameters():
            if name in difference:
                parameter.sub_(share * difference[name])
    return moved


def _local(observation: Observation) -> LocalTraining:
    if observation.training is None:
        raise Inapplicable("the update is no local training")
    return observation.training
