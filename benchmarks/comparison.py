"""Every attack on the same batches, at a scale for minutes of one shared core, beside pictures that know nothing of the update.

Each case is a network, a batch size and what the server is told; each attack runs on the same batches. Times are CPU time. Pictures of the
first batch go to docs/figures, originals above what came out. Delete results/comparison.json to measure again.
"""

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comparison_page
import harness
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unbatch import plugins
from unbatch.contracts import Dataset
from unbatch.gradients import capture
from unbatch.linalg.matching import match
from unbatch.scoring import score
from unbatch.types import Batch, Observation

options = harness.arguments(__doc__, batches=2, only="layer,smooth,cnn,ci_net,tinyimagenet,labels")
results = harness.Results("comparison")
torch.set_num_threads(1)
FIGURES = Path(__file__).parent.parent / "docs" / "figures"
os.environ.setdefault("UNBATCH_LPIPS_WEIGHTS", str(harness.SHARED.parent / "weights" / "lpips_alexnet_v0.1.safetensors"))
METRICS = {name: plugins.load("metrics", name)() for name in ("psnr", "ssim", "lpips")}

IG = "inverting_gradients:steps=300,total_variation=0.01"
CPA = "cocktail_party:steps=2000,learning_rate=0.01"
Network = Callable[[Dataset, int], nn.Module]
STAGE = "steps=300,total_variation=0.01"


def mlp(activation: str) -> Network:
    return lambda data, seed: build(f"mlp:width=200,depth=3,activation={activation}", data, seed)


def cnn(data: Dataset, seed: int) -> nn.Module:
    """Two convolutions that keep every pixel's surroundings, then Linear + ReLU: its features determine a picture."""
    features = 24 * math.prod(data.input_shape[1:]) // 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = [nn.Conv2d(3, 12, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.LeakyReLU(), nn.Flatten()]
        return nn.Sequential(*trunk, nn.Linear(features, 100), nn.ReLU(), nn.Linear(100, harness.classes(data)))


def lenet(data: Dataset, seed: int) -> nn.Module:
    return build("lenet5", data, seed)


def resnet(activation: str) -> Network:
    return lambda data, seed: build(f"resnet:width=8,activation={activation}", data, seed).train()


def fcn(data: Dataset, seed: int) -> nn.Module:
    return build("mlp:width=300,depth=3", data, seed)


def zhu(data: Dataset, seed: int) -> nn.Module:
    return build("lenet_zhu", data, seed)


def build(spec: str, data: Dataset, seed: int) -> nn.Module:
    made: nn.Module = plugins.build("models", spec).build(data.input_shape, harness.classes(data), seed)
    return made


CASES: dict[str, tuple[str, str, Network, int, str, list[str]]] = {
    "Linear + ReLU first, 8 pictures": (
        "layer",
        "cifar10",
        mlp("relu"),
        8,
        "float32",
        ["spear", "span:seconds=20", CPA, IG, "ci_net:steps=150,width=16,learning_rate=0.003"],
    ),
    "Linear + sigmoid first, 8 pictures": ("smooth", "cifar10", mlp("sigmoid"), 8, "float64", ["span:seconds=20", CPA, IG]),
    "LeNet-5, 4 pictures": (
        "cnn",
        "cifar10",
        lenet,
        4,
        "float64",
        [f"feature_inversion:source=spear,{STAGE}", f'feature_inversion:source="{CPA}",{STAGE}', IG],
    ),
    "two convolutions, 4 pictures": (
        "cnn",
        "cifar10",
        cnn,
        4,
        "float64",
        [f"feature_inversion:source=spear,{STAGE}", f'feature_inversion:source="{CPA}",{STAGE}', IG],
    ),
    "ResNet-18 of width 8, sigmoid, batch statistics, 4 pictures": (
        "ci_net",
        "cifar10",
        resnet("sigmoid"),
        4,
        "float32",
        ["ci_net:steps=200,width=16,learning_rate=0.003", "inverting_gradients:steps=200"],
    ),
    "ResNet-18 of width 8, ReLU, batch statistics, 4 pictures": (
        "ci_net",
        "cifar10",
        resnet("relu"),
        4,
        "float32",
        ["ci_net:steps=200,width=16,learning_rate=0.003", "inverting_gradients:steps=200"],
    ),
    "TinyImageNet, Linear + ReLU first, 8 pictures": (
        "tinyimagenet",
        "tinyimagenet",
        mlp("relu"),
        8,
        "float32",
        ["spear", "span:seconds=20", CPA, IG, "ci_net:steps=150,width=16,learning_rate=0.003"],
    ),
    "TinyImageNet, two convolutions, 4 pictures": (
        "tinyimagenet",
        "tinyimagenet",
        cnn,
        4,
        "float64",
        [f"feature_inversion:source=spear,{STAGE}", f'feature_inversion:source="{CPA}",{STAGE}', IG],
    ),
    "Linear + ReLU first, 16 pictures": ("layer", "cifar10", mlp("relu"), 16, "float32", ["spear", CPA, IG]),
    "Linear + ReLU first, 32 pictures": ("layer", "cifar10", mlp("relu"), 32, "float32", ["spear", CPA, IG]),
    "Linear + GELU first, 16 pictures": ("smooth", "cifar10", mlp("gelu"), 16, "float64", ["span:seconds=20", CPA, IG]),
}
"""Case -> (part, data, network, batch size, type, attacks)."""
MOST = {key: 1 for key in CASES if "ResNet" in key}
"""Cases that take long: batches at most."""
LABELS = ("searched", "restored", "told")
LABEL_CASES: dict[str, tuple[str, Network, int, str, str]] = {
    "labels": ("mnist", fcn, 24, "steps=300,total_variation=0.0001", "MNIST, FCN-3 of width 300, 24 pictures: what labels are worth"),
    "labels, CIFAR-100": (
        "cifar100",
        zhu,
        4,
        "steps=2400,total_variation=0.008",
        "CIFAR-100, LeNet with sigmoid, 4 pictures, 2,400 steps: what labels are worth",
    ),
}
"""Case -> (data, network, batch size, settings, title)."""


def observe(data: Dataset, network: Network, size: int, dtype: str, seed: int) -> tuple[Observation, Batch]:
    """What the server sees, with the batch size and without the labels."""
    batch, model = data.batch(size, seed), network(data, seed).to(getattr(torch, dtype))
    update = capture(model, batch.inputs.to(getattr(torch, dtype)), batch.labels)
    return Observation(model, update, data.input_shape, schema=data.schema, batch_size=size), batch


def measured(batch: Batch, guesses: Tensor | None) -> dict[str, float | None]:
    if guesses is None:
        return {"psnr": None, "ssim": None, "lpips": None, "exact": 0.0}
    box = [batch.schema.to_network(torch.full_like(guesses[:1], v)) for v in (0.0, 1.0)]
    scores = score(batch, guesses.maximum(box[0]).minimum(box[1]), METRICS)
    values = {name: None if math.isnan(mean := scores.mean(name)) else mean for name in METRICS}
    return values | {"exact": statistics.fmean(scores.exact)}


def cosine_of_features(seen: Observation, batch: Batch, found: Any) -> float | None:
    """Mean over samples of the cosine of features found and true, matched one to one."""
    layer = found.stats.get("layer")
    if layer is None or "features" not in found.stats:
        return None
    from unbatch.inversion.trunk import Trunk

    trunk = Trunk.of(seen, layer, torch.float64)
    truth, guess = trunk(batch.inputs.double()), trunk(found.inputs.double())
    alike = nn.functional.cosine_similarity(truth[:, None], guess[None], dim=2)
    return float(torch.stack([alike[i, j] for i, j in enumerate(match(batch.inputs.double(), found.inputs.double())) if j >= 0]).mean())


def strip(batch: Batch, guesses: Tensor, name: str, most: int = 8) -> None:
    """Originals above what was matched to them."""
    truth, guess = (batch.schema.to_raw(t.double()).clamp(0, 1) for t in (batch.inputs, guesses))
    order = match(truth, guess)
    lower = torch.stack([guess[j] if j >= 0 else torch.ones_like(truth[0]) for j in order])
    rows = [torch.cat(list(part[:most]), dim=2) for part in (truth, lower)]
    pixels = (torch.cat(rows, dim=1).permute(1, 2, 0) * 255).round().byte().numpy()
    picture = Image.fromarray(np.repeat(np.repeat(pixels, 2, 0), 2, 1).squeeze())
    FIGURES.mkdir(exist_ok=True)
    picture.save(FIGURES / f"comparison_{name}.png", optimize=True)


def baselines(data: Dataset, batches: list[Batch]) -> dict[str, Any]:
    mean = data.take(torch.arange(min(2000, len(data) // 2), min(4000, len(data)))).inputs.mean(dim=0, keepdim=True)
    grey = data.schema.to_network(torch.full_like(mean, 0.5))
    rows = {name: [measured(b, guess.expand_as(b.inputs)) for b in batches] for name, guess in (("grey", grey), ("mean picture", mean))}
    return {name: summary(values) for name, values in rows.items()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    told = {}
    for key in rows[0]:
        values = [row[key] for row in rows if isinstance(row[key], (int, float)) and not isinstance(row[key], bool)]
        told[key] = statistics.fmean(values) if values else None
    return told


def compare(key: str) -> dict[str, Any]:
    part, name, network, size, dtype, attacks = CASES[key]
    data = harness.dataset(name)
    batches = min(options.batches, MOST.get(key, options.batches))
    pairs = [observe(data, network, size, dtype, seed) for seed in range(batches)]
    made: dict[str, Any] = baselines(data, [batch for _, batch in pairs])
    for number, spec in enumerate(attacks):
        rows = []
        for seed, (seen, batch) in enumerate(pairs):
            began = time.process_time()
            found = plugins.build("attacks", spec)(seen, seed=seed)
            taken = time.process_time() - began
            row = measured(batch, found.inputs) | {"cpu_seconds": taken, "status": found.status.name, "reason": found.reason}
            row["features_cosine"] = None if found.inputs is None else cosine_of_features(seen, batch, found)
            right = found.labels is not None and sorted(found.labels.tolist()) == sorted(batch.labels.tolist())
            rows.append(row | {"labels_right": float(right)})
            if seed == 0 and found.inputs is not None:
                strip(batch, found.inputs, f"{part}_{list(CASES).index(key)}_{number}")
        made[spec] = summary(rows) | {"rows": rows}
        print(key, spec, {k: v for k, v in made[spec].items() if k != "rows"}, [r["status"] for r in rows], flush=True)
    return {"kind": "comparison", "batches": batches, "samples": size, "dtype": dtype, "attacks": made}


def labels_help(key: str) -> dict[str, Any]:
    """Inverting Gradients with labels searched, restored, told, matched one to one over the whole batch."""
    name, network, size, settings, title = LABEL_CASES[key]
    data = harness.dataset(name)
    pairs = [observe(data, network, size, "float32", seed) for seed in range(options.batches)]
    made: dict[str, Any] = baselines(data, [batch for _, batch in pairs])
    for how in LABELS:
        rows = []
        for seed, (seen, batch) in enumerate(pairs):
            known = replace(seen, labels=batch.labels) if how == "told" else seen
            spec = f"inverting_gradients:{settings},norm=1e-06,labels={'searched' if how == 'searched' else 'restored'}"
            began = time.process_time()
            found = plugins.build("attacks", spec)(known, seed=seed)
            right = sorted(found.labels.tolist()) == sorted(batch.labels.tolist())
            rows.append(measured(batch, found.inputs) | {"cpu_seconds": time.process_time() - began, "labels_right": float(right)})
        made[how] = summary(rows) | {"rows": rows}
        print("labels", how, made[how], flush=True)
    return {"kind": "labels", "title": title, "batches": options.batches, "samples": size, "attacks": made}


if __name__ == "__main__":
    parts = options.only.split(",")
    for key in results.missing([key for key, case in CASES.items() if case[0] in parts]):
        results.put(key, compare(key))
    if "labels" in parts:
        for key in results.missing(list(LABEL_CASES)):
            results.put(key, labels_help(key))
    comparison_page.fill()
