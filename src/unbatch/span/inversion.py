"""From an observation to a candidate: the whole attack in one function, and the same from a guess of the inputs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.clock import Clock
from unbatch.errors import Inapplicable, Misuse
from unbatch.span.dependent import dependent_samples, invert_dependent
from unbatch.span.guesses import scaled
from unbatch.span.problem import find_layer, pose
from unbatch.span.search import Found, Search
from unbatch.types import Candidate, Observation, Progress, silent

__all__ = ["invert", "polish"]


def invert(
    observation: Observation, generator: Generator, layer: str | None = None, seconds: float = 60.0, progress: Progress = silent
) -> Candidate:
    """Find the samples of a batch without any guess of them.

    Args:
        observation: what the server saw; the update must be a gradient at the broadcast weights.
        generator: of all randomness.
        layer: the name of the weight to invert; the first Linear layer that sees the raw input if None. Of an inner layer the features
            that it was fed are found.
        seconds: budget, wall time.
        progress: told how many samples are proved.

    Raises:
        Inapplicable: no layer can be inverted; the text says why.
    """
    clock = Clock.of(seconds)
    search = _search(observation, generator, layer, progress)
    call, factors = search.problem.call, search.problem.factors
    samples = dependent_samples(observation, call, factors, generator, clock) if call.raw else None
    if samples is not None:
        return invert_dependent(observation, call, factors, samples, generator, clock, progress)
    found = search.run(clock, progress)
    return _candidate(observation, search, found)


def polish(
    observation: Observation,
    guess: Float[Tensor, " k *shape"],
    *,
    layer: str | None = None,
    seconds: float = 60.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Candidate:
    """Turn approximate samples into exact ones, where they lie in the basin; what they do not lead to is searched for without them.

    Args:
        observation: what the server saw.
        guess: (k, *input_shape) approximate samples, for example pictures of an iterative attack; their labels are not needed.
        layer: see ``invert``; a guess of an inner layer's features is (k, n).
        seconds: budget, wall time.
        seed: of all randomness.
        progress: told how many samples are proved.

    Raises:
        Misuse: the guess has not the shape of the inputs.
        Inapplicable: no layer can be inverted; the text says why.
    """
    clock = Clock.of(seconds)
    search = _search(observation, torch.Generator(observation.device).manual_seed(seed), layer, progress)
    right, sums = search.problem.factors.right, search.problem.sums
    flat = guess.to(right).flatten(1)
    if flat.shape[1] != right.shape[1]:
        raise Misuse(f"guesses of shape (k, {', '.join(map(str, search.shape))})", str(tuple(guess.shape)), "guess what the layer is fed")
    starts = scaled(torch.linalg.lstsq(right.T, flat.T).solution.T, sums, right)
    whole = torch.eye(search.problem.batch, dtype=right.dtype, device=right.device)
    for plan in search.problem.plans:
        search.descend(plan, starts, whole, whole, sums, clock, ranks=3)
    return _candidate(observation, search, search.run(clock, progress))


def _search(observation: Observation, generator: Generator, layer: str | None, progress: Progress) -> Search:
    call = find_layer(observation, layer)
    if isinstance(call, str):
        raise Inapplicable(call)
    if not observation.one_gradient:
        raise Inapplicable("the update is a sum over weights that moved, and every sample has another sensitivity in every step")
    progress("factor", float("nan"))
    problem = pose(observation, call, generator)
    told = observation.labels
    classes = torch.arange(observation.classes, device=observation.device) if told is None else torch.unique(told)
    return Search(problem, classes, observation.input_shape if call.raw else tuple(call.input.shape[1:]), generator)


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
    reason = f"{len(found)} of {problem.batch} samples proved" if search.missing else ""
    if not len(found):
        return Candidate(reason=reason, exhausted=True, stats=stats)
    inputs = found.points @ problem.factors.right
    missing = bool(search.missing)
    if not problem.call.raw:
        return Candidate(None, found.labels, inputs, problem.call.weight, reason=reason, exhausted=missing, stats=stats)
    return Candidate(inputs.reshape(-1, *observation.input_shape), found.labels, reason=reason, exhausted=missing, stats=stats)
