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
from unbatch.labels._batch_size import check_told, size_is_shown
from unbatch.labels._local_training import halfway, told
from unbatch.labels._scale import UNKNOWN
from unbatch.labels._whole import expected_error
from unbatch.last_layer import ROUNDINGS, LastLayer, last_layer, obstacle
from unbatch.types import Observation

__all__ = ["ILRG"]

NOTHING, MOST_ORDERS = 1e-64, 10
"""What stands for a gradient of zero, and the decimal exponents to which a ratio is cut off, as in the authors' code. Published."""

LOST, WHOLE = 0.5, 0.2
"""Error by rounding, in samples, above which the system says nothing; distance from whole numbers above which the counts are doubted.
Derived: half a sample turns a count into another; and 0.29 is what chance leaves, the root mean square of a fraction."""

SINGULAR = 1e12
"""Magnification above which the square system has no single solution. Chosen: four digits are left."""

OWN = 0.9
"""Probability that a class gives its own embedding, from which on the system hardly sees the samples of it: a sure class leaves next to no
gradient, so that other counts explain the same, and come out as whole. Chosen: of eight wrong answers that looked whole all but those of
pruned updates were above."""


@dataclass(frozen=True)
class ILRG(LabelRestorer):
    """Every class j is given the embedding G_j / g_j and its softmax p⁽ʲ⁾; Σ_j p⁽ʲ⁾ k_j − k = K g and Σ_j k_j = K give the counts k.

    As published, the system is solved by a pseudoinverse, and the ratio of a class whose g_j was pruned away is cut off at ten decimal
    orders. The published method then clips and rounds the solution, and may miss the sum; here the nearest whole numbers with the right
    sum are taken.

    Attributes:
        uniform: the published ablation: every class softmax is 1/C, so that k = K (1/C − g). Its counts are never called determined.

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
        layer, total = last_layer(halfway(observation)), observation.batch_size
        check_told(observation, layer)
        if total is None:
            raise Inapplicable("iLRG needs the batch size")
        probabilities = layer.weight.new_full((layer.classes, layer.classes), 1 / layer.classes)
        if not self.uniform:
            probabilities = torch.softmax(class_embeddings(layer) @ layer.weight.T + layer.bias, dim=1)
        if not bool(probabilities.isfinite().all()):
            raise Inapplicable("numbers of the last layer's gradient are so large or so small that iLRG's ratios overflow")
        counts, magnified = solve(probabilities, layer.bias_gradient, total)
        lost = total * magnified * max(layer.rounding * float(layer.bias_gradient.abs().max()), layer.noise)
        if lost > LOST and layer.noise == 0:
            raise Inapplicable(
                f"the linear system of iLRG makes an error of {lost:.1g} samples of the rounding of the update: K is too large"
            )
        # The method says nothing of its own error: how far the counts are from whole numbers stands for it.
        off = (counts - counts.round()).square().mean().sqrt().expand(layer.classes)
        noise = total * magnified * layer.noise
        error, about = expected_error(counts, off.square().add(noise**2).sqrt(), total), told(observation)
        # Nothing confirms that every softmax is 1/C: where a network is sure of all samples, g is whole, and so are K/C and whole numbers.
        if self.uniform or float(probabilities.diagonal().max()) > OWN or not size_is_shown(observation, counts):
            error = None
        if error is None and layer.noise == 0 and float(off[0]) > WHOLE:
            doubt = f"the counts came out {float(off[0]):.2f} off whole numbers, where 0.29 is chance: they are not what iLRG is made for"
            about["reason"] = "; ".join(filter(None, [about.get("reason", ""), doubt]))
        return Estimate(counts, **about, expected_error=error, ranges=layer.bounds)


def class_embeddings(layer: LastLayer) -> Float[Tensor, "c d"]:
    """G_j / g_j, with decimal exponents of the ratio cut off at ten, and 1e-64 for a g_j that is zero."""
    shift = layer.bias_gradient.where(layer.bias_gradient != 0, NOTHING)[:, None]
    orders = _order(layer.gradient) - _order(shift)
    return layer.gradient / shift * 10.0 ** (orders.clamp(-MOST_ORDERS, MOST_ORDERS) - orders)


def _order(values: Tensor) -> Tensor:
    """The decimal exponent; that of 1 for zero."""
    return values.abs().where(values != 0, 1.0).log10().floor()


def solve(probabilities: Float[Tensor, "c c2"], shift: Float[Tensor, " c"], total: int) -> tuple[Float[Tensor, " c"], float]:
    """Counts k of (Pᵀ − I) k = K g and Σ k = K, for P with rows that sum to one.

    The C equations of the biases sum to 0 = 0 where the update is untouched; adding the last equation to each of them then makes one square
    system of full rank. Where they do not, or that system has no single solution, the pseudoinverse of all C + 1 equations is taken.

    Returns:
        the counts, and by how much an error of g is magnified at most in k / K, to about its order.
    """
    classes = len(shift)
    system = probabilities.T - torch.eye(classes, dtype=shift.dtype, device=shift.device)
    factors, pivots, failed = torch.linalg.lu_factor_ex(system + 1 / classes)
    untouched = float(shift.sum().abs()) <= ROUNDINGS * torch.finfo(torch.float32).eps * float(shift.abs().sum())
    if untouched and not bool(failed):
        solution = torch.linalg.lu_solve(factors, pivots, total * (shift + 1 / classes)[:, None])[:, 0]
        magnified = _norm_of_inverse(factors, pivots)
        if bool(solution.isfinite().all()) and magnified < SINGULAR:
            return solution, magnified
    tall, right = torch.cat([torch.ones_like(shift)[None], system]), total * torch.cat([torch.ones_like(shift[:1]), shift])
    # In double precision, cut off at 1e-15 as numpy's pinv does.
    solution = torch.linalg.lstsq(tall.cpu(), right.cpu()[:, None], rcond=1e-15, driver="gelsd").solution[:, 0].to(shift)
    return solution, 1.0


def _norm_of_inverse(factors: Tensor, pivots: Tensor, rounds: int = 4) -> float:
    """The largest singular value of the inverse, by power iteration from alternating signs: to a factor of two or so."""
    vector = torch.ones(len(factors), 1, dtype=factors.dtype, device=factors.device)
    vector[::2] = -1
    size = 0.0
    for _ in range(rounds):
        vector = torch.linalg.lu_solve(factors, pivots, vector / vector.norm())
        vector = torch.linalg.lu_solve(factors, pivots, vector, adjoint=True)
        size = float(vector.norm()) ** 0.5
    return size
