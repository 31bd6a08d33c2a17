"""Every behavior and speed as before: the same fast cases on this working tree and on that of an older commit, in turn.

git worktree add /tmp/old 98b9387
python benchmarks/against.py --old /tmp/old

Each case runs in processes of their own, pinned to one thread, old and new by turns, so that what else the machine does meets both. CPU
seconds, because the cores are shared; the first batch of a process loads code and is left out. What was found is scored by the truth in both, on
the same draws. The result goes to ``benchmarks/results/against.json``, and ``against_page.py`` draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "against.json"
SHARED = Path(os.environ.get("UNBATCH_SHARED") or ROOT.parent / "shared") / "data"
if not SHARED.exists():
    SHARED = ROOT.parents[1] / "shared" / "data"
RATIO = 1.3
"""Slower by more is looked into."""


@dataclass(frozen=True)
class Case:
    """What is run: ``batches`` draws of ``size`` samples, or a command."""

    batches: int
    size: int = 0
    data: str = "cifar10_test.npz"
    protocol: str = "fedsgd"
    attack: str = ""
    restorer: str = ""
    model: str = "mlp:width=200"
    classes: int = 10
    dtype: str = "float64"
    command: tuple[str, ...] = ()


MAIN = "from unbatch.cli import main; main()"
CASES = {
    "spear, CIFAR-10, b=20, m=200": Case(8, 20, attack="spear"),
    "spear, MNIST, b=20, m=200": Case(8, 20, "mnist_test.npz", attack="spear"),
    "spear, CIFAR-10, b=20, m=200, float32": Case(8, 20, attack="spear", dtype="float32"),
    "spear, CIFAR-10, b=60, m=200": Case(3, 60, attack="spear"),
    "spear, CIFAR-10, b=32, two layers of 400": Case(3, 32, attack="spear", model="mlp:width=400,depth=2"),
    "spear, CIFAR-10, b=10 by FedAvg, 2 epochs of 5": Case(
        5, 10, protocol="fedavg:epochs=2,batch_size=5,learning_rate=0.01", attack="spear"
    ),
    "labels: ilrg, CIFAR-10, b=64, lenet5": Case(20, 64, restorer="ilrg", model="lenet5", dtype="float32"),
    "labels: anchored, CIFAR-10, b=64, lenet5": Case(4, 64, restorer="anchored", model="lenet5", dtype="float32"),
    "import unbatch": Case(5, command=("-c", "import unbatch")),
    "import all of the attack": Case(4, command=("-c", "import unbatch.attacks.spear")),
    "unbatch --help": Case(5, command=("-c", MAIN, "--help")),
    "unbatch demo, with its report": Case(2, command=("-c", MAIN, "demo", "--quiet", "--out", "OUT")),
}


def attacked(case: Case, seed: int) -> tuple[float, float]:
    """CPU seconds of one batch, and the share of samples (or of the counts of labels) that are right."""
    import torch

    from unbatch import invert, plugins, restore_labels
    from unbatch.linalg.matching import match

    data = plugins.build("datasets", f"npz:{SHARED / case.data}")
    batch = data.batch(case.size, seed)
    model = plugins.build("models", case.model).build(data.input_shape, case.classes, seed)
    model = model.double() if case.dtype == "float64" else model.float()
    seen = plugins.build("protocols", case.protocol).observe(model, batch, seed=seed)
    seen = replace(seen, batch_size=case.size) if case.restorer else seen
    start = time.process_time()
    if case.restorer:
        found = restore_labels(seen, case.restorer, seed, attack=None)
        spent = time.process_time() - start
        true = torch.bincount(batch.labels, minlength=case.classes)
        return spent, float(torch.minimum(true, found.counts.long()).sum()) / case.size if found.counts is not None else 0.0
    made = invert(seen, case.attack, seed)
    spent = time.process_time() - start
    if made.inputs is None:
        return spent, 0.0
    truth, guess = batch.inputs.double().flatten(1), made.inputs.double().flatten(1)
    pairs = [(truth[i], guess[j]) for i, j in enumerate(match(truth, guess)) if j >= 0]
    near = 1e-3 if case.dtype == "float32" else 1e-6
    return spent, sum(float((a - b).norm()) < near * float(a.norm()) for a, b in pairs) / case.size


def measured(name: str) -> list[tuple[float, float]]:
    import torch

    torch.set_num_threads(1)
    return [attacked(CASES[name], seed) for seed in range(CASES[name].batches + 1)][1:]


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """CPU seconds of a process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


def apart(tree: Path, name: str, scratch: Path) -> list[tuple[float, float]]:
    """The same case in processes of their own, with the sources of a working tree."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONPATH": str(tree / "src"), "UNBATCH_SHARED": str(SHARED.parent)}
    case, times = CASES[name], []
    if not case.command:
        printed = timed([sys.executable, __file__, "--measure", name], environment)[1]
        return [(spent, right) for spent, right in json.loads(printed.splitlines()[-1])]
    for i in range(case.batches + 1):
        words = [str(scratch / f"{tree.name} {i} {time.time_ns()}") if word == "OUT" else word for word in case.command]
        times.append((timed([sys.executable, *words], environment)[0], 1.0))
    return times[1:]


def commit(tree: Path) -> str:
    command = ["git", "-C", str(tree), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def compared(old: list[list[tuple[float, float]]], new: list[list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians over all runs, their spread, the ratio, and the share that was right, of a case."""

    def side(runs: list[list[tuple[float, float]]]) -> dict[str, Any]:
        times = sorted(spent for run in runs for spent, _ in run)
        right = statistics.fmean(right for run in runs for _, right in run)
        return {"median": statistics.median(times), "min": times[0], "max": times[-1], "right": right, "times": times}

    before, after = side(old), side(new)
    pairs = [statistics.median(s for s, _ in b) / statistics.median(s for s, _ in a) for a, b in zip(old, new, strict=True)]
    return {"old": before, "new": after, "ratio": after["median"] / before["median"], "ratios": sorted(pairs)}


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, help="a working tree of the older commit")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name has this in it, measured again")
    parser.add_argument("--measure", default="", help="a case to measure in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    if options.old is None:
        parser.error("--old is missing: git worktree add /tmp/old 98b9387")
    from unbatch.auditing import environment

    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"cases": {}}
    result |= {"old": commit(options.old), "new": commit(ROOT)}
    result["environment"] = environment() | {"cores": str(os.cpu_count())}
    measure: Callable[[Path, str, Path], list[tuple[float, float]]] = apart
    with tempfile.TemporaryDirectory() as scratch:
        for name in (name for name in CASES if options.only in name):
            runs = [(measure(options.old, name, Path(scratch)), measure(ROOT, name, Path(scratch))) for _ in range(options.runs)]
            case = compared([pair[0] for pair in runs], [pair[1] for pair in runs])
            result["cases"][name] = case | {"runs": options.runs, "load": os.getloadavg()[0]}
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
            print(
                f"{name}: {case['old']['median']:.3f} -> {case['new']['median']:.3f} s, {case['ratio']:.2f}",
                case["old"]["right"],
                case["new"]["right"],
                flush=True,
            )


if __name__ == "__main__":
    main()
