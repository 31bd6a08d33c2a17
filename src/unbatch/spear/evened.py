"""Samples found again in a gradient whose rows were brought to one length: the weak ones beside strong ones, as a sure network has them.

Every number of a gradient is rounded beside the others of its row. Where all strong samples leave a neuron off, a weak one stands alone
in that neuron's row, and as exact as any, however little it leaves; in the gradient as it is it drowns in the rounding of the other rows.
That rows are divided changes no zero of a column, and no input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import Clock, OutOfTime
from unbatch.linalg.lowrank import Factors, factor
from unbatch.spear.candidate import Attempt, read_out
from unbatch.spear.layer import Layer
from unbatch.spear.problem import Problem, pose
from unbatch.spear.refinement import polished
from unbatch.spear.search import Search
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Observation, Progress

__all__ = ["found_again"]

FAR = 1e-6
"""A row this much shorter than the longest may hold what the others drown. Chosen: rows of an untrained network differ by a thousand."""

LARGEST = 1 << 24
"""Numbers of a gradient from which on it is not copied for this. Chosen: 128 MiB."""

SURE = 1e-3
"""A neuron is off for a sample that was found roughly where it is below zero by this share of its usual size. Chosen."""

FITS = 0.99
"""Share of the signs of W x + bias that each sample must fit. Chosen: noise is not quite the same in every row."""


def found_again(
    observation: Observation,
    call: LinearCall,
    known: Candidate,
    search_of: Callable[[Layer, Generator], Search],
    generator: Generator,
    clock: Clock,
    progress: Progress,
) -> Candidate | None:
    """All samples that leave more than rounding in some row; None where they do not fit, or no row is so short that more may be there.

    Args:
        observation: what the server saw: one gradient.
        call: the layer that sees the samples.
        known: what was found so far, at least roughly.
        search_of: makes the search of a layer.
        generator: of all randomness.
        clock: when to give up.
        progress: told how many are found.
    """
    lengths = _lengths(observation.update[call.weight])
    if lengths is None:
        return None
    try:
        for problem in _problems(observation, call, lengths, generator, clock):
            search = search_of(problem.layer, generator)
            if known.inputs is not None:
                search.begin(_off(observation, problem, known.inputs))
            solution = search.run(clock, progress)
            if not solution.missing and float(solution.agreement.min()) > FITS:
                told = {"layer": call.weight, "rank": problem.factors.rank, "gap": problem.factors.gap, "rows": "of one length"}
                made = read_out(observation, Attempt(problem, solution, True, "", told), problem.factors.rank, progress)
                return polished(observation, call, made)
    except OutOfTime:
        pass
    return None


def _lengths(gradient: Float[Tensor, "m n"]) -> Float[Tensor, " m"] | None:
    """Of the rows, one of those without any; None where they are not far from each other."""
    if gradient.dtype != torch.float64 or gradient.numel() > LARGEST:
        return None
    lengths: Tensor = torch.linalg.vector_norm(gradient, dim=1)
    there = lengths[lengths > 0]
    if not len(there) or float(there.min()) > FAR * float(there.max()):
        return None
    return lengths.where(lengths > 0, 1.0)


def _problems(
    observation: Observation, call: LinearCall, lengths: Float[Tensor, " m"], generator: Generator, clock: Clock
) -> Iterator[Problem]:
    """The layer in the coordinates of the rows' factors, for every rank after which a clear gap follows: the largest first."""
    rows = observation.update[call.weight] / lengths[:, None]
    for rank in factor(rows, generator, clock=clock).ranks:
        found = factor(rows, generator, rank, clock)
        if found.clear:
            yield from pose(observation, call, None, replace(found, ranks=(rank,), lengths=lengths), None, generator, clock)


def _off(observation: Observation, problem: Problem, inputs: Tensor) -> Bool[Tensor, "k m"]:
    """Which neurons samples surely leave off."""
    parameters, call = dict(observation.model.named_parameters()), problem.call
    weight, bias = (parameters[str(name)].detach().double()[problem.alive] for name in (call.weight, call.bias))
    z = inputs.double().flatten(1) @ weight.T + bias
    return z < -SURE * z.square().mean(dim=1, keepdim=True).sqrt()
