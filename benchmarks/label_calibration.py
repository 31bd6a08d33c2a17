"""Whether counts that are called determined are right, whether what is expected of the others holds, and what is refused.

    python benchmarks/label_calibration.py [--tries 24] [--only "mnist C=10"] [--first 40000] [--name label_calibration]

The last layer alone (``anchored``, and ``ilrg`` for comparison), over 2, 3, 10 and 100 classes, batches of 8 to 512, fresh and trained
networks, and updates that are not what the server was told: smoothed and weighted losses and clipped updates that are told as a plain
cross-entropy at its true scale. Every batch is read twice, with its size told and without. Every try has data, mix and size of its own;
fresh networks are drawn anew, trained ones are three a cell. Nothing was tuned on the seeds from 40,000 on.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Results
from torch import Tensor, nn
from torch.nn import functional as F

from labels import Case, draw, pictures
from unbatch import plugins
from unbatch.training import LocalTraining, shuffled, train
from unbatch.types import Counts, Observation

FIRST = 40_000
SIZES = (8, 16, 24, 64, 128, 512)
MIXES = ("random", "random", "dirichlet:0.3", "dirichlet:0.05", "one")
MODELS = (
    ("mnist", 2, "mlp:width=300,depth=3"),
    ("cifar10", 2, "lenet5"),
    ("mnist", 3, "mlp:width=100,depth=2"),
    ("fashion", 3, "mlp:width=200,depth=3,activation=tanh"),
    ("mnist", 10, "mlp:width=300,depth=3"),
    ("cifar10", 10, "lenet5"),
    ("cifar100", 100, "lenet5"),
    ("cifar100", 100, "mlp:width=300,depth=2"),
)
STEPS = (0, 30, 300)
AS_TOLD = ("plain", "plain float64", "fedavg", "clipped", "noise", "pruned:0.1", "pruned:0.5")
"""What the server is told is right; of a clipped update it knows that it does not know the scale."""

NOT_AS_TOLD = ("smoothed:0.1", "weights", "whole weights", "balanced weights", "clipped untold")
"""What the server is told is a plain cross-entropy at its true scale."""

BINS = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Cell:
    """One network and one kind of update."""

    data: str
    classes: int
    model: str
    steps: int
    kind: str

    @property
    def key(self) -> str:
        return f"{self.data} C={self.classes} {self.model} trained={self.steps} {self.kind}"


def cells() -> list[Cell]:
    return [Cell(*model, steps, kind) for model in MODELS for steps in STEPS for kind in AS_TOLD + NOT_AS_TOLD]


def labels_of(cell: Cell) -> Tensor:
    """Those of the data, or their remainders where there shall be fewer classes."""
    return pictures(cell.data).labels % cell.classes


@lru_cache(maxsize=64)
def network(data: str, classes: int, spec: str, steps: int, seed: int) -> nn.Module:
    """Fresh, or trained on the first half of the data."""
    pool, labels = pictures(data), pictures(data).labels % classes
    model: nn.Module = plugins.build("models", spec).build(tuple(pool.inputs.shape[1:]), classes, seed)
    optimizer, generator = torch.optim.Adam(model.parameters(), 1e-3), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(pool) // 2, (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(pool.inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model.eval()


def weights_of(kind: str, pool: Tensor, classes: int, random: np.random.Generator) -> Tensor | None:
    """Of the classes in the client's loss: any, whole numbers, or the inverse frequencies in its own data."""
    if kind == "weights":
        return torch.from_numpy(random.uniform(0.5, 2, classes))
    if kind == "whole weights":
        return torch.from_numpy(random.integers(1, 4, classes)).double()
    return len(pool) / torch.bincount(pool, minlength=classes).clamp_min(1) / classes if kind == "balanced weights" else None


def observe(cell: Cell, seed: int) -> tuple[Observation, Tensor, dict[str, Any]]:
    """An update, and the true counts."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    size, mix = int(random.choice(SIZES)), str(random.choice(MIXES))
    dtype = torch.float64 if cell.kind.endswith("float64") else torch.float32
    pool, labels = pictures(cell.data).inputs, labels_of(cell)
    attacked = slice(len(pool) // 2, None)
    chosen = draw(labels[attacked], Case(cell.data, cell.model, size, mix), cell.classes, generator)
    x, y = pool[attacked][chosen].to(dtype), labels[attacked][chosen]
    built = network(cell.data, cell.classes, cell.model, cell.steps, seed if not cell.steps else seed % 3)
    model, facts = copy.deepcopy(built).to(dtype), {"K": size, "mix": mix}
    told: dict[str, Any] = {}
    if cell.kind == "fedavg":
        local = LocalTraining(int(random.integers(1, 4)), int(random.choice([8, 16])), float(random.choice([0.003, 0.01, 0.05])))
        moved = train(model, x, y, local, shuffled(local.epochs, len(x), generator))
        factor = local.factor(len(x))
        assert factor is not None
        update, told = {name: tensor / factor for name, tensor in moved.items()}, {"training": local}
    else:
        smoothing = float(cell.kind.partition(":")[2]) if cell.kind.startswith("smoothed") else 0.0
        weights = weights_of(cell.kind, y, cell.classes, random)
        names, parameters = zip(*model.named_parameters(), strict=True)
        loss = F.cross_entropy(model(x), y, weight=None if weights is None else weights.to(x), label_smoothing=smoothing)
        update = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    if cell.kind.startswith("clipped"):
        facts["factor"] = float(10 ** random.uniform(-2, -0.1))
        update, told = {name: facts["factor"] * tensor for name, tensor in update.items()}, {"factor_known": cell.kind != "clipped"}
    if cell.kind.startswith("pruned"):
        update = plugins.build("defenses", f"pruning:share={cell.kind.partition(':')[2]}")(update, generator)
    if cell.kind == "noise":
        update = {name: tensor + 1e-3 * torch.randn(tensor.shape, generator=generator).to(tensor) for name, tensor in update.items()}
    seen = Observation(model, update, tuple(x.shape[1:]), batch_size=size, **told)
    return seen, torch.bincount(y, minlength=cell.classes), facts


def judged(found: Counts, truth: Tensor) -> dict[str, Any]:
    """What was said, and how far it is true."""
    row: dict[str, Any] = {"determined": found.determined, "expected_error": found.expected_error, "deviation": found.deviation}
    if found.counts is not None:
        row |= {"sum": int(found.counts.sum()), "off": float((found.counts != truth).double().mean())}
    elif found.presence is None:
        row["refused"] = found.reason
    if found.estimate is not None and found.deviation is not None:
        row["error"] = float((found.estimate - truth).square().mean().sqrt())
    if found.ranges is not None:
        low, high = found.ranges.unbind(dim=1)
        share = truth / truth.sum()
        row["outside"] = float(((share < low - 1e-9) | (share > high + 1e-9)).double().mean())
        row["width"] = float((high - low).mean())
    return row


def measure(cell: Cell, tries: int, first: int) -> dict[str, Any]:
    rows = []
    for seed in range(first, first + tries):
        seen, truth, facts = observe(cell, seed)
        answers = {
            "told": plugins.build("labels", "anchored")(seen),
            "untold": plugins.build("labels", "anchored")(replace(seen, batch_size=None)),
        }
        answers["ilrg"] = plugins.build("labels", "ilrg")(seen)
        rows.append({"seed": seed, **facts} | {name: judged(found, truth) for name, found in answers.items()})
    return {"cell": vars(cell), "rows": rows}


def summary(cases: dict[str, Any]) -> dict[str, Any]:
    """By kind and number of classes: what was given, and how much of it was wrong; and how wrong, by the error that was expected."""
    table: dict[str, dict[str, Any]] = {}
    bins: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case in cases.values():
        cell = case["cell"]
        for row in case["rows"]:
            for how in ("told", "untold", "ilrg"):
                said = row[how]
                entry = table.setdefault(f"{how}: {cell['kind']}, C={cell['classes']}", defaultdict(float))
                entry["updates"] += 1
                entry["refused"] += "refused" in said
                entry["determined"] += said["determined"]
                entry["determined, some wrong"] += bool(said["determined"] and said["off"])
                entry["not determined, all right"] += bool(not said["determined"] and said.get("off") == 0)
                entry["not determined, some wrong"] += bool(not said["determined"] and said.get("off"))
                if said["expected_error"] is not None:
                    index = sum(said["expected_error"] > edge for edge in BINS[1:])
                    bins[how][f"{BINS[index]:g} to {(*BINS, float('inf'))[index + 1]:g}"].append(said["off"])
                if "outside" in said and cell["kind"] in AS_TOLD:
                    bins[f"{how}: outside its range"][f"C={cell['classes']}, trained={cell['steps']}"].append(said["outside"])
                if "error" in said and cell["kind"] in AS_TOLD:
                    entry["error"] += said["error"] ** 2
                    entry["deviation"] += said["deviation"] ** 2
                    entry["with deviation"] += 1
    means = {how: {name: [float(np.mean(values)), len(values)] for name, values in sorted(of.items())} for how, of in bins.items()}
    return {"table": {name: dict(entry) for name, entry in sorted(table.items())}, "share of counts that are off": means}


def commit() -> str:
    """Of the code that was measured, with a plus where the working tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603, S607

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "../src") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=24)
    parser.add_argument("--only", default="")
    parser.add_argument("--first", type=int, default=FIRST)
    parser.add_argument("--name", default="label_calibration")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(chosen.name)
    every = {cell.key: cell for cell in cells() if chosen.only in cell.key}
    for key in results.missing(list(every)):
        results.content["commit"] = commit()
        results.put(key, measure(every[key], chosen.tries, chosen.first))
        results.content["summary"] = summary(results.content["cases"])
        print(key, flush=True)
    results.content["summary"] = summary(results.content["cases"])
    for name, entry in results.content["summary"]["table"].items():
        print(name, {what: round(value, 2) for what, value in entry.items()})
    print(results.content["summary"]["share of counts that are off"])


if __name__ == "__main__":
    main()
