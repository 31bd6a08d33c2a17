"""What the proof costs: attack ``spear`` at b=20, m=200 in float64 on this commit against an older one, in turn, in processes of their own.

git worktree add /tmp/old 98b9387
python benchmarks/evidence_cost.py --old /tmp/old

CPU seconds of one thread, medians over the batches of a process; the ratio is that of the medians over all processes. The result goes to
``benchmarks/results/evidence_cost.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "evidence_cost.json"
SIZE, WIDTH, DEPTH = 20, 200, 6


def measured(data: Path, batches: int) -> list[float]:
    """CPU seconds of every batch, by the sources that come first on the path; the first batch, which loads code, is left out."""
    import numpy as np
    import torch
    from torch import nn

    from unbatch.attacks.spear import Spear
    from unbatch.gradients import capture
    from unbatch.types import Observation, Status

    torch.set_num_threads(1)
    with np.load(data, allow_pickle=False) as file:
        pictures, labels = torch.from_numpy(file["images"][:4000]).permute(0, 3, 1, 2), torch.from_numpy(file["labels"][:4000]).long()
    times = []
    for seed in range(batches + 1):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for i in range(DEPTH):
            layers += [nn.Linear(3072 if i == 0 else WIDTH, 10 if i == DEPTH - 1 else WIDTH), nn.ReLU()]
        model = nn.Sequential(*layers[:-1]).double()
        chosen = torch.randperm(len(pictures))[:SIZE]
        inputs = (pictures[chosen].double() / 255 - 0.45) / 0.25
        seen = Observation(model, capture(model, inputs, labels[chosen]), (3, 32, 32))
        start = time.process_time()
        found = Spear(seconds=60.0)(seen, seed=seed)
        times.append(time.process_time() - start)
        if found.status is not Status.RECONSTRUCTED:
            raise SystemExit(f"batch {seed}: {found.status.name}: {found.reason}")
    return times[1:]


def apart(tree: Path, data: Path, batches: int) -> list[float]:
    """The same in a process of its own, with the sources of a working tree."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree / "src")}
    command = [sys.executable, __file__, "--measure", "--data", str(data), "--batches", str(batches)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


def commit(tree: Path) -> str:
    command = ["git", "-C", str(tree), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, help="a working tree of the older commit")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("UNBATCH_SHARED") or ROOT.parent / "shared") / "data" / "cifar10_test.npz"
    )
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="measure in this process and print the times")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.data, options.batches)))
        return
    if options.old is None:
        parser.error("--old is missing: git worktree add /tmp/old 98b9387")
    runs = [(apart(options.old, options.data, options.batches), apart(ROOT, options.data, options.batches)) for _ in range(options.runs)]
    medians = [[statistics.median(times) for times in pair] for pair in runs]
    old, new = (statistics.median(pair[side] for pair in medians) for side in (0, 1))
    result = {
        "what": f"spear, CIFAR-10, b={SIZE}, m={WIDTH}, depth {DEPTH}, float64: CPU seconds a batch",
        "old": {"commit": commit(options.old), "seconds": old},
        "new": {"commit": commit(ROOT), "seconds": new},
        "ratio": new / old,
        "runs": [{"old": pair[0], "new": pair[1]} for pair in medians],
        "batches": options.batches,
        "load": os.getloadavg()[0],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
