"""The tables in docs/tables.md, from results/tables.json; tables.py and write_docs.py call this."""

import json
import statistics
from pathlib import Path
from typing import Any

import harness
from marked import fill_in

HERE = Path(__file__).parent
PAGE, RESULTS = HERE.parent / "docs" / "tables.md", HERE / "results" / "tables.json"

REPORTED = {
    "tableak": "95.2 ± 8.8 % of cells (paper, Table 1, read second-hand); one batch of 95.5 % in 87 s on two threads, re-run by a third party",
    "spear": "MAE 20.4, 24 s (SPEAR paper)",
}
Row = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)])


def mean(rows: list[Row], key: str) -> float:
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.fmean(values) if values else float("nan")


def percent(rows: list[Row], key: str) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    spread = f" ± {100 * statistics.pstdev(values):.1f}" if len(values) > 1 and statistics.pstdev(values) else ""
    return f"{100 * statistics.fmean(values):.1f}{spread} %" if values else "–"


def error(rows: list[Row], column: str) -> str:
    return f"{statistics.fmean(row['cell_mae'][column] for row in rows if 'cell_mae' in row):.3g}"


def versus(cases: dict[str, Any]) -> str:
    """TabLeak and SPEAR on the same batches, with the baselines."""
    chosen = {kind: case["rows"] for case in cases.values() if (kind := case["kind"]) in ("tableak", "spear")}
    rows = [
        [
            f"`{kind}`",
            str(len(found)),
            percent(found, "cell_accuracy"),
            f"{percent(found, 'levels')}, {percent(found, 'numbers')}",
            f"{error(found, 'age')} years, {error(found, 'fnlwgt')} people, {error(found, 'hours-per-week')} hours",
            percent(found, "exact_row"),
            f"{mean(found, 'cpu_seconds'):.2f} s",
            REPORTED[kind],
        ]
        for kind, found in chosen.items()
    ]
    worth = next(iter(chosen.values()), [])
    for name, what in (("random", "every cell from its column"), ("typical", "the most frequent level, the mean number")):
        rows.append([f"{name}: {what}", str(len(worth)), percent(worth, name), "", "", "", "", ""])
    head = ["attack", "batches", "cells right", "levels, numbers", "MAE of age, fnlwgt, hours", "rows exact", "CPU time each", "reported"]
    return table(head, rows)


def batch_by_batch(cases: dict[str, Any]) -> str:
    shares = ("cell_accuracy", "random", "typical")
    rows = [
        [str(row["seed"]), *(f"{100 * row[key]:.1f} %" for key in shares), row["status"], f"{row['cpu_seconds']:.0f} s"]
        for case in cases.values()
        if case["kind"] == "tableak"
        for row in case["rows"]
    ]
    return table(["batch", "cells right", "random", "typical", "status", "CPU time"], rows)


def exact(cases: dict[str, Any], kind: str) -> str:
    rows = []
    for key, case in cases.items():
        if case["kind"] != kind:
            continue
        found, times = case["rows"], sorted(row["cpu_seconds"] for row in case["rows"])
        ranks = sorted({row["rank"] for row in found if row["rank"]})
        rows.append(
            [
                key,
                f"{ranks[0]} to {ranks[-1]}" if ranks else "–",
                f"{sum(row['status'] == 'RECONSTRUCTED' for row in found)} of {len(found)}",
                percent(found, "exact_row"),
                f"{statistics.median(times):.1f} s ({times[0]:.1f}–{times[-1]:.1f})",
            ]
        )
    return table(["case", "rank", "batches proved whole", "rows exact", "CPU time, median (range)"], rows)


def ensemble(cases: dict[str, Any]) -> str:
    rows = [
        [key, f"{case['one_graph_ms']:.1f} ms", f"{case['loop_ms']:.1f} ms", f"{case['ratio']:.2f}"]
        for key, case in cases.items()
        if case["kind"] == "ensemble"
    ]
    return table(["case", "a step of all in one graph", "a step of each, one after the other", "ratio"], rows)


def fill() -> None:
    content = json.loads(RESULTS.read_text())
    cases = content["cases"]
    parts = {
        "versus": versus(cases),
        "batches": batch_by_batch(cases),
        "dependent": exact(cases, "dependent"),
        "sets": exact(cases, "sets"),
        "ensemble": ensemble(cases),
        "machine": harness.machine(content["environment"]),
    }
    fill_in(PAGE, parts)


if __name__ == "__main__":
    fill()
