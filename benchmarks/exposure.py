"""Predicted against measured: the batch size up to which ``expose`` says that a layer can be inverted, before any data, and the largest one of
which the default SPEAR recovers at least nine of ten batches wholly. MLPs of six layers on planted Gaussian inputs and on CIFAR-10, and one trained on CIFAR-10.

A ladder of batch sizes is climbed until two of ten batches of one size are lost. The table goes into docs/exposure.md, between its marks.
"""

import copy
import functools
from pathlib import Path

import harness
import torch
from marked import fill_in

from unbatch.exposure import expose
from unbatch.exposure.firing import measure
from unbatch.models.mlp import Mlp
from unbatch.protocols.fedsgd import FedSgd
from unbatch.types import Batch, Observation

LADDERS = {
    60: (8, 10, 12, 14, 16, 17, 18, 19, 20, 21, 22, 24, 26, 28),
    100: (15, 20, 25, 28, 30, 32, 34, 36, 38, 40, 42, 45),
    200: (20, 30, 40, 50, 60, 65, 70, 75, 80, 85, 90),
    400: (30, 40, 50, 60, 70, 80, 100, 120),
    1000: (60, 80, 100, 120, 150, 200),
}
WIDTHS = {"gaussian": (60, 100, 200, 400, 1000), "cifar10": (60, 100, 200), "trained": (200,)}
TRAINED = (5, 10, 15, 20, 25, 30, 35, 40, 50, 60)
STEPS = 1500
"""Of SGD on 4,000 pictures, 64 at a time, for ``trained``: one network for all batches."""

LOST = 2
"""Lost batches of a size that end its ladder: fewer than nine of ten are whole."""

options = harness.arguments(__doc__, batches=10, seconds=60.0, sets="gaussian,cifar10,trained")
results = harness.Results("exposure")


def shape_of(name: str, width: int) -> tuple[int, ...]:
    return (3, 32, 32) if name != "gaussian" else (300,) if width < 300 else (1200,)


def network(name: str, width: int, seed: int) -> torch.nn.Module:
    return trained(width) if name == "trained" else Mlp(width).build(shape_of(name, width), 10, seed)


@functools.cache
def trained(width: int) -> torch.nn.Module:
    model, pool = Mlp(width).build(shape_of("trained", width), 10, 0), harness.dataset("cifar10").batch(4000, 10**6 + 1)
    optimizer, generator = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(len(pool), (64,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pool.inputs[rows].float()), pool.labels[rows]).backward()
        optimizer.step()
    return model


def observe(name: str, width: int, size: int, seed: int) -> tuple[Observation, Batch]:
    model = copy.deepcopy(network(name, width, seed)).double()
    if name != "gaussian":
        return harness.observe(harness.dataset("cifar10"), model, size, seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((size, *shape_of(name, width)), generator=generator, dtype=torch.float64)
    batch = Batch(inputs, torch.randint(10, (size,), generator=generator))
    return FedSgd().observe(model, batch), batch


def predicted(name: str, width: int) -> dict[str, dict[str, float]]:
    """Means over the networks of the limits of the first layer, on noise and, for real data, on inputs of another draw than the batches'.

    ``likely`` is the largest batch that fails with less than 10 %: what nine of ten batches measure.
    """
    told = {}
    for source in ("noise",) if name == "gaussian" else ("noise", "data"):
        rows = []
        for seed in range(options.batches):
            model, shape = network(name, width, seed), shape_of(name, width)
            data = torch.randn((1000, *shape), generator=torch.Generator().manual_seed(1))
            data = data if source == "noise" else harness.dataset("cifar10").batch(1000, 10**6).inputs
            limits = expose(model, shape, data=data).layers[0].limits
            likely = measure(model, [data], ["1.weight"])["1.weight"].largest(0.1, limits.rank)
            rows.append({field: getattr(limits, field) for field in ("rank", "information", "sure", "searched")} | {"likely": likely})
        told[source] = {field: sum(row[field] for row in rows) / len(rows) for field in rows[0]}
    return told


def measured(name: str, width: int) -> int:
    """The largest batch size before the first that fails; 0 where the first does."""
    reached = 0
    for size in TRAINED if name == "trained" else LADDERS[width]:
        key = f"{name} m={width} b={size}"
        for _ in results.missing([key]):
            outcomes: list[harness.Outcome] = []
            for seed in range(options.batches):
                outcomes.append(harness.attack(*observe(name, width, size, seed), f"spear:seconds={options.seconds}", seed))
                if sum(not outcome.exact for outcome in outcomes) >= LOST:
                    break
            results.add(key, outcomes, width=width, size=size, set=name)
        case = results.content["cases"][key]
        if case["batches"] - case["exact"] >= LOST:
            break
        reached = size
    return reached


for name in options.sets.split(","):
    for width in WIDTHS[name]:
        summary = {"set": name, "width": width, "measured": measured(name, width), "predicted": predicted(name, width)}
        results.put(f"{name} m={width}", summary)
        print(summary, flush=True)


def row(summary: dict) -> str:
    told, last = summary["predicted"], summary["predicted"].get("data")
    what = f"cifar10, after {STEPS:,} steps" if summary["set"] == "trained" else summary["set"]
    each = [
        f"{told['noise'][field]:.0f}" + (f" / {last[field]:.0f}" if last else "") for field in ("rank", "information", "sure", "likely")
    ]
    return "| " + " | ".join([what, str(summary["width"]), *each, f"**{summary['measured']}**"]) + " |"


head = ["inputs", "width", "rank", "typical sample", "predicted, 99 %", "predicted, 90 %", "measured, 9 of 10"]
summaries = [case for case in results.content["cases"].values() if "measured" in case]
table = "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *map(row, summaries)])
fill_in(Path(__file__).parents[1] / "docs" / "exposure.md", {"measured": f"\n{table}\n"})
