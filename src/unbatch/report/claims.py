"""One scale for all reports: what was asked, and whether it is proved, likely, unknown or not tested. There is no "safe".

A ``Sheet`` is what every command ends in: a page, a terminal, SARIF, JUnit and Markdown are drawn from it alone, so that they cannot
disagree. Nothing in its claims was recovered from anybody; what was, is in ``detail``, which only ``json`` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pydantic import Field, JsonValue

from unbatch.origin import Origin, fingerprint
from unbatch.records import Record

__all__ = [
    "LEVELS",
    "NOWHERE",
    "RULES",
    "UNTESTED_ROUND",
    "Claim",
    "Level",
    "Severity",
    "Sheet",
    "claim_of",
    "setting_of",
    "shade",
    "with_baseline",
]

FORMAT: Final = 1
"""Version of the format: raised whenever a reader of the former one would misread a file."""

Level = Literal["proved", "likely", "unknown", "not tested"]

Severity = Literal["disclosed", "partly", "not-shown"]

LEVELS: Final[dict[Level, str]] = {
    "proved": "Disclosed, proved",
    "likely": "Likely, not proved",
    "unknown": "Could not be told",
    "not tested": "Not tested",
}
"""The scale, from the worst down."""

RULES: Final[dict[str, str]] = {
    "samples": "Samples of the batch can be recovered from the update.",
    "features": "What an inner layer sees of the samples can be recovered from the update.",
    "labels": "How many samples of each class the batch held can be recovered from the update.",
    "tokens": "Which tokens the batch held can be read off the gradient of an embedding.",
    "members": "Whether a given record was in the batch can be told from the update.",
    "exposed-batch": "Whole batches can be recovered exactly from the gradient of this layer.",
    "exposed-sample": "One sample alone can be recovered exactly from the gradient of this layer.",
    "exposed-tokens": "Which tokens a batch holds can be read off the gradient of this embedding.",
    "exposed-labels": "Labels can be read off the gradient of the last layer.",
}
"""What is asked, by the name under which SARIF, JUnit and baselines know it."""


class Claim(Record):
    """One question, and its answer.

    Attributes:
        rule: which question, see ``RULES``.
        level: where on the scale the answer stands.
        said: the answer, in one sentence.
        where: the layer that it is about, or empty.
        client: whose update, where there are several.
        fingerprint: the same for the same model, layer and rule, in every run.
        known: whether a baseline holds it already.
    """

    rule: str
    level: Level
    said: str
    where: str = ""
    client: str = ""
    fingerprint: str
    known: bool = False


class Sheet(Record):
    """What a command found, in plain words.

    Attributes:
        format: version of the format.
        command: which.
        badge: the verdict in two or three words.
        severity: ``disclosed``, ``partly`` or ``not-shown``.
        verdict: the one sentence that a reader takes away.
        meaning: what it means to whoever is responsible.
        claims: question by question.
        untested: what nobody looked at, a sentence each.
        upper_bounds: what makes the setting easier than a real client's; none where it is realistic, None where nobody looked.
        knowledge: what the adversary was told.
        origin: date, files, command, client, model, next steps.
        environment: versions and machine.
        exit_code: with which the command ended.
        detail: the command's own record, see ``unbatch schema``; None with ``--redact``.
    """

    format: Literal[1] = FORMAT
    command: str
    badge: str
    severity: Severity
    verdict: str
    meaning: str = ""
    claims: tuple[Claim, ...] = ()
    untested: tuple[str, ...] = ()
    upper_bounds: tuple[str, ...] | None = None
    knowledge: tuple[str, ...] = ()
    origin: Origin
    environment: dict[str, str] = Field(default_factory=dict)
    exit_code: int = 0
    detail: JsonValue = None


UNTESTED_ROUND: Final = (
    "other rounds: updates of one client add up, and noise averages out over them",
    "properties of the data as a whole, and what the trained model itself remembers",
)

NOWHERE: Final = Origin(date="")


def setting_of(upper_bounds: Sequence[str] | None) -> str:
    """Whether the setting is realistic, and why not, as one sentence.

    Example:
        >>> setting_of(())
        'Realistic: nothing in this setting is easier than what a real client sends.'
        >>> setting_of(("the labels were told",))
        'Upper bound: the labels were told.'
    """
    if upper_bounds is None:
        return "Whether the setting is that of a real client was not recorded."
    if not upper_bounds:
        return "Realistic: nothing in this setting is easier than what a real client sends."
    return f"Upper bound: {'; '.join(upper_bounds)}."


def shade(text: str) -> Severity:
    """The severity by its name, with or without a hyphen."""
    return "disclosed" if text == "disclosed" else "partly" if text == "partly" else "not-shown"


def claim_of(rule: str, level: Level, said: str, origin: Origin, where: str = "") -> Claim:
    """A claim, with its fingerprint and its client."""
    return Claim(rule=rule, level=level, said=said, where=where, client=origin.client, fingerprint=fingerprint(rule, origin.model, where))


def with_baseline(sheet: Sheet, known: frozenset[str]) -> Sheet:
    """The same with the claims marked whose fingerprints a baseline holds."""
    claims = tuple(claim.model_copy(update={"known": claim.fingerprint in known}) for claim in sheet.claims)
    return sheet.model_copy(update={"claims": claims})
