"""iLRG: class embeddings from the ratio of two gradients, class probabilities from the embeddings, counts from a linear system.

Ma, Sun, Cui, Li, Guan, Liu, "Instance-wise Batch Label Restoration via Gradients in Federated Learning", ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unbatch.contracts import Estimate, LabelRestorer
from unbatch.errors import Inapplicable
from unbatch.labels._local_training import halfway, told
from unbatch.labels._scale import UNKNOWN
from unbatch.last_layer import LastLayer, last_layer, obstacle
from unbatch.types import Observation

__all__ = ["ILRG"]


@dataclass(frozen=True)
class ILRG(LabelRestorer):
    """Every class j is given the embedding G_j / g_j and its softmax p⁽ʲ⁾; Σ_j p⁽ʲ⁾ k_j − k = K g and Σ_j k_j = K give the counts k.

    The published method takes the solution by a pseudoinverse, clips and rounds it, and may miss the sum; here the nearest whole numbers
    with the right sum are taken.

    Attributes:
        uniform: the published ablation: every class softmax is 1/C, so that k = K (1/C − g).

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 5)).double()
        >>> secret, labels = torch.rand(8, 20, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 0, 1, 1, 4])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (20,), batch_size=8)
        >>> ILRG()(seen).counts.tolist()
        [5, 2, 0, 0, 1]
    """

    uniform: bool = False

    def unsupported(self, observation: Observation) -> str | None:
        """No bias, not the cross-entropy of a softmax, or an unknown factor."""
        return obstacle(observation, bias=True) or (None if observation.factor_known else UNKNOWN)

    def estimate(self, observation: Observation, generator: Generator) -> Estimate:
        """See the class."""
        layer = last_layer(halfway(observation))
        if observation.batch_size is None:
            raise Inapplicable("iLRG needs the batch size")
        probabilities = layer.weight.new_full((layer.classes, layer.classes), 1 / layer.classes)
        if not self.uniform:
            probabilities = torch.softmax(class_embeddings(layer) @ layer.weight.T + layer.bias, dim=1)
        return Estimate(solve(probabilities, layer.bias_gradient, observation.batch_size), **told(observation))


def class_embeddings(layer: LastLayer) -> Float[Tensor, "c d"]:
    """G_j / g_j, or the mean over all classes where g_j is zero."""
    shift = layer.bias_gradient
    zero = shift.abs() <= shift.abs().max() * 1e-12
    mean = (shift @ layer.gradient) / shift.square().sum()
    return torch.where(zero[:, None], mean, layer.gradient / shift.where(~zero, 1.0)[:, None])


def solve(probabilities: Float[Tensor, "c c2"], shift: Float[Tensor, " c"], total: int) -> Float[Tensor, " c"]:
    """Counts k of (Pᵀ − I) k = K g and Σ k = K, for P with rows that sum to one.

    The C equations of the biases sum to 0 = 0; adding the last equation to each of them makes one square system of full rank.

    Raises:
        Inapplicable: the system has no single solution.
    """
    classes = len(shift)
    system = probabilities.T - torch.eye(classes, dtype=shift.dtype, device=shift.device) + 1 / classes
    solution, failed = torch.linalg.solve_ex(system, total * (shift + 1 / classes))
    if bool(failed) or not bool(solution.isfinite().all()):
        raise Inapplicable("the linear system of iLRG has no single solution: no gradient of some classes is left")
    return solution
