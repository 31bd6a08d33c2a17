"""Two processes beside one: the same plan by ``--executor serial`` and by ``--executor processes``, in turn, wall time of the whole command.

python benchmarks/executors.py [--rounds 2] [--seeds 150]

Start-up of Python and torch is part of it, once a process. The records are compared, too: what was found must be the same.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

from unbatch.store.trials import load_run

PLAN = """
datasets = "npz:{data}"
models = "mlp:width=200"
attacks = "spear:seconds=60"
metrics = ["psnr"]
batch_sizes = 40
seeds = {seeds}
"""


def run(plan: Path, folder: Path, executor: str) -> float:
    command = [sys.executable, "-m", "unbatch", "run", str(plan), "--out", str(folder), "--executor", executor]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # noqa: S603
    return time.perf_counter() - began


def main() -> None:
    options = harness.arguments(__doc__ or "", rounds=2, seeds=150)
    results, times = harness.Results("executors"), {"serial": list[float](), "processes": list[float]()}
    with tempfile.TemporaryDirectory() as scratch:
        plan, found = Path(scratch, "plan.toml"), {}
        plan.write_text(PLAN.format(data=harness.SHARED / harness.DATA["cifar10"], seeds=options.seeds))
        for number in range(options.rounds):
            for executor, taken in times.items():
                folder = Path(scratch, f"{executor}-{number}")
                taken.append(run(plan, folder, executor))
                found[folder] = {record.id: (record.status, record.whole) for record in load_run(folder).records}
                print(executor, f"{taken[-1]:.1f} s", flush=True)
    same = all(each == next(iter(found.values())) for each in found.values())
    ratio = statistics.median(times["serial"]) / statistics.median(times["processes"])
    results.put("two processes", {"trials": options.seeds, "seconds": times, "times as fast": ratio, "same": same, "cores": os.cpu_count()})
    print(f"{ratio:.2f} times as fast, the same records: {same}")


if __name__ == "__main__":
    main()
