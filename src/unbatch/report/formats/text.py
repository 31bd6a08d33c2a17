"""Plain text for a terminal: the verdict, the scale, what was not tested, and the next command."""

from __future__ import annotations

import shlex

from unbatch.report.claims import LEVELS, Sheet, setting_of

__all__ = ["MARKS", "next_lines", "scale_lines", "write"]

MARKS = {"proved": "[x]", "likely": "[~]", "unknown": "[?]", "not tested": "[ ]"}
"""A mark a level, so that nobody needs colors."""


def write(sheet: Sheet) -> str:
    """All that a reader needs, without recovered data."""
    lines = [f"{sheet.badge}: {sheet.verdict}", "", *scale_lines(sheet), "", *next_lines(sheet)]
    return "\n".join(lines).rstrip() + "\n"


def scale_lines(sheet: Sheet) -> list[str]:
    """One line a claim, then what was not tested, and whether the setting is realistic."""
    lines = []
    for claim in sheet.claims:
        where = f" ({', '.join(part for part in (claim.client, claim.where) if part)})" if claim.client or claim.where else ""
        known = " [in the baseline]" if claim.known else ""
        lines.append(f"{MARKS[claim.level]} {LEVELS[claim.level]}: {claim.rule}{where}: {claim.said}{known}")
    lines += [f"{MARKS['not tested']} {LEVELS['not tested']}: {untested}" for untested in sheet.untested]
    return [*lines, f"setting  {setting_of(sheet.upper_bounds)}"]


def next_lines(sheet: Sheet) -> list[str]:
    """What to do now: why, and the command that does it."""
    lines = []
    for step in sheet.origin.next_steps:
        lines.append(f"next     {step.why}")
        if step.command:
            lines.append(f"         {shlex.join(step.command)}")
    return lines
