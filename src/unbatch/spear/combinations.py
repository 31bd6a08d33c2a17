"""Combinations of two true columns, told by their ratios.

A direction q_i + c q_k is zero where both columns are, and equals c times the second wherever only the second is not zero: many equal
ratios. Taking that multiple away makes the column sparser. Two samples that are much alike have nearly the same zeros, and where signs do
not tell them apart, as under local training, nothing else does.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock, OutOfTime
from unbatch.spear.layer import Layer, unit
from unbatch.spear.rounding import null_of_masks

__all__ = ["untangled"]

SHARP, BLUR = 1e-6, 30.0
"""Ratios that differ by less than this, or by this many times the noise, are equal. Chosen. The second swept."""


def untangled(
    layer: Layer, directions: Float[Tensor, "b b"], rounds: int = 5, equal: int = 3, clock: Clock = UNLIMITED
) -> Float[Tensor, "b b"]:
    """The directions, each less the multiples of others that make its column sparser.

    Args:
        layer: the layer.
        directions: (b, b) unit directions, independent.
        rounds: sweeps over all pairs, at most.
        equal: so many equal ratios are no accident.
        clock: the directions as they are when it runs out.

    Example:
        >>> from planted import plant
        >>> case = plant(m=60, b=6)
        >>> true = unit(case.directions)
        >>> mixed = torch.cat([unit(true[:1] + 0.3 * true[1:2]), true[1:]])
        >>> bool(((untangled(case.layer, mixed) * true).sum(dim=1).abs() > 1 - 1e-9).all())
        True
    """
    directions = directions.clone()
    with suppress(OutOfTime):
        for _ in range(rounds):
            changed = [_made_sparser(layer, directions, i, equal, clock) for i in range(len(directions))]
            if not any(changed):
                break
    return directions


def _made_sparser(layer: Layer, directions: Float[Tensor, "b b"], i: int, equal: int, clock: Clock) -> bool:
    """Take from one of the directions, in place, that multiple of another which leaves the most zeros; whether there is one."""
    clock.check()
    tolerance, columns = max(SHARP, BLUR * layer.noise_level), directions @ layer.left.T
    ratios = (columns[i] / columns).where(~(layer.off(directions) | layer.off(directions[i : i + 1])), torch.nan)
    ratios[i] = torch.nan
    ordered = ratios.sort(dim=1).values  # NaN comes last
    near = (ordered[:, equal - 1 :] - ordered[:, : 1 - equal]).abs() < tolerance * ordered[:, equal - 1 :].abs()
    pairs = near.nonzero()
    if not len(pairs):
        return False
    others, multiples = pairs[:, 0], ordered[pairs[:, 0], pairs[:, 1] + equal // 2]
    rough = unit(directions[i] - multiples[:, None] * directions[others])
    # A multiple is one ratio, as exact as two entries are: all that it makes nearly zero tells the direction better.
    zero = (rough @ layer.left.T).abs() < BLUR * layer.threshold(rough)
    tried = torch.cat([directions[i : i + 1], rough, null_of_masks(layer.left, zero, clock=clock)])
    zeros = layer.off(tried).sum(dim=1)
    best = int(zeros.argmax())
    directions[i] = tried[best]
    return best > 0
