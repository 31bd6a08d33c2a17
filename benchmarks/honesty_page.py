"""The tables of docs/honesty.md and every failure, from results/honesty.json; write_docs.py calls this.

The page holds markers, ``<!-- NAME -->`` and ``<!-- end -->``; what stands between them is written anew.
"""

import json
from pathlib import Path
from typing import Any

from marked import fill_in

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "honesty.md"
RESULT = HERE / "results" / "honesty.json"
OF_SPAN = HERE / "results" / "honesty_span.json"
DISCLOSED = ("RECONSTRUCTED", "PARTIAL", "FEATURES")


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)])


def counts(groups: dict[str, dict[str, Any]], name: str) -> str:
    rows = [
        [
            key,
            str(group["trials"]),
            *(str(group["statuses"].get(status, 0)) for status in DISCLOSED),
            f"{group['claimed']:,} of {group['samples']:,}",
            told(group["failures"]),
        ]
        for key, group in groups.items()
    ]
    heads = [name, "trials", *(status.lower() for status in DISCLOSED), "samples called disclosed", "failures"]
    return table(heads, rows)


def told(failures: dict[str, int]) -> str:
    return ", ".join(f"**{kind} {count}**" for kind, count in failures.items()) or "none"


def verdict(result: dict[str, Any], attack: str = "") -> str:
    first, last = result["seeds"]
    changed = " with changes that were not committed" if result["changed"] else ""
    machine = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    absent = sorted(name for name, used in result["pools"].items() if name != used)
    stood_in = f" Not on that machine, and replaced by scikit-learn's digits: {', '.join(absent)}." if absent else ""
    return (
        f"`python benchmarks/honesty.py --trials {result['trials']}{attack}` on commit `{result['commit'][:12]}`{changed}, seeds {first} to {last}, "
        f"{result['cpu_seconds'] / 60:.0f} minutes of work in all ({machine}).{stood_in}\n\n"
        f"Failures of any kind: {told(result['failures'])}."
    )


def failures(result: dict[str, Any]) -> str:
    if not result["found"]:
        return "No trial failed."
    lines = []
    for outcome in result["found"]:
        facts = ", ".join(f"{key} {value}" for key, value in outcome["facts"].items() if value and key != "kind")
        head = f"- **seed {outcome['seed']}** ({outcome['kind']}, `{outcome['status']}`): {facts}"
        for failure in outcome["failures"]:
            detail = failure["detail"].strip()
            brief = detail.splitlines()[-1] if "\n" in detail else detail
            lines.append(f"{head}\n    - {failure['kind']}: `{brief.replace('`', chr(39))}`")
    return "\n".join(lines)


def fill() -> None:
    if not RESULT.exists():
        return
    result = json.loads(RESULT.read_text())
    blocks = {
        "verdict": verdict(result),
        "kinds": counts(result["cases"], "what was told"),
        "attacks": counts(result["by"]["attack"], "attack"),
        "states": counts(result["by"]["state"], "network's state"),
        "networks": counts(result["by"]["network"], "network"),
        "protocols": counts(result["by"]["protocol"], "protocol"),
        "data": counts(result["by"]["data"], "data"),
        "failures": failures(result),
    }

    if OF_SPAN.exists():
        of_span = json.loads(OF_SPAN.read_text())
        blocks |= {"span": verdict(of_span, " --attack span"), "span attacks": counts(of_span["by"]["attack"], "attack")}
        blocks |= {"span networks": counts(of_span["by"]["network"], "network"), "span failures": failures(of_span)}

    fill_in(PAGE, blocks)
