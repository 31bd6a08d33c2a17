"""Whether what was audited is what a client really sends, or an upper bound: a setting in which an attack has it easier.

Valadi and others ("From Research to Reality: Feasibility of Gradient Inversion Attacks in Federated Learning", arXiv 2508.19819) find
that published successes are those of upper-bound settings: models in eval mode, one gradient of one batch, facts that no server is told.
A reader must be able to tell which of the two a report is.
"""

from __future__ import annotations

import torch
from torch import nn

from unbatch.types import Observation

__all__ = ["upper_bounds"]

_BY_MODE = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers that do something else while a client trains."""


def upper_bounds(observation: Observation) -> tuple[str, ...]:
    """What makes this setting easier than that of a real client, a reason each; none where it is realistic.

    Args:
        observation: what the server saw, and was told.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).eval()
        >>> update = {name: torch.ones_like(p) for name, p in net.named_parameters()}
        >>> [reason.partition(":")[0] for reason in upper_bounds(Observation(net, update, (4,)))]
        ['one gradient of one batch', 'the model ran in eval mode']
    """
    reasons = []
    if observation.one_gradient:
        reasons.append("one gradient of one batch: most clients take several steps before they send")
    if observation.labels is not None:
        reasons.append("the labels were told: a server does not have them")
    if observation.rounding is torch.float64:
        reasons.append("the update is in float64: clients compute in float32 or less")
    layers = [layer for layer in observation.model.modules() if isinstance(layer, _BY_MODE)]
    if layers and not any(layer.training for layer in layers):
        reasons.append("the model ran in eval mode: a client that trains normalizes by its batch and drops out units")
    return tuple(reasons)
