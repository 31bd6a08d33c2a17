"""Honesty trials by the thousand: real samples, networks in every state, rounds told rightly and wrongly, liars; no verdict may be false.

python benchmarks/honesty.py --trials 3000
python benchmarks/honesty.py --trials 1000 --attack span

Runs in parallel, one thread a process, and goes on where it stopped: outcomes are kept under out/honesty/ by the commit that last touched
the sources. The summary, with every failure in full, goes to results/honesty.json, or honesty_span.json. The exit code is 1 if any verdict was false.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded, here and in every process

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {name: Path(__file__).parent / "results" / f"honesty{tail}.json" for name, tail in (("spear", ""), ("span", "_span"))}
sys.path.insert(0, str(ROOT / "tests" / "honesty"))

import torch  # noqa: E402

import generator  # noqa: E402
from pools import NAMES, pool  # noqa: E402
from rounds import KINDS  # noqa: E402
from unbatch.attacks.span import Span  # noqa: E402
from unbatch.attacks.spear import Spear  # noqa: E402
from unbatch.auditing import environment  # noqa: E402

Outcome = dict[str, Any]
SOURCES = ("src", "tests/honesty", "benchmarks/honesty.py")
TOOLS = {"spear": Spear, "span": Span}
CLOCK = "overrun by the clock alone"
"""What a machine with other work on it can cause: printed, and no reason for exit code 1."""


def single_threaded() -> None:
    torch.set_num_threads(1)


def one(seed: int, attack: str) -> Outcome:
    return generator.run(seed, TOOLS[attack]).as_json()


def git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603, S607


def kept(path: Path) -> dict[int, Outcome]:
    """Outcomes of an earlier run; a line that was cut off is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            outcome = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[outcome["seed"]] = outcome
    return found


def played(seeds: list[int], attack: str, processes: int) -> Iterator[Outcome]:
    """Outcomes as they come; a few hundred trials a process, so that none grows without end.

    Processes are replaced all together: Python 3.11 waits for ever where ``max_tasks_per_child`` replaces the only one.
    """
    for start in range(0, len(seeds), 300 * processes):
        with ProcessPoolExecutor(processes, get_context("spawn"), single_threaded) as workers:
            waiting = [workers.submit(one, seed, attack) for seed in seeds[start : start + 300 * processes]]
            for done in as_completed(waiting):
                yield done.result()


def by(outcomes: list[Outcome], what: Callable[[Outcome], str]) -> dict[str, Any]:
    """Counts for every value of a fact."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(what(outcome), []).append(outcome)
    return {
        name: {
            "trials": len(group),
            "statuses": dict(Counter(outcome["status"] for outcome in group).most_common()),
            "samples": sum(outcome["size"] for outcome in group),
            "claimed": sum(outcome["claimed"] for outcome in group),
            "failures": dict(Counter(failure["kind"] for outcome in group for failure in outcome["failures"]).most_common()),
        }
        for name, group in sorted(groups.items())
    }


def fact(name: str) -> Callable[[Outcome], str]:
    return lambda outcome: outcome["facts"].get(name, "none").split(",")[0]


def state(outcome: Outcome) -> str:
    states, turn = generator.STATES, len(KINDS)
    return states[outcome["seed"] // turn % len(states)]


def summary(outcomes: list[Outcome], facts: dict[str, Any]) -> dict[str, Any]:
    failed = [outcome for outcome in outcomes if outcome["failures"]]
    return facts | {
        "environment": environment() | {"threads": "1", "cores": str(os.cpu_count())},
        "pools": {name: pool(name).name for name in NAMES},
        "trials": len(outcomes),
        "seeds": [outcomes[0]["seed"], outcomes[-1]["seed"]],
        "cpu_seconds": sum(outcome["cpu"] for outcome in outcomes),
        "failures": dict(Counter(failure["kind"] for outcome in failed for failure in outcome["failures"]).most_common()),
        "cases": by(outcomes, lambda outcome: outcome["kind"]),
        "by": {
            "attack": by(outcomes, lambda outcome: fact("attack")(outcome).partition(":")[0]),
            "data": by(outcomes, fact("data")),
            "network": by(outcomes, fact("network")),
            "state": by(outcomes, state),
            "protocol": by(outcomes, lambda outcome: fact("protocol")(outcome).partition(":")[0]),
        },
        "found": failed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--attack", choices=TOOLS, default="spear", help="what is tried beside the liars")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    commit, changed = git("log", "-1", "--format=%H", "--", *SOURCES), bool(git("status", "--porcelain", "--", *SOURCES))
    name, result_file = f"{commit[:12]}{'-changed' if changed else ''}", RESULTS[options.attack]
    scratch = ROOT / "out" / "honesty" / f"{name}{result_file.stem.removeprefix('honesty')}.jsonl"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    if changed:
        scratch.unlink(missing_ok=True)  # nobody knows what an earlier change was
    seeds = range(options.first, options.first + options.trials)
    outcomes = {seed: outcome for seed, outcome in kept(scratch).items() if seed in seeds}
    missing, started = [seed for seed in seeds if seed not in outcomes], time.monotonic()
    with scratch.open("a") as file:
        for count, outcome in enumerate(played(missing, options.attack, options.processes), 1):
            outcomes[outcome["seed"]] = outcome
            file.write(json.dumps(outcome) + "\n")
            file.flush()
            for failure in outcome["failures"]:
                print(f"seed {outcome['seed']} ({outcome['kind']}, {outcome['status']}): {failure['kind']}: {failure['detail'][-300:]}")
            if count % 100 == 0:
                print(f"{len(outcomes)} of {len(seeds)} trials, {time.monotonic() - started:.0f} s", flush=True)
    result = summary([outcomes[seed] for seed in seeds], {"commit": commit, "changed": changed})
    partial = result_file.with_suffix(".tmp")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(result_file)
    print(f"{len(seeds)} trials: {result['failures'] or 'no failure'}")
    return int(any(kind != CLOCK for kind in result["failures"]))


if __name__ == "__main__":
    sys.exit(main())
