"""Accuracy against the update's noise: float64, float32, fp16, bf16, and Gaussian noise as a share of each tensor's root mean square; b = 20."""

import harness
import torch

from unbatch.models.mlp import Mlp
from unbatch.types import Observation

LEVELS = ["float64", "float32", "float16", "bfloat16", "1e-6", "1e-5", "1e-4", "1e-3", "3e-3", "1e-2", "3e-2"]


def spoiled(update: dict[str, torch.Tensor], level: str, seed: int) -> dict[str, torch.Tensor]:
    if not level[0].isdigit():
        return {name: tensor.to(getattr(torch, level)) for name, tensor in update.items()}
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return float(level) * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    return {name: tensor + noise(tensor) for name, tensor in update.items()}


options = harness.arguments(__doc__, batches=10, size=20, sets="cifar10,mnist", seconds=20.0)
results = harness.Results("noise")
for name in options.sets.split(","):
    data = harness.dataset(name)
    for key in results.missing([f"{name} {level}" for level in LEVELS]):
        outcomes = []
        for seed in range(options.batches):
            model = Mlp().build(data.input_shape, harness.classes(data), seed).double()
            clean, batch = harness.observe(data, model, options.size, seed)
            noisy = Observation(model, spoiled(dict(clean.update), key.split()[1], seed), data.input_shape, schema=data.schema)
            outcomes.append(harness.attack(noisy, batch, f"spear:seconds={options.seconds}", seed))
        results.add(key, outcomes, level=key.split()[1], set=name)
