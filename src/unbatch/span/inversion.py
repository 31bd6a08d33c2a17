"""From an observation to a candidate: the whole attack in one function, and the same from a guess of the inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from unbatch.clock import UNLIMITED, Clock, OutOfTime
from unbatch.errors import Inapplicable, Misuse
from unbatch.linalg.lowrank import factor
from unbatch.span.dependent import dependent_samples, resolution_of, some_by_least_squares
from unbatch.span.guesses import scaled
from unbatch.span.local_steps import followed, straight
from unbatch.span.problem import Found, find_layer, pose
from unbatch.span.search import Search
from unbatch.spear.beyond_rank import with_others
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Inverted, Observation, Progress, silent

__all__ = ["complete", "invert", "polish"]


PATIENCE = 6
"""Rounds in which every guess led nowhere after which a search that began with known samples gives up: each method of guessing had two."""


def invert(
    observation: Observation, generator: Generator, layer: str | None = None, seconds: float = 60.0, progress: Progress = silent
) -> Candidate:
    """Find the samples of a batch without any guess of them.

    Args:
        observation: what the server saw: a gradient, or the difference after local steps that take all samples each.
        generator: of all randomness.
        layer: the name of the weight to invert; the first Linear layer that sees the raw input if None. Of an inner layer the features
            that it was fed are found.
        seconds: budget, wall time.
        progress: told how many samples are proved.

    Raises:
        Inapplicable: no layer can be inverted; the text says why.
    """
    clock = Clock.of(seconds)
    if not observation.one_gradient:
        return _through_local_steps(observation, generator, layer, clock, progress)
    try:
        return _of_gradient(observation, generator, layer, clock, progress)
    except OutOfTime:
        return Candidate(reason=f"{seconds:g} seconds were spent before the search could begin", exhausted=True)


def _of_gradient(
    observation: Observation, generator: Generator, layer: str | None, clock: Clock, progress: Progress, resolution: float = 0.0
) -> Candidate:
    """The samples of one gradient, of which rounding left no more than ``resolution`` tells, or that of its type."""
    search = _search(observation, generator, layer, progress, resolution, clock)
    call, factors = search.problem.call, search.problem.factors
    samples = dependent_samples(observation, call, factors, generator, clock) if call.raw else None
    if samples is None:
        return _candidate(observation, search, search.run(clock, progress))
    some = some_by_least_squares(observation, call, factors, samples, generator, clock)

    def others(rest: Observation) -> Candidate:
        left = factor(rest.update[call.weight], generator, clock=clock)
        return _of_gradient(rest, generator, layer, clock, progress, resolution_of(rest, call, left))

    return with_others(observation, some, samples, factors.rank, others)


def _through_local_steps(observation: Observation, generator: Generator, layer: str | None, clock: Clock, progress: Progress) -> Candidate:
    call = _layer(observation, layer)
    progress("factor", float("nan"))
    problem = straight(observation, call, generator)
    search = followed(observation, problem, _classes(observation), generator, clock, progress)
    made = _candidate(observation, search, search.found)
    return replace(made, reason=made.reason.replace("proved", "found near the straight way of the weights"))


def polish(
    observation: Observation,
    guess: Candidate,
    generator: Generator,
    layer: str | None = None,
    seconds: float = 60.0,
    progress: Progress = silent,
    *,
    search: bool = True,
) -> Candidate:
    """Turn approximate samples into exact ones, where they lie in the basin.

    Args:
        observation: what the server saw.
        guess: approximate inputs, for example pictures of an iterative attack, or features; their labels are not needed.
        generator: of all randomness.
        layer: see ``invert``; the guess's own if None.
        seconds: budget, wall time.
        progress: told how many samples are proved.
        search: whether what they do not lead to is searched for without them.

    Returns:
        what was proved; the guess itself where that is nothing.

    Raises:
        Misuse: the guess has not the shape of what the layer is fed.
        Inapplicable: no layer can be inverted; the text says why.
    """
    clock = Clock.of(seconds)
    rows = guess.samples
    if rows is None or not len(rows):
        raise Misuse("at least one approximate sample", "none", "give inputs, or features and their layer")
    looked = _search(observation, generator, layer or guess.layer, progress)
    problem, flat = looked.problem, rows.detach().to(looked.problem.factors.right).flatten(1)
    if flat.shape[1] != problem.factors.right.shape[1] or not bool(flat.isfinite().all()):
        expected = f"finite guesses of shape (k, {', '.join(map(str, looked.shape))})"
        raise Misuse(expected, str(tuple(rows.shape)), f"guess what {problem.call.weight} is fed")
    starts = scaled(torch.linalg.lstsq(problem.factors.right.T, flat.T).solution.T, problem.sums, problem.factors.right)
    whole = torch.eye(problem.batch, dtype=starts.dtype, device=starts.device)
    for plan in problem.plans:
        if looked.missing and not clock.over:
            looked.descend(plan, starts, whole, whole, problem.sums, clock, ranks=3)
    led = len(looked.found)
    made = _candidate(observation, looked, looked.run(clock, progress) if search else looked.finished(clock))
    told = f"{len(rows)} guesses led to {led} of {problem.batch} samples"
    if not led:
        told += ": they are too far from them, or from samples of another update"
    stats = {**made.stats, "guesses": len(rows), "led": led}
    if made.inputs is None and made.features is None:
        return replace(guess, reason=told, exhausted=True, stats=stats)
    return replace(made, reason=told if looked.missing else "", stats=stats)


def complete(
    observation: Observation, known: Candidate, generator: Generator, layer: str | None, clock: Clock, progress: Progress = silent
) -> Candidate:
    """Find the samples of a batch that are missing beside known ones, which are taken out first.

    Args:
        observation: what the server saw: one gradient.
        known: samples with their labels, or features; they are proved here like any others, and those that are not are dropped.
        generator: of all randomness.
        layer: see ``invert``.
        clock: when to end.
        progress: told how many samples are proved.

    Raises:
        OutOfTime: the clock ran out before the search could begin.
        Inapplicable: no layer can be inverted; the text says why.
    """
    if observation.coupled:
        raise Inapplicable("the model couples the samples of a batch, so that none has a gradient of its own")
    search = _search(observation, generator, layer, progress, clock=clock)
    rows = known.samples
    if rows is not None and len(rows):
        factors, flat = search.problem.factors, rows.to(search.problem.factors.right).flatten(1)
        points = torch.linalg.lstsq(factors.right.T, flat.T).solution.T
        labels = search.problem.equations.best_labels(points, search.classes)[1][:, 0] if known.labels is None else known.labels
        search.accept(points, labels, clock)
    return _candidate(observation, search, search.run(clock, progress, patience=PATIENCE))


def _search(
    observation: Observation,
    generator: Generator,
    layer: str | None,
    progress: Progress,
    resolution: float = 0.0,
    clock: Clock = UNLIMITED,
) -> Search:
    call = _layer(observation, layer)
    if not observation.one_gradient:
        raise Inapplicable("the update is a sum over weights that moved, and every sample has another sensitivity in every step")
    progress("factor", float("nan"))
    problem = pose(observation, call, generator, resolution=resolution, clock=clock)
    shape = observation.input_shape if call.raw else tuple(call.input.shape[1:])
    return Search(problem, _classes(observation), shape, generator)


def _layer(observation: Observation, layer: str | None) -> LinearCall:
    call = find_layer(observation, layer)
    if isinstance(call, str):
        raise Inapplicable(call)
    return call


def _classes(observation: Observation) -> Int64[Tensor, " c"]:
    told = observation.labels
    nothing = told is None or not len(told)  # no labels are told wrongly, as there is an update: the judge says so
    return torch.arange(observation.classes, device=observation.device) if nothing else torch.unique(told)


def _candidate(observation: Observation, search: Search, found: Found) -> Candidate:
    problem = search.problem
    stats: dict[str, Any] = {
        "layer": problem.call.weight,
        "width": len(problem.factors.left),
        "rank": problem.batch,
        "gap": problem.factors.gap,
        "equations": problem.equations.count,
        **search.counts,
    }
    reason = f"{len(found)} of {problem.batch} samples found" if search.missing else ""
    reason = f"{reason}; {GAVE_UP}" if search.gave_up else reason
    ended: dict[str, Any] = {"exhausted": bool(search.missing) and not search.gave_up, "converged": search.gave_up}
    told: dict[str, Any] = {"reason": reason, "inverted": Inverted(problem.call.weight, len(problem.factors.left)), "stats": stats}
    if not len(found):
        return Candidate(**ended, **told)
    inputs = found.points @ problem.factors.right
    if not problem.call.raw:
        return Candidate(None, found.labels, inputs, problem.call.weight, **ended, **told)
    return Candidate(inputs.reshape(-1, *observation.input_shape), found.labels, **ended, **told)


GAVE_UP = (
    "guesses led nowhere again and again, and more of them are not likely to: the weights, the loss or the steps may be other than was"
    " told, noise may be in the way, or the layers tell too little of so many samples"
)
