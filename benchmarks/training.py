"""Trained networks: the share of exact batches after 0, 1, 5 and 20 epochs of SGD, on samples that the training did not see."""

import harness
import torch
from torch.nn import functional as F

from unbatch.models.mlp import Mlp
from unbatch.types import Batch

EPOCHS = (0, 1, 5, 20)

options = harness.arguments(__doc__, batches=10, sets="mnist,cifar10", sizes="10,20", held=1000, rate=0.05, seconds=30.0)
results = harness.Results("training")
for name in options.sets.split(","):
    data = harness.dataset(name)
    keys = [f"{name} b={size} epochs={epochs}" for epochs in EPOCHS for size in options.sizes.split(",")]
    if not list(results.missing(keys)):
        continue
    pool: Batch = data.take(torch.arange(len(data)))
    inputs, labels = pool.inputs.float(), pool.labels
    model = Mlp().build(data.input_shape, harness.classes(data), 0).float()
    optimizer = torch.optim.SGD(model.parameters(), options.rate, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(max(EPOCHS) + 1):
        if epoch in EPOCHS:
            with torch.no_grad():
                accuracy = float((model(inputs[: options.held]).argmax(1) == labels[: options.held]).float().mean())
            victim = Mlp().build(data.input_shape, harness.classes(data), 0).double()
            victim.load_state_dict(model.state_dict())
            for key in results.missing([key for key in keys if key.endswith(f"epochs={epoch}")]):
                size, outcomes, seen = int(key.split("b=")[1].split()[0]), [], 0
                for seed in range(options.batches):
                    chosen = torch.randperm(options.held, generator=torch.Generator().manual_seed(seed))[:size]
                    batch = data.take(chosen)
                    observed = harness.FedSgd().observe(victim, batch)
                    seen += harness.visible(observed, batch)
                    outcomes.append(harness.attack(observed, batch, f"spear:seconds={options.seconds}", seed))
                results.add(
                    key,
                    outcomes,
                    accuracy=accuracy,
                    visible=seen / options.batches / size,
                    reasons=sorted({o.reason for o in outcomes if o.reason}),
                )
        for part in torch.randperm(len(inputs) - options.held, generator=generator).add(options.held).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[part]), labels[part]).backward()
            optimizer.step()
