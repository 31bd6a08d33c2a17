"""Mixtures of the samples of a batch: whether one could stand in a sample's place, and what the network would leave of them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY, TOLD
from unbatch.evidence.certificate import INDEPENDENT
from unbatch.evidence.completeness import odd_beside
from unbatch.evidence.plain_means import BETWEEN, counts_freely, plain_size
from unbatch.evidence.regions import own_slopes, settled, turns
from unbatch.evidence.replay import Use, entrance_of, slices
from unbatch.evidence.slopes import pulled_back, slopes_of
from unbatch.evidence.tail import tail_of
from unbatch.trace import LARGE, run
from unbatch.types import Observation

__all__ = ["apart_from_mixtures", "columns_of", "surplus", "tuned"]

EXACT = 1e-12
"""Weights this near to those of a plain mean are these: they were tried first, to the last digit. Derived: some roundings of float64."""


def apart_from_mixtures(
    observation: Observation,
    inputs: Tensor,
    labels: Int64[Tensor, " k"],
    columns: Float[Tensor, "m k"],
    told: Float[Tensor, " k"] | None,
    weights: Float[Tensor, " k"] | None,
    limit: float,
) -> Bool[Tensor, " k"]:
    """Whether each sample could not be a mixture of those with which it shares a region; see ``regions``.

    Args:
        observation: what the server saw.
        inputs: (k, *shape).
        labels: (k,).
        columns: (m, k) theirs.
        told: (k,) relative misfit of what they count by the gradient of the bias, None without one.
        weights: (k,) what they count, None for even shares.
        limit: what of a tensor may be rounding: a mean of so many samples that rounding hides one is no plain mean.
    """
    free = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device) if weights is None else tuned(weights, told, limit)
    bias = told is not None and bool((told < TOLD).all())
    if bias and not bool(free.any()):
        return torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
    slopes = own_slopes(observation, run(observation.model, inputs).outputs.detach().double(), labels)
    flat = inputs.double().flatten(1)

    def pull(moved: Tensor) -> Tensor:
        ran = run(observation.model, moved.reshape(inputs.shape))
        call = entrance_of(ran.linears, observation, len(inputs))
        if call is None:
            return torch.zeros(len(slopes), len(inputs), len(columns), dtype=torch.float64, device=inputs.device)
        pulled = [pulled_back(ran.outputs, [call.output], slope.to(ran.outputs), again=True)[0] for slope in slopes]
        return torch.stack([torch.zeros_like(call.output) if found is None else found for found in pulled]).double()

    # As many members as samples, whose columns are independent (``from_rows``), leave one column each.
    alone = observation.batch_size == len(inputs) or (turns(pull, flat, columns) if bias else False)
    alone = torch.as_tensor(alone, device=inputs.device) & ~odd_beside(observation, labels, free)
    return settled(pull(flat), columns, bias=bias, free=free, alone=alone)


def tuned(weights: Float[Tensor, " k"], told: Float[Tensor, " k"] | None, limit: float) -> Bool[Tensor, " k"]:
    """Whether what each sample counts is not what those of a plain mean count, so that it was tuned; see ``apart_from_mixtures``."""
    # Those of a plain mean were tried first, to the last digit: what is merely near to them was tuned.
    off = EXACT + (torch.zeros_like(weights) if told is None else SAFETY * told.clamp(max=TOLD))
    return counts_freely(weights, off) | ((plain_size(weights) or 0) * limit > BETWEEN)


def surplus(observation: Observation, columns: Float[Tensor, "m k"], inputs: Tensor, most: int, entered: Use | None = None) -> int:
    """How many more independent columns the layer can make than there are samples, on neurons that speak: at most so many.

    Samples that are mixtures of the true ones, X' = X M, have to come with the columns D M⁻ᵀ, which the network makes for no other than the
    true ones, as long as it can make more than k independent columns. Probed with mixtures.

    Args:
        observation: what the server saw.
        columns: (m, k) theirs.
        inputs: (k, *shape).
        most: surplus columns that are looked for.
        entered: how the layer was used by these inputs, where that is known: what a very wide one makes of mixtures then needs no pass over
            its weight.
    """
    count, device = columns.shape[1], inputs.device
    generator = torch.Generator(device).manual_seed(0)
    mixing = torch.randn((count + most, count), generator=generator, dtype=torch.float64, device=device)
    mixing = mixing / mixing.norm(dim=1, keepdim=True)
    labels = torch.randint(observation.classes, (len(mixing),), generator=generator, device=device)
    wide = entered is not None and observation.update[entered.weight].numel() >= LARGE and not observation.coupled
    found = _of_mixed(observation, entered, mixing, labels) if entered is not None and wide else None
    found = _of_mixtures(observation, inputs, mixing, labels) if found is None else found
    if found is None:
        return 0
    probed = found[:, columns.abs().amax(dim=1) > 0]
    probed = probed[probed.isfinite().all(dim=1)]  # a class that counts nothing has no loss of its own
    if not probed.numel():
        return 0
    probed = probed / probed.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(probed.dtype).tiny)  # the square of a faint one is 0
    values = torch.linalg.svdvals(probed / probed.norm(dim=1, keepdim=True).clamp_min(1.0))
    return max(0, int((values > INDEPENDENT * float(values[0])).sum()) - count)


def _of_mixed(observation: Observation, entered: Use, mixing: Float[Tensor, "p k"], labels: Int64[Tensor, " p"]) -> Tensor | None:
    """(p, m) columns of mixtures of samples, by way of their pre-activations; None where what follows depends on more than these."""
    bias = next((call.bias for call in observation.layers if call.weight == entered.weight), None)
    tail = None if bias is None else tail_of(observation, entered.weight)
    if bias is None or tail is None:
        return None
    shift = dict(observation.model.named_parameters())[bias].detach().double()
    z = mixing @ entered.output + (1 - mixing.sum(dim=1, keepdim=True)) * shift
    return tail(z, labels)[entered.weight].columns


def _of_mixtures(observation: Observation, inputs: Tensor, mixing: Float[Tensor, "p k"], labels: Int64[Tensor, " p"]) -> Tensor | None:
    """(p, m) columns of mixtures of samples, or None where the layer does not see them."""
    found = []
    for part in slices(len(mixing), (1 << 23) // inputs[0].numel()):
        mixed = (mixing[part] @ inputs.double().flatten(1)).reshape(-1, *observation.input_shape)
        result = columns_of(observation, mixed, labels[part])
        if result is None:
            return None
        found.append(result)
    return torch.cat(found)


def columns_of(observation: Observation, inputs: Tensor, labels: Tensor) -> Float[Tensor, "k m"] | None:
    """∂ℓ/∂z at the layer that sees the samples, or None where there is none."""
    ran = run(observation.model, inputs)
    call = entrance_of(ran.linears, observation, len(inputs))
    if call is None:
        return None
    return pulled_back(ran.outputs, [call.output], slopes_of(observation, ran.outputs.detach(), labels))[0]
