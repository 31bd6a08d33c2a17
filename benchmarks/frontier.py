"""The frontier: for widths 200 to 2000, how many of the batches of size b are wholly exact. Six layers, ten classes, real labels.

Within 60 s, and 180 s from width 1000 on. Pictures, and ``gaussian``: vectors of independent normal numbers, in which nothing helps to guess.
"""

import harness
import torch

from unbatch.contracts import Dataset
from unbatch.models.mlp import Mlp
from unbatch.protocols.fedsgd import FedSgd
from unbatch.types import Batch

POINTS = {
    200: (30, 60, 75, 80, 90, 95, 110),
    400: (60, 120, 160, 180),
    1000: (100, 200, 300, 400),
    2000: (220, 400, 600),
}

VECTORS = {200: (70, 80), 400: (100, 130), 1000: (200, 300)}
"""Sizes of Gaussian batches, by width."""


def drawn(name: str, width: int, size: int, seed: int) -> tuple[Batch, int]:
    """A batch, and how many classes there are. Vectors have 300 numbers, or 1,200 from width 400 on."""
    if name == "gaussian":
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn((size, 300 if width < 400 else 1200), generator=generator, dtype=torch.float64)
        return Batch(inputs, torch.randint(10, (size,), generator=generator)), 10
    data: Dataset = harness.dataset(name)
    return data.batch(size, seed), harness.classes(data)


options = harness.arguments(
    __doc__, batches=20, seconds=60.0, large_seconds=180.0, sets="cifar10,mnist", widths="200,400,1000,2000", large=20, sizes=""
)
results = harness.Results("frontier")
for name in options.sets.split(","):
    for width in map(int, options.widths.split(",")):
        for size in map(int, options.sizes.split(",")) if options.sizes else (VECTORS if name == "gaussian" else POINTS)[width]:
            for key in results.missing([f"{name} m={width} b={size}"]):
                outcomes = []
                for seed in range(options.batches if width < 1000 else options.large):
                    batch, classes = drawn(name, width, size, seed)
                    model = Mlp(width).build(tuple(batch.inputs.shape[1:]), classes, seed).double()
                    observed = FedSgd().observe(model, batch), batch
                    seconds = options.seconds if width < 1000 else options.large_seconds
                    outcomes.append(harness.attack(*observed, f"spear:seconds={seconds}", seed))
                results.add(key, outcomes, width=width, size=size, set=name)
