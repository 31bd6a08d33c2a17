"""The update's factor where the server does not know it: an unknown learning rate, or clipping.

What is seen is s g. The counts n = K (mean p − s g / s) are whole numbers, none negative. The class with the largest ratio of s g to mean p
is the rarest; if it has m samples, s follows, and with it all other counts. Only for the right m do they all come out whole.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.errors import Inapplicable

__all__ = ["UNKNOWN", "factors_of", "likeliest"]

FLOOR = 0.01
"""Deviation of a count, in samples, that is expected at least. Chosen. Swept."""

UNKNOWN = "the update is multiplied by a factor that the server does not know"
"""Why a method that needs the scale does not apply."""

OFF = 0.2
"""How far from whole, in samples (root mean square), the counts of the right factor may be; those of a wrong one are 0.29 off. Chosen
below that. Swept."""

DECISIVE = 7.0
"""Logarithm of how many times likelier one factor must be than any other. Chosen: a thousand times. Swept."""


def factors_of(mean: Float[Tensor, " c"], scaled: Float[Tensor, " c"], total: int) -> Float[Tensor, " m"]:
    """The factors for which the rarest class has 0, 1, 2, ... samples.

    Args:
        mean: (C,) mean probability of the batch.
        scaled: (C,) s g.
        total: K.

    Example:
        >>> counts = torch.tensor([5.0, 1.0, 2.0, 4.0], dtype=torch.float64)
        >>> mean = torch.tensor([0.3, 0.2, 0.26, 0.24], dtype=torch.float64)
        >>> factors_of(mean, 0.7 * (mean - counts / 12), total=12).round(decimals=3).tolist()
        [0.408, 0.7, 2.45]
    """
    rarest = int((scaled / mean).argmax())
    most = float(total * mean[rarest])
    samples = torch.arange(0, most, dtype=mean.dtype, device=mean.device)
    return scaled[rarest] * total / (most - samples)


def likeliest(off: Float[Tensor, " m"], error: float, classes: int) -> int:
    """Which factor it is.

    Args:
        off: (m,) for each factor, how far its counts are from whole ones, root mean square.
        error: deviation to expect of a count, in samples, at the best of them.
        classes: C; the sum of the counts, and that of the rarest class, are whole for all factors.

    Raises:
        Inapplicable: several factors, or none, make whole counts.
    """
    best = int(off.argmin())
    if error > OFF:
        raise Inapplicable(f"{UNKNOWN}, and counts are known to {error:.1f} samples only: too little to tell the factor by whole counts")
    if float(off[best]) > OFF:
        raise Inapplicable(f"{UNKNOWN}, and none makes the counts whole: the samples count unevenly, or the batch size is wrong")
    spread = max(error, float(off[best]), FLOOR)
    ahead = max(0, classes - 2) / 2 * (off.square() - off[best].square()) / spread**2
    if int((ahead < DECISIVE).sum()) > 1 or classes < 3:
        raise Inapplicable(f"{UNKNOWN}, and several factors make whole counts")
    return best
