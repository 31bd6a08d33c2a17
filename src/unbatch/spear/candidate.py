"""From a solved layer to a candidate batch: inputs, labels, how often each sample was there, and in which step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from unbatch.last_layer import labels_of_batch
from unbatch.linalg.blocks import BLOCK
from unbatch.spear.local_steps import follow_steps, sensitivities_along
from unbatch.spear.problem import Problem
from unbatch.spear.selection import Solution
from unbatch.trace import run
from unbatch.types import Candidate, Observation, Progress

__all__ = ["Attempt", "read_out"]

RARE = 1e-3
"""A label by which a sample counts so much less than the usual one is likely wrong: that of a sample of which the network is sure, and
whose column is all rounding. Chosen."""

TRIED = 4
"""Of many classes, how many are tried first for each sample. Chosen."""

STEP = 1e-4
"""How far z is moved to see which outputs fall, as a share of its length: seldom across a kink. Chosen."""

NEAR = 1e-4
"""A column that comes nearer than this share of a sample's is its label's, and no other class is asked. Chosen: rounding in float32 stays
below it, other classes' columns far above."""


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
    def samples(self) -> int:
        """How many samples were found."""
        return len(self.solution.samples)

    @property
    def columns(self) -> Float[Tensor, "m k"]:
        """∂L/∂z of every sample found, on the rows that were factored."""
        problem = self.problem
        return problem.factors.left @ torch.linalg.solve_triangular(problem.change, self.solution.directions.T, upper=True)


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
    inputs = problem.inputs(solution.samples)
    if not call.raw:
        return Candidate(features=inputs, layer=call.weight, reason=reason, exhausted=not attempt.whole, stats=attempt.stats)
    inputs = inputs.reshape(-1, *observation.input_shape)
    progress("labels", float("nan"))
    if observation.coupled:
        return _coupled(observation, attempt, inputs)
    columns = attempt.columns
    bias = dict(observation.model.named_parameters())[str(call.bias)].detach().double()
    z = (solution.samples @ problem.change) @ problem.seen.T + bias
    labels, order = labels_of(observation, call.weight, inputs, columns, z, factors.evened), None
    if not reason and (dropped := rank - layer.batch):
        reason = f"{dropped} more samples may have left so little in the update that they cannot be told from rounding"
    if not reason and problem.columns is not None:
        reason = f"pruning left {int((~problem.columns).sum())} of {problem.columns.numel()} inputs undetermined: they are guessed"
    if not observation.one_gradient and attempt.whole:
        labels, order = follow_steps(observation, call.weight, inputs, labels, columns)
        if order is not None and len(torch.unique(order)) < len(inputs):  # a sample without a column was taken for every step
            order = None
    return Candidate(inputs, labels, order=order, reason=reason, exhausted=not attempt.whole, stats=attempt.stats)


def _coupled(observation: Observation, attempt: Attempt, inputs: Tensor) -> Candidate:
    """With batch statistics no column belongs to one sample's label: only the whole batch can be labelled and replayed."""
    if not attempt.whole:
        return Candidate(reason=attempt.reason, exhausted=True, stats=attempt.stats)
    labels = labels_of_batch(observation, inputs) if len(inputs) > 1 else None  # one sample has no statistics
    reason = attempt.reason or (
        "" if labels is not None else "the labels were not found, without which batch statistics cannot be replayed"
    )
    return Candidate(inputs, labels, reason=reason, stats=attempt.stats)


def labels_of(
    observation: Observation,
    weight: str,
    inputs: Tensor,
    columns: Float[Tensor, "m b"],
    z: Float[Tensor, "b m"],
    evened: Callable[[Tensor], Tensor],
) -> Int64[Tensor, " b"]:
    """The label of every sample: the class whose column ∂ℓ(x_i, y)/∂z, times some share of the batch, comes nearest to its own.

    Args:
        observation: what the server saw.
        weight: name of the weight of the layer that was inverted.
        inputs: (b, *shape) the samples.
        columns: (m, b) theirs.
        z: (b, m) what the layer makes of them.
        evened: brings what the network says of columns to the scale of these.
    """

    def nearest(classes: Int64[Tensor, " c"] | None) -> tuple[Int64[Tensor, " b"], Float[Tensor, " b"]]:
        """The labels, among these classes or all, and how far from its column each sample's is, as a share of it."""
        rest, every = [], []
        for part in torch.split(sensitivities_along(observation, inputs, weight, z, classes), max(1, BLOCK // columns.numel())):
            expected = evened(part)
            shares = torch.einsum("cbm,mb->cb", expected, columns) / expected.square().sum(dim=-1).clamp_min(
                torch.finfo(torch.float64).tiny
            )
            rest.append((columns.T - shares[..., None] * expected).norm(dim=-1).where(shares > 0, torch.inf))
            every.append(shares)
        left, shares = torch.cat(rest), torch.cat(every)
        usual = shares.gather(0, left.argmin(dim=0)[None]).median()
        likely = left.where(shares > RARE * usual, torch.inf)
        best = torch.where(likely.isfinite().any(dim=0), likely.argmin(dim=0), shares.abs().argmax(dim=0))
        apart = likely.gather(0, best[None])[0] / columns.norm(dim=0)
        return best if classes is None else classes[best], apart

    few = _likely(observation, inputs, weight, columns, z)
    if few is not None:
        labels, apart = nearest(few)
        if bool((apart < NEAR).all()):
            return labels
    return nearest(None)[0]


def _likely(
    observation: Observation, inputs: Tensor, weight: str, columns: Float[Tensor, "m b"], z: Float[Tensor, "b m"]
) -> Int64[Tensor, " c"] | None:
    """The classes whose outputs fall the most as z moves along each sample's column, uphill in its loss; None where they are not few."""
    if observation.classes <= TRIED * len(inputs):
        return None
    step = STEP * z.norm(dim=1, keepdim=True) * F.normalize(columns.T, dim=1, eps=torch.finfo(columns.dtype).tiny)
    before, after = (run(observation.model, inputs, known={weight: at}).outputs.detach() for at in (z, z + step))
    return torch.unique((after - before).topk(TRIED, dim=1, largest=False).indices)
