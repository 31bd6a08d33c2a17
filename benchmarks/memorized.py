"""Networks that know the batch by heart: 250 steps of Adam on 130 samples of which the batch is 20, at three learning rates.

At the largest rate a fifth of the first layer's neurons or fewer are left alive, and most samples leave less than rounding of the update.
"""

import harness
import torch
from torch.nn import functional as F

from unbatch.contracts import Dataset
from unbatch.models.mlp import Mlp
from unbatch.types import Batch

options = harness.arguments(
    __doc__, batches=10, sets="mnist,fashion,cifar10", rates="0.001,0.003,0.01", size=20, pool=130, steps=250, seconds=30.0
)
results = harness.Results("memorized")


def learned(data: Dataset, rate: float, seed: int) -> tuple[torch.nn.Module, Batch, float]:
    """A network that was trained on a pool, a batch of the pool, and the accuracy on all of it."""
    chosen = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[: options.pool]
    pool = data.take(chosen)
    model = Mlp(200).build(data.input_shape, harness.classes(data), seed).float()
    optimizer, generator = torch.optim.Adam(model.parameters(), rate), torch.Generator().manual_seed(seed)
    for _ in range(options.steps):
        part = torch.randint(options.pool, (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(pool.inputs[part].float()), pool.labels[part]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = float((model(pool.inputs.float()).argmax(1) == pool.labels).float().mean())
    return model.double(), data.take(chosen[: options.size]), accuracy


for name in options.sets.split(","):
    known_by_heart = harness.dataset(name)
    for key in results.missing([f"{name} b={options.size} rate={rate}" for rate in options.rates.split(",")]):
        outcomes, seen, accuracies = [], 0, []
        for seed in range(options.batches):
            victim, batch, accuracy = learned(known_by_heart, float(key.rpartition("=")[2]), seed)
            observed = harness.FedSgd().observe(victim, batch)
            seen += harness.visible(observed, batch)
            accuracies.append(accuracy)
            outcomes.append(harness.attack(observed, batch, f"spear:seconds={options.seconds}", seed))
        results.add(
            key,
            outcomes,
            accuracy=sum(accuracies) / len(accuracies),
            visible=seen / options.batches / options.size,
            reasons=sorted({o.reason for o in outcomes if o.reason}),
        )
