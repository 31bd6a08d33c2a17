"""A gradient whose rows are brought to one length: it shows weak samples beside strong ones, as a network that is sure of some has them.

Every number of a gradient is rounded beside the others of its row. Where all strong samples leave a neuron off, a weak one stands alone
in that neuron's row, and as exact as any, however little it leaves; in the gradient as it is, it drowns in the rounding of the other rows.
That rows are divided changes no zero of a column, and no input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import Clock
from unbatch.linalg.lowrank import factor
from unbatch.spear.candidate import Attempt
from unbatch.spear.problem import Problem, pose
from unbatch.spear.refinement import STRONG
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Observation

__all__ = ["evened_problems", "strong_refined", "surely_off"]

FAR = 1e-6
"""A row this much shorter than the longest may hold what the others drown. Chosen: rows of an untrained network differ by a thousand."""

LARGEST = 1 << 24
"""Numbers of a gradient from which on it is not copied for this. Chosen: 128 MiB."""

SURE = 1e-3
"""A neuron is off for a sample that was found roughly where it is below zero by this share of its usual size. Chosen."""


def evened_problems(observation: Observation, call: LinearCall, generator: Generator, clock: Clock) -> Iterator[Problem]:
    """The layer in the coordinates of its rows of one length, for every rank after which a clear gap follows, the largest first.

    Not one where all rows are about as long, so that nothing is gained.

    Args:
        observation: what the server saw: one gradient.
        call: the layer that sees the samples.
        generator: of random sums of columns.
        clock: when to give up.

    Raises:
        OutOfTime: the clock ran out.
    """
    gradient = observation.update[call.weight]
    lengths = _lengths(gradient)
    if lengths is None:
        return
    rows = gradient / lengths[:, None]
    for rank in factor(rows, generator, clock=clock).ranks:
        found = factor(rows, generator, rank, clock)
        if found.clear:
            yield from pose(observation, call, None, replace(found, ranks=(rank,), lengths=lengths), None, generator, clock)


def _lengths(gradient: Float[Tensor, "m n"]) -> Float[Tensor, " m"] | None:
    """Of the rows, one of those that are zero; None where they are not far from each other."""
    if gradient.dtype != torch.float64 or gradient.numel() > LARGEST:
        return None
    lengths: Tensor = torch.linalg.vector_norm(gradient, dim=1)
    there = lengths[lengths > 0]
    if not len(there) or float(there.min()) > FAR * float(there.max()):
        return None
    return lengths.where(lengths > 0, 1.0)


def surely_off(observation: Observation, problem: Problem, inputs: Float[Tensor, " k *shape"]) -> Bool[Tensor, "k m"]:
    """Which of a problem's neurons samples leave off that are known at least roughly."""
    parameters, call = dict(observation.model.named_parameters()), problem.call
    weight, bias = (parameters[str(name)].detach().double()[problem.alive] for name in (call.weight, call.bias))
    z = inputs.double().flatten(1) @ weight.T + bias
    return z < -SURE * z.square().mean(dim=1, keepdim=True).sqrt()


def strong_refined(observation: Observation, attempt: Attempt, candidate: Candidate) -> Candidate:
    """The candidate with its strong samples as the gradient as it is tells them.

    There what the columns of weak samples are off by, of which only a few rows tell, weighs as little as these do.

    Args:
        observation: what the server saw.
        attempt: all samples, in rows of one length.
        candidate: what was read out of it.
    """
    problem, inputs = attempt.problem, candidate.inputs
    if inputs is None or problem.factors.lengths is None:
        return candidate
    columns = attempt.columns * problem.factors.lengths[:, None]
    sizes = torch.linalg.vector_norm(columns, dim=0)
    sums = observation.update[str(problem.call.bias)].double()[:, None]
    whole = torch.cat([observation.update[problem.call.weight].double(), sums], dim=1)
    solved = torch.linalg.lstsq(columns / sizes, whole).solution
    refined = (solved[:, :-1] / solved[:, -1:]).reshape(inputs.shape)
    strong = (sizes > STRONG * sizes.max()).reshape(-1, *[1] * (inputs.ndim - 1))
    return replace(candidate, inputs=torch.where(strong, refined, inputs))
