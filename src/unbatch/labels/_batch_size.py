"""How many samples an update shows: the gradient of a Linear layer is a sum over samples of d xᵀ, so its rank is at most their number.

The bias gradient of the last layer alone never tells how many samples there are: it gives the share of every class, and twice as many of
each class have the same shares. The rank does, while it is below both sides of the layer. It falls short where samples repeat or left no
trace, so a batch size is believed only where the counts come out whole for it too. That a whole batch is repeated is seen in nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.errors import Inapplicable
from unbatch.labels._whole import confirms_size
from unbatch.last_layer import LastLayer, noise_inputs
from unbatch.linalg.lowrank import factor
from unbatch.trace import Run, run
from unbatch.types import Observation

__all__ = ["ANY_SIZE", "Shown", "check_told", "shown", "size_is_shown"]

LOW = 0.8
"""Share of a layer's smaller side below which its rank is that of the batch and not of the layer. Chosen. Swept."""


ANY_SIZE = (
    "the counts come out whole for other batch sizes as well, and no layer's gradient shows that there were as many samples as were told"
)
"""Why whole counts are not determined."""

VARIED = 1e3
"""Roundings by which the softmax of a model must differ between inputs, for samples of one class to show as several in the last layer: with
weights of zero there, all samples of a class have one column. Chosen: the features differ by less than the softmax may."""

ALONG = 1e-6
"""A direction of which a sample's gradient has less than this share is none of it. Chosen, far above the rounding of float64."""

SEEN = 8
"""Made-up inputs of which that is read off. Chosen."""


@dataclass(frozen=True)
class Shown:
    """The samples that one layer shows.

    Attributes:
        samples: the rank of its gradient, or 0 where none is clear.
        layer: the name of its weight.
    """

    samples: int = 0
    layer: str = ""


def shown(observation: Observation, beyond: int = 0) -> Shown:
    """The largest clear rank among the Linear layers that see every sample once.

    After local steps a sample has a gradient a step, so that ranks say nothing.

    Args:
        observation: the update.
        beyond: samples that are known of: only a rank above is looked for.
    """
    if not observation.one_gradient:
        return Shown()
    best = Shown()
    ran = run(observation.model, noise_inputs(observation, SEEN, torch.Generator(observation.device).manual_seed(0)))
    linears = ran.linears
    names = [call.weight for call in linears]
    for call in linears:
        if call.input.ndim != 2 or names.count(call.weight) > 1 or call.weight not in observation.update:
            continue
        if call is linears[-1] and not _varied(ran.outputs.detach(), torch.finfo(observation.rounding).eps):
            continue
        gradient = observation.update[call.weight]
        # The columns of a softmax's gradient sum to zero: one dimension less in the last layer.
        side = min(int((gradient != 0).any(dim=1).sum()) - (call is linears[-1]), gradient.shape[1])
        if LOW * side <= max(beyond, 1):
            continue
        found = factor(gradient, torch.Generator(gradient.device).manual_seed(0))
        if not found.clear or not max(beyond, best.samples) < found.rank <= LOW * side:
            continue
        each = _directions(ran, call.weight)
        # Parts of samples are often alike, or empty: how many there were they do not say, only that there were more than some.
        if (samples := -(-found.rank // each)) > max(beyond, best.samples) and (each == 1 or beyond):
            best = Shown(samples, call.weight)
    return best


def size_is_shown(observation: Observation, counts: Float[Tensor, " c"]) -> bool:
    """Whether whole counts, or a rank, confirm the batch size that they were read for; a rank that it was taken from is no second witness.

    Args:
        observation: the update.
        counts: (C,) before rounding.
    """
    told = observation.batch_size
    return confirms_size(counts, told=told is not None) or (told is not None and shown(observation).samples == told)


def _directions(ran: Run, weight: str) -> int:
    """Of how many directions the gradient of one sample is: more than one where it is read in parts, or the weight is used twice."""
    leaf = ran.parameters.get(weight)
    if leaf is None or not ran.outputs.requires_grad:
        return 1  # a very wide weight is read in blocks, as that of a Linear layer only
    slope = torch.arange(1.0, 1 + ran.outputs.shape[1], dtype=ran.outputs.dtype, device=leaf.device).sin()
    gradient = torch.autograd.grad(ran.outputs[0] @ slope, leaf, retain_graph=True, allow_unused=True)[0]
    if gradient is None:
        return 1
    row = gradient[gradient.norm(dim=1).argmax()]
    rest = gradient - torch.outer(gradient @ row, row) / row.square().sum().clamp_min(torch.finfo(row.dtype).tiny)
    return 1 if bool(rest.norm() <= ALONG * gradient.norm()) else int(torch.linalg.matrix_rank(gradient, rtol=ALONG))


def _varied(scores: Float[Tensor, "k c"], rounding: float) -> bool:
    """Whether the model gives different inputs a different softmax, by far more than rounding."""
    softmax = torch.softmax(scores.double(), dim=1)
    return float((softmax - softmax.mean(dim=0)).square().sum(dim=1).mean().sqrt()) > VARIED * rounding


def check_told(observation: Observation, layer: LastLayer) -> None:
    """Hold what was told against what no batch can do.

    Args:
        observation: the update, with the batch size and the factor where they are known.
        layer: its last layer.

    Raises:
        Inapplicable: more samples, or more classes, are in the update than were told; or it is larger than that of any batch.
    """
    total = observation.batch_size
    if observation.factor_known and layer.excess > 1:
        raise Inapplicable(
            f"the bias gradient is {layer.excess:.3g} times as large as that of any batch can be: the update is not the mean over the batch"
            " (a sum, or multiplied by a factor), or the loss weights or softens its labels beyond reading"
        )
    if total is None or layer.noise > 0:
        return
    if layer.shift is not None and (classes := int(layer.there.sum())) > total:
        raise Inapplicable(f"{classes} classes surely have samples, more than the {total} samples that were told")
    if (found := shown(observation, total)).samples:
        raise Inapplicable(f"the gradient of {found.layer!r} holds at least {found.samples} samples, not {total} as was told")
