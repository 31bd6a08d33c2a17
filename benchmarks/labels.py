"""Labels from the last layer: every restorer on the same batches, with the floors of two answers that need no gradient.

    python benchmarks/labels.py [--tries 20] [--only mnist]

Fresh initialization for every try; LnAcc, IRec, LeAcc and exact matches of every method and floor, means over the tries. ``default`` is
``restore_labels(observation)``: the last layer, and where that doubts its own counts a few seconds of SPEAR.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from harness import Results, dataset
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch import plugins
from unbatch.label_scores import LabelScores, floors, score_counts
from unbatch.restoring import restore_labels
from unbatch.types import Batch, Observation

METHODS = ("default", "anchored", "ilrg", "ilrg:uniform=true", "llg", "idlg", "gradinversion", "rlg")
MLP = "mlp:width=300,depth=3"
PART = 256
"""Samples whose gradient is computed at a time."""

FIRST = 20_000
"""The first seed. The constants of the default restorer were tuned on seeds below 20,000: these are held out."""


@dataclass(frozen=True)
class Case:
    """One cell of the table.

    Attributes:
        data: short name of the data set.
        model: specification of the network.
        size: of the batch.
        mix: random | dirichlet:A | unique | one | imbalanced.
        steps: of Adam (1e-3, batches of 64) before the attack, on the half of the data that is not attacked.
        defense: nothing, noise:S or prune:SHARE of every tensor.
        tries: fewer than asked for where it is slow, 0 for as many as asked for.
        dtype: in which the client computes.
    """

    data: str
    model: str
    size: int
    mix: str = "random"
    steps: int = 0
    defense: str = ""
    tries: int = 0
    dtype: str = "float32"

    @property
    def key(self) -> str:
        """The name of the cell in the results."""
        name = f"{self.data} {self.model} K={self.size} {self.mix}"
        name += (f" trained={self.steps}" if self.steps else "") + (f" {self.defense}" if self.defense else "")
        return name + (f" {self.dtype}" if self.dtype != "float32" else "")


def cases() -> list[Case]:
    table = [Case("mnist", MLP, size) for size in (8, 24, 64, 128, 512, 4096)]
    table += [Case("mnist", MLP, size, "dirichlet:0.3") for size in (64, 512, 4096)]
    table += [Case("mnist", MLP, 64, "dirichlet:0.05"), Case("mnist", MLP, 512, "dirichlet:0.05")]
    table += [Case("mnist", MLP, 10, "unique"), Case("mnist", MLP, 64, "one"), Case("mnist", MLP, 64, "imbalanced")]
    for activation in ("leaky_relu", "silu", "sigmoid", "tanh"):
        table += [Case("mnist", f"{MLP},activation={activation}", size) for size in (8, 64, 512)]
    lenet = "lenet5"
    table += [Case("cifar100", lenet, size) for size in (24, 64, 128, 256, 512, 1024, 4096)]
    table += [Case("cifar100", lenet, size, "dirichlet:0.05") for size in (512, 4096)]
    table += [Case("cifar100", lenet, 100, "unique"), Case("cifar100", lenet, 64, "one")]
    for activation in ("leaky_relu", "silu", "sigmoid", "tanh"):
        table += [Case("cifar100", f"lenet5:activation={activation}", size) for size in (256, 1024)]
    table += [Case("cifar100", "vgg:width=16", 256, tries=10), Case("cifar100", "resnet:width=16", 256, tries=10)]
    for steps in (100, 1000):
        for size, mix in ((8, "random"), (64, "random"), (512, "random"), (64, "dirichlet:0.3")):
            table.append(Case("mnist", MLP, size, mix, steps))
        table.append(Case("mnist", f"{MLP},activation=sigmoid", 64, "random", steps))
    table += [Case("cifar100", lenet, size, "random", steps) for steps in (300, 1500) for size in (64, 256)]
    table += [Case("mnist", MLP, size, "random", steps, dtype="float64") for steps in (100, 1000) for size in (8, 24, 64)]
    table += [Case("mnist", MLP, 64, "dirichlet:0.3", steps, dtype="float64") for steps in (100, 1000)]
    for plain in (Case("mnist", MLP, 24), Case("cifar100", lenet, 24)):
        table += [replace(plain, defense=f"noise:{level}") for level in ("1e-4", "1e-3", "1e-2")]
        table += [replace(plain, defense=f"prune:{share}") for share in ("0.1", "0.2", "0.4", "0.8")]
    return table


@lru_cache(maxsize=2)
def pictures(name: str) -> Batch:
    data = dataset(name)
    whole = data.take(torch.arange(len(data)))
    return replace(whole, inputs=whole.inputs.float())


def draw(labels: Tensor, case: Case, classes: int, generator: torch.Generator) -> Tensor:
    """Indices of a batch; with replacement where a class (or the pool) has too few pictures."""
    if case.mix == "random":
        if case.size <= len(labels):
            return torch.randperm(len(labels), generator=generator)[: case.size]
        return torch.randint(len(labels), (case.size,), generator=generator)
    counts = torch.zeros(classes, dtype=torch.int64)
    some = torch.randperm(classes, generator=generator)
    if case.mix == "unique":
        counts += 1
    elif case.mix == "one":
        counts[some[0]] = case.size
    elif case.mix == "imbalanced":
        counts[some[:3]] = torch.tensor([case.size - 2, 1, 1])
    else:
        random = np.random.default_rng(int(torch.randint(1 << 31, (1,), generator=generator)))
        weights = random.dirichlet(np.full(classes, float(case.mix.partition(":")[2])))
        counts = torch.from_numpy(random.multinomial(case.size, weights))
    drawn = []
    for label, count in enumerate(counts.tolist()):
        pool = (labels == label).nonzero()[:, 0]
        few = torch.randperm(len(pool), generator=generator)[:count]
        drawn.append(pool[few if count <= len(pool) else torch.randint(len(pool), (count,), generator=generator)])
    return torch.cat(drawn)


@lru_cache(maxsize=64)
def network(data: str, spec: str, classes: int, seed: int, steps: int) -> nn.Module:
    """Fresh, or trained on the first half of the data."""
    pool = pictures(data)
    model: nn.Module = plugins.build("models", spec).build(tuple(pool.inputs.shape[1:]), classes, seed)
    if steps:
        half = len(pool) // 2
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(steps):
            chosen = torch.randint(half, (64,), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(pool.inputs[chosen]), pool.labels[chosen]).backward()
            optimizer.step()
        optimizer.zero_grad()
    return model


def update_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], float]:
    """The mean gradient, in parts, and the accuracy on the batch."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    total, right = [torch.zeros_like(parameter) for parameter in parameters], 0
    for x, y in zip(inputs.split(PART), labels.split(PART), strict=True):
        outputs = model(x)
        right += int((outputs.argmax(dim=1) == y).sum())
        loss = F.cross_entropy(outputs, y, reduction="sum") / len(labels)
        for share, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            share.add_(gradient)
    return dict(zip(names, total, strict=True)), right / len(labels)


def defended(update: dict[str, Tensor], defense: str, generator: torch.Generator) -> dict[str, Tensor]:
    kind, _, level = defense.partition(":")
    if kind == "noise":
        return {name: tensor + float(level) * torch.randn(tensor.shape, generator=generator) for name, tensor in update.items()}
    if kind == "prune":
        return {
            name: tensor.where(tensor.abs() > tensor.abs().flatten().kthvalue(max(1, int(float(level) * tensor.numel()))).values, 0.0)
            for name, tensor in update.items()
        }
    return update


def measure(case: Case, tries: int) -> dict[str, Any]:
    pool = pictures(case.data)
    classes = int(pool.labels.max()) + 1
    attacked = slice(len(pool) // 2, None) if case.steps else slice(None)
    inputs, labels = pool.inputs[attacked], pool.labels[attacked]
    rows: dict[str, list[LabelScores]] = {}
    seconds: dict[str, list[float]] = {}
    present: dict[str, list[float]] = {}
    refusals: dict[str, list[str]] = {}
    accuracies, expected, errors, shares = [], [], [], []
    dtype = getattr(torch, case.dtype)
    for seed in range(FIRST, FIRST + tries):
        # Networks are trained once for a few batches each: training is slow and the batches are what varies.
        model = network(case.data, case.model, classes, seed if not case.steps else FIRST + seed % 5, case.steps)
        model = copy.deepcopy(model).to(dtype)
        generator = torch.Generator().manual_seed(seed)
        chosen = draw(labels, case, classes, generator)
        truth = torch.bincount(labels[chosen], minlength=classes)
        update, accuracy = update_of(model, inputs[chosen].to(dtype), labels[chosen])
        accuracies.append(accuracy)
        seen = Observation(
            model, defended(update, case.defense, generator), tuple(inputs.shape[1:]), batch_size=len(chosen), schema=pool.schema
        )
        for name, floor in floors(truth).items():
            rows.setdefault(f"floor: {name}", []).append(floor)
        for spec in METHODS:
            start = time.perf_counter()
            found = restore_labels(seen) if spec == "default" else plugins.build("labels", spec)(seen)
            if found.presence is None:
                refusals.setdefault(spec, []).append(found.reason)
                continue
            seconds.setdefault(spec, []).append(time.perf_counter() - start)
            present.setdefault(spec, []).append(float(((truth > 0) == found.presence).double().mean()))
            if found.counts is not None:
                rows.setdefault(spec, []).append(score_counts(truth, found.counts))
            if spec == "default":
                shares.append(found.stats.get("proved", 0) / len(chosen))
                continue
            if spec == "ilrg" and found.estimate is not None:
                rows.setdefault("ilrg, published rounding", []).append(score_counts(truth, as_published(found.estimate, case.size)))
            if "expected_error" in found.stats and found.estimate is not None:
                expected.append(found.stats["expected_error"])
                errors.append(float((found.estimate - truth).square().mean().sqrt()))
    return {
        "case": vars(case),
        "tries": tries,
        "networks": tries if not case.steps else 5,
        "accuracy": statistics.fmean(accuracies),
        "proved": statistics.fmean(shares),
        "expected_error": statistics.fmean(expected) if expected else None,
        "error": statistics.fmean(errors) if errors else None,
        "scores": {
            name: {
                "LnAcc": statistics.fmean(row.counts for row in scores),
                "LnAcc_std_error": statistics.pstdev([row.counts for row in scores]) / len(scores) ** 0.5,
                "IRec": statistics.fmean(row.recall for row in scores),
                "LeAcc": statistics.fmean(row.presence for row in scores),
                "EM": statistics.fmean(row.exact for row in scores),
                "answers": len(scores),
            }
            for name, scores in rows.items()
        },
        "LeAcc": {name: statistics.fmean(values) for name, values in present.items()},
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "refused": {name: {"times": len(reasons), "reason": reasons[0]} for name, reasons in refusals.items()},
    }


def as_published(estimate: Tensor, size: int) -> Tensor:
    """Negative counts and those above the batch size become 0; the sum may be anything."""
    rounded = estimate.clamp(0, size + 1).round().to(torch.int64)
    return rounded.where(rounded <= size, 0)


def plain_ilrg(seen: Observation) -> np.ndarray[Any, Any]:
    """iLRG as one writes it down at first: loops over classes, the pseudoinverse of a tall system."""
    weight, bias = (p.detach().double().numpy() for p in seen.model.parameters())
    gradient, shift = (tensor.double().numpy() for tensor in seen.update.values())
    classes, dimensions = weight.shape
    embeddings = np.zeros_like(weight)
    for j in range(classes):
        for d in range(dimensions):
            embeddings[j, d] = gradient[j, d] / shift[j]
    system, right = np.ones((classes + 1, classes)), np.full(classes + 1, float(seen.batch_size or 0))
    for j in range(classes):
        scores = weight @ embeddings[j] + bias
        scores = np.exp(scores - scores.max())
        system[1:, j] = scores / scores.sum()
        system[1 + j, j] -= 1
    right[1:] *= shift
    return np.linalg.pinv(system) @ right


def timing(classes: int = 1000, features: int = 2048, size: int = 4096) -> dict[str, Any]:
    """A head as large as that of ResNet-50, all in one run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(features, classes)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((size, features), generator=generator).abs()
    labels = torch.randint(classes, (size,), generator=generator)
    update, _ = update_of(model, inputs, labels)
    seen = Observation(model, update, (features,), batch_size=size)
    truth, found = torch.bincount(labels, minlength=classes), {}
    for spec in ("anchored", "ilrg"):
        times, work, counts = [], [], None
        for _ in range(5):
            start, worked = time.perf_counter(), time.process_time()
            counts = plugins.build("labels", spec)(seen).counts
            times.append(time.perf_counter() - start)
            work.append(time.process_time() - worked)
        assert counts is not None
        found[spec] = {"seconds": min(times), "cpu_seconds": min(work), "LnAcc": score_counts(truth, counts).counts}
    start, worked = time.perf_counter(), time.process_time()
    counts = as_published(torch.from_numpy(plain_ilrg(seen)), size)
    found["plain iLRG"] = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - worked,
        "LnAcc": score_counts(truth, counts).counts,
    }
    ratio = {spec: found["plain iLRG"]["seconds"] / found[spec]["seconds"] for spec in ("anchored", "ilrg")}
    return {"C": classes, "D": features, "K": size, "methods": found, "ratio to plain iLRG": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    results = Results("labels")
    every = {case.key: case for case in cases() if chosen.only in case.key}
    for key in results.missing(list(every)):
        case = every[key]
        outcome = measure(case, min(chosen.tries, case.tries or chosen.tries))
        results.put(key, outcome)
        print(key, {name: (round(s["LnAcc"], 3), round(s["IRec"], 3)) for name, s in outcome["scores"].items()}, flush=True)
    torch.set_num_threads(2)
    for key in results.missing(["timing C=1000 D=2048"] if chosen.only in "timing" else []):
        results.put(key, timing())
        print(key, results.content["cases"][key], flush=True)


if __name__ == "__main__":
    main()
