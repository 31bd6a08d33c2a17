"""All samples of a batch refined together, where the strongest leave a million times what the weakest do, as in a trained network.

The search reads each sample off its own direction, and what that direction is off by is the strong samples' part in it. But the network
says what column d_i every sample has, and the update is Σ w_i d_i [x_iᵀ 1]. With D of the samples at hand,

    A = D⁺ [G g],    w_i = A_i,n+1,    x_i ← A_i,1..n / w_i,

which takes all others out of each, however strong. It divides by w_i, for the length of a column, which a sure network's samples change
by much when they move a little, then cancels: what is left is how the column turns, and the step shrinks it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.linalg.blocks import length
from unbatch.losses import slopes_alone
from unbatch.trace import LinearCall, run
from unbatch.types import Candidate, Observation

__all__ = ["refined"]

UNEVEN = 1e-6
"""The weakest column beside the strongest, below which the samples are refined together. Chosen: a tenth of the digits of float64 that
separate a sample from the update's rounding; an untrained network's columns are alike within a hundred."""

STEPS = 6
"""Steps at most. Chosen: each gains a factor of five to thirty on MNIST after 20 epochs, and float64 has no more to give after three."""

LARGEST = 1 << 24
"""Numbers of a gradient from which on it is not copied for this. Chosen: 128 MiB."""

GAIN = 0.5
"""What is left of the misfit after a step that is worth having. Chosen."""


def refined(observation: Observation, call: LinearCall, candidate: Candidate) -> Candidate:
    """The candidate with its samples refined, as far as they then explain more of the layer's gradient; otherwise as it is.

    Args:
        observation: what the server saw: one gradient, without batch statistics.
        call: the layer that sees the samples.
        candidate: samples with labels.
    """
    inputs, labels, bias = candidate.inputs, candidate.labels, call.bias
    if inputs is None or labels is None or bias is None or bias not in observation.update or observation.coupled:
        return candidate
    gradient, sums = observation.update[call.weight], observation.update[bias].double()
    if gradient.numel() > LARGEST:
        return candidate
    fed = given = inputs.double().flatten(1)
    best, kept = torch.inf, given
    for _ in range(STEPS):
        columns = _columns(observation, call, fed.reshape(inputs.shape), labels)
        sizes = columns.norm(dim=1)
        if not bool((sizes > 0).all()) or (best == torch.inf and float(sizes.min() / sizes.max()) > UNEVEN):
            break
        directions = columns.T / sizes
        counts = torch.linalg.lstsq(directions, sums[:, None]).solution[:, 0]
        left = gradient.double() - (directions * counts) @ fed
        left_of_sums = sums - directions @ counts
        misfit = float(torch.hypot(left.norm(), left_of_sums.norm()) / torch.hypot(length(gradient), sums.norm()))
        if not misfit < GAIN * best:
            break
        best, kept = misfit, fed
        steps = torch.linalg.lstsq(directions, torch.cat([left, left_of_sums[:, None]], dim=1)).solution / counts[:, None]
        fed = (fed + steps[:, :-1]) / (1 + steps[:, -1:])
        if not bool(fed.isfinite().all()):
            break
    return candidate if kept is given else replace(candidate, inputs=kept.reshape(inputs.shape))


def _columns(observation: Observation, call: LinearCall, inputs: Tensor, labels: Int64[Tensor, " b"]) -> Float[Tensor, "b m"]:
    """∂ℓ(x_i, y_i)/∂z of every sample by itself."""
    ran = run(observation.model, inputs)
    output = next(other.output for other in ran.linears if other.weight == call.weight)
    named, own = labels.unique(return_inverse=True)
    slopes = slopes_alone(observation.loss, ran.outputs.detach(), named)[own, torch.arange(len(own), device=own.device)]
    found: Tensor = torch.autograd.grad(ran.outputs, output, slopes)[0]
    return found
