"""The table of docs/speed.md, from results/against.json; write_docs.py calls this."""

import json
from pathlib import Path

from marked import fill_in

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "speed.md"
RESULT = HERE / "results" / "against.json"


def span(side: dict[str, float]) -> str:
    return f"{side['median']:.3f} s ({side['min']:.3f}–{side['max']:.3f})"


def fill() -> None:
    """Write the table between the page's markers."""
    result = json.loads(RESULT.read_text())
    machine = ", ".join(f"{name} {told}" for name, told in result["environment"].items())
    rows = [
        f"| {name} | {span(case['old'])} | {span(case['new'])} | {case['ratio']:.2f} | {case['old']['right']:.0%} | {case['new']['right']:.0%} |"
        for name, case in result["cases"].items()
    ]
    told = (
        f"`python benchmarks/against.py --old /tmp/old` with {result['old'][:7]} there and {result['new'][:7]} here ({machine}). CPU seconds a batch or a"
        f" command, one thread: median, and range in brackets; one or two runs of each, by turns, on cores that were shared with other work."
    )
    head = ["case", "old", "new", "ratio of the medians", "right, old", "right, new"]
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows]
    fill_in(PAGE, {"against": "\n".join([told, "", *table])})


if __name__ == "__main__":
    fill()
