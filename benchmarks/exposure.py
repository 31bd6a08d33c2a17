"""Predicted against measured: the batch size up to which ``expose`` says that a layer can be inverted, before any data, and the largest one of
which the default SPEAR recovers at least nine of ten batches wholly. MLPs of six layers, untrained; planted Gaussian inputs and CIFAR-10.

A ladder of batch sizes is climbed until two of ten batches of one size are lost.
"""

import harness
import torch

from unbatch.exposure import expose
from unbatch.models.mlp import Mlp
from unbatch.protocols.fedsgd import FedSgd
from unbatch.types import Batch, Observation

LADDERS = {
    60: (8, 10, 12, 14, 16, 17, 18, 19, 20, 21, 22, 24, 26, 28),
    100: (15, 20, 25, 28, 30, 32, 34, 36, 38, 40, 42, 45),
    200: (20, 30, 40, 50, 60, 65, 70, 75, 80, 85, 90),
}
SHAPES = {"gaussian": (300,), "cifar10": (3, 32, 32)}
LOST = 2
"""Lost batches of a size that end its ladder: fewer than nine of ten are whole."""

options = harness.arguments(__doc__, batches=10, seconds=60.0, sets="gaussian,cifar10", widths="60,100,200")
results = harness.Results("exposure")


def observe(name: str, model: torch.nn.Module, size: int, seed: int) -> tuple[Observation, Batch]:
    if name != "gaussian":
        return harness.observe(harness.dataset(name), model, size, seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((size, *SHAPES[name]), generator=generator, dtype=torch.float64)
    batch = Batch(inputs, torch.randint(10, (size,), generator=generator))
    return FedSgd().observe(model, batch), batch


def predicted(name: str, width: int) -> dict[str, dict[str, float]]:
    """The limits of the first layer, on noise and, for real data, on inputs that no batch was drawn for."""
    told = {}
    for source in ("noise",) if name == "gaussian" else ("noise", "data"):
        data = None if source == "noise" else harness.dataset(name).batch(1000, 10**6).inputs
        each = [expose(Mlp(width).build(SHAPES[name], 10, seed), SHAPES[name], data=data).layers[0] for seed in range(options.batches)]
        told[source] = {
            field: sum(getattr(layer.limits, field) for layer in each) / len(each) for field in ("rank", "information", "sure", "searched")
        } | {"off": sum(layer.firing.off for layer in each) / len(each)}
    return told


def measured(name: str, width: int) -> int:
    """The largest batch size before the first that fails; 0 where the first does."""
    reached = 0
    for size in LADDERS[width]:
        key = f"{name} m={width} b={size}"
        for _ in results.missing([key]):
            outcomes: list[harness.Outcome] = []
            for seed in range(options.batches):
                model = Mlp(width).build(SHAPES[name], 10, seed).double()
                outcomes.append(harness.attack(*observe(name, model, size, seed), f"spear:seconds={options.seconds}", seed))
                if sum(not outcome.exact for outcome in outcomes) >= LOST:
                    break
            results.add(key, outcomes, width=width, size=size, set=name)
        case = results.content["cases"][key]
        if case["batches"] - case["exact"] >= LOST:
            break
        reached = size
    return reached


for name in options.sets.split(","):
    for width in map(int, options.widths.split(",")):
        summary = {"set": name, "width": width, "measured": measured(name, width), "predicted": predicted(name, width)}
        results.put(f"{name} m={width}", summary)
        print(summary, flush=True)
