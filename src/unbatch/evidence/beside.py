"""What of a proposal is passed on beside what was proved, for people to look at: no evidence."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from unbatch.evidence.replay import entrance_of, replay
from unbatch.gradients import jacobians
from unbatch.linalg.blocks import converted
from unbatch.linalg.rows import lengths_of_uneven
from unbatch.trace import TRIAL
from unbatch.types import Candidate, Observation, Reconstruction, Status

__all__ = ["approximate", "certainty", "comes_near"]

EXPLAINED = 0.3
"""A batch whose replay is at most this far from the update explains nine tenths of its energy: approximate, not wrong. Derived: 0.3² is a
tenth. Swept."""

SHOWN = 1e-6
"""A row shows an input that it is nearer to than this, relatively. Chosen: what is read off it is exact, or has a bit of another in it."""

OTHERWISE = 0.99
"""Cosine below which two neurons move the outputs in two ways. Chosen: copies that were trained on for a while stay above."""


def comes_near(residual: float) -> bool:
    """Whether a replay that is so far from the update makes its batch an approximate one."""
    return residual <= EXPLAINED


def approximate(observation: Observation, candidate: Candidate, made: Reconstruction) -> Tensor | None:
    """(j, *input_shape) the samples that are not proved, where all together come as near to the update as an approximate batch must.

    Noise may leave one sample of twenty proved, and the others right to four digits: who sees the one alone takes the update for safer than
    it is. Where the proved ones are most of the update, all together come near to it whatever the others are: so of each the update must
    hold what the sample leaves, too. Those that rows of the gradient show by themselves need no others.

    Args:
        observation: what the server saw.
        candidate: what the attack proposed.
        made: what the evidence made of it.
    """
    inputs, labels = candidate.inputs, candidate.labels
    if made.status is not Status.PARTIAL or made.inputs is None or inputs is None or labels is None:
        return None
    proved = {_bytes(row) for row in made.inputs}
    given = inputs.to(made.inputs.dtype)
    held = _shown_by_rows(observation, inputs)
    if made.residual is not None and comes_near(made.residual):
        held |= _held(observation, inputs, labels)
    rest = [index for index, row in enumerate(given) if _bytes(row) not in proved and bool(held[index])]
    return given[rest] if rest else None


def _held(observation: Observation, inputs: Tensor, labels: Tensor) -> Bool[Tensor, " k"]:
    """Of which samples the update holds, beside all others, what they leave at the layer that sees them.

    With D and X of all of them, what they leave over is R = G − D Xᵀ, and R x is nothing beside d ‖x‖² for a member, but d ‖x‖² and more
    for one of junk, however weak it is.
    """
    made = replay(observation, inputs, labels)
    if made.columns is None or made.inputs is None:
        return torch.zeros_like(labels, dtype=torch.bool)
    columns, fed, gradient = made.columns, made.inputs, observation.update[made.entrance]
    over = torch.zeros_like(columns)
    for there, left in converted(gradient, own=True):
        over.addmm_(left.addmm_(columns, fed[:, there], alpha=-1), fed[:, there].T)
    if (lengths := lengths_of_uneven(gradient)) is not None:  # a weak sample is held by rows that others leave alone
        columns, over = columns / lengths[:, None], over / lengths[:, None]
    left = columns.norm(dim=0)
    return (left > 0) & (over.norm(dim=0) <= EXPLAINED * left * fed.square().sum(dim=1))


def _shown_by_rows(observation: Observation, inputs: Tensor) -> Bool[Tensor, " k"]:
    """Which samples two rows of the gradient or more show, being each the sample times its entry of the bias gradient.

    Of one that the network is sure of to the last digit, what it leaves is rounding: but rows are its own. Where no row is far shorter than
    others none is asked. Samples of one region leave the same mixture in all rows of neurons that move the outputs one way, as copies of a
    neuron do, and all behind two classes: so two of the rows must be of neurons that move them otherwise.
    """
    nothing = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
    call = entrance_of(observation.layers, observation, TRIAL)
    if call is None or call.bias not in observation.update or observation.coupled:
        return nothing
    gradient, sums = observation.update[call.weight], observation.update[str(call.bias)].double()
    if lengths_of_uneven(gradient) is None:
        return nothing
    rows = inputs.double().flatten(1)
    apart = torch.cdist(gradient / sums[:, None], rows, compute_mode="use_mm_for_euclid_dist")
    near = (apart < SHOWN * rows.norm(dim=1)).T
    asked = near.sum(dim=1) > 1
    if not bool(asked.any()):
        return nothing
    moves = jacobians(observation.model, inputs[asked], call.weight)
    told = moves - moves.mean(dim=0)  # all outputs at once move no loss
    fired = near[asked] & (told.norm(dim=0) > SHOWN * moves.norm(dim=0))
    ways = F.normalize(told, dim=0, eps=torch.finfo(told.dtype).tiny)
    shown = [bool(((ways[:, i, on].T @ ways[:, i, on]).abs() < OTHERWISE).any()) for i, on in enumerate(fired)]
    nothing[asked] = torch.tensor(shown, device=inputs.device)
    return nothing


def _bytes(row: Tensor) -> bytes:
    return row.cpu().numpy().tobytes()


def certainty(candidate: Candidate, made: Reconstruction) -> Tensor | None:
    """What the attack says of its cells, where the samples are still those that it proposed."""
    said, kept = candidate.certainty, made.inputs
    if said is None or kept is None or candidate.inputs is None or said.ndim != 2 or not len(said) == len(kept) == len(candidate.inputs):
        return None
    return said.double().clamp(0, 1) if bool(said.isfinite().all()) and torch.equal(kept, candidate.inputs.to(kept.dtype)) else None
