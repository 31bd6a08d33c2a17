"""What proves a single sample: the next layer's gradient.

If a Linear layer reads the activations h = ReLU(z), its gradient D₂ Hᵀ has every h_i in its row space. A sample's zero pattern then
leaves a linear system with m equations for 2b unknowns: on the neurons that are off, h_i vanishes; on the others it equals W x_i + bias.
A solution at rounding level exists only for a true pattern, and gives the sample exactly, before any other is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.spear.layer import Layer
from unbatch.spear.masked import LARGE, fitted_on
from unbatch.spear.rounding import masked_gram, null_of_masks

__all__ = ["NextLayer", "next_layer", "solve_samples"]

SINGULAR, RIDGE = 1e-9, 1e-15
"""A direction of the next layer below this share of the largest is not seen in it; what keeps systems solvable. Chosen."""


@dataclass(frozen=True, eq=False)
class NextLayer:
    """The next layer's row space, on the neurons that are alive.

    Attributes:
        activations: (m, b) orthonormal basis.
        noise: error of its weakest direction: the first singular value that is noise over the last that is not.
    """

    activations: Float[Tensor, "m b"]
    noise: float = 0.0


def next_layer(gradient: Float[Tensor, "m2 m"] | None, alive: Bool[Tensor, " m"], batch: int) -> NextLayer | None:
    """The basis, or None where the next layer's gradient has not the rank of the batch."""
    if gradient is None or min(gradient.shape) < batch:
        return None
    basis, values, _ = torch.linalg.svd(gradient.T.double(), full_matrices=False)
    if values[batch - 1] < SINGULAR * values[0]:
        return None
    noise = float(values[batch] / values[batch - 1]) if len(values) > batch else 0.0
    return NextLayer(torch.linalg.qr(basis[alive, :batch])[0], noise)


def solve_samples(
    layer: Layer, following: NextLayer, off: Bool[Tensor, "k m"], refinements: int = 2, clock: Clock = UNLIMITED
) -> tuple[Float[Tensor, "k b"], Float[Tensor, " k"]]:
    """The samples that belong to zero patterns.

    Off rows: activations @ r = 0; the others: seen @ p + bias = activations @ r; and p · sums = 1.

    Args:
        layer: the whole layer, all samples.
        following: the next layer.
        off: (k, m) zero patterns.
        refinements: steps of iterative refinement.
        clock: when to give up.

    Returns:
        (k, b) samples p, and (k,) relative residuals: at rounding level exactly where the pattern is right.
    """
    count, batch = len(off), layer.batch
    on = (~off).to(layer.left.dtype)
    basis, change = torch.linalg.qr(layer.seen)
    shape = null_of_masks(following.activations, off, clock=clock) @ following.activations.T
    wanted = torch.stack([shape * on, on * layer.bias], dim=1)
    solution = wanted.new_zeros((count, 2, batch))
    open_ = torch.ones_like(off[:, 0])
    if batch > LARGE:
        solution, solved = fitted_on(basis, (~off).repeat_interleave(2, dim=0), wanted.flatten(0, 1), clock)
        solution, open_ = solution.reshape(count, 2, batch), ~solved.reshape(count, 2).all(dim=1)
    if bool(open_.any()):
        solution[open_] = _by_grams(basis, ~off[open_], wanted[open_], refinements, clock)
    solution = torch.linalg.solve_triangular(change, solution.reshape(-1, batch).T, upper=True).T.reshape(count, 2, batch)
    from_shape, from_bias = solution.unbind(dim=1)
    # p = scale · from_shape − from_bias, with the scale that p · sums = 1 asks for.
    scale = ((1 + from_bias @ layer.sums) / (from_shape @ layer.sums))[:, None]
    samples = scale * from_shape - from_bias
    rest = layer.pre_activations(samples) * on - scale * shape * on
    return samples, rest.norm(dim=1) / (scale * shape).norm(dim=1)


def _by_grams(
    basis: Float[Tensor, "m b"], on: Bool[Tensor, "k m"], wanted: Float[Tensor, "k 2 m"], refinements: int, clock: Clock
) -> Float[Tensor, "k 2 b"]:
    """What fits on the rows of each mask, by Cholesky factors of their Gram matrices."""
    identity = RIDGE * torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    factor, _ = torch.linalg.cholesky_ex(masked_gram(basis, on, clock) + identity)
    solution = wanted.new_zeros((*wanted.shape[:2], basis.shape[1]))
    for _ in range(refinements):
        rest = (wanted - solution @ basis.T) * on[:, None]
        solution = solution + torch.cholesky_solve((rest @ basis).mT, factor).mT
    return solution
