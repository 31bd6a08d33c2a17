"""Keep what a run of a plan measured: its cells, condensed, in ``results/runs.json``, from which ``claims.py`` reads.

unbatch run plans/ilrg/depth.toml --out out/depth
python benchmarks/kept.py out/depth

A run's folder holds every trial and may be large; what is kept is one entry a cell: its settings, how many trials, and the mean of every
score over those in which the method could be used. A plan may be run in parts: cells of earlier runs stay where this one has none like them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import harness

from unbatch.report.cells import AXES, Cell, gather, score_names
from unbatch.store.trials import load_run

KEPT = harness.RESULTS / "runs.json"


def condensed(cell: Cell, environment: dict[str, str]) -> dict[str, Any]:
    scores = {name: [record.scores[name] for record in cell.tried if record.scores.get(name) is not None] for name in score_names([cell])}
    return cell.settings.model_dump(mode="json", include=set(AXES)) | {
        "trials": len(cell.records),
        "tried": len(cell.tried),
        "whole": cell.whole,
        "seconds": cell.seconds,
        "means": {name: statistics.fmean(values) for name, values in scores.items() if values},
        "code": sorted({record.code for record in cell.records}),
        "environment": environment,
    }


def settings(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: cell[name] for name in AXES}


def main() -> None:
    result: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for folder in map(Path, sys.argv[1:]):
        run = load_run(folder)
        cells = [condensed(cell, run.header.environment | {"cores": str(os.cpu_count())}) for cell in gather(run.records)]
        measured = [settings(cell) for cell in cells]
        kept = [cell for cell in result.get(run.header.name, []) if settings(cell) not in measured]
        result[run.header.name] = kept + cells
    KEPT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
