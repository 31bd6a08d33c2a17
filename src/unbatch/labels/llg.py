"""LLG: how much one sample changes the last layer's gradient, and how often that fits.

Wainakh, Ventola, Müßig, Keim, Garcia Cordero, Zimmer, Grube, Kersting, Mühlhäuser, "User-Level Label Leakage from Gradients in Federated
Learning", PoPETs 2022. Several reimplementations subtract the impact from the wrong class; this one does not.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from torch import Generator

from unbatch.contracts import Estimate, LabelRestorer
from unbatch.errors import Inapplicable
from unbatch.labels._batch_size import check_told
from unbatch.labels._local_training import told
from unbatch.last_layer import last_layer, obstacle
from unbatch.types import Observation

__all__ = ["LLG"]


@dataclass(frozen=True)
class LLG(LabelRestorer):
    """Row sums r of the gradient and the impact of one sample, m = (1 + 1/C)/K · Σ of the negative ones.

    Each class with r < 0 gets one sample, then the class with the smallest r, until there are K; every time m is taken from that class's r.

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 5)).double()
        >>> secret, labels = torch.rand(4, 20, dtype=torch.float64), torch.tensor([0, 0, 3, 4])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (20,), batch_size=4)
        >>> LLG()(seen).counts.tolist()
        [2, 0, 0, 1, 1]
    """

    def unsupported(self, observation: Observation) -> str | None:
        """Not the cross-entropy of a softmax, or features below zero."""
        if (reason := obstacle(observation)) is not None:
            return reason
        return None if last_layer(observation).non_negative else "LLG reads signs, and the features of the last layer can be negative"

    def estimate(self, observation: Observation, generator: Generator) -> Estimate:
        """See the class."""
        layer, size = last_layer(observation), observation.batch_size
        if size is None:
            raise Inapplicable("LLG needs the batch size")
        check_told(observation, layer)
        sums = layer.row_sums
        impact = float((1 + 1 / len(sums)) / size * sums.clamp_max(0).sum())
        there = (sums < 0) & (sums <= sums.sort().values[min(size, len(sums)) - 1])
        counts = there.double()
        heap = list(zip((sums - impact * counts).tolist(), range(len(sums)), strict=True))
        heapq.heapify(heap)
        for _ in range(size - int(there.sum())):
            smallest, j = heap[0]
            counts[j] += 1
            heapq.heapreplace(heap, (smallest - impact, j))
        ranges, about = layer.bounds, told(observation)
        if ranges is not None and (beyond := int(((counts < size * ranges[:, 0] - 0.5) | (counts > size * ranges[:, 1] + 0.5)).sum())):
            doubt = f"{beyond} of the counts are none that the bias gradient allows: samples do not count alike, as LLG takes them to"
            about["reason"] = "; ".join(filter(None, [about.get("reason", ""), doubt]))
        return Estimate(counts, **about, ranges=ranges)
