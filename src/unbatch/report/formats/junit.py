"""JUnit's XML, as CI servers read it: one test case a question.

JUnit knows three answers beside "passed", and nothing here ever passes but what a baseline holds: proved and likely are failures, what
could not be told is an error, what was not tested is skipped.
"""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring  # written only, never read

from unbatch.report.claims import LEVELS, RULES, Claim, Level, Sheet

__all__ = ["write"]

_ANSWERS: Final[dict[Level, str]] = {"proved": "failure", "likely": "failure", "unknown": "error", "not tested": "skipped"}


def write(sheet: Sheet) -> str:
    """One suite a client."""
    root = Element("testsuites", {"name": f"unbatch {sheet.command}", **_counts(sheet.claims)})
    for client in dict.fromkeys(claim.client for claim in sheet.claims) or [""]:
        claims = tuple(claim for claim in sheet.claims if claim.client == client)
        name = f"unbatch {sheet.command}" + (f" {client}" if client else "")
        suite = SubElement(root, "testsuite", {"name": name, **_counts(claims)})
        if sheet.origin.date:
            suite.set("timestamp", sheet.origin.date.partition("+")[0])
        properties = SubElement(suite, "properties")
        for what, value in {"verdict": sheet.verdict, "badge": sheet.badge, "exit_code": str(sheet.exit_code)}.items():
            SubElement(properties, "property", name=what, value=value)
        for claim in claims:
            _case(suite, claim, sheet)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _case(suite: Element, claim: Claim, sheet: Sheet) -> None:
    name = claim.rule + (f" of {claim.where}" if claim.where else "")
    case = SubElement(suite, "testcase", name=name, classname=sheet.origin.model or f"unbatch.{sheet.command}", time="0")
    if claim.known:
        SubElement(case, "system-out").text = f"In the baseline: {claim.said}"
        return
    answer = SubElement(case, _ANSWERS[claim.level], message=f"{LEVELS[claim.level]}: {claim.said}")
    if claim.level != "not tested":
        answer.set("type", claim.level)
        answer.text = f"{RULES.get(claim.rule, claim.rule)}\n{claim.said}"


def _counts(claims: tuple[Claim, ...]) -> dict[str, str]:
    found = [None if claim.known else _ANSWERS[claim.level] for claim in claims]
    return {
        "tests": str(len(claims)),
        "failures": str(found.count("failure")),
        "errors": str(found.count("error")),
        "skipped": str(found.count("skipped")),
        "time": "0",
    }
