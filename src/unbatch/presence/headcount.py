"""How many samples a batch held, by what its members count."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.evidence.certificate import MARGIN
from unbatch.evidence.completeness import counts_evenly, hides
from unbatch.types import Observation

__all__ = ["number_of"]

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
