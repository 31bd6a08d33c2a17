"""docs/thresholds.md, from results/thresholds.json; write_docs.py calls this."""

import json
from pathlib import Path
from typing import Any

import harness

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "thresholds.md"
RESULT = HERE / "results" / "thresholds.json"
SLOWER = 1.5
"""From here on the time has changed; below, it is the machine's."""


def share(made: dict[str, Any]) -> float:
    return float(made["right"] / made["wanted"])


def shown(made: dict[str, Any], base: dict[str, Any]) -> str:
    """What another value makes of it: a dash where nothing changes."""
    told = [] if share(made) == share(base) else [f"{share(made):.0%} right"]
    told += [f"**{made['false']} false**"] if made["false"] else []
    pace = made["seconds"] / base["seconds"]
    told += [f"{pace:.1f} × the time"] if pace > SLOWER or pace < 1 / SLOWER else []
    return ", ".join(told) or "–"


def value(told: Any) -> str:
    if isinstance(told, dict):
        return ", ".join(f"{part:g}" for part in told.values())
    return ", ".join(f"{part:g}" for part in told) if isinstance(told, list) else f"{told:g}"


def section(name: str, made: dict[str, Any]) -> str:
    base = made["as it is"]
    told = f"{made['what']}; {made['batches']} batches. As it is: {share(base):.0%} right, {base['false']} false, {base['seconds']:.1f} s."
    rows = [
        f"| `{target.replace(':', '.')}` | {value(row['value'])} | {shown(row['half'], base)} | {shown(row['double'], base)} |"
        for target, row in made["thresholds"].items()
    ]
    return "\n".join([f"### {name}", "", told, "", "| threshold | value | half | double |", "|---|---|---|---|", *rows])


def counted(settings: dict[str, Any]) -> str:
    rows = [(target, row, made["as it is"]) for made in settings.values() for target, row in made["thresholds"].items()]
    moves = {target for target, row, base in rows if any(share(row[way]) != share(base) for way in ("half", "double"))}
    false = {target for target, row, _ in rows if any(row[way]["false"] for way in ("half", "double"))}
    at_home = sum(made["as it is"]["false"] for made in settings.values())
    named = ": " + ", ".join(f"`{target.replace(':', '.')}`" for target in sorted(false)) if false else ""
    return (
        f"{len(rows)} thresholds were moved. At the values in use there were **{at_home} false claims**. Halved or doubled, {len(moves)} change the share"
        f" that is right, and {len(false)} make a false claim{named}."
    )


def fill() -> None:
    """Write the page."""
    result = json.loads(RESULT.read_text())
    machine = harness.machine(result["environment"])
    text = f"""# Thresholds

Every number that decides something has a name, and its docstring says where it comes from: *derived* from the arithmetic or from a definition;
*chosen*, as a margin between two things that the docstring names or as a budget, without fitting it to data; *measured* on data that is named;
*published* in a paper or library. A number on which it hangs what is found, or what is called proved, is *swept*: halved and doubled, by itself, on
small problems of real pictures. A test holds the docstrings against the list of the sweep. Shares near one are moved in what they leave:
0.98 becomes 0.99 and 0.96. Each threshold is moved in one setting, where it matters if anywhere; a dash says that nothing changed **there**,
on a few batches, and no more.

{counted(result["settings"])}

A false claim is a sample called proved that lies farther from every sample of the batch than its own bound, a batch called whole that is not, counts
called determined that are wrong, and a record called present that was absent or absent that was present. What moves only the time or the
share that is right is a matter of convenience; what makes false claims is a matter of trust.

`python benchmarks/thresholds.py` ({machine}, one thread).

{chr(10).join(section(name, made) + chr(10) for name, made in result["settings"].items())}"""
    PAGE.write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    fill()
