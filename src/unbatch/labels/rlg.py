"""RLG: a class is there if its row of the gradient can be told from all others by a hyperplane through zero.

Dang, Thakkar, Ramaswamy, Mathews, Chin, Beaufays, "Revealing and Protecting Labels in Distributed Training", NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linprog
from torch import Generator

from unbatch.contracts import Estimate, LabelRestorer
from unbatch.errors import Inapplicable
from unbatch.labels._batch_size import check_told
from unbatch.last_layer import last_layer, obstacle
from unbatch.types import Observation

SEPARATED = 1e-6
"""How far below zero the linear program must come: its solver is exact to 1e-7. Derived."""

__all__ = ["RLG"]


@dataclass(frozen=True)
class RLG(LabelRestorer):
    """Which classes are likely there, by one linear program a class in the row space of the gradient; for batches smaller than C and D.

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 8)).double()
        >>> secret, labels = torch.rand(4, 20, dtype=torch.float64), torch.tensor([0, 0, 3, 4])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (20,), batch_size=4)
        >>> RLG()(seen).presence.nonzero()[:, 0].tolist()
        [0, 3, 4]
    """

    def unsupported(self, observation: Observation) -> str | None:
        """Not the cross-entropy of a softmax, or a batch that is not smaller than the last layer's sides."""
        if (reason := obstacle(observation)) is not None:
            return reason
        sides = min(last_layer(observation).weight.shape)
        if observation.batch_size is not None and observation.batch_size >= sides:
            return f"RLG needs a batch smaller than {sides}, the smaller side of the last layer, got {observation.batch_size}"
        return None

    def estimate(self, observation: Observation, generator: Generator) -> Estimate:
        """See the class."""
        layer = last_layer(observation)
        check_told(observation, layer)
        left, values, _ = torch.linalg.svd(layer.gradient, full_matrices=False)
        rank = int((values > values[0] * max(layer.gradient.shape) * layer.rounding).sum())
        if not rank:
            raise Inapplicable("the gradient of the last layer is zero: RLG has no rows to tell apart")
        # The columns of a softmax's gradient sum to zero, so a rank of C − 1 is full.
        if rank >= min(layer.classes - 1, layer.weight.shape[1]):
            raise Inapplicable(f"the gradient of the last layer has full rank {rank}: the batch is too large for RLG, or noise was added")
        rows = left[:, :rank].cpu().numpy()
        presence = [_separable(rows, j) for j in range(layer.classes)]
        return Estimate(
            presence=torch.tensor(presence, device=layer.weight.device),
            reason="RLG tells which classes are likely there, not how often: labels that repeat may mislead it",
            stats={"rank": rank},
            ranges=layer.bounds,
        )


def _separable(rows: npt.NDArray[np.float64], j: int) -> bool:
    """Whether some x has rows[j] x < 0 and rows[i] x >= 0 for all others."""
    others = np.delete(rows, j, axis=0)
    program = linprog(rows[j], A_ub=-others, b_ub=np.zeros(len(others)), bounds=(-1, 1), method="highs")
    return program.status == 0 and bool(program.fun < -SEPARATED)
