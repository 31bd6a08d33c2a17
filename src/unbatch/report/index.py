"""Many updates on one page: a line a client, the worst first, each with a link to its report."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from pydantic import Field

from unbatch.origin import Origin
from unbatch.records import Record
from unbatch.report.claims import Severity, Sheet
from unbatch.report.pages import render
from unbatch.store.publishing import publish

__all__ = ["HTML", "JSON", "ClientResult", "Index", "exit_code", "of_round", "write"]

HTML: Final = "index.html"
JSON: Final = "index.json"

FORMAT: Final = 1
"""Version of the format: raised whenever a reader of the former one would misread a file."""

_ORDER: Final[dict[Severity, int]] = {"disclosed": 0, "partly": 1, "not-shown": 2}


class ClientResult(Record):
    """What became of one client's update.

    Attributes:
        client: its name.
        exit_code: of its audit.
        badge: the verdict in two or three words.
        severity: how bad it is.
        verdict: in one sentence; why not, where it was not audited.
        report: path of its report from the index, or empty.
    """

    client: str
    exit_code: int
    badge: str = "Not audited"
    severity: Severity = "not-shown"
    verdict: str
    report: str = ""


class Index(Record):
    """What became of all, as ``index.json`` holds it."""

    format: Literal[1] = FORMAT
    origin: Origin
    clients: tuple[ClientResult, ...]
    environment: dict[str, str] = Field(default_factory=dict)


def exit_code(index: Index) -> int:
    """The worst of all: a leak before what could not be run, that before what could not be told.

    Example:
        >>> results = [ClientResult(client=str(code), exit_code=code, verdict="") for code in (0, 4, 2)]
        >>> exit_code(Index(origin=Origin(date=""), clients=results))
        2
    """
    codes = {client.exit_code for client in index.clients}
    return next((code for code in (3, 130, 1, 2, 4) if code in codes), 0)


def of_round(index: Index, sheets: dict[str, Sheet]) -> Sheet:
    """All clients' claims on one sheet.

    Args:
        index: what became of all.
        sheets: client -> the sheet of its audit, of those that were audited.
    """
    told = list(sheets.values())
    shades: list[Severity] = [client.severity for client in index.clients]
    bounds = tuple(dict.fromkeys(reason for sheet in told for reason in sheet.upper_bounds or ()))
    return Sheet(
        command="audit",
        badge=_badge(index),
        severity=min(shades, key=_ORDER.__getitem__, default="not-shown"),
        verdict=_verdict(index),
        meaning="Every client is audited by itself; that nothing was shown of one does not mean that its update is safe.",
        claims=tuple(claim for sheet in told for claim in sheet.claims),
        untested=tuple(dict.fromkeys(untested for sheet in told for untested in sheet.untested)),
        upper_bounds=bounds if told else None,
        knowledge=told[0].knowledge if told else (),
        origin=index.origin,
        environment=index.environment,
        detail=index.model_dump(mode="json"),
    )


def _badge(index: Index) -> str:
    leaks = sum(client.severity == "disclosed" for client in index.clients)
    return f"{leaks} of {len(index.clients)} clients disclosed" if leaks else "Disclosure not shown"


def _verdict(index: Index) -> str:
    count = len(index.clients)
    groups = {name: sum(client.severity == name and client.badge != "Not audited" for client in index.clients) for name in _ORDER}
    missing = sum(client.badge == "Not audited" for client in index.clients)
    said = [f"Of {count} updates {groups['disclosed']} give away their whole batch, or their samples as the truth shows"]
    said += [f"{groups['partly']} give away a part or an approximation"] if groups["partly"] else []
    said += [f"of {groups['not-shown']} nothing was shown"] if groups["not-shown"] else []
    said += [f"{missing} could not be audited"] if missing else []
    return "; ".join(said) + "."


def write(index: Index, sheet: Sheet, folder: Path) -> Path:
    """Write ``index.html`` and ``index.json`` into a folder; both or neither.

    Args:
        index: what became of all.
        sheet: see ``of_round``.
        folder: where to.

    Raises:
        OutputFailed: the folder cannot be written; it is left as it was.
    """
    clients = sorted(index.clients, key=lambda client: (_ORDER[client.severity], client.client))
    page = render(
        "index.html",
        index=index,
        sheet=sheet,
        badge=sheet.badge,
        severity=sheet.severity,
        verdict=sheet.verdict,
        clients=[(client, quote(client.report)) for client in clients],
    )
    text = index.model_dump_json(indent=2) + "\n"
    publish(folder, {HTML: page, JSON: text})
    return folder / HTML
