"""A planted layer: what it takes to try a search without any model or attack."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from unbatch.linalg.ica import views_of
from unbatch.linalg.lowrank import factor, multiply
from unbatch.spear.layer import Layer, layer_in_factors
from unbatch.spear.next_layer import NextLayer, next_layer


@dataclass(eq=False)
class Planted:
    layer: Layer
    following: NextLayer | None
    samples: Tensor
    directions: Tensor
    off: Tensor
    inputs: Tensor
    to_inputs: Tensor

    def worst_error(self, samples: Tensor) -> float:
        return float((self.inputs[:, None] - samples @ self.to_inputs).norm(dim=2).amin(dim=1).max())


def plant(m: int = 120, n: int = 90, b: int = 8, seed: int = 0, tolerance: float = 1e-7, noise: float = 0.0, steps: float = 0.0) -> Planted:
    """Gaussian weights and inputs: half of the neurons fire for each sample. Noise is a share of the gradient's spread.

    A neuron that is off by less than ``steps`` (in deviations) leaves a trace all the same, as where it fired in some step.
    """
    generator = Generator().manual_seed(seed)

    def gauss(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, bias, inputs = gauss(m, n), gauss(m), gauss(b, n)
    z = weight @ inputs.T + bias[:, None]
    fired = z > -steps * z.std()
    columns = gauss(m, b) * fired
    gradient = columns @ inputs
    factors = factor(gradient + noise * gradient.std() * gauss(m, n), generator)
    views = views_of(factors.right, (n,), generator)
    seen = multiply(weight, factors.right)
    found = layer_in_factors(factors.left, columns.sum(dim=1), seen, bias, views, factors.noise_map, tolerance)
    assert found is not None
    layer, change, alive = found
    following = next_layer(gauss(m, b) @ z.relu().T, alive, b)
    # x = rightᵀ changeᵀ p, so the true p are the inputs' coordinates in these rows.
    to_inputs = change @ factors.right
    samples = torch.linalg.lstsq(to_inputs.T, inputs.T).solution.T
    directions = torch.linalg.inv(samples).T
    return Planted(layer, following, samples, directions, ~fired.T[:, alive], inputs, to_inputs)
