"""The tables of the comparison in docs/pictures.md, from results/comparison.json; comparison.py and write_docs.py call this."""

import json
from pathlib import Path
from typing import Any

import harness
from marked import fill_in

HERE = Path(__file__).parent
PAGE, RESULTS = HERE.parent / "docs" / "pictures.md", HERE / "results" / "comparison.json"

NAMES = {"searched": "labels searched with the pictures", "restored": "labels restored from the last layer", "told": "labels told"}


def number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def rows(case: dict[str, Any]) -> str:
    lines = ["| attack | PSNR | SSIM | LPIPS | exact | cosine of features | CPU time a batch | how it ended |", "|" + "---|" * 8]
    for name, made in case["attacks"].items():
        ends = sorted({row["status"] for row in made.get("rows", []) if "status" in row})
        shown = NAMES.get(name, name if name in ("grey", "mean picture") else f"`{name}`")
        lines.append(
            f"| {shown} | {number(made['psnr'], '.1f', ' dB')} | {number(made['ssim'], '.2f')} | {number(made['lpips'], '.3f')} | "
            f"{number(made['exact'], '.0%')} | {number(made.get('features_cosine'), '.3f')} | {number(made.get('cpu_seconds'), '.1f', ' s')} | "
            f"{', '.join(ends)} |"
        )
    return "\n".join(lines)


def fill() -> None:
    content = json.loads(RESULTS.read_text())
    parts = []
    for key, case in content["cases"].items():
        told = f"**{case.get('title', key)}**, {case['batches']} batches" + (f", {case['dtype']}" if "dtype" in case else "")
        parts.append(f"{told}\n\n{rows(case)}")
    machine = harness.machine(content["environment"])
    fill_in(PAGE, {"comparison": "\n\n".join(parts), "machine": machine})


if __name__ == "__main__":
    fill()
