"""Keep what a run of a plan measured: its cells, condensed, in ``results/runs.json``, from which ``claims.py`` reads.

unbatch run plans/ilrg/depth.toml --out out/depth
python benchmarks/kept.py out/depth

A run's folder holds every trial and may be large; what is kept is one line a cell: its settings, how many trials, and the mean of every score.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import harness

from unbatch.auditing import environment

KEPT = harness.RESULTS / "runs.json"
SETTINGS = ("dataset", "model", "protocol", "defenses", "attack", "restorer", "batch_size", "mix", "trained", "told", "dtype")


def cells(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One a setting, of the trials that did not crash; what was refused counts as a trial and scores nothing."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        groups.setdefault(json.dumps([trial[name] for name in SETTINGS]), []).append(trial)
    return [cell(group) for group in groups.values()]


def cell(group: list[dict[str, Any]]) -> dict[str, Any]:
    scores = sorted({name for trial in group for name in trial if name.startswith("score_")})
    told = {name: [float(trial[name]) for trial in group if trial.get(name) is not None] for name in scores}
    return {name: group[0][name] for name in SETTINGS} | {
        "trials": len(group),
        "crashed": sum(trial["outcome"] == "crashed" for trial in group),
        "whole": sum(bool(trial["whole"]) for trial in group),
        "seconds": statistics.median(trial["seconds"] or 0.0 for trial in group),
        "means": {name.removeprefix("score_"): statistics.fmean(values) for name, values in told.items() if values},
        "code": sorted({trial["code"] for trial in group}),
    }


def main() -> None:
    result: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for folder in map(Path, sys.argv[1:]):
        plan = json.loads((folder / "run.json").read_text())
        trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
        result[plan["name"]] = {
            "environment": environment() | {"cores": str(os.cpu_count())},
            "commit": harness.commit(),
            "cells": cells(trials),
        }
    KEPT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
