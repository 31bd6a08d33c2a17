"""What proves a single sample: the next layer's gradient.

If a Linear layer reads the activations h = ReLU(z), its gradient D₂ Hᵀ has every h_i in its row space. A sample's zero pattern then
leaves a linear system with m equations for 2b unknowns: on the neurons that are off, h_i vanishes; on the others it equals W x_i + bias.
A solution at rounding level exists only for a true pattern, and gives the sample exactly, before any other is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.linalg.lowrank import factor
from unbatch.spear.layer import Layer
from unbatch.spear.rounding import fitted, null_of_masks

__all__ = ["NextLayer", "next_layer", "solve_samples"]

SINGULAR = 1e-9
"""A direction of the next layer below this share of the largest is not seen in it. Chosen."""


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
    factors = factor(gradient, Generator(gradient.device).manual_seed(0), rank=batch)
    if factors.singular_values[batch - 1] <= SINGULAR * factors.singular_values[0]:  # a layer may be fed nothing at all
        return None
    return NextLayer(torch.linalg.qr(factors.right.T[alive])[0], 1 / factors.gap)


def solve_samples(
    layer: Layer, following: NextLayer, off: Bool[Tensor, "k m"], clock: Clock = UNLIMITED
) -> tuple[Float[Tensor, "k b"], Float[Tensor, " k"]]:
    """The samples that belong to zero patterns.

    Off rows: activations @ r = 0; the others: made @ p = activations @ r; and p · sums = 1.

    Args:
        layer: the whole layer, all samples.
        following: the next layer.
        off: (k, m) zero patterns.
        clock: when to give up.

    Returns:
        (k, b) samples p, and (k,) relative residuals: at rounding level exactly where the pattern is right.
    """
    on = ~off
    shape = null_of_masks(following.activations, off, clock=clock) @ following.activations.T * on
    points = fitted(layer.made, on, shape, clock)
    scale = 1 / (points @ layer.sums)[:, None]
    samples, wanted = scale * points, scale * shape
    return samples, (layer.pre_activations(samples) * on - wanted).norm(dim=1) / wanted.norm(dim=1)
