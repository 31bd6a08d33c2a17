"""The shallow setting of LT peeling: two layers, width 1000, W₁ ~ N(0, 0.5²), zero biases, pixels in [0, 1]; share of samples recovered.

Reported (Shariati, Alambardar Meybodi, "LT peeling", 2026), peeling alone at b = 128 and 256: CIFAR-10 .666 and .215, MNIST .017 and .002.
A sample counts as recovered if its relative error is below 1e-6 and its label is right; samples that are given out and are not in the
batch are counted as false.
"""

import time
from dataclasses import replace

import harness
import numpy as np
import torch
from torch import Tensor, nn

from unbatch.auditing import invert
from unbatch.linalg.matching import match
from unbatch.protocols.fedsgd import FedSgd
from unbatch.types import Batch, Observation, Schema

options = harness.arguments(__doc__, width=1000, batches=3, sizes="64,128,256", sets="cifar10,cifar100,fashion,mnist", seconds=120.0)


def draw(name: str, size: int, seed: int) -> Batch:
    with np.load(harness.SHARED / harness.DATA[name], allow_pickle=False) as file:
        chosen = torch.randperm(len(file["labels"]), generator=torch.Generator().manual_seed(seed))[:size].numpy()
        images, labels = file["images"][chosen].reshape(size, -1), file["labels"][chosen]
    return Batch(torch.from_numpy(images / 255.0), torch.from_numpy(labels.astype(np.int64)), Schema("vector"))


def network(inputs: int, width: int, classes: int, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes)).double()
    with torch.no_grad():
        model[0].weight.normal_(0, 0.5, generator=generator)
        model[0].bias.zero_()
        for parameter in model[2].parameters():
            parameter.uniform_(-(width**-0.5), width**-0.5, generator=generator)
    return model


def score(batch: Batch, inputs: Tensor | None, labels: Tensor | None) -> tuple[float, int, float]:
    """Share recovered, how many given samples are false, and the largest relative error among the recovered."""
    if inputs is None or labels is None:
        return 0.0, 0, float("nan")
    partner = torch.as_tensor(match(batch.inputs, inputs))
    paired = (partner >= 0).nonzero()[:, 0]
    truth, guess = batch.inputs[paired], inputs[partner[paired]]
    error = (truth - guess).norm(dim=1) / truth.norm(dim=1)
    good = (error < 1e-6) & (labels[partner[paired]] == batch.labels[paired])
    worst = float(error[good].max()) if bool(good.any()) else float("nan")
    return int(good.sum()) / len(batch), len(inputs) - int(good.sum()), worst


results = harness.Results("shallow")
cases = {f"{name} b={size}": (name, int(size)) for size in options.sizes.split(",") for name in options.sets.split(",")}
for key in results.missing(list(cases)):
    name, size = cases[key]
    rows = []
    for seed in range(options.batches):
        batch = draw(name, size, seed)
        classes = 100 if name == "cifar100" else 10
        observation: Observation = FedSgd().observe(network(batch.inputs.shape[1], options.width, classes, seed), batch)
        start, spent = time.perf_counter(), time.process_time()
        found = invert(replace(observation, batch_size=size), f"spear:seconds={options.seconds}", seed)
        seconds, processor = time.perf_counter() - start, time.process_time() - spent
        share, false, worst = score(batch, found.inputs, found.labels)
        row = {"seed": seed, "share": share, "false": false, "worst_error": worst, "status": found.status.name, "residual": found.residual}
        rows.append(row | {"seconds": seconds, "cpu_seconds": processor, "found_by": found.stats.get("found by"), "reason": found.reason})
    summary = {field: sum(row[field] for row in rows) / len(rows) for field in ("share", "seconds", "cpu_seconds")}
    false = sum(row["false"] for row in rows)
    results.put(key, summary | {"false": false, "threads": torch.get_num_threads(), "batches": rows})
    print(key, summary, "false", false, [row["status"] for row in rows], flush=True)
