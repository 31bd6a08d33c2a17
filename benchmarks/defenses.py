"""What the defenses stop, and what DP-SGD costs: the default attack and the default label restorer on defended updates, one row a setting.

The server is told the batch size. ``blind`` is the PSNR of a guess that needs no update: the mean of all other pictures of the set; the
floor of the labels is the guess of K/C samples of each class. The cost is that of a small network trained on real digits with the same noise.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import harness
import torch

from unbatch.auditing import invert
from unbatch.contracts import Defense
from unbatch.defenses.dp_sgd import DpSgd
from unbatch.gradients import per_example
from unbatch.label_scores import floors, score_counts
from unbatch.models.mlp import Mlp
from unbatch.plugins import build
from unbatch.protocols.fedsgd import FedSgd
from unbatch.restoring import restore_labels
from unbatch.types import Batch

SIZE = 20
PRUNED = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
RELATIVE = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
LARGER = (40, 60, 80, 100, 120)
NOISE = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0)
CLIPS = (0.1, 1.0, 10.0)
DELTA = 1e-5
SAMPLES = 10_000
"""Of a client that takes batches of 20, for ε of the grid after five epochs."""

RATES = (0.03, 0.2)
"""Learning rates of the small network; the one with the best accuracy on its own training data counts."""

ROWS = [
    "none",
    *(f"pruning:share={share}" for share in PRUNED),
    *(f"quantization:kind={kind}" for kind in ("fp16", "bf16", "int8", "sign")),
    *(f"clipping:norm={norm}" for norm in (0.1,)),
    *(f"gaussian_noise:deviation={deviation}" for deviation in RELATIVE),
]


@dataclass(frozen=True)
class Outcome:
    """One attack on one defended batch; PSNR in dB, −inf for a sample that was not found."""

    seed: int
    status: str
    reason: str
    psnr: list[float]
    blind: float
    proposed_labels_right: float
    labels: float | None
    labels_floor: float
    labels_reason: str
    seconds: float


def blind(data: Any, batch: Batch, seed: int, most: int = 1000) -> float:
    """PSNR of the median sample if the mean of other pictures is guessed for each."""
    others = data.batch(len(batch) + most, seed)
    raw = data.schema.to_raw(others.inputs)  # the same draw: the batch comes first
    errors = (raw[: len(batch)] - raw[len(batch) :].mean(dim=0)).square().flatten(1).mean(dim=1)
    return float((-10 * errors.log10()).median())


def attacked(name: str, defenses: list[Defense], size: int, seed: int, seconds: float) -> Outcome:
    data = harness.dataset(name)
    model = Mlp().build(data.input_shape, harness.classes(data), seed).double()
    batch = data.batch(size, seed)
    seen = replace(FedSgd().observe(model, batch, defenses=defenses, seed=seed), batch_size=size)
    start = time.perf_counter()
    found = invert(seen, f"spear:seconds={seconds}", seed)
    took = time.perf_counter() - start
    psnr, right = harness.psnr_of(found, batch)
    counts = restore_labels(seen, seed=seed, attack=None)
    truth = torch.bincount(batch.labels, minlength=harness.classes(data))
    return Outcome(
        seed,
        found.status.name,
        found.reason,
        psnr.tolist(),
        blind(data, batch, seed),
        float(right.double().mean()),
        None if counts.counts is None else score_counts(truth, counts.counts).recall,
        floors(truth)["guess"].recall,
        counts.reason,
        took,
    )


def measure(results: harness.Results, key: str, name: str, specs: list[str], size: int, batches: int, **facts: Any) -> None:
    defenses = [build("defenses", spec) for spec in specs]
    outcomes = [attacked(name, defenses, size, seed, options.seconds) for seed in range(batches)]
    psnr = torch.tensor([outcome.psnr for outcome in outcomes])
    answers = [outcome.labels for outcome in outcomes if outcome.labels is not None]
    summary = {
        "set": name,
        "size": size,
        "exact": float((psnr > 100).double().mean()),
        "worst_psnr": float(psnr.amin(dim=1).median()),
        "median_psnr": float(psnr.median(dim=1).values.median()),
        "blind_psnr": float(torch.tensor([outcome.blind for outcome in outcomes]).median()),
        "recognizable": float((psnr > 20).double().mean()),
        "labels": sum(answers) / len(answers) if answers else None,
        "labels_answered": len(answers),
        "labels_floor": sum(outcome.labels_floor for outcome in outcomes) / batches,
        "statuses": {status: sum(o.status == status for o in outcomes) for status in sorted({o.status for o in outcomes})},
        "seconds": max(outcome.seconds for outcome in outcomes),
    }
    results.put(key, facts | summary | {"batches": batches, "outcomes": [asdict(outcome) for outcome in outcomes]})
    print(key, {name: value for name, value in summary.items() if name not in ("set", "size")}, flush=True)


def trained(defense: DpSgd, rate: float, seed: int, epochs: int = 5) -> tuple[float, float]:
    """Accuracy on 8,000 training digits and on 1,000 others, of a 784-100-10 network after DP-SGD with Poisson batches of 20 on average."""
    pool = harness.dataset("mnist").take(torch.randperm(9000, generator=torch.Generator().manual_seed(0)))
    inputs, labels = pool.inputs.float(), pool.labels
    model = Mlp(100, 2).build(tuple(inputs.shape[1:]), 10, seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs * 8000 // SIZE):
        drawn = (torch.rand(8000, generator=generator) < SIZE / 8000).nonzero()[:, 0]
        single = defense(per_example(model, inputs[drawn], labels[drawn]), generator)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(rate * single[name].sum(dim=0) / SIZE)
    with torch.no_grad():
        right = model(inputs).argmax(dim=1) == labels
    return float(right[:8000].double().mean()), float(right[8000:].double().mean())


def cost(results: harness.Results, key: str, defense: DpSgd, seeds: int) -> None:
    runs = {rate: [trained(defense, rate, seed) for seed in range(seeds)] for rate in RATES}
    best = max(RATES, key=lambda rate: sum(fitted for fitted, _ in runs[rate]))
    accuracy = [tested for _, tested in runs[best]]
    summary = {
        "noise_multiplier": defense.noise_multiplier,
        "clip": defense.clip,
        "rate": best,
        "test_accuracy": sum(accuracy) / seeds,
        "test_accuracies": accuracy,
        "epsilon": defense.epsilon(5 * 8000 // SIZE, SIZE / 8000, DELTA),
        "runs": {str(rate): pairs for rate, pairs in runs.items()},
    }
    results.put(key, summary)
    print(key, summary["rate"], summary["test_accuracies"], summary["epsilon"], flush=True)


options = harness.arguments(__doc__ or "", batches=3, seconds=20.0, sets="cifar10,mnist", seeds=1, only="")
results = harness.Results("defenses")


def missing(key: str) -> bool:
    """Whether a case is asked for (``--only`` starts its key) and not there yet."""
    return key.startswith(options.only) and any(results.missing([key]))


if missing("cost undefended"):
    cost(results, "cost undefended", DpSgd(float("inf"), 0.0), options.seeds)
for noise in NOISE:
    if missing(key := f"cost noise={noise:g}"):
        cost(results, key, DpSgd(1.0, noise), options.seeds)
for name in options.sets.split(","):
    for row in ROWS:
        if missing(key := f"row {name} {row}"):
            measure(results, key, name, [] if row == "none" else [row], SIZE, options.batches, row=row)
    for size in LARGER:
        if missing(key := f"row {name} batch={size}"):
            measure(results, key, name, [], size, options.batches, row=f"batch of {size}")
    for noise in NOISE:
        for clip in CLIPS:
            if missing(key := f"dp {name} noise={noise:g} clip={clip:g}"):
                epsilon = DpSgd(clip, noise).epsilon(5 * SAMPLES // SIZE, SIZE / SAMPLES, DELTA)
                spec = f"dp_sgd:clip={clip},noise_multiplier={noise}"
                measure(results, key, name, [spec], SIZE, options.batches, noise_multiplier=noise, clip=clip, epsilon=epsilon)
