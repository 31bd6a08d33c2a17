"""Attacks by optimization: what an iteration costs beside a loop of autograd's own, and how near they come to one picture.

The cost is CPU time, the two sides taking turns in one process, the least of several turns; the quality is on CIFAR-10's test pictures.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
import inversion_page
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch import plugins
from unbatch.gradients import capture
from unbatch.inversion.descent import Descent
from unbatch.inversion.matching import GradientMatching, Weights
from unbatch.types import Batch, Observation

options = harness.arguments(__doc__, turns=5, steps=20, pictures=5, only="cost,restarts,quality")
results = harness.Results("inversion")
torch.set_num_threads(1)

COST = {
    "LeNet (Zhu), one CIFAR-10 picture": ("lenet_zhu", (3, 32, 32), 10, 1, 1),
    "LeNet (Zhu), eight pictures": ("lenet_zhu", (3, 32, 32), 10, 8, 1),
    "ResNet-18 of width 16, two pictures": ("resnet:width=16", (3, 32, 32), 10, 2, 1),
    "MLP 105-100-100-2, eight rows of a table": ("mlp:width=100,depth=3", (105,), 2, 8, 1),
}
RESTARTS = {
    "LeNet (Zhu), one picture, 8 restarts": ("lenet_zhu", (3, 32, 32), 10, 1, 8),
    "MLP 105-100-100-2, eight rows, 30 restarts": ("mlp:width=100,depth=3", (105,), 2, 8, 30),
}
QUALITY = {
    "inverting_gradients": ("float32", "inverting_gradients", "lenet_zhu"),
    "inverting_gradients, TV 1e-4": ("float32", "inverting_gradients:total_variation=0.0001", "lenet_zhu"),
    "inverting_gradients, small": ("float32", "inverting_gradients:steps=600,restarts=2", "lenet_zhu"),
    "dlg": ("float64", "dlg", "lenet_zhu"),
    "dlg, idlg": ("float64", "dlg:labels=restored", "lenet_zhu"),
    "convnet": ("float32", "inverting_gradients:steps=4000,total_variation=1e-06", "convnet"),
    "convnet, small": ("float32", "inverting_gradients:steps=4000,total_variation=1e-06", "convnet:width=16"),
}
MOST = {"convnet": 1}
"""Pictures at most where one takes half an hour."""


def plain_loop(model: nn.Module, observed: list[Tensor], labels: Tensor, start: Tensor, steps: int, weight: float) -> Tensor:
    """What one writes by hand: a double backward, Adam on the sign, total variation."""
    parameters, guess = list(model.parameters()), start.clone().requires_grad_()
    size, optimizer = sum(o.square().sum() for o in observed), torch.optim.Adam([guess], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        gradients = torch.autograd.grad(F.cross_entropy(model(guess), labels), parameters, create_graph=True)
        inner = sum((g * o).sum() for g, o in zip(gradients, observed, strict=True))
        cost = 1 - inner / (sum(g.square().sum() for g in gradients) * size).sqrt()
        if weight:
            across, down = guess[..., 1:] - guess[..., :-1], guess[..., 1:, :] - guess[..., :-1, :]
            cost = cost + weight * (across.abs().mean() + down.abs().mean())
        cost.backward()
        guess.grad.sign_()
        optimizer.step()
    return guess.detach()


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def cost(spec: str, shape: tuple[int, ...], classes: int, count: int, restarts: int) -> dict[str, Any]:
    model = plugins.build("models", spec).build(shape, classes, 0).eval()
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.rand((count, *shape), generator=generator), torch.arange(count) % classes
    seen = Observation(model, capture(model, inputs, labels), shape, batch_size=count, labels=labels)
    weight = 1e-2 if len(shape) == 3 else 0.0
    matching, descent = GradientMatching(seen, "cosine", Weights(weight)), Descent(steps=options.steps, sign="hard")
    start = matching.start("normal", restarts, generator)
    observed = [seen.update[name] for name, _ in model.named_parameters()]
    ours, loop = [], []
    for _ in range(options.turns):
        ours.append(seconds(lambda: descent.run(matching.objective, start)))
        loop.append(
            seconds(lambda: [plain_loop(model, observed, labels, one, options.steps + 1, weight) for one in start["inputs"]])
        )  # a descent looks at its last iterate too
    each = [min(times) / (options.steps + 1) * 1e3 for times in (ours, loop)]
    return {"ours_ms": each[0], "loop_ms": each[1], "ratio": each[0] / each[1], "restarts": restarts}


def mean_picture(data: Any) -> Tensor:
    """Of pictures that are not attacked."""
    return data.take(torch.arange(2000, 4000)).inputs.mean(dim=0, keepdim=True)


def psnr(guess: Tensor, batch: Batch) -> float:
    truth = batch.schema.to_raw(batch.inputs)
    error = (batch.schema.to_raw(guess.double()).clamp(0, 1) - truth).square().mean()
    return float(-10 * torch.log10(error.clamp_min(1e-30)))


def quality(dtype: str, spec: str, network: str, pictures: int) -> dict[str, Any]:
    data = harness.dataset("cifar10")
    mean, rows = mean_picture(data), []
    for index in range(pictures):
        batch = data.take(torch.tensor([index]))
        model = plugins.build("models", network).build(data.input_shape, 10, index).to(getattr(torch, dtype)).eval()
        seen = plugins.build("protocols", "fedsgd").observe(model, batch)
        began = time.process_time()
        found = plugins.build("attacks", spec)(replace(seen, batch_size=1), seed=index)
        rows.append(
            {
                "psnr": -torch.inf if found.inputs is None else psnr(found.inputs, batch),
                "grey": psnr(batch.schema.to_network(torch.full_like(batch.inputs, 0.5)), batch),
                "mean_picture": psnr(mean, batch),
                "label_right": found.labels is not None and found.labels.tolist() == batch.labels.tolist(),
                "status": found.status.name,
                "cpu_seconds": time.process_time() - began,
                "distance": found.stats.get("distance"),
            }
        )
        print(spec, rows[-1], flush=True)
    values = {key: [row[key] for row in rows] for key in ("psnr", "grey", "mean_picture", "cpu_seconds")}
    spread = statistics.pstdev(values["psnr"]) if all(v > -1e9 for v in values["psnr"]) else None
    summary = {key: statistics.fmean(value) for key, value in values.items()} | {"psnr_deviation": spread}
    return summary | {
        "spec": spec,
        "network": network,
        "dtype": dtype,
        "pictures": len(rows),
        "labels_right": sum(r["label_right"] for r in rows),
        "rows": rows,
    }


for kind, cases in (("cost", COST), ("restarts", RESTARTS)):
    if kind in options.only.split(","):
        for key in results.missing(list(cases)):
            results.put(key, {"kind": kind} | cost(*cases[key]))
            print(key, results.content["cases"][key], flush=True)
if "quality" in options.only.split(","):
    for key in results.missing(list(QUALITY)):
        results.put(key, {"kind": "quality"} | quality(*QUALITY[key], min(options.pictures, MOST.get(key, options.pictures))))
inversion_page.fill()
