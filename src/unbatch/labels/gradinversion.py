"""GradInversion's labels: the smallest entry of every row of the last layer's gradient.

Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov, "See through Gradients: Image Batch Recovery via GradInversion", CVPR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from unbatch.contracts import Estimate, LabelRestorer
from unbatch.errors import Inapplicable
from unbatch.labels._batch_size import check_told, shown
from unbatch.labels._local_training import told
from unbatch.labels._whole import MISTAKEN
from unbatch.last_layer import ROUNDINGS, last_layer, obstacle
from unbatch.types import Observation

__all__ = ["GradInversion"]


@dataclass(frozen=True)
class GradInversion(LabelRestorer):
    """The classes whose row has a negative entry, at most as many as samples. Counts only where these are as many as samples.

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 5)).double()
        >>> secret, labels = torch.rand(3, 20, dtype=torch.float64), torch.tensor([0, 3, 4])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (20,), batch_size=3)
        >>> GradInversion()(seen).counts.tolist()
        [1, 0, 0, 1, 1]
    """

    def unsupported(self, observation: Observation) -> str | None:
        """Not the cross-entropy of a softmax, or features below zero."""
        if (reason := obstacle(observation)) is not None:
            return reason
        return None if last_layer(observation).non_negative else "GradInversion reads signs, and features of the last layer can be negative"

    def estimate(self, observation: Observation, generator: Generator) -> Estimate:
        """See the class."""
        layer, size = last_layer(observation), observation.batch_size
        check_told(observation, layer)
        presence = layer.lowest < 0
        there = int((layer.lowest < -ROUNDINGS * layer.rounding * layer.gradient.abs().max()).sum())
        if size is not None and layer.noise == 0 and there > size:
            raise Inapplicable(
                f"{there} classes have a negative entry, {size} samples were told: the labels are soft, or the batch size is wrong"
            )
        if size is not None and size < layer.classes:
            among = torch.zeros_like(presence)
            among[layer.lowest.argsort(stable=True)[:size]] = True
            presence &= among
        if size == int(presence.sum()):
            # As many classes as samples, each surely there: each is there once, if a layer shows that there were no more samples.
            sure = MISTAKEN if layer.noise == 0 and there == size == shown(observation).samples else None
            return Estimate(presence.double(), **told(observation), expected_error=sure, ranges=layer.bounds)
        reason = f"GradInversion assumes that no class repeats; it tells only which classes are {'likely ' if layer.noise > 0 else ''}there"
        return Estimate(presence=presence, reason=reason, ranges=layer.bounds)
