"""From a solved layer to a candidate batch: inputs, labels, how often each sample was there, and in which step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.gradients import couples
from unbatch.last_layer import labels_of_batch
from unbatch.spear.local_steps import follow_steps, sensitivities_along
from unbatch.spear.problem import Problem
from unbatch.spear.search import ROUNDED
from unbatch.spear.selection import Solution
from unbatch.types import Candidate, Observation, Progress

__all__ = ["Attempt", "read_out"]


@dataclass(frozen=True, eq=False)
class Attempt:
    """What a search made of a problem.

    Attributes:
        problem: the problem.
        solution: what was found.
        fits: whether all is there, and the signs of W X + bias fit the zeros.
        reason: why it did not go further, or empty.
        stats: what the search counted.
    """

    problem: Problem
    solution: Solution
    fits: bool
    reason: str
    stats: Mapping[str, Any]

    @property
    def whole(self) -> bool:
        """Whether no sample is missing."""
        return self.solution.missing == 0

    @property
    def certain(self) -> bool:
        """Whether every sample by itself fits its zeros: the signs of W X + bias, one a neuron, are its certificate."""
        return self.fits and float(self.solution.agreement.min()) >= 0.9

    @property
    def samples(self) -> int:
        """How many samples were found."""
        return len(self.solution.samples)


def read_out(observation: Observation, attempt: Attempt, rank: int, progress: Progress) -> Candidate:
    """The batch that a solution says.

    Args:
        observation: what the server saw.
        attempt: the search's.
        rank: of the gradient; larger than the attempt's where samples with the smallest gradients were left out.
        progress: told what goes on.
    """
    problem, solution, reason = attempt.problem, attempt.solution, attempt.reason
    call, layer, factors = problem.call, problem.layer, problem.factors
    if not attempt.samples:
        return Candidate(reason=reason, exhausted=True, stats=attempt.stats)
    inputs = (solution.samples @ problem.change) @ factors.right
    if not call.raw:
        return Candidate(features=inputs, reason=reason, exhausted=not attempt.whole, stats=attempt.stats)
    inputs = inputs.reshape(-1, *observation.input_shape)
    progress("labels", float("nan"))
    if any(map(couples, observation.model.modules())):
        return _coupled(observation, attempt, inputs)
    columns = factors.left @ torch.linalg.solve_triangular(problem.change, solution.directions.T, upper=True)
    labels, shares, rest = labels_of(observation, call.weight, inputs, columns)
    # What is given out alone must carry its own proof: a column that some label explains to the last digits.
    proved = rest < min(0.1, max(1e-6, 100 * layer.noise_level))
    if not attempt.whole:
        if not bool(proved.any()):
            return Candidate(reason=reason, exhausted=True, stats=attempt.stats)
        return Candidate(inputs[proved], labels[proved], reason=reason, exhausted=True, certified=True, stats=attempt.stats)
    copies = multiplicities(shares / shares.sum(), observation.batch_size)
    if not reason and bool((copies > 1).any()):
        reason = f"{int(copies.sum())} samples, of which only {len(inputs)} differ"
    if not reason and (dropped := rank - layer.batch):
        reason = f"{dropped} more samples left so little in the update that they cannot be told from rounding"
    if not reason and problem.columns is not None:
        reason = f"pruning left {int((~problem.columns).sum())} of {problem.columns.numel()} inputs undetermined: they are guessed"
    weights, order = shares / copies, None
    if not observation.one_gradient:
        labels, order = follow_steps(observation, call.weight, inputs, labels, columns)
    return Candidate(
        inputs.repeat_interleave(copies, dim=0),
        labels.repeat_interleave(copies),
        reason=reason,
        certified=attempt.certain
        and (bool(proved.all()) and rank > layer.batch if observation.one_gradient else _bias_fits(observation, attempt)),
        weights=weights.repeat_interleave(copies),
        order=order,
        stats=attempt.stats,
    )


def _bias_fits(observation: Observation, attempt: Attempt) -> bool:
    """Whether ∂L/∂b is made of the same columns as ∂L/∂W: where no replay is exact, damage to either of them shows here.

    Not with rounding: between samples that are much alike it hides the ratios that tell their combinations.
    """
    if attempt.problem.layer.noise_level > ROUNDED:
        return False
    bias, left = observation.update[str(attempt.problem.call.bias)].double(), attempt.problem.factors.left
    outside = bias - left @ (left.T @ bias)
    return float(outside.norm()) <= max(0.01, 100 * attempt.problem.layer.noise_level) * float(bias.norm())


def _coupled(observation: Observation, attempt: Attempt, inputs: Tensor) -> Candidate:
    """With batch statistics no column belongs to one sample's label: only the whole batch can be labelled and replayed."""
    if not attempt.whole:
        return Candidate(reason=attempt.reason, exhausted=True, stats=attempt.stats)
    labels = labels_of_batch(observation, inputs)
    reason = attempt.reason or (
        "" if labels is not None else "the labels were not found, without which batch statistics cannot be replayed"
    )
    return Candidate(inputs, labels, reason=reason, certified=attempt.certain, stats=attempt.stats)


def labels_of(observation: Observation, weight: str, inputs: Tensor, columns: Float[Tensor, "m b"]) -> tuple[Tensor, Tensor, Tensor]:
    """The label of every sample, its share of the batch, and the share of its column that the label leaves unexplained.

    Column i of ∂L/∂Z must be ∂ℓ(x_i, y)/∂z times that share (1/b, or more for a repeated sample); the class that leaves the
    smallest rest wins.
    """
    expected = sensitivities_along(observation, inputs, weight)
    shares = torch.einsum("cbm,mb->cb", expected, columns) / expected.square().sum(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    rest = (columns.T - shares[..., None] * expected).norm(dim=-1).where(shares > 0, torch.inf)
    least, labels = rest.min(dim=0)
    return labels, shares.gather(0, labels[None])[0], least / columns.norm(dim=0)


def multiplicities(shares: Tensor, batch_size: int | None, most: int = 8) -> Tensor:
    """How often every distinct sample was in the batch: the smallest whole numbers in proportion to its share."""
    distinct_samples = len(shares)
    if not bool(shares.isfinite().all()):
        return torch.ones(distinct_samples, dtype=torch.int64, device=shares.device)
    for size in [batch_size] if batch_size else range(distinct_samples, most * distinct_samples + 1):
        copies = (shares * size).round()
        if int(copies.sum()) == size and bool(((shares * size - copies).abs() < 0.02).all()) and bool((copies > 0).all()):
            return copies.to(torch.int64)
    return torch.ones(distinct_samples, dtype=torch.int64, device=shares.device)
