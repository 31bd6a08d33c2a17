r"""Whether the negative of a sample would leave what the sample leaves: a loose end that no derivative sees.

G = Σ w d xᵀ, and (−d)(−x)ᵀ = d xᵀ. Where no bias gradient Σ w d tells the sign of d, it is open if d(−x) = −d(x) for some label. That is so

- behind an even activation (a square, |z|) whose layer has no bias: the scores of −x are those of x;
- in networks of odd activations (tanh) without biases, where the scores of −x are those of x turned round, for a loss of two classes that
  turns with them: binary cross-entropy, squares of targets ±1. The label is then the other one.

Any sample of a batch can be turned round alone, and all tensors of the update stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.slopes import slopes_of
from unbatch.losses import slopes_alone
from unbatch.types import Observation

__all__ = ["mirrored"]

MARGIN = 10.0
"""A mirror image may leave as many times what is known of the sample itself. Chosen, as in ``certificate``."""

TRIED = 2
"""Labels that are tried of a mirror image. Derived: a slope has two signs."""


def mirrored(
    observation: Observation,
    labels: Int64[Tensor, " k"],
    here: Float[Tensor, "k m"],
    scores: tuple[Float[Tensor, "k C"], Float[Tensor, "k C"]],
    passed: Callable[[Int64[Tensor, " k"]], Float[Tensor, "k m"] | None],
    misfit: Float[Tensor, " k"],
) -> Bool[Tensor, " k"]:
    """(k,) whether each sample's negative would leave the same at the layer that sees it.

    Args:
        observation: for the loss.
        labels: (k,).
        here: (k, m) columns of the samples.
        scores: (k, C) what the network gives for the samples, and for their negatives.
        passed: labels (k,) -> columns of the negatives.
        misfit: (k,) relative error to which what a sample leaves is known.
    """
    allowed = (MARGIN * misfit.nan_to_num(0.0, 0.0)).clamp_min(torch.finfo(observation.rounding).eps ** 0.5)
    given, there = scores
    size = MARGIN * allowed * given.norm(dim=1)
    same, turned = (given - there).norm(dim=1) <= size, (given + there).norm(dim=1) <= size
    found = torch.zeros_like(same)
    if not bool((same | turned).any()):
        return found
    own = torch.nn.functional.normalize(slopes_of(observation, given, labels), dim=1)
    every = torch.arange(given.shape[1], device=labels.device)
    along = (torch.nn.functional.normalize(slopes_alone(observation.loss, there, every), dim=2) * own).sum(dim=2).abs()
    # Its own label is tried in any case: where the network is sure of it, of its slope no digit may be left beside those of others.
    for named in (labels, *along.nan_to_num(0.0).topk(min(TRIED, len(every)), dim=0).indices):
        columns = passed(named)
        if columns is not None:
            found |= (columns + here).norm(dim=1) <= allowed * here.norm(dim=1)
    return found
