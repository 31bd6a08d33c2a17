"""What hangs on every tuned threshold: each halved and doubled by itself, on small problems of real pictures where it matters.

python benchmarks/thresholds.py            # ten minutes on one core; --only span for one setting

A threshold is named ``module:NAME`` below the setting that it is tried in; in its docstring stands "Swept", and a test holds the two lists
against each other. Shares near one are moved in what they leave: 0.98 becomes 0.99 and 0.96. What is counted: the share of the samples (of
the counts of labels, of the records asked for) that are right and proved; **false claims**, which are samples that are called proved and lie
farther from every sample of the batch than their own bound, a batch called whole that is not, counts called determined that are wrong, and
records called present that were absent, or absent that were present; and CPU seconds. False claims must be zero at the values in use.
The result goes to ``benchmarks/results/thresholds.json``; ``thresholds_page.py`` draws ``docs/thresholds.md`` from it. Thresholds that are in it are not run
again: delete the file to measure anew.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import harness
import torch

import unbatch
from unbatch import plugins
from unbatch.evidence.judge import judge
from unbatch.types import Batch, Candidate, Observation, Reconstruction, Status, Verdict

SOURCE = Path(unbatch.__file__).parent
RESULT = harness.RESULTS / "thresholds.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a few batches."""

    right: int = 0
    wanted: int = 0
    false: int = 0
    seconds: float = 0.0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


def posed(
    size: int, seed: int, model: str, protocol: str = "fedsgd", dtype: str = "float64", noise: float = 0.0, data: str = "cifar10"
) -> tuple[Observation, Batch]:
    source = harness.dataset(data)
    batch = source.batch(size, seed)
    network = plugins.build("models", model).build(source.input_shape, len(source.schema.classes), seed).to(getattr(torch, dtype))
    defenses = [plugins.build("defenses", f"gaussian_noise:deviation={noise}")] if noise else []
    return plugins.build("protocols", protocol).observe(network, batch, defenses=defenses, seed=seed), batch


def scored(found: Reconstruction, batch: Batch, seconds: float) -> Outcome:
    """Samples that are proved, by the truth."""
    truth = batch.inputs.double().flatten(1)
    if found.inputs is None or found.proved is None or found.accuracy is None or not found.status.disclosed:
        return Outcome(0, len(truth), 0, seconds)
    given, bound = found.inputs.double().flatten(1)[found.proved], found.accuracy[found.proved].double()
    apart = torch.cdist(truth, given, compute_mode="donot_use_mm_for_euclid_dist") / truth.norm(dim=1, keepdim=True)
    false = int((apart.amin(dim=0) > bound + 1e-9).sum()) if len(given) else 0
    right = int((apart <= bound + 1e-9).any(dim=1).sum()) if len(given) else 0
    return Outcome(right, len(truth), false + (found.status is Status.RECONSTRUCTED and right < len(truth)), seconds)


def attacked(spec: str, seen: Observation, batch: Batch, seed: int) -> Outcome:
    start = time.process_time()
    found = unbatch.invert(seen, spec, seed)
    return scored(found, batch, time.process_time() - start)


def judged(seed: int) -> Outcome:
    """A proposal that is right but for four samples: one is off by a thousandth, one by a tenth, one is a mixture, one is another picture."""
    seen, batch = posed(20, seed, "mlp:width=200")
    inputs, stranger = batch.inputs.double().clone(), harness.dataset("cifar10").batch(1, 900 + seed).inputs.double()
    generator = torch.Generator().manual_seed(seed)
    for place, off in ((0, 1e-3), (1, 0.1)):
        inputs[place] += off * inputs[place].std() * torch.randn(inputs[place].shape, generator=generator, dtype=torch.float64)
    inputs[2], inputs[3] = 0.6 * batch.inputs[2] + 0.4 * batch.inputs[4], stranger[0]
    start = time.process_time()
    found = judge(replace(seen, batch_size=20), Candidate(inputs, batch.labels))
    made = scored(found, batch, time.process_time() - start)
    return replace(made, wanted=made.wanted - 4)


def counted(spec: str, seen: Observation, batch: Batch, seed: int) -> Outcome:
    start = time.process_time()
    found = unbatch.restore_labels(seen, spec, seed, attack=None)
    spent, true = time.process_time() - start, torch.bincount(batch.labels, minlength=10)
    if found.counts is None:
        return Outcome(0, len(batch), 0, spent)
    right = int(torch.minimum(true, found.counts.long()).sum())
    return Outcome(right, len(batch), int(found.determined and right < len(batch)), spent)


def asked(seen: Observation, batch: Batch, seed: int, noise: float | None = None) -> Outcome:
    strangers = harness.dataset("cifar10").batch(len(batch), 500 + seed).inputs
    start = time.process_time()
    answers = [a.verdict for a in unbatch.members(seen, torch.cat([batch.inputs, strangers]), noise=noise).answers]
    spent, size = time.process_time() - start, len(batch)
    inside, outside = answers[:size], answers[size:]
    claimed = (Verdict.PRESENT, Verdict.IN_SPAN)
    right = sum(v in claimed for v in inside) + sum(v is Verdict.ABSENT for v in outside)
    false = sum(v is Verdict.ABSENT for v in inside) + sum(v in claimed for v in outside)
    return Outcome(right, 2 * size, false, spent)


def noisy_members(seed: int) -> Outcome:
    """Noise of a known deviation on every number of the update."""
    seen, batch = posed(16, seed, "mlp:width=200")
    size = sum(t.numel() for t in seen.update.values())
    deviation = 0.02 * (sum(float(t.double().square().sum()) for t in seen.update.values()) / size) ** 0.5
    generator = torch.Generator().manual_seed(seed)
    noisy = {name: t + deviation * torch.randn(t.shape, generator=generator, dtype=t.dtype) for name, t in seen.update.items()}
    return asked(replace(seen, update=noisy, batch_size=16), batch, seed, deviation)


def updated(size: int, protocol: str, **told: Any) -> Callable[[int], Outcome]:
    """Labels from what LeNet-5 sends in float32."""

    def run(seed: int) -> Outcome:
        seen, batch = posed(size, seed, "lenet5", protocol, "float32")
        update = {name: 0.37 * tensor for name, tensor in seen.update.items()} if told else seen.update
        return counted("anchored", replace(seen, update=update, batch_size=size, **told), batch, seed)

    return run


def searched(spec: str, *pose: Any, **settings: Any) -> Callable[[int], Outcome]:
    """An attack; see ``posed``."""
    size, *rest = pose
    return lambda seed: attacked(spec, *posed(size, seed, *rest, **settings), seed)


FEDAVG = "fedavg:epochs=1,batch_size=5,learning_rate=0.01"
SETTINGS: dict[str, tuple[Callable[[int], Outcome], int, str]] = {
    "spear": (searched("spear:seconds=5", 60, "mlp:width=200"), 3, "CIFAR-10, b=60, m=200, six layers, float64"),
    "spear, crowded": (searched("spear:seconds=5", 40, "mlp:width=100"), 3, "CIFAR-10, b=40, m=100, six layers, float64"),
    "spear, float32": (searched("spear:seconds=5", 50, "mlp:width=200", dtype="float32", data="mnist"), 2, "MNIST, b=50, m=200, float32"),
    "spear, noise": (
        searched("spear:seconds=4", 10, "mlp:width=200", noise=4e-5),
        2,
        "CIFAR-10, b=10, m=200, noise of 4e-5 of the update's root mean square on every number",
    ),
    "spear, FedAvg": (searched("spear:seconds=6", 10, "mlp:width=200", FEDAVG), 2, "CIFAR-10, b=10, m=200, one epoch of steps of 5"),
    "shallow": (searched("spear:seconds=5", 64, "mlp:width=200,depth=2"), 2, "CIFAR-10, b=64, two layers, m=200"),
    "judge": (judged, 2, "CIFAR-10, b=20, m=200; 16 right samples are proposed, and four wrong ones"),
    "span": (searched("span:seconds=5", 48, "mlp:width=100,activation=gelu"), 2, "CIFAR-10, b=48, m=100, GELU, six layers"),
    "labels": (updated(64, "fedsgd"), 3, "CIFAR-10, b=64 told, LeNet-5, float32"),
    "labels, FedAvg": (updated(64, "fedavg:epochs=5,batch_size=16,learning_rate=0.1"), 2, "the same after five epochs of steps of 16"),
    "labels, factor unknown": (updated(64, "fedsgd", factor_known=False), 3, "the same, the update multiplied by 0.37, which is not told"),
    "members": (lambda s: asked(*posed(16, s, "mlp:width=200,activation=gelu"), s), 2, "CIFAR-10, b=16, m=200, GELU; as many strangers"),
    "members, noise": (noisy_members, 2, "CIFAR-10, b=16, m=200; noise of 0.02 of the update's root mean square, told; as many strangers"),
}
"""Name -> what is run for a seed, how many seeds, and in words."""


SWEPT: dict[str, tuple[str, ...]] = {
    "spear": (
        "linalg.lowrank:CLEAR",
        "linalg.lowrank:NOISELESS",
        "spear.problem:ZERO",
        "spear.search:CONTRASTS",
        "spear.search:SIGNS",
        "spear.search:AGREE",
        "spear.search:SHARP",
        "spear.search:ROUNDED",
        "evidence.certificate:EVIDENCE",
        "evidence.judge:TOLERANCE",
    ),
    "spear, crowded": (
        "spear.search:STALLED",
        "spear.dictionary_learning:THRESHOLD",
        "spear.dictionary_learning:FEW",
        "spear.dictionary_learning:MOST",
        "attacks.spear:SEARCH",
        "span.search:DETERMINED",
    ),
    "spear, float32": ("attacks.spear:ROUNDING_FITS", "evidence.whole:UNSURE", "evidence.accuracy:SAFETY", "evidence.judge:ACCEPTABLE"),
    "spear, noise": (
        "attacks.spear:NOISE_FITS",
        "spear.search:NOISY",
        "spear.search:BLUR",
        "spear.selection:BLUR",
        "spear.layer:NOISES",
        "evidence.beside:EXPLAINED",
    ),
    "spear, FedAvg": (
        "attacks.spear:DRIFT_FITS",
        "spear.search:DRIFTED",
        "spear.combinations:BLUR",
        "spear.layer:DEAD",
        "evidence.replay:CARRIED",
    ),
    "shallow": (
        "spear.shallow.two_layer:CLEAR",
        "spear.shallow.two_layer:SILENT",
        "spear.shallow.peeling:ROUGH",
        "spear.shallow.peeling:MATCH",
        "spear.shallow.peeling:TIER",
        "spear.shallow.recovery:CERTIFIED",
        "spear.shallow.recovery:ACCURATE",
        "spear.shallow.recovery:EXPLAINED",
        "spear.shallow.joint:HELD",
        "spear.shallow.on_off_equations:ABOVE",
        "spear.shallow.on_off_equations:NEAR",
        "spear.shallow.on_off_equations:MOST",
    ),
    "judge": (
        "evidence.certificate:MARGIN",
        "evidence.certificate:LOOSEST",
        "evidence.certificate:LOST",
        "evidence.certificate:SPARE",
        "evidence.certificate:INDEPENDENT",
        "evidence.each:SAME",
        "evidence.each:EXPLAINED",
        "evidence.spaces:ABOVE",
        "evidence.spaces:WEAK",
        "evidence.plain_means:WHOLE",
        "evidence.accuracy:TELLING",
        "evidence.accuracy:LOOSE",
    ),
    "span": (
        "span.equations:ROUNDING",
        "span.equations:LARGEST",
        "span.equations:MARGIN",
        "span.least_squares:PROGRESS",
        "span.least_squares:DAMPING",
        "span.least_squares:REACH",
        "span.problem:CROWDED",
        "span.problem:SMOOTH",
        "span.problem:PRECISION",
        "span.search:CONTRASTS",
        "span.search:NEAR",
        "span.search:LIKELY",
        "span.guesses:FAR",
        "span.guesses:SPREAD",
    ),
    "labels": (
        "last_layer:SURELY",
        "last_layer:TINIEST",
        "labels.anchored:FLOOR",
        "labels.anchored:BEND",
        "labels.anchored:WHOLE",
        "labels.anchored:SURE",
        "labels.anchored:LOST",
        "labels.anchored:TIMES",
        "labels.anchored:OFF",
        "labels.anchored:STEADY",
        "labels._prior:LEAST",
        "labels._prior:LESS",
        "labels._prior:FLOOR",
        "labels._prior:HALF",
        "last_layer:ROUNDINGS",
        "last_layer:NOISES",
        "labels._prior:OFFSET",
        "labels._prior:MISSED",
        "labels._prior:ZEROS",
        "labels._batch_size:LOW",
        "labels._whole:MISTAKEN",
        "restoring:DOUBT",
    ),
    "labels, FedAvg": ("labels.anchored:DRIFT", "labels._local_training:SLOWEST"),
    "labels, factor unknown": ("labels._scale:OFF", "labels._scale:DECISIVE", "labels._scale:FLOOR"),
    "members": ("presence.rows:ABOVE", "presence.witnessed:SHOWN", "presence.witnessed:TOLERANCE", "presence.unrelated:NARROWEST"),
    "members, noise": ("presence.rows:EDGE", "presence.witnessed:ALPHA", "presence.answering:NEAR"),
}
"""Setting -> the thresholds that are moved in it."""

SHARES = {
    "attacks.spear:NOISE_FITS",
    "attacks.spear:DRIFT_FITS",
    "attacks.spear:ROUNDING_FITS",
    "spear.search:AGREE",
    "presence.witnessed:SHOWN",
    "span.least_squares:PROGRESS",
    "labels._batch_size:LOW",
    "presence.rows:EDGE",
}
"""Moved in what they differ from one by."""

WHOLE = {
    "spear.search:STALLED",
    "spear.search:DRIFTED",
    "evidence.certificate:SPARE",
    "span.equations:MARGIN",
    "spear.dictionary_learning:FEW",
}
"""Whole numbers stay whole."""


def moved(target: str, value: Any, factor: float) -> Any:
    """The threshold, or each part of it, times the factor."""
    if isinstance(value, dict):
        return {key: moved(target, part, factor) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(target, part, factor) for part in value)
    if target in SHARES:
        return 1 - (1 - value) * factor
    return max(1, round(value * factor)) if target in WHOLE else value * factor


def module_of(target: str) -> ModuleType:
    return importlib.import_module(f"unbatch.{target.partition(':')[0]}")


def value_of(target: str) -> Any:
    return getattr(module_of(target), target.partition(":")[2])


def holders(target: str) -> list[ModuleType]:
    """The module of a threshold and all that import it by name."""
    where, _, name = target.partition(":")

    def imports(path: Path) -> bool:
        nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
        return any(node.module == f"unbatch.{where}" and name in [alias.name for alias in node.names] for node in nodes)

    names = [".".join(["unbatch", *path.relative_to(SOURCE).with_suffix("").parts]) for path in SOURCE.rglob("*.py") if imports(path)]
    return [module_of(target), *map(importlib.import_module, names)]


@contextlib.contextmanager
def with_value(target: str, value: Any) -> Iterator[None]:
    """The program with another value of a threshold."""
    name, before = target.partition(":")[2], value_of(target)
    modules = holders(target)
    for module in modules:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, name, before)


def played(setting: str) -> Outcome:
    run, seeds, _ = SETTINGS[setting]
    return sum((run(seed) for seed in range(seeds)), Outcome())


def written(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): part for key, part in value.items()}
    return value


def main() -> None:
    options = harness.arguments(__doc__ or "", only="", minutes=12.0)
    torch.set_num_threads(1)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"settings": {}}
    result["environment"] = harness.environment() | {"cores": str(os.cpu_count())}
    end = time.monotonic() + 60 * options.minutes
    for setting, targets in SWEPT.items():
        if options.only not in setting:
            continue
        if result["settings"].get(setting, {}).get("thresholds", {}).keys() >= set(targets):
            continue
        played(setting)  # what is loaded on first use is not counted
        rows: dict[str, Any] = result["settings"].get(setting, {}).get("thresholds", {})
        rows = {target: row for target, row in rows.items() if target in targets}
        here = {"what": SETTINGS[setting][2], "batches": SETTINGS[setting][1], "as it is": asdict(played(setting)), "thresholds": rows}
        for target in (target for target in targets if target not in rows):
            if time.monotonic() > end:
                print("out of time: the rest was not run", flush=True)
                break
            value, row = value_of(target), {}
            for word, factor in (("half", 0.5), ("double", 2.0)):
                with with_value(target, moved(target, value, factor)):
                    row[word] = asdict(played(setting))
            rows[target] = {"value": written(value), **row}
            print(setting, target, {word: tuple(made.values()) for word, made in row.items()}, flush=True)
        result["settings"][setting] = here
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
