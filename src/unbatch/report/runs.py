"""A run of many trials as one self-contained page, with CSV and JSON beside it."""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unbatch.report import pages, summary
from unbatch.report.cells import AXES, Cell, gather, named, score_names, value, varying, wilson
from unbatch.report.curves import charts
from unbatch.store.findings import HTML
from unbatch.store.publishing import publish
from unbatch.store.trials import PICTURES, Run, TrialRecord, load_run
from unbatch.types import Status

__all__ = ["CELLS_CSV", "CELLS_JSON", "TRIALS_CSV", "render", "write"]

TRIALS_CSV, CELLS_CSV, CELLS_JSON = "trials.csv", "cells.csv", "cells.json"

OPEN = 40
"""Rows of the table that are shown at once; the rest is folded away."""

MOST_PICTURES, MOST_CRASHES, MOST_TRIALS, MOST_CHARTS = 24, 20, 5000, 24
"""What a page holds at most; everything is in the files beside it."""

LARGEST_PICTURE = 200_000
"""Bytes of a picture: the page must stay small."""

TELLING = ("psnr_worst", "cell_accuracy_mean", "ln_acc", "psnr_mean", "ssim_worst", "ssim_mean", "i_rec", "le_acc")
"""Scores by how much they say; others follow in their own order."""

SHOWN_SCORES = 3
"""Columns of scores in the table."""


def write(folder: Path) -> Path:
    """Draw ``report.html``, ``trials.csv``, ``cells.csv`` and ``cells.json`` beside the trials; a run may be going on.

    Args:
        folder: the ``--out`` of ``unbatch run``.

    Returns:
        the page's path.

    Raises:
        BadFile: the folder holds no readable run.
        OutputFailed: the files cannot be written.
    """
    run = load_run(folder)
    records, _ = current(run)
    cells = gather(records)
    texts = {
        HTML: render(run, _pictures(folder, records)),
        TRIALS_CSV: _csv([record.flat() for record in run.records]),
        CELLS_CSV: _csv([cell.columns() for cell in cells]),
        CELLS_JSON: json.dumps({"run": run.header.name, "cells": [cell.columns() for cell in cells]}, indent=1, ensure_ascii=False) + "\n",
    }
    publish(folder, {name: partial(_put, text) for name, text in texts.items()})
    return folder / HTML


def _put(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def current(run: Run) -> tuple[list[TrialRecord], int]:
    """The records of the version of the code that ran last, and how many others there are: results of two versions are not mixed."""
    if not run.records:
        return [], 0
    last = run.records[-1].code
    records = [record for record in run.records if record.code == last]
    return records, len(run.records) - len(records)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = (row.get(name) for name in names)
        writer.writerow("" if each is None else " + ".join(each) if isinstance(each, (list, tuple)) else each for each in values)
    return file.getvalue()


def _pictures(folder: Path, records: Sequence[TrialRecord]) -> dict[str, str]:
    """Id -> ``data:`` URI, of the first few trials that have a picture."""
    found: dict[str, str] = {}
    for record in records:
        path = folder / PICTURES / Path(record.picture).name
        if record.picture and len(found) < MOST_PICTURES and path.is_file() and path.stat().st_size < LARGEST_PICTURE:
            found[record.id] = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return found


def render(run: Run, pictures: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        run: header and records.
        pictures: id -> ``data:`` URI.
    """
    records, others = current(run)
    cells = gather(records)
    axes = varying(cells) if cells else ["dataset"]
    names = sorted(score_names(cells), key=lambda name: TELLING.index(name) if name in TELLING else len(TELLING))
    rows = [_row(cell, axes, names[:SHOWN_SCORES]) for cell in cells]
    drawn = charts(cells, names)
    crashes = [record for record in records if record.outcome == "crashed"]
    return pages.render(
        "runs.html",
        run=run,
        badge=_badge(run, records),
        severity=_severity(records),
        verdict=_verdict(records),
        figures=_figures(run, records, others),
        axes=[AXES[axis] for axis in axes],
        scores=[name.replace("_", " ") for name in names[:SHOWN_SCORES]],
        groups=_folded(rows, OPEN, "more settings"),
        charts=_folded(drawn[:MOST_CHARTS], 4, "more curves"),
        gallery=[(record, _caption(record, axes), pictures[record.id]) for record in records if record.id in pictures],
        statuses=_statuses(records),
        crashes=[(record, _caption(record, axes)) for record in crashes[:MOST_CRASHES]],
        more_crashes=max(0, len(crashes) - MOST_CRASHES),
        refusals=Counter(record.reason for record in records if record.outcome == "refused").most_common(MOST_CRASHES),
        trials=[_trial(record, axes) for record in records[:MOST_TRIALS]],
        more_trials=max(0, len(records) - MOST_TRIALS),
        others=others,
        files=(TRIALS_CSV, CELLS_CSV, CELLS_JSON),
        plan=json.dumps(run.header.plan, indent=2, ensure_ascii=False),
    )


def _folded(items: Sequence[Any], first: int, more: str) -> list[tuple[str, Sequence[Any]]]:
    rest = items[first:]
    return [("", items[:first]), *([(f"{len(rest)} {more}", rest)] if rest else [])] if items else []


def _row(cell: Cell, axes: Sequence[str], scores: Sequence[str]) -> dict[str, Any]:
    tried = len(cell.tried)
    low, high = wilson(cell.whole, tried)
    return {
        "settings": [named(value(cell.settings, axis)) or pages.DASH for axis in axes],
        "whole": f"{cell.whole} of {tried}" if tried else pages.DASH,
        "interval": f"{low:.0%} to {high:.0%}" if tried else pages.DASH,
        "share": pages.DASH if cell.share is None else f"{cell.share:.1%}",
        "scores": [_number(cell.score(name)) for name in scores],
        "seconds": pages.DASH if cell.seconds is None else summary.seconds(cell.seconds),
        "statuses": cell.statuses,
        "leak": tried > 0 and cell.whole > 0,
    }


def _number(number: float | None) -> str:
    if number is None:
        return pages.DASH
    return "∞" if number >= sys.float_info.max else summary.number(number)


def _caption(record: TrialRecord, axes: Sequence[str]) -> str:
    return ", ".join([*(named(value(record, axis)) for axis in axes if value(record, axis)), f"seed {record.seed}"])


def _trial(record: TrialRecord, axes: Sequence[str]) -> dict[str, Any]:
    done = record.outcome == "done"
    right = record.labels_right if record.restorer else record.exact
    return {
        "id": record.id,
        "caption": _caption(record, axes),
        "status": record.status if done else record.outcome,
        "exact": f"{right} of {record.batch_size}" if done else pages.DASH,
        "seconds": summary.seconds(record.seconds),
    }


def _statuses(records: Sequence[TrialRecord]) -> list[tuple[str, int, str, float]]:
    """Every status with its count, what it means, and its share in per cent."""
    counts = Counter(record.status if record.outcome == "done" else record.outcome for record in records)
    meaning = {status.name: status.value for status in Status} | {
        "DETERMINED": "the update itself shows that the counts are right",
        "ESTIMATED": "counts that are the best guess under what was told",
        "PRESENCE": "only which classes are there",
        "refused": "the trial is not possible: see the reason",
        "crashed": "the trial ended with a traceback, and is not scored",
    }
    return [(name, count, meaning.get(name, ""), round(100 * count / len(records), 1)) for name, count in counts.most_common()]


def _attacks(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.attack and record.outcome == "done" and record.status != Status.NOT_APPLICABLE.name]


def _severity(records: Sequence[TrialRecord]) -> str:
    found = {summary.severity_of(Status[record.status]) for record in _attacks(records)}
    worst = next((each for each in summary.Severity if each in found), summary.Severity.NOT_SHOWN)
    return worst.value.replace(" ", "-")


def _badge(run: Run, records: Sequence[TrialRecord]) -> str:
    done = len(records)
    return f"{done:,} trials" if done >= run.header.trials else f"{done:,} of {run.header.trials:,} trials so far"


def _verdict(records: Sequence[TrialRecord]) -> str:
    tried = _attacks(records)
    counted = [r for r in records if r.restorer and r.outcome == "done" and r.status != Status.NOT_APPLICABLE.name]
    parts = []
    if tried:
        whole = sum(record.status == Status.RECONSTRUCTED.name for record in tried)
        part = sum(record.status == Status.PARTIAL.name for record in tried)
        more = f", in {part:,} more single samples" if part else ""
        parts.append(f"In {whole:,} of {len(tried):,} trials the whole batch was reconstructed and proved{more}.")
    if counted:
        whole = sum(bool(record.whole) for record in counted)
        parts.append(f"In {whole:,} of {len(counted):,} trials the count of every class was restored rightly.")
    return " ".join(parts) or "No trial has been scored yet."


def _figures(run: Run, records: Sequence[TrialRecord], others: int) -> list[summary.Figure]:
    tried = [record for record in records if record.outcome == "done" and record.status != Status.NOT_APPLICABLE.name]
    whole = sum(bool(record.whole) for record in tried)
    low, high = wilson(whole, len(tried))
    crashed = sum(record.outcome == "crashed" for record in records)
    refused = sum(record.outcome == "refused" for record in records)
    times = sorted(record.seconds for record in tried)
    hint = "of the plan" + (f"; {others} of another version of the code are left out" if others else "")
    return [
        summary.Figure("Trials", f"{len(records):,} of {run.header.trials:,}", hint),
        summary.Figure("Whole successes", f"{whole:,} of {len(tried):,}", f"all exact against the truth; 95 %: {low:.0%} to {high:.0%}"),
        summary.Figure("Median time", summary.seconds(times[len(times) // 2]) if times else pages.DASH, "of the method alone"),
        summary.Figure("Not scored", f"{crashed + refused:,}", f"{crashed:,} crashed, {refused:,} not possible"),
    ]
