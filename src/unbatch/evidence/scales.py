"""Whether all tensors of an update are on the scale of the samples that it is said to be of.

The first layer alone proves samples (``each``), and where they count 1/k each nobody else is in the update: then they must give all of it.
Rounding and noise may keep the replay from that, and leave every tensor as large as it was. A tensor that is some times what the samples
give was changed, or what was told is wrong; the first layer may be that tensor, and the samples as much too long.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.evidence.plain_means import plain_size
from unbatch.evidence.replay import replay
from unbatch.linalg.completion import is_pruned
from unbatch.types import Observation

__all__ = ["off_scale"]

FAR = 1e-3
"""A tensor may be so many times off its scale. Chosen: no sample is proved that is farther off."""

CHANCE = 10.0
"""Standard deviations that noise, which is independent from number to number, may move a scale. Chosen."""


def off_scale(
    observation: Observation, inputs: Float[Tensor, " k *shape"], labels: Int64[Tensor, " k"], weights: Float[Tensor, " k"], limit: float
) -> str:
    """The tensor of the update that is most off the scale of the samples, and how many times what they give it is; or nothing.

    Nothing is said, either, where these need not be all samples, or the factor of the update is not known; or of a tensor that was pruned.

    Args:
        observation: what the server saw: one gradient.
        inputs: (k, *shape).
        labels: (k,).
        weights: (k,) what each counts.
        limit: see ``Replay.missed``.
    """
    number = len(labels)
    if not observation.factor_known or observation.coupled or plain_size(weights) != number:
        return ""
    once, twice = (replay(observation, inputs, labels, times * torch.full_like(weights, 1 / number)) for times in (1, 2))
    worst, told = 0.0, ""
    for name in [name for name in once.missed(limit) if not _sparse(observation.update[name])]:
        observed, near, far = (gap**2 for gap in (once.gaps[name].size, once.gaps[name].distance, twice.gaps[name].distance))
        given = (far - 2 * near + observed) / 2  # ‖R‖² of the replay R, from ‖G − R‖² and ‖G − 2 R‖²
        if not given > 0:
            continue
        scale = (observed + given - near) / 2 / given
        rest = max(observed - scale**2 * given, 0.0)
        off = abs(scale - 1)
        if off > max(FAR, CHANCE * math.sqrt(rest / given / observation.update[name].numel()), worst):
            worst, told = off, f"{name!r} is {scale:.4g} times what they give it"
    return told


def _sparse(tensor: Tensor) -> bool:
    return is_pruned(tensor.flatten(1)) if tensor.ndim > 1 else bool((tensor == 0).any())
