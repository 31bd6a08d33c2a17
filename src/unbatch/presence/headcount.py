"""How many samples a batch held, by what its members count."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.evidence.certificate import MARGIN
from unbatch.evidence.completeness import counts_evenly, hides, leaves_out
from unbatch.evidence.slopes import pulled_back
from unbatch.presence.rows import Rows
from unbatch.trace import run
from unbatch.types import Observation

__all__ = ["accounts_for", "number_of"]

NEAR = 1e-3
"""What members say of 1/w may differ by this share. Chosen, as ``completeness.WHOLE``."""

ONE = 0.5
"""Derived: no batch has less than one sample, and 1/w is rounded to a whole number."""

OFF, SHARP = 0.1, 1e-6
"""How far 1/w may be from a whole number, in samples; and the share of it that is allowed in any case, however well members agree.
Chosen."""


def number_of(observation: Observation, members: Tensor, labels: Int64[Tensor, " c"], inverse: Float[Tensor, " c"]) -> int | None:
    """The number of samples: what 1/w of members is, or a whole multiple of it where they were repeated.

    None where it is not whole; and where the loss is no mean in which each of n samples counts 1/n, also beside those that leave no trace.

    Args:
        observation: for the loss.
        members: (c, *shape) records that were there.
        labels: (c,) theirs.
        inverse: (c,) 1/w.
    """
    if not observation.factor_known or not len(inverse) or not bool((inverse > ONE).all()):
        return None
    number = float(inverse.max())
    times = (number / inverse).round()
    each = inverse * times
    spread = float((each.max() - each.min()) / number)
    whole = spread < NEAR and abs(float(each.median()) - round(float(each.median()))) < min(OFF, number * max(SHARP, MARGIN * spread))
    evenly = whole and counts_evenly(observation, labels) and not hides(observation, members, labels)
    return round(float(each.median())) if evenly else None


def accounts_for(observation: Observation, rows: Rows, number: int | None, each: int) -> bool:
    """Whether a layer's directions are those of all samples, and neither statistics of the batch nor the loss takes any away.

    Args:
        observation: for the model.
        rows: what the layer's gradient shows.
        number: of samples, where it is known.
        each: with how many rows a sample feeds the layer.
    """
    shown = rows.clear and number is not None and rows.rank == number * each
    certain = shown and not _pruned(observation) and not _cancels(observation, rows.weight)
    return certain and not leaves_out(observation, rows.rank // each)


def _pruned(observation: Observation) -> bool:
    """Whether small numbers were taken out of the update: a bias has no gradient where the weights of its neuron have one.

    Of records that are ones and zeros what is left has few directions, and not those of the weak samples, which were taken out. What half
    precision has no numbers for is zero as well, beside others that are as small.
    """
    least = torch.finfo(observation.rounding).smallest_normal
    for call in observation.layers:
        bias, weight = observation.update.get(call.bias or ""), observation.update.get(call.weight)
        if bias is None or weight is None or not bool(bias.any()) or float(bias[bias != 0].abs().min()) <= least:
            continue
        if bool(weight[bias == 0].any()):
            return True
    return False


def _cancels(observation: Observation, weight: str) -> bool:
    """Whether the columns of every batch add up to nothing at a layer, as right before statistics of the batch: then of n samples there are
    n − 1 directions, and no sample lies in them.
    """
    if not observation.coupled:
        return False
    ran = run(observation.model, observation.probe)
    head = torch.arange(1.0, 1 + ran.outputs.numel(), dtype=ran.outputs.dtype, device=ran.outputs.device).sin().reshape(ran.outputs.shape)
    columns = pulled_back(ran.outputs, [ran.made_by(weight)], head)[0]
    if columns is None:
        return False
    columns = columns.flatten(0, -2)
    return bool(columns.sum(dim=0).norm() <= SHARP * columns.norm())
