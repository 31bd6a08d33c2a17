"""The table of docs/span.md, from results/span.json; write_docs.py calls this.

The page holds markers, ``<!-- span -->`` and ``<!-- end -->``; what stands between them is written anew.
"""

import json
import re
from pathlib import Path
from typing import Any

import harness

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "span.md"
RESULT = HERE / "results" / "span.json"


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
    return "\n".join([told, "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])


def fill() -> None:
    """Write the table into the page."""
    new = f"<!-- span -->\n{text(json.loads(RESULT.read_text()))}\n<!-- end -->"
    PAGE.write_text(re.sub(r"<!-- span -->.*?<!-- end -->", lambda _: new, PAGE.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    fill()
