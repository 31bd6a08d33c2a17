"""Tables: TabLeak in its setting beside SPEAR on the same batches, an ensemble in one graph beside a loop, and ADULT beyond its rank.

TabLeak's setting: ADULT, a network d-100-100-2 with PyTorch's initialization, untrained, one gradient of 8 rows in float32, labels and batch
size known; 30 members, 1,500 steps. SPEAR is given the same rows and weights in float64, and neither labels nor batch size. CPU time of one
thread.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
import tables_page
import torch

from unbatch import plugins
from unbatch.attacks.tableak import TabLeak
from unbatch.auditing import invert
from unbatch.contracts import Dataset
from unbatch.inversion.matching import GradientMatching
from unbatch.inversion.tables import Relaxation
from unbatch.linalg.matching import wrong_cells
from unbatch.metrics.cell_mae import CellMae
from unbatch.protocols.fedsgd import FedSgd
from unbatch.scoring import baselines, score
from unbatch.types import Batch, Observation

options = harness.arguments(__doc__, batches=3, steps=40, turns=3, many=5, only="dependent,ensemble,tableak,spear,sets")
results = harness.Results("tables")
torch.set_num_threads(1)

METRICS = {name: plugins.load("metrics", name)() for name in ("cell_accuracy", "cell_mae", "exact_row")}
SETS = {"adult": "", "german": "german.data", "law_school": "law_school_clean.csv"}
SMALL, DEEP = "mlp:width=100,depth=3", "mlp:width=200,depth=6"


def data_of(name: str) -> Dataset:
    return plugins.build("datasets", f"{name}:{harness.SHARED / SETS[name]}")


def observed(data: Dataset, model: str, size: int, seed: int, dtype: torch.dtype) -> tuple[Observation, Batch]:
    batch = data.batch(size, seed)
    victim = plugins.build("models", model).build(data.input_shape, 2, seed).to(dtype)
    return FedSgd().observe(victim, batch), batch


def attacked(data: Dataset, spec: str, observation: Observation, batch: Batch, seed: int) -> dict[str, Any]:
    """One attack, scored, with what guesses are worth that know nothing of the update."""
    wall, spent = time.perf_counter(), time.process_time()
    found = invert(observation, spec, seed)
    row: dict[str, Any] = {"seed": seed, "cpu_seconds": time.process_time() - spent, "seconds": time.perf_counter() - wall}
    row |= {"status": found.status.name, "reason": found.reason, "rank": found.stats.get("rank"), "rounds": found.stats.get("rounds")}
    worth = baselines(data, batch, METRICS, seed)
    row |= {name: scores.mean("cell_accuracy") for name, scores in worth.items()}
    if found.inputs is None:
        return row | {"found": 0, "exact_row": 0.0}
    schema, scores = batch.schema, score(batch, found.inputs, METRICS)
    right = torch.tensor([partner >= 0 for partner in scores.order])
    truth, guess = (schema.decode(x.double()) for x in (batch.inputs[right], found.inputs[[p for p in scores.order if p >= 0]]))
    wrong, levels = wrong_cells(truth, guess, schema.discrete, schema.scales), torch.tensor(schema.discrete)
    return row | {
        "found": len(found.inputs),
        "cell_accuracy": scores.mean("cell_accuracy"),
        "levels": 1 - float(wrong[:, levels].double().mean()),
        "numbers": 1 - float(wrong[:, ~levels].double().mean()),
        "cell_mae": CellMae().by_column(truth, guess, schema),
        "exact_row": sum(scores.exact) / len(batch),
        "labels_right": statistics.fmean(
            found.labels is not None and p >= 0 and int(found.labels[p]) == int(y) for p, y in zip(scores.order, batch.labels, strict=True)
        ),
    }


def tableak(_: str) -> list[dict[str, Any]]:
    data, rows = data_of("adult"), []
    for seed in range(options.batches):
        seen, batch = observed(data, SMALL, 8, seed, torch.float32)
        rows.append(attacked(data, "tableak", replace(seen, labels=batch.labels, batch_size=len(batch)), batch, seed))
        print(rows[-1], flush=True)
    return rows


def exact(name: str, model: str, size: int, batches: int, spec: str = "spear") -> list[dict[str, Any]]:
    data, rows = data_of(name), []
    for seed in range(batches):
        seen, batch = observed(data, model, size, seed, torch.float64)
        rows.append(attacked(data, spec, seen, batch, seed))
        print(name, size, rows[-1], flush=True)
    return rows


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def ensemble(_: str) -> dict[str, Any]:
    """CPU time of 30 members in one graph, and one after the other, taking turns; the least of several turns each."""
    data = data_of("adult")
    seen, batch = observed(data, SMALL, 8, 0, torch.float32)
    seen, attack = replace(seen, labels=batch.labels, batch_size=8), TabLeak(steps=options.steps)
    matching, relax = GradientMatching(seen, "cosine"), Relaxation(batch.schema)
    start = matching.start("uniform", attack.members, torch.Generator().manual_seed(0))["inputs"]

    def descend(members: torch.Tensor) -> None:
        attack._descent.run(lambda v: matching.objective({"inputs": relax(v["inputs"])}), {"inputs": members})

    together, alone = [], []
    for _turn in range(options.turns):
        together.append(seconds(lambda: descend(start)))
        alone.append(seconds(lambda: [descend(one[None]) for one in start]))
    each = [min(times) / (options.steps + 1) * 1e3 for times in (together, alone)]
    return {"one_graph_ms": each[0], "loop_ms": each[1], "ratio": each[0] / each[1], "members": len(start)}


CASES: dict[str, tuple[str, Callable[[str], Any]]] = {
    **{f"adult six layers of 200, b={b}": ("dependent", lambda _, b=b: exact("adult", DEEP, b, options.many)) for b in (32, 48, 64, 96)},
    "30 members, eight rows of adult": ("ensemble", ensemble),
    "adult d-100-100-2, b=8, tableak": ("tableak", tableak),
    "adult d-100-100-2, b=8, spear": ("spear", lambda _: exact("adult", SMALL, 8, options.batches)),
    **{
        f"{name} six layers of 200, b={b}": ("sets", lambda _, n=name, b=b: exact(n, DEEP, b, options.many))
        for name in ("german", "law_school")
        for b in (8, 20)
    },
}

for key in results.missing(list(CASES)):
    kind, work = CASES[key]
    if kind in options.only.split(","):
        results.put(key, {"kind": kind, "rows": made} if isinstance(made := work(key), list) else {"kind": kind} | made)
tables_page.fill()
