"""The shallow setting of LT peeling: two layers, width 1000, W₁ ~ N(0, 0.5²), W₂ uniform within √(6/(m+C)), zero biases, pixels in [0, 1].

Reported (Shariati, Alambardar Meybodi, "LT peeling", 2026), share of all samples at b = 64 / 128 / 256: CIFAR-100 1.0 / 1.0 / .247, CIFAR-10
.994 / .666 / .215, Fashion-MNIST 1.0 / .722 / .048, MNIST .484 / .017 / .002. Their code, run again on the same draws: CIFAR-10 .953 and
.938 / .805 and .719 / .285 and .148.

A sample counts as recovered if its relative error is below 1e-4, as in their evaluation, and its label is right; samples that are given
out and are not in the batch are counted as false. A sample is visible if in some row of the gradient its part is above 1e-14 of the sum of all
parts: below that, float64 does not hold it.
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

options = harness.arguments(
    __doc__, width=1000, batches=3, sizes="64,128,256", sets="cifar10,cifar100,fashion,mnist", seconds=60.0, told="yes,no"
)


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
        limit = (6 / (width + classes)) ** 0.5
        model[2].weight.uniform_(-limit, limit, generator=generator)
        model[2].bias.zero_()
    return model


def visible(batch: Batch, model: nn.Module) -> int:
    """How many samples float64 holds, computed from the truth."""
    with torch.no_grad():
        z = model[0](batch.inputs)
        likely = model[2](z.relu()).softmax(dim=1)
    label = torch.nn.functional.one_hot(batch.labels, likely.shape[1]).bool()
    others = likely.where(~label, 0.0)
    errors = torch.where(label, -others.sum(dim=1, keepdim=True), others)
    part = ((errors @ model[2].weight.detach()) * (z > 0)).abs() * batch.inputs.norm(dim=1, keepdim=True)
    return int(((part / part.sum(dim=0).clamp_min(torch.finfo(part.dtype).tiny)).amax(dim=1) > 1e-14).sum())


def score(batch: Batch, inputs: Tensor | None, labels: Tensor | None) -> tuple[float, int, float]:
    """Share recovered, how many given samples are false, and the largest relative error among the recovered."""
    if inputs is None or labels is None:
        return 0.0, 0, float("nan")
    partner = torch.as_tensor(match(batch.inputs, inputs))
    paired = (partner >= 0).nonzero()[:, 0]
    truth, guess = batch.inputs[paired], inputs[partner[paired]]
    error = (truth - guess).norm(dim=1) / truth.norm(dim=1)
    good = (error < 1e-4) & (labels[partner[paired]] == batch.labels[paired])
    worst = float(error[good].max()) if bool(good.any()) else float("nan")
    return int(good.sum()) / len(batch), len(inputs) - int(good.sum()), worst


results = harness.Results("shallow")
cases = {
    f"{name} b={size}" + ("" if told == "yes" else " untold"): (name, int(size), told == "yes")
    for size in options.sizes.split(",")
    for name in options.sets.split(",")
    for told in options.told.split(",")
}
for key in results.missing(list(cases)):
    name, size, told = cases[key]
    rows = []
    for seed in range(options.batches):
        batch = draw(name, size, seed)
        classes = 100 if name == "cifar100" else 10
        model = network(batch.inputs.shape[1], options.width, classes, seed)
        observation: Observation = FedSgd().observe(model, batch)
        start, spent = time.perf_counter(), time.process_time()
        found = invert(replace(observation, batch_size=size if told else None), f"spear:seconds={options.seconds}", seed)
        seconds, processor = time.perf_counter() - start, time.process_time() - spent
        share, false, worst = score(batch, found.inputs, found.labels)
        seen = visible(batch, model)
        told_visible = {"visible": seen, "share_of_visible": share * size / seen, "told_visible": found.stats.get("visible")}
        row = told_visible | {
            "seed": seed,
            "share": share,
            "false": false,
            "worst_error": worst,
            "status": found.status.name,
            "residual": found.residual,
        }
        rows.append(row | {"seconds": seconds, "cpu_seconds": processor, "found_by": found.stats.get("found by"), "reason": found.reason})
    summary = {field: sum(row[field] for row in rows) / len(rows) for field in ("share", "share_of_visible", "seconds", "cpu_seconds")}
    summary["least_share_of_visible"] = min(row["share_of_visible"] for row in rows)
    false = sum(row["false"] for row in rows)
    results.put(key, summary | {"false": false, "threads": torch.get_num_threads(), "batches": rows})
    print(key, summary, "false", false, [row["status"] for row in rows], flush=True)
