"""Exact inversion through any activation: attack ``span`` on real pictures, tables and noise; how many batches are wholly exact.

A batch is exact if every sample's relative error is below 1e-9 (float64) or 1e-4 (float32) and every label is right. A sample that is given
out and is in no batch counts as false. CPU seconds of one thread, without the first call of a process, which loads torch's forward mode.
"""

import itertools
import math
import statistics
import time
from dataclasses import dataclass
from functools import lru_cache

import harness
import numpy as np
import torch
from torch import Tensor, nn

from unbatch.auditing import invert
from unbatch.gradients import capture
from unbatch.linalg.matching import match
from unbatch.types import Observation

options = harness.arguments(__doc__, batches=20, seconds=60.0, cases="", minutes=8.0)

ACTIVATIONS = {"gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU}
ACTIVATIONS |= {"prelu": nn.PReLU, "relu": nn.ReLU}


@dataclass(frozen=True)
class Case:
    data: str
    activation: str
    size: int
    width: int = 200
    depth: int = 6
    dtype: torch.dtype = torch.float64
    batches: int = 0

    @property
    def key(self) -> str:
        extra = "" if (self.width, self.depth) == (200, 6) else f" m={self.width} depth={self.depth}"
        return f"{self.data} {self.activation} b={self.size}{extra}" + ("" if self.dtype == torch.float64 else " float32")


def cases() -> list[Case]:
    sets, smooth = ("cifar10", "mnist", "tinyimagenet"), ("gelu", "silu", "sigmoid", "tanh", "elu")
    grid = [Case(data, activation, size) for size in (20, 8, 50) for data in sets for activation in smooth]
    kinked = [Case("cifar10", a, size) for size in (8, 20, 50) for a in ("leaky_relu", "prelu", "relu")]
    vectors = [Case("gaussian", "gelu", 8), Case("gaussian", "gelu", 16), Case("adult", "gelu", 20), Case("adult", "gelu", 32)]
    single = [Case("cifar10", a, 20, dtype=torch.float32) for a in (*smooth, "relu")]
    shapes = [Case("cifar10", "gelu", 20, 60, 4), Case("cifar10", "gelu", 20, 200, 2), Case("cifar10", "gelu", 20, 30, 4)]
    large = [
        Case("cifar10", a, size, batches=3 if size == 120 else 10) for size in (75, 90, 120) for a in ("gelu", "sigmoid", "silu", "relu")
    ]
    ladder = {60: (20, 28, 36), 100: (40, 56), 200: (140,), 400: (120, 150, 200), 1000: (100, 120, 140, 200)}
    frontier = [Case("cifar10", "gelu", size, width, batches=2) for width, sizes in ladder.items() for size in sizes]
    # The most telling first: a run that is cut short has some of everything.
    return [*grid[:5], *vectors, *kinked, *large, *grid[30:35], *single, *shapes, *grid[5:30], *frontier, *grid[35:]]


def adult(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of ADULT: numbers standardized, categories one-hot."""
    rows = [line.split(", ") for line in (harness.SHARED / "adult.data").read_text().splitlines() if line]
    columns = list(zip(*rows, strict=True))
    blocks = []
    for column in columns[:-1]:
        if all(value.lstrip("-").isdigit() for value in column):
            numbers = np.array(column, dtype=np.float64)
            blocks.append(((numbers - numbers.mean()) / numbers.std())[:, None])
        else:
            names = sorted(set(column))
            blocks.append(np.eye(len(names))[[names.index(value) for value in column]])
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:size].numpy()
    labels = [int(columns[-1][i].strip().startswith(">")) for i in chosen]
    return torch.from_numpy(np.concatenate(blocks, axis=1)[chosen]), torch.tensor(labels)


@lru_cache(maxsize=1)
def pool(name: str) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor]:
    """Pictures, labels, and the mean and deviation of each channel, seen on the first thousand."""
    with np.load(harness.SHARED / harness.DATA[name], allow_pickle=False) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    axes = (0, 1, 2) if images.ndim == 4 else None
    seen = images[:1000] / 255.0
    return images, labels, torch.as_tensor(seen.mean(axes)), torch.as_tensor(seen.std(axes))


def draw(name: str, size: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """Standardized inputs in float64, labels, and how many classes there are."""
    generator = torch.Generator().manual_seed(seed)
    if name == "gaussian":
        return torch.randn((size, 3072), generator=generator, dtype=torch.float64), torch.randint(10, (size,), generator=generator), 10
    if name == "adult":
        return *adult(size, seed), 2
    images, labels, mean, deviation = pool(name)
    chosen = torch.randperm(len(labels), generator=generator)[:size].numpy()
    scaled = torch.from_numpy(images[chosen] / 255.0)
    inputs = ((scaled[..., None] if scaled.ndim == 3 else scaled) - mean) / deviation
    return inputs.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[chosen]), int(labels.max()) + 1


def network(inputs: int, classes: int, case: Case, seed: int) -> nn.Module:
    """PyTorch's default initialization."""
    sizes = [inputs, *[case.width] * (case.depth - 1), classes]
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[case.activation]()]
    return nn.Sequential(*layers[:-1]).to(case.dtype)


def one(case: Case, seed: int) -> dict[str, object]:
    inputs, labels, classes = draw(case.data, case.size, seed)
    inputs = inputs.to(case.dtype)
    model = network(math.prod(inputs.shape[1:]), classes, case, seed)
    observation = Observation(model, capture(model, inputs, labels), tuple(inputs.shape[1:]))
    wall, spent = time.perf_counter(), time.process_time()
    found = invert(observation, f"span:seconds={options.seconds}", seed)
    wall, spent = time.perf_counter() - wall, time.process_time() - spent
    row = {"seed": seed, "status": found.status.name, "residual": found.residual, "reason": found.reason}
    row |= {"seconds": wall, "cpu_seconds": spent, "rounds": found.stats.get("rounds"), "starts": found.stats.get("starts")}
    if found.inputs is None or found.labels is None:
        return row | {"exact": 0, "false": 0, "worst_error": None}
    partner = torch.as_tensor(match(inputs.double(), found.inputs.double()))
    paired = (partner >= 0).nonzero()[:, 0]
    truth, guess = inputs[paired].double().flatten(1), found.inputs[partner[paired]].double().flatten(1)
    error = (guess - truth).norm(dim=1) / truth.norm(dim=1)
    good = (error < (1e-9 if case.dtype == torch.float64 else 1e-4)) & (found.labels[partner[paired]] == labels[paired])
    return row | {"exact": int(good.sum()), "false": len(found.inputs) - int(good.sum()), "worst_error": float(error.max())}


results = harness.Results("span")
every = {case.key: case for case in cases() if any(part in case.key for part in options.cases.split(","))}
end = time.monotonic() + 60 * options.minutes
one(Case("gaussian", "gelu", 2), 0)  # loads what the first call loads
for key in results.missing(list(every)):
    if time.monotonic() > end:
        break
    case = every[key]
    rows = [one(case, 1000 + seed) for seed in range(min(case.batches or options.batches, options.batches))]
    errors = [row["worst_error"] for row in rows if row["worst_error"] is not None]
    summary = {
        "batches": len(rows),
        "wholly_exact": sum(row["exact"] == case.size for row in rows),
        "share": sum(row["exact"] for row in rows) / len(rows) / case.size,
        "false": sum(row["false"] for row in rows),
        "worst_error": max(errors, default=None),
        "cpu_seconds": {"median": statistics.median(row["cpu_seconds"] for row in rows), "max": max(row["cpu_seconds"] for row in rows)},
    }
    results.put(key, summary | {"threads": torch.get_num_threads(), "rows": rows})
    print(key, summary, flush=True)
