"""Planted two-layer problems: the gradients of a batch by their formulas, in coordinates of the inputs' span."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.spear.shallow.two_layer import Found, TwoLayer


@dataclass(eq=False)
class PlantedPair:
    problem: TwoLayer
    samples: Tensor
    labels: Tensor
    off: Tensor

    def error_of(self, samples: Tensor) -> Tensor:
        """For each given sample the relative distance from the nearest planted one."""
        distance = torch.cdist(self.samples, samples, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.amin(dim=0) / samples.norm(dim=1)

    def found(self, chosen: Tensor) -> Found:
        return Found.read(self.samples[chosen], self.labels[chosen], 1e-15 * self.samples[chosen].norm(dim=1))


def plant_shallow(
    m: int = 200, n: int = 60, b: int = 20, classes: int = 5, seed: int = 0, shift: float = 0.0, sure: float = 1.0
) -> PlantedPair:
    """Gaussian weights; inputs of mean ``shift``: the larger it is, the more alike the masks; ``sure`` multiplies W₂."""
    generator = Generator().manual_seed(seed)

    def gauss(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, bias, x = 0.5 * gauss(m, n), 0.1 * gauss(m), 0.3 * gauss(b, n) + shift
    outer, outer_bias = sure * gauss(classes, m) / m**0.5, 0.1 * gauss(classes)
    labels = torch.randint(classes, (b,), generator=generator)
    z = x @ weight.T + bias
    errors = ((z.relu() @ outer.T + outer_bias).softmax(dim=1) - F.one_hot(labels, classes)) / b
    columns = (errors @ outer) * (z > 0)
    basis = torch.linalg.qr(x.T)[0].T
    gradients = (columns.T @ x @ basis.T, columns.sum(dim=0), errors.T @ z.relu(), errors.sum(dim=0))
    problem = TwoLayer(*gradients, weight @ basis.T, bias, outer, outer_bias, float(b))
    return PlantedPair(problem, x @ basis.T, labels, z <= 0)
