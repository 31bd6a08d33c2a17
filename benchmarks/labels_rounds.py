"""Labels under what a server really sees: local training, unknown factors, clipping, sums over clients; and what trained networks can tell.

    python benchmarks/labels_rounds.py [--tries 20] [--only fedavg]

MNIST, MLP 784-300-300-10, float32, fresh initialization for every try. ``moved`` is the default restorer, ``still`` the same if it took the
update for a gradient of the broadcast model. Nothing but the last layer is used: no attack.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from harness import Results
from torch import Tensor

from labels import FIRST, MLP, Case, draw, network, pictures
from unbatch import plugins
from unbatch.errors import BadUpdate
from unbatch.label_scores import floors, score_counts
from unbatch.linalg.simplex import whole
from unbatch.restoring import restore_labels
from unbatch.types import Batch, Observation

ROUNDS = [
    f"fedavg:epochs={epochs},batch_size={size},learning_rate={rate}"
    for epochs in (1, 5, 10)
    for size in (5, 10, 20)
    for rate in (0.1, 0.01, 0.001)
]
SCALED = ["fedsgd", "clipping:norm=0.1", "dp_sgd:clip=0.1,noise_multiplier=0"]
BATCHES = [(8, "random"), (24, "random"), (64, "random"), (64, "dirichlet:0.3"), (512, "dirichlet:0.3")]


def batch(size: int, mix: str, seed: int) -> tuple[Batch, Tensor]:
    pool = pictures("mnist")
    chosen = draw(pool.labels, Case("mnist", MLP, size, mix), 10, torch.Generator().manual_seed(seed))
    secret = replace(pool, inputs=pool.inputs[chosen], labels=pool.labels[chosen])
    return secret, torch.bincount(secret.labels, minlength=10)


def observed(protocol: str, secret: Batch, seed: int, defense: str = "") -> Observation:
    defenses = [plugins.build("defenses", defense)] if defense else []
    seen = plugins.build("protocols", protocol).observe(network("mnist", MLP, 10, seed, 0), secret, defenses=defenses, seed=seed)
    return replace(seen, batch_size=len(secret))


def fedavg(protocol: str, size: int, mix: str, tries: int) -> dict[str, Any]:
    scores: dict[str, list[Any]] = {"moved": [], "still": [], "guess": []}
    refused: Counter[str] = Counter()
    expected, errors = [], []
    for seed in range(FIRST, FIRST + tries):
        secret, truth = batch(size, mix, seed)
        try:
            seen = observed(protocol, secret, seed)
        except BadUpdate:
            refused["diverged"] += 1
            continue
        scores["guess"].append(floors(truth)["guess"])
        for name, view in (("moved", seen), ("still", replace(seen, training=None))):
            found = restore_labels(view, attack=None)
            if found.counts is None:
                refused[name] += 1
                continue
            scores[name].append(score_counts(truth, found.counts))
            if name == "moved" and "expected_error" in found.stats and found.estimate is not None:
                expected.append(found.stats["expected_error"])
                errors.append(float((found.estimate - truth).square().mean().sqrt()))
    return {
        "tries": tries,
        "refused": dict(refused),
        "sure": len(expected),
        "expected_error": statistics.fmean(expected) if expected else None,
        "error": statistics.fmean(errors) if errors else None,
        "scores": {name: means(rows) for name, rows in scores.items() if rows},
    }


def means(rows: list[Any]) -> dict[str, float]:
    return {
        "LnAcc": statistics.fmean(row.counts for row in rows),
        "IRec": statistics.fmean(row.recall for row in rows),
        "EM": statistics.fmean(row.exact for row in rows),
        "answers": len(rows),
    }


def scaled(spec: str, size: int, mix: str, tries: int) -> dict[str, Any]:
    """The factor is not known to the server: how often all counts are right, how often wrong, how often it says that it cannot tell."""
    outcomes: Counter[str] = Counter({"right": 0, "wrong": 0, "refused": 0})
    for seed in range(FIRST, FIRST + tries):
        secret, truth = batch(size, mix, seed)
        seen = observed("fedsgd", secret, seed, "" if spec == "fedsgd" else spec)
        found = restore_labels(replace(seen, factor_known=False), attack=None)
        outcomes["refused" if found.counts is None else "right" if torch.equal(found.counts, truth) else "wrong"] += 1
    return {"tries": tries, **outcomes}


def bound(steps: int, networks: int = 4, batches: int = 150, size: int = 64) -> dict[str, Any]:
    """How well counts follow linearly from what a gradient of the last layer can hold at best: the summed error 1 − p of every class.

    The truth gives these errors here, and the coefficient is fitted on the very batches that are scored: no restorer does better this way.
    """
    pool = pictures("mnist")
    half = len(pool) // 2
    inputs, labels = pool.inputs[half:], pool.labels[half:]
    counts, errors = [], []
    for index in range(networks):
        model = network("mnist", MLP, 10, FIRST + index, steps)
        with torch.no_grad():
            softmax = torch.softmax(model(inputs).double(), dim=1)
        error = 1 - softmax.gather(1, labels[:, None])[:, 0]
        for seed in range(batches):
            chosen = torch.randperm(half, generator=torch.Generator().manual_seed(FIRST + index * batches + seed))[:size]
            counts.append(torch.bincount(labels[chosen], minlength=10).double())
            errors.append(torch.zeros(10, dtype=torch.float64).index_add(0, labels[chosen], error[chosen]))
    true, even = torch.stack(counts), torch.full((10,), size / 10, dtype=torch.float64)
    found = {"guess": recall(even.expand_as(true), true)}
    mass = torch.stack(errors)
    for name, seen in {"error": mass, "root of it": mass.sqrt(), "logarithm of it": (mass + 1e-3).log()}.items():
        centered = seen - seen.mean(dim=1, keepdim=True)
        slope = (centered * (true - even)).sum() / centered.square().sum()
        found[name] = recall(even + slope * centered, true)
    return {"steps": steps, "networks": networks, "batches": len(true), "K": size, "IRec": found}


def recall(estimates: Tensor, true: Tensor) -> float:
    restored = torch.stack([whole(estimate.clamp_min(0), int(row.sum())) for estimate, row in zip(estimates, true, strict=True)])
    return float(torch.minimum(restored.double(), true).sum() / true.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    cases = {f"{spec} K=20 random": lambda spec=spec: fedavg(spec, 20, "random", chosen.tries) for spec in ROUNDS}
    cases |= {
        f"{spec} K=60 dirichlet:0.3": lambda spec=spec: fedavg(spec, 60, "dirichlet:0.3", chosen.tries)
        for spec in ROUNDS
        if "size=20" in spec
    }
    cases["secure_aggregation:clients=10 K=100 random"] = lambda: fedavg("secure_aggregation:clients=10", 100, "random", chosen.tries)
    cases |= {
        f"unknown factor, {spec} K={size} {mix}": lambda spec=spec, size=size, mix=mix: scaled(spec, size, mix, chosen.tries)
        for spec in SCALED
        for size, mix in BATCHES
    }
    cases |= {f"bound trained={steps}": lambda steps=steps: bound(steps) for steps in (100, 1000)}
    results = Results("labels_rounds")
    for key in results.missing([key for key in cases if chosen.only in key]):
        results.put(key, cases[key]())
        print(key, results.content["cases"][key], flush=True)


if __name__ == "__main__":
    main()
