"""What the benchmarks share: cases to run, the environment to write beside the results, and a file that grows case by case.

Every script appends to one JSON file under ``results/`` and skips the cases that are already there, so that a run can be
interrupted and resumed; delete the file to measure again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from unbatch import plugins
from unbatch.auditing import environment, invert
from unbatch.contracts import Dataset
from unbatch.evidence.mixtures import columns_of
from unbatch.linalg.matching import match
from unbatch.protocols.fedsgd import FedSgd
from unbatch.types import Batch, Observation, Reconstruction

RESULTS = Path(__file__).parent / "results"
SHARED = Path(os.environ.get("UNBATCH_SHARED") or Path(__file__).resolve().parents[2] / "shared") / "data"

DATA = {
    "mnist": "mnist_test.npz",
    "fashion": "fashion_mnist_test.npz",
    "cifar10": "cifar10_test.npz",
    "cifar100": "cifar100_test.npz",
    "tinyimagenet": "tinyimagenet_val.npz",
    "imagenet224": "imagenet_256.npz,size=224",
    "imagenet720": "highres_720.npz",
}


def dataset(name: str) -> Dataset:
    """One of the real data sets by its short name."""
    return plugins.build("datasets", f"npz:{SHARED / DATA[name]}")


@dataclass(frozen=True)
class Outcome:
    """One attack on one batch."""

    seed: int
    status: str
    exact: bool
    share: float
    labels_right: float
    least_psnr: float
    seconds: float
    stats: dict[str, Any]
    reason: str
    proved: float = 0.0


def visible(observation: Observation, batch: Batch) -> int:
    """How many samples float64 holds, by the truth: those whose part in some row of the first layer's gradient is above 1e-14 of all parts."""
    columns = columns_of(observation, batch.inputs, batch.labels)
    assert columns is not None
    part = columns.abs() * batch.inputs.double().flatten(1).norm(dim=1, keepdim=True)
    return int(((part / part.sum(dim=0).clamp_min(torch.finfo(part.dtype).tiny)).amax(dim=1) > 1e-14).sum())


def classes(data: Dataset) -> int:
    return len(data.schema.classes)


def observe(data: Dataset, model: torch.nn.Module, size: int, seed: int) -> tuple[Observation, Batch]:
    batch = data.batch(size, seed)
    return FedSgd().observe(model, batch), batch


def psnr_of(found: Reconstruction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(b,) PSNR in dB of the matched samples over the data range 1 (−inf for a missing one), and (b,) whether the label is right."""
    truth = batch.schema.to_raw(batch.inputs)
    psnr, right = torch.full((len(truth),), -torch.inf), torch.zeros(len(truth), dtype=torch.bool)
    if (shown := found.shown) is None:
        return psnr, right
    known = 0 if found.labels is None else len(found.labels)
    order = match(truth, batch.schema.to_raw(shown.double()))
    for i, partner in enumerate(order):
        if partner >= 0:
            guess = batch.schema.to_raw(shown[partner : partner + 1].double())[0]
            psnr[i] = -10 * torch.log10((truth[i] - guess).square().mean().clamp_min(1e-40))
            right[i] = partner < known and bool(found.labels[partner] == batch.labels[i])
    return psnr, right


def attack(observation: Observation, batch: Batch, spec: str, seed: int) -> Outcome:
    """Run an attack and score it; the time is the attack's alone."""
    start = time.perf_counter()
    found = invert(observation, spec, seed)
    seconds = time.perf_counter() - start
    psnr, right = psnr_of(found, batch)
    return Outcome(
        seed,
        found.status.name,
        bool((psnr > 100).all()),
        float((psnr > 100).double().mean()),
        float(right.double().mean()),
        float(psnr.min()),
        seconds,
        {key: value for key, value in found.stats.items() if isinstance(value, (int, float, str, dict))},
        found.reason,
        0.0 if found.proved is None else int(found.proved.sum()) / len(batch),
    )


@cache
def commit() -> str:
    """The commit of this working tree, with a plus where files of the product differ from it."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "src"], check=False).returncode  # noqa: S603
    return head + "+" * bool(changed)


def machine(environment: Mapping[str, str]) -> str:
    """What a page says of where, and of when, its figures were measured."""
    told = ", ".join(f"{name} {value}" for name, value in environment.items())
    return told if "commits" in environment else f"{told}, commit not kept: older than the engine as it stands"


class Results:
    """A JSON file of cases, written after each."""

    def __init__(self, name: str) -> None:
        self.path = RESULTS / f"{name}.json"
        self.content: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {"cases": {}}
        self.content["environment"] = self.content.get("environment", {}) | environment() | {"cores": str(os.cpu_count())}

    def missing(self, keys: list[str]) -> Iterator[str]:
        yield from (key for key in keys if key not in self.content["cases"])

    def add(self, key: str, outcomes: list[Outcome], **facts: Any) -> None:
        times = sorted(outcome.seconds for outcome in outcomes)
        summary = {
            "batches": len(outcomes),
            "exact": sum(outcome.exact for outcome in outcomes),
            "share": statistics.fmean(outcome.share for outcome in outcomes),
            "proved": statistics.fmean(outcome.proved for outcome in outcomes),
            "labels_right": statistics.fmean(outcome.labels_right for outcome in outcomes),
            "median_psnr": statistics.median(outcome.least_psnr for outcome in outcomes),
            "seconds": {"min": times[0], "median": statistics.median(times), "max": times[-1]},
            "false_reconstructions": sum(outcome.status == "RECONSTRUCTED" and not outcome.exact for outcome in outcomes),
        }
        self.put(key, facts | summary | {"outcomes": [asdict(outcome) for outcome in outcomes]})
        print(key, {name: value for name, value in summary.items() if name != "labels_right"}, flush=True)

    def put(self, key: str, value: Any) -> None:
        """Keep a case, with the commit that it was measured at."""
        self.content["cases"][key] = {**value, "commit": commit()} if isinstance(value, dict) else value
        commits = {case.get("commit", "older") for case in self.content["cases"].values() if isinstance(case, dict)}
        self.content["environment"]["commits"] = " ".join(sorted(commits))
        RESULTS.mkdir(exist_ok=True)
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(json.dumps(self.content, indent=1, default=str) + "\n")
        scratch.replace(self.path)


def arguments(description: str, **defaults: Any) -> argparse.Namespace:
    """A parser with one option a default."""
    parser = argparse.ArgumentParser(description=description)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser.parse_args()
