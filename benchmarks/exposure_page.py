"""What ``expose`` promises and what came, in docs/exposure.md, from results/exposure_promise.json; write_docs.py calls this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harness
from marked import fill_in

HERE = Path(__file__).parent
PAGE, RESULTS = HERE.parent / "docs" / "exposure.md", HERE / "results" / "exposure_promise.json"

NOT_PROMISED = {"untrained pictures measured on noise"}
"""Batches unlike what was measured on: reported, and not counted in the sum."""


def row(kind: str, told: dict[str, Any]) -> str:
    sure = told.get("99")
    if sure is None:
        return f"| {kind} | nothing promised | | |"
    low, high = sure["interval"]
    rest = (f"{told[p]['failed']} of {told[p]['tried']}, {told[p]['promised']:.0f} foretold" if p in told else "" for p in ("90", "50"))
    return f"| {kind} | {sure['failed']} of {sure['tried']} ({low:.1%} to {high:.1%}) | {' | '.join(rest)} |"


def fill() -> None:
    content = json.loads(RESULTS.read_text())
    cases = content["cases"]
    counted = [case["99"] for kind, case in cases.items() if kind not in NOT_PROMISED and "99" in case]
    failed, tried = sum(one["failed"] for one in counted), sum(one["tried"] for one in counted)
    worst = max((one["interval"][0], one["failed"], one["tried"]) for one in counted)
    text = (
        f"Of {tried:,} batches of exactly the size promised with 99 %, in {len(counted)} kinds of places, {failed} were not determined:"
        f" {failed / tried:.2%} (worst kind {worst[1]} of {worst[2]}). `python benchmarks/exposure_promise.py` ({harness.machine(content['environment'])})"
    )
    lines = ["| place | failed at the 99 % size | at the 90 % size | at the 50 % size |", "|---|---|---|---|"]
    lines += [row(kind, case) for kind, case in sorted(cases.items())]
    fill_in(PAGE, {"promise": "\n".join([text, "", *lines])})
