"""What of a proposal is passed on beside what was proved, for people to look at: no evidence."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from unbatch.evidence.replay import entrance_of, replay
from unbatch.linalg.blocks import converted
from unbatch.linalg.rows import lengths_of_uneven, of_own_way
from unbatch.trace import TRIAL
from unbatch.types import Candidate, Observation, Reconstruction, Status

__all__ = ["approximate", "certainty", "comes_near"]

EXPLAINED = 0.3
"""A batch whose replay is at most this far from the update explains nine tenths of its energy: approximate, not wrong. Derived: 0.3² is a
tenth. Swept."""

SHOWN = 1e-6
"""A row shows an input that it is nearer to than this, relatively. Chosen: what is read off it is exact, or has a bit of another in it."""


MOST = 1 << 12
"""Rows that are asked at most, each beside each. Chosen, as ``alone.MOST``."""


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
    others none is asked, nor of two classes, where samples of one region leave the same rows between them.
    """
    nothing = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
    call = entrance_of(observation.layers, observation, TRIAL)
    if call is None or call.bias not in observation.update or observation.classes == 2:
        return nothing
    gradient, sums = observation.update[call.weight], observation.update[str(call.bias)].double()
    if lengths_of_uneven(gradient) is None:
        return nothing
    rows = inputs.double().flatten(1)
    apart = torch.cdist(gradient / sums[:, None], rows, compute_mode="use_mm_for_euclid_dist")
    near = apart < SHOWN * rows.norm(dim=1)
    asked = near.any(dim=1).nonzero()[:MOST, 0]
    parameters = dict(observation.model.named_parameters())
    weight, bias = (parameters[str(name)].detach()[asked] for name in (call.weight, call.bias))
    own = of_own_way(torch.cat([weight, bias[:, None]], dim=1))  # copies of a neuron show one mixture twice
    return near[asked[own]].sum(dim=0) > 1


def _bytes(row: Tensor) -> bytes:
    return row.cpu().numpy().tobytes()


def certainty(candidate: Candidate, made: Reconstruction) -> Tensor | None:
    """What the attack says of its cells, where the samples are still those that it proposed."""
    said, kept = candidate.certainty, made.inputs
    if said is None or kept is None or candidate.inputs is None or said.ndim != 2 or not len(said) == len(kept) == len(candidate.inputs):
        return None
    return said.double().clamp(0, 1) if bool(said.isfinite().all()) and torch.equal(kept, candidate.inputs.to(kept.dtype)) else None
