"""Where the time goes, against the floor: one pass over the gradient plus one Gram matrix. And the memory, beyond model and update."""

import gc
import statistics
import time
from pathlib import Path

import harness
import torch

from unbatch.auditing import invert
from unbatch.models.mlp import Mlp

options = harness.arguments(__doc__, repeat=5, size=20, sets="cifar10,imagenet224,imagenet720")
results = harness.Results("cost")


def floor(gradient: torch.Tensor) -> float:
    """Seconds to read the gradient once and to form its Gram matrix in float64, in blocks."""
    start, total = time.perf_counter(), torch.zeros((len(gradient),) * 2, dtype=torch.float64)
    for block in torch.split(gradient, 1 << 14, dim=1):
        columns = block.double()
        total.addmm_(columns, columns.T)
    return time.perf_counter() - start


def high_water() -> float:
    """Largest resident size of this process so far, GB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) / 1e6


for name in results.missing(options.sets.split(",")):
    data = harness.dataset(name)
    large = name == "imagenet720"
    model = Mlp().build(data.input_shape, harness.classes(data), 0)
    observed, batch = harness.observe(data, model.float() if large else model.double(), options.size, 0)
    stages: dict[str, list[float]] = {}
    floors, totals, extra = [], [], []
    for _ in range(2 if large else options.repeat):
        floors.append(floor(observed.update["1.weight"]))
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before, marks = high_water(), [("start", time.perf_counter())]
        invert(observed, "spear", progress=lambda told, done: marks.append((told.split(",")[0], time.perf_counter())))  # noqa: B023
        marks.append(("end", time.perf_counter()))
        extra.append(high_water() - before)
        totals.append(marks[-1][1] - marks[0][1])
        for (told, begin), (_, end) in zip(marks, marks[1:], strict=False):
            stage = {"start": "look for the layer", "factor": "factor and search"}.get(told, "search" if "directions" in told else told)
            stages.setdefault(stage, []).append(end - begin)
    size = sum(tensor.numel() * tensor.element_size() for tensor in observed.update.values()) / 1e9
    results.put(
        name,
        {
            "floor_seconds": statistics.median(floors),
            "total_seconds": statistics.median(totals),
            "ratio_to_floor": statistics.median(t / f for t, f in zip(totals, floors, strict=True)),
            "stages_seconds": {stage: sum(times) / len(totals) for stage, times in stages.items()},
            "update_gigabytes": size,
            "extra_memory_share_of_update": max(extra) / size,
        },
    )
    print(name, results.content["cases"][name], flush=True)
