"""The tables in docs/inversion.md, from results/inversion.json; inversion.py and write_docs.py call this."""

import json
from pathlib import Path
from typing import Any

import harness
from marked import fill_in

HERE = Path(__file__).parent
PAGE, RESULTS = HERE.parent / "docs" / "inversion.md", HERE / "results" / "inversion.json"

REPORTED = {"inverting_gradients": "18.00 ± 3.33 dB over the first 100 validation pictures (paper, Table 1, read second-hand)"}


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)])


def cost(cases: dict[str, dict[str, Any]], kind: str) -> str:
    rows = [
        [key, f"{case['ours_ms']:.2f} ms", f"{case['loop_ms']:.2f} ms", f"{case['ratio']:.2f}"]
        for key, case in cases.items()
        if case["kind"] == kind
    ]
    return table(["case", "a step here", "a step of the loop" + (", all restarts" if kind == "restarts" else ""), "ratio"], rows)


def quality(cases: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            f"`{case['spec']}`",
            f"`{case.get('network', 'lenet_zhu')}`",
            f"{case['pictures']}",
            f"{case['psnr']:.1f} dB" + ("" if case["psnr_deviation"] is None else f" ± {case['psnr_deviation']:.1f}"),
            f"{min(row['psnr'] for row in case['rows']):.1f} to {max(row['psnr'] for row in case['rows']):.1f}",
            f"{case['grey']:.1f}",
            f"{case['mean_picture']:.1f}",
            f"{case['labels_right']} of {case['pictures']}",
            f"{case['cpu_seconds']:.0f} s",
            REPORTED.get(key, "not at hand"),
        ]
        for key, case in cases.items()
        if case["kind"] == "quality"
    ]
    head = ["attack", "network", "pictures", "PSNR", "range", "grey", "mean picture", "labels right", "CPU time each", "reported"]
    return table(head, rows)


def fill() -> None:
    content = json.loads(RESULTS.read_text())
    machine = harness.machine(content["environment"])
    parts = {"cost": cost(content["cases"], "cost"), "restarts": cost(content["cases"], "restarts"), "quality": quality(content["cases"])}
    fill_in(PAGE, parts | {"machine": machine})


if __name__ == "__main__":
    fill()
