"""Write tests/paper/claims.toml and docs/claims.md: what the papers report beside what was measured here.

python benchmarks/claims.py

What is reported stands in ``benchmarks/reported.toml``, typed from the papers (or, for iLRG, from its authors' run logs), with the plan that
repeats it and what holds our figure: a case of ``results/``, or the settings of a cell of the plan's own run (``kept.py``). Measured values
come from those files alone: where there is none, the row says ``not run``.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPORTED, CLAIMS, PAGE = HERE / "reported.toml", HERE.parent / "tests" / "paper" / "claims.toml", HERE.parent / "docs" / "claims.md"

SAME = 0.01
"""Relative difference below which two figures agree."""

Case = dict[str, Any]

READERS = {
    "exact batches": lambda case: case["exact"] / case["batches"],
    "whole batches": lambda case: case["wholly_exact"] / case["batches"],
    "median of the worst PSNR": lambda case: case["median_psnr"],
    "minutes per batch": lambda case: case["seconds"]["median"] / 60,
    "share of samples": lambda case: case["share"],
    "PSNR": lambda case: case["psnr"],
    "LeAcc, ilrg": lambda case: case["scores"]["ilrg, published rounding"]["LeAcc"],
    "LnAcc, ilrg": lambda case: case["scores"]["ilrg, published rounding"]["LnAcc"],
    "LnAcc, anchored": lambda case: case["scores"]["anchored"]["LnAcc"],
    "IRec, ilrg": lambda case: case["scores"]["ilrg, published rounding"]["IRec"],
    "LeAcc, idlg": lambda case: case["LeAcc"]["idlg"],
    "LeAcc, gradinversion": lambda case: case["LeAcc"]["gradinversion"],
    "LeAcc, rlg": lambda case: case["LeAcc"]["rlg"],
}
"""Quantity -> how to read it off a case of results."""

MEANS = {
    "LeAcc, ilrg": "le_acc",
    "LeAcc, idlg": "le_acc",
    "LnAcc, ilrg": "ln_acc",
    "IRec, ilrg": "i_rec",
    "PSNR": "psnr_mean",
    "cell accuracy": "cell_accuracy_mean",
    "cell MAE": "cell_mae_mean",
}
"""Quantity -> the score of a plan's trials, whose mean over the trials it is."""

PERCENT = {"cell accuracy"}

LOWER_IS_BETTER = {"minutes per batch", "cell MAE"}


def of_plan(row: Case) -> Case | None:
    """The cell of the plan's run that the row names by its settings."""
    path, plan = HERE / "results" / "runs.json", Path(row.get("plan", ""))
    if "cell" not in row or not path.exists():
        return None
    run = json.loads(path.read_text()).get(f"{plan.parent.name}-{plan.stem}", [])
    cells = [cell for cell in run if all(cell[name] == told for name, told in row["cell"].items())]
    if len(cells) > 1:
        raise SystemExit(f"{row['setting']}: {len(cells)} cells of {plan} are {row['cell']}")
    return cells[0] if cells else None


def value_of(quantity: str, cell: Case) -> float | None:
    """What a cell of a plan's run says of a quantity."""
    if quantity == "minutes per batch":
        return float(cell["seconds"]) / 60
    value = cell["means"].get(MEANS.get(quantity, ""))
    return None if value is None else float(value) * (100 if quantity in PERCENT else 1)


def measured(row: Case) -> Case:
    """The row with what was measured."""
    path = HERE / "results" / f"{row['source']}.json" if row.get("source") else None
    content = json.loads(path.read_text()) if path and path.exists() else {"cases": {}}
    case = content["cases"].get(row.get("case", ""))
    command = f"unbatch run {row['plan']} --out out/{Path(row['plan']).stem}" if row.get("plan") else ""
    kept = {name: row[name] for name in ("paper", "table", "setting", "quantity", "reported")}
    try:
        value = None if case is None else float(READERS[row["quantity"]](case))
    except KeyError:
        value = None
    cell = of_plan(row)
    if value is None and cell is not None and (value := value_of(row["quantity"], cell)) is not None:
        content, case = {"environment": cell["environment"]}, {"batches": cell["trials"]}
    if value is None:
        reason = row.get("why", "its plan has not been run at full scale")
        return kept | {"measured": "not run", "verdict": "not run", "scale": "", "environment": "", "command": command, "why": reason}
    batches = case.get("batches", case.get("tries", len(case.get("rows", ()))))
    count = batches if isinstance(batches, int) else len(batches)
    env = content["environment"]
    environment = f"torch {env['torch']}, python {env['python']}, {env['threads']} of {env['cores']} cores"
    return kept | {
        "measured": float(f"{value:.4g}"),
        "verdict": verdict(row["quantity"], row["reported"], value),
        "scale": f"{count} {row.get('unit', 'batches')}",
        "environment": environment,
        "source": f"benchmarks/results/{row['source']}.json, {row['case']}" if "source" in row else "benchmarks/results/runs.json",
        "command": command,
        "why": row.get("why", ""),
    }


def verdict(quantity: str, reported: float, value: float) -> str:
    """Agreed, better or worse; PSNR above 100 dB is rounding on both sides, and times are of other machines."""
    if abs(value - reported) <= SAME * max(abs(reported), 1e-12):
        return "agreed"
    return "better" if (value < reported) == (quantity in LOWER_IS_BETTER) else "worse"


def toml(rows: list[Case]) -> str:
    """All rows as TOML."""
    parts = [
        "# Written by `python benchmarks/claims.py`; reported figures stand in benchmarks/reported.toml. Nothing here is typed by hand.\n"
    ]
    parts += ["[[claim]]\n" + "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in row.items()) for row in rows]
    return "\n".join(parts)


def page(rows: list[Case]) -> str:
    """The page of the docs."""
    counts = {name: sum(row["verdict"] == name for row in rows) for name in ("agreed", "better", "worse", "not run")}
    parts = [
        "# The papers' claims beside ours\n",
        "Written by `python benchmarks/claims.py` from `benchmarks/reported.toml` (typed from the papers, for iLRG from its authors' run logs) and"
        " `benchmarks/results/`. A row that has not been run says so; its command runs it at full scale, with `--reduced` on a laptop in minutes"
        " (which shows that it runs, not what it shows). A difference of 1 % counts as agreement. Times are of other machines: SPEAR's of a GPU,"
        " ours of two CPU cores. The plans differ from the scripts behind the older figures in the draw of batches and weights, not in the setting.\n",
        f"{len(rows)} rows: {', '.join(f'{count} {name}' for name, count in counts.items())}.\n",
    ]
    for paper in dict.fromkeys(row["paper"] for row in rows):
        parts.append(f"## {paper}\n")
        for table in dict.fromkeys(row["table"] for row in rows if row["paper"] == paper):
            chosen = [row for row in rows if (row["paper"], row["table"]) == (paper, table)]
            parts.append(f"### {table}\n")
            if command := chosen[0]["command"]:
                parts.append(f"```sh\n{command}\n```\n")
            parts.append("| setting | quantity | reported | measured | verdict | scale | why |\n|---|---|---|---|---|---|---|")
            parts += [
                f"| {r['setting']} | {r['quantity']} | {r['reported']:g} | {r['measured']} | {r['verdict']} | {r['scale']} | {r['why']} |"
                for r in chosen
            ]
            parts.append("")
    return "\n".join(parts)


def written() -> tuple[str, str]:
    """What both files hold."""
    rows = [measured(row) for row in tomllib.loads(REPORTED.read_text())["row"]]
    return toml(rows), page(rows)


if __name__ == "__main__":
    claims, text = written()
    CLAIMS.write_text(claims)
    PAGE.write_text(text)
