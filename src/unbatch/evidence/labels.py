"""Whether the update tells the labels of proved samples."""

from __future__ import annotations

import torch
from torch import Tensor

from unbatch.evidence.replay import entrance_of
from unbatch.evidence.slopes import pulled_back
from unbatch.losses import slopes_alone
from unbatch.trace import run
from unbatch.types import Observation

__all__ = ["labels_told", "likely"]

PARALLEL = 1e-6
"""Two labels whose slopes differ by less in their direction leave the same gradient, but for what the sample counts. Chosen: half of
float64's digits."""


def labels_told(observation: Observation, inputs: Tensor, labels: Tensor, *, explained: bool) -> bool:
    """Whether no other label of any sample would leave the same gradient, up to a factor.

    Of plain cross-entropy none does. Label smoothing may: of two classes, where the network is sure, both labels pull in one direction.
    Where others are missing, or the last layer is frozen, only what goes down to the layer that sees the samples tells: two classes of
    equal weights pull alike there.

    Args:
        observation: what the server saw.
        inputs: (k, *shape).
        labels: (k,).
        explained: whether these samples explain the whole update, and so that of the last layer.
    """
    plain, classes = observation.loss in ("cross_entropy", "nll"), observation.classes
    last = explained and bool(observation.layers) and observation.layers[-1].weight in observation.update
    if plain and (last or classes > MOST):
        return True
    if not last:
        inputs, labels = (given[: max(1, MOST // classes)] for given in (inputs, labels))
    ran = run(observation.model, inputs)
    every = slopes_alone(observation.loss, ran.outputs.detach(), torch.arange(classes, device=labels.device))
    call = None if last else entrance_of(ran.linears, observation, len(inputs))
    if call is not None:
        pulled = [pulled_back(ran.outputs, [call.output], slope, again=True)[0] for slope in every]
        every = torch.stack([torch.zeros_like(call.output) if column is None else column for column in pulled])
    every = torch.nn.functional.normalize(every, dim=-1, eps=torch.finfo(every.dtype).tiny)  # of a sure network they are tiny
    own = every[labels, torch.arange(len(labels), device=labels.device)]
    alike = (every * own).sum(dim=-1) > 1 - PARALLEL
    return bool((alike.sum(dim=0) == 1).all())


MOST = 4096
"""Labels of samples that are asked at most: of more samples than that, the first ones. Chosen, as ``certificate.labels_that_fit``."""


def likely(observation: Observation, inputs: Tensor, labels: Tensor) -> bool:
    """Whether the network finds no label so unlikely that the client may have had the other one of two, smoothed.

    With smoothing σ a sample of class 1 pulls by p − 1 + σ/2, which is above zero, as of class 0, once p > 1 − σ/2. Told as plain
    cross-entropy, it is one of class 0 with a smaller weight: the label is turned round only where the network gives it less than σ/2.
    """
    if observation.loss not in ("cross_entropy", "nll"):
        return False
    given = run(observation.model, inputs).outputs.detach().softmax(dim=1)
    return bool((given[torch.arange(len(labels), device=labels.device), labels] >= UNLIKELY).all())


UNLIKELY = 0.25
"""Labels are smoothed by a half at most: see ``likely``. Derived."""
