"""A gradient whose rows are brought to one length: it shows weak samples beside strong ones, as a network that is sure of some has them.

Every number of a gradient is rounded beside the others of its row. Where all strong samples leave a neuron off, a weak one stands alone
in that neuron's row, and as exact as any, however little it leaves; in the gradient as it is, it drowns in the rounding of the other rows.
That rows are divided changes no zero of a column, and no input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import Clock, OutOfTime
from unbatch.linalg.complement import complement
from unbatch.linalg.lowrank import factor
from unbatch.linalg.rows import FAR, lengths_of_uneven
from unbatch.spear.alone import SAME, merged
from unbatch.spear.candidate import Attempt, read_out
from unbatch.spear.layer import Layer
from unbatch.spear.patterns import whole_by_patterns
from unbatch.spear.problem import Problem, pose
from unbatch.spear.refinement import HALF, STRONG, misfit, polished
from unbatch.spear.rounding import null_of_masks
from unbatch.spear.search import AGREE
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Observation, Progress

__all__ = ["evened_problems", "found_again", "known_directions"]

SURE = 1e-3
"""A neuron is off for a sample that was found roughly where it is below zero by this share of its usual size. Chosen."""


def found_again(
    observation: Observation,
    call: LinearCall,
    known: Candidate,
    attempt_of: Callable[[Problem, Candidate], Attempt],
    generator: Generator,
    clock: Clock,
    progress: Progress,
    *,
    uneven: bool,
) -> Candidate | None:
    """All samples, where rows of one length show more of them than the gradient as it is; None where not all of these fit.

    Args:
        observation: what the server saw: one gradient.
        call: the layer that sees the samples.
        known: what was found so far, at least roughly.
        attempt_of: searches a problem, from what is known on.
        generator: of random sums of columns.
        clock: when to give up.
        progress: told what goes on.
        uneven: whether the gradient has faint directions.
    """
    with suppress(OutOfTime):
        problems = list(evened_problems(observation, call, generator, clock, uneven=uneven))
        if made := _by_patterns(observation, call, known, problems, generator, clock, progress):
            return made
        for problem in problems if lengths_of_uneven(observation.update[call.weight]) is not None else ():
            attempt = attempt_of(problem, known)
            if attempt.fits:
                made = read_out(observation, attempt, attempt.samples, progress)
                whole = whole_by_patterns(observation, problem, made, generator, clock)
                if whole is not None and whole.fits:
                    attempt, made = whole, read_out(observation, whole, whole.samples, progress)
                return _refined(observation, attempt, made)
    return None


def _by_patterns(
    observation: Observation,
    call: LinearCall,
    known: Candidate,
    problems: list[Problem],
    generator: Generator,
    clock: Clock,
    progress: Progress,
) -> Candidate | None:
    """All samples of the largest rank, or else of one that says more than what is known: where each came out, or all but a few did."""
    nearly: list[Attempt] = []
    for problem in problems:
        whole = whole_by_patterns(observation, problem, known, generator, clock)
        if whole is not None and whole.fits:
            made = _refined(observation, whole, read_out(observation, whole, whole.samples, progress))
            if problem is problems[0]:
                return made
            new = merged(known, made, None, exact=SAME) is not known
            if new or misfit(observation, call, made) < misfit(observation, call, known):  # what is fainter blurs a lower rank
                return _with_others(observation, call, made, known)
        nearly += [whole] if whole is not None and not whole.fits else []
    for whole in nearly:
        made = _refined(observation, whole, read_out(observation, whole, whole.samples, progress))
        if misfit(observation, call, made) < misfit(observation, call, known):
            return _with_others(observation, call, made, known)
    return None


def _refined(observation: Observation, attempt: Attempt, made: Candidate) -> Candidate:
    """The samples as rows of one length tell them, or the strong ones as the gradient as it is does, where that explains more of it."""
    call = attempt.problem.call
    other = polished(observation, call, _strong_refined(observation, attempt, made))
    return min(made, other, key=lambda one: misfit(observation, call, one))


def _with_others(observation: Observation, call: LinearCall, whole: Candidate, known: Candidate) -> Candidate:
    """All samples of a rank, and those known that are none of these, as fainter ones are, if far more is explained with them."""
    both = merged(known, whole, observation.batch_size, exact=0.0)
    more = replace(whole, inputs=both.inputs, labels=both.labels)
    left = misfit(observation, call, whole)
    return whole if both is known or not misfit(observation, call, more) < HALF * left else more


def evened_problems(
    observation: Observation, call: LinearCall, generator: Generator, clock: Clock, *, uneven: bool = False
) -> Iterator[Problem]:
    """The layer in the coordinates of its rows of one length, for every rank after which a clear gap follows, the largest first.

    Not one where all rows are about as long, so that nothing is gained, and no direction is faint.

    Args:
        observation: what the server saw: one gradient.
        call: the layer that sees the samples.
        generator: of random sums of columns.
        clock: when to give up.
        uneven: whether the gradient has faint directions.

    Raises:
        OutOfTime: the clock ran out.
    """
    gradient = observation.update[call.weight]
    lengths = lengths_of_uneven(gradient, 1.0 if uneven else FAR)
    if lengths is None:
        return
    rows = gradient / lengths[:, None]
    for rank in factor(rows, generator, clock=clock).ranks:
        found = factor(rows, generator, rank, clock)
        if found.clear:
            yield from pose(observation, call, None, replace(found, ranks=(rank,), lengths=lengths), None, generator, clock)


def known_directions(
    observation: Observation, problem: Problem, inputs: Float[Tensor, " k *shape"]
) -> tuple[Float[Tensor, "j b"], Bool[Tensor, "j m"]]:
    """The directions of samples that are known at least roughly, by the neurons that they surely leave off, and where these are zero.

    Where all but one are known, so is the last: its p is across all of their directions.
    """
    parameters, call, layer = dict(observation.model.named_parameters()), problem.call, problem.layer
    weight, bias = (parameters[str(name)].detach().double()[problem.alive] for name in (call.weight, call.bias))
    z = inputs.double().flatten(1) @ weight.T + bias
    off = z < -SURE * z.square().mean(dim=1, keepdim=True).sqrt()
    directions, zeros = _right(layer, off)
    if len(directions) == layer.batch - 1:
        last = complement(directions).T
        also = _right(layer, layer.pre_activations(last / (last @ layer.sums)[:, None]) < 0)
        directions, zeros = torch.cat([directions, also[0]]), torch.cat([zeros, also[1]])
    return directions, zeros


def _right(layer: Layer, off: Bool[Tensor, "k m"]) -> tuple[Float[Tensor, "j b"], Bool[Tensor, "j m"]]:
    """The directions that are zero where samples leave neurons off, if there are any, and all their zeros."""
    directions = null_of_masks(layer.left, off)
    zeros = layer.off(directions)
    right = (zeros & off).sum(dim=1) >= AGREE * off.sum(dim=1)
    return directions[right], zeros[right]


def _strong_refined(observation: Observation, attempt: Attempt, candidate: Candidate) -> Candidate:
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
    columns = columns / sizes.where(sizes > 0, 1.0)  # the square of 1e-200 is no number of float64
    sums = observation.update[str(problem.call.bias)].double()[:, None]
    whole = torch.cat([observation.update[problem.call.weight].double(), sums], dim=1)
    solved = torch.linalg.lstsq(columns, whole).solution
    refined = solved[:, :-1] / solved[:, -1:]
    strong = (sizes > STRONG * sizes.max()) & refined.isfinite().all(dim=1)
    return replace(candidate, inputs=refined.where(strong[:, None], inputs.flatten(1)).reshape(inputs.shape))
