"""The proof of a single sample whose target nobody knows: a regression of several scores, or several yes and no.

Of one sample the gradient is Σ_c r_c ∂s_c/∂θ, whatever its target and the loss, r the slope of the loss at the scores s. So one sample is
replayed with the r that the last Linear layer shows; and the layer that is fed the sample gives ∂L/∂W = g xᵀ beside ∂L/∂b = g, which fix x
without r (Phong et al., see ``attacks.one_sample``). What several samples of one linear region leave whose slopes are parallel, their mean
leaves too: only a batch size of one that was told excludes it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY, from_rows
from unbatch.evidence.known_to import known_to
from unbatch.evidence.replay import replay
from unbatch.evidence.slopes import pulled_back
from unbatch.evidence.whole import Whole
from unbatch.trace import run
from unbatch.types import Observation, Reconstruction, Status

__all__ = ["one_of", "prove_alone"]

THE_ONE = "the one sample of the batch is proved, whatever its target, which is not known"

OF_ONE = (
    "this one sample gives the observed update, whatever its target, and so may several that are off in one direction: tell the batch"
    " size, and it is proved if that is one"
)


def one_of(observation: Observation, inputs: Float[Tensor, " 1 *shape"], alone: Whole) -> Reconstruction:
    """What is to be said of a sample that explains the update alone: proved if one was told of.

    Args:
        observation: what the server saw.
        inputs: (1, *shape).
        alone: what ``prove_alone`` said of it.
    """
    if observation.batch_size is None:
        return Reconstruction(Status.UNPROVEN, inputs, residual=alone.residual, reason=OF_ONE)
    proved, said = torch.ones(1, dtype=torch.bool, device=inputs.device), known_to(inputs, alone.accuracy)
    return Reconstruction(
        Status.PARTIAL,
        inputs,
        residual=alone.residual,
        reason=f"{THE_ONE}; {said}" if said else THE_ONE,
        proved=proved,
        accuracy=alone.accuracy,
        explained=True,
    )


def prove_alone(observation: Observation, inputs: Float[Tensor, " k *shape"], limit: float, acceptable: float) -> Whole | None:
    """Replay one sample with the slope at its scores that explains the last layer.

    Args:
        observation: what the server saw.
        inputs: (k, *shape).
        limit: what of a tensor, beside what was added up for it, may be rounding.
        acceptable: largest relative error of a sample that is called proved.

    Returns:
        what the replay said, where it gives the update and fixes the sample; None where it does not, there are several samples, targets are
        classes, samples are coupled, or the layers that are needed do not show theirs.
    """
    free = observation.loss in ("mse", "bce") and observation.batch_size in (None, 1) and len(inputs) == 1
    if not free or observation.coupled or not observation.one_gradient:
        return None
    slope = _slope(observation, inputs)
    if slope is None:
        return None
    pulled = replace(observation, loss=lambda outputs, labels: (outputs @ slope).sum() / len(labels), factor_known=True)
    result = replay(pulled, inputs, torch.zeros(1, dtype=torch.int64, device=inputs.device))
    raw = any(call.raw for call in observation.layers if call.weight == result.entrance)
    if not raw or result.columns is None or result.inputs is None or result.row_errors is None or result.scale is None:
        return None
    accuracy = from_rows(result.columns, result.inputs, result.row_errors, result.shift) + SAFETY * result.scale
    whole = Whole(result.residual, result.missed(limit), accuracy)
    return whole if whole.holds and bool((accuracy <= acceptable).all()) else None


def _slope(observation: Observation, inputs: Tensor) -> Float[Tensor, " C"] | None:
    """∂L/∂scores of one sample, by least squares from ∂L/∂z of the last Linear layer, as its bias or its weight shows it."""
    ran = run(observation.model, inputs)
    if not ran.linears:
        return None
    last = ran.linears[-1]
    alone = sum(call.weight == last.weight for call in ran.linears) == 1 and last.input.ndim == 2
    if not alone or last.weight not in observation.update:
        return None
    if last.bias in observation.update:
        shown = observation.update[str(last.bias)].double()
    else:
        fed = last.input.detach()[0]
        shown = observation.update[last.weight].double() @ fed / fed.square().sum()
    rows = [pulled_back(score, [last.output], torch.ones_like(score), again=True)[0] for score in ran.outputs[0]]
    if any(row is None for row in rows):
        return None
    jacobian = torch.stack([row[0] for row in rows if row is not None])
    if not bool(jacobian.isfinite().all() and shown.isfinite().all()):
        return None  # the last layer is fed nothing, or the scores overflow
    slope: Tensor = torch.linalg.lstsq(jacobian.T, shown[:, None]).solution[:, 0]
    return slope if bool(slope.isfinite().all()) else None
