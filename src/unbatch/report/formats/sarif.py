"""SARIF 2.1.0, as code scanning reads it. It holds claims and where they come from, never anything that was recovered.

| scale      | ``kind``      | ``level`` |
|------------|---------------|-----------|
| proved     | fail          | error     |
| likely     | review        | none      |
| unknown    | open          | none      |
| not tested | notApplicable | none      |

A ``level`` other than none is allowed beside ``fail`` only.
"""

from __future__ import annotations

import json
from typing import Any, Final

from unbatch.report.claims import RULES, Claim, Level, Sheet, setting_of

__all__ = ["KINDS", "SCHEMA", "write"]

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

KINDS: Final[dict[Level, str]] = {"proved": "fail", "likely": "review", "unknown": "open", "not tested": "notApplicable"}


def write(sheet: Sheet) -> str:
    """One run with one result a claim."""
    rules = list(dict.fromkeys(claim.rule for claim in sheet.claims))
    run: dict[str, Any] = {
        "tool": {"driver": _driver(sheet, rules)},
        "automationDetails": {"id": f"unbatch/{sheet.command}/"},
        "invocations": [_invocation(sheet)],
        "results": [_result(claim, rules, sheet) for claim in sheet.claims],
        "columnKind": "unicodeCodePoints",
        "properties": {"verdict": sheet.verdict, "setting": setting_of(sheet.upper_bounds), "notTested": list(sheet.untested)},
    }
    if sheet.origin.files:
        run["artifacts"] = [
            {
                "location": {"uri": _uri(file.name)},
                "length": file.size,
                "hashes": {"sha-256": file.sha256},
                "description": {"text": file.role},
            }
            for file in sheet.origin.files
        ]
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _driver(sheet: Sheet, rules: list[str]) -> dict[str, Any]:
    driver: dict[str, Any] = {
        "name": "unbatch",
        "rules": [
            {
                "id": rule,
                "name": "".join(part.capitalize() for part in rule.split("-")),
                "shortDescription": {"text": RULES.get(rule, rule)},
                "defaultConfiguration": {"level": "error"},
                "properties": {"tags": ["security", "privacy"]},
            }
            for rule in rules
        ],
    }
    if version := sheet.environment.get("unbatch"):
        driver["version"] = version
    return driver


def _invocation(sheet: Sheet) -> dict[str, Any]:
    # What cannot be used was not executed; all else was, whatever it found.
    told: dict[str, Any] = {"executionSuccessful": sheet.exit_code in (0, 3, 4), "exitCode": sheet.exit_code}
    if sheet.origin.date:
        told["endTimeUtc"] = sheet.origin.date.replace("+00:00", "Z")
    if sheet.origin.command:
        told["arguments"] = list(sheet.origin.command[1:])
    return told


def _result(claim: Claim, rules: list[str], sheet: Sheet) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(_model_file(sheet.origin.model))}}}
    named = claim.where or sheet.origin.model
    if named:
        location["logicalLocations"] = [{"name": named, "kind": "module"}]
    result: dict[str, Any] = {
        "ruleId": claim.rule,
        "ruleIndex": rules.index(claim.rule),
        "kind": KINDS[claim.level],
        "level": "error" if claim.level == "proved" else "none",
        "message": {"text": f"{claim.client}: {claim.said}" if claim.client else claim.said},
        "locations": [location],
        "partialFingerprints": {"unbatch/v1": claim.fingerprint},
    }
    if claim.known:
        result["baselineState"] = "unchanged"
    return result


def _model_file(model: str) -> str:
    """The file of ``FILE.py:FACTORY``, or a name in its place."""
    return model.rpartition(":")[0] or model or "model"


def _uri(name: str) -> str:
    """A relative reference; a path of the machine tells more than is asked for."""
    from urllib.parse import quote

    return quote(name.replace("\\", "/").lstrip("/"))
