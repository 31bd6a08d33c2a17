"""The tables of docs/span.md, from results/span.json and span_trained.json; write_docs.py calls this.

The page holds markers, ``<!-- span -->`` or ``<!-- trained -->`` and ``<!-- end -->``; what stands between them is written anew.
"""

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import harness
from marked import fill_in

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "span.md"
RESULT = HERE / "results" / "span.json"
TRAINED = HERE / "results" / "span_trained.json"


def row(key: str, case: dict[str, Any]) -> str:
    spent = case["cpu_seconds"]
    error = "–" if case["worst_error"] is None else f"{case['worst_error']:.0e}"
    cells = [key, f"{case['wholly_exact']} of {case['batches']}", f"{case['share']:.3f}", str(case["false"]), error]
    return "| " + " | ".join([*cells, f"{spent['median']:.2f} s", f"{spent['max']:.2f} s"]) + " |"


def text(result: dict[str, Any]) -> str:
    machine = harness.machine(result["environment"])
    head = ["case", "batches wholly exact", "share of samples", "false", "worst relative error", "CPU time, median", "largest"]
    rows = [row(key, case) for key, case in result["cases"].items()]
    told = (
        f"`python benchmarks/span.py` ({machine}, one thread). Six layers of width 200 where nothing else is said. A batch is wholly exact if every"
        " sample's relative error is below 1e-9 (float32: 1e-4) and every label is right; what is not in the table was not run. Where fewer than 20 batches stand, the wall clock was shared with other work, and searches that ended at it are counted as missed."
    )
    return "\n".join([told + growth(result["cases"]), "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])


def growth(cases: dict[str, Any]) -> str:
    """How the time of whole batches grows with their size at width 200: the slope of its logarithm."""
    found = [re.fullmatch(r"cifar10 gelu b=(\d+)", key) for key in cases]
    sizes = {int(match[1]): cases[match[0]] for match in found if match and cases[match[0]]["wholly_exact"]}
    times = [math.log(case["cpu_seconds"]["median"]) for case in sizes.values()]
    slope = statistics.linear_regression([math.log(size) for size in sizes], times).slope
    return f" Through GELU, of sizes {min(sizes)} to {max(sizes)}, the time grows as the size to the power {slope:.1f}."


def trained(result: dict[str, Any]) -> str:
    told = f"`python benchmarks/span_trained.py` ({harness.machine(result['environment'])}, one thread)."
    rows = [
        f"| {key.partition('epochs=')[2]} | {case['batches']} | {case['accuracy']:.2f} | {case['proved']} of {case['visible']} | {case['false']} |"
        for key, case in result["cases"].items()
    ]
    return "\n".join([told, "", "| epochs | batches | accuracy | visible samples proved | false |", "|---|---|---|---|---|", *rows])


def fill() -> None:
    """Write the tables into the page."""
    fill_in(PAGE, {"span": text(json.loads(RESULT.read_text())), "trained": trained(json.loads(TRAINED.read_text()))})


if __name__ == "__main__":
    fill()
