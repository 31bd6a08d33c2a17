"""Whether records were in a batch: a page with the counts, the answers by verdict, and what they rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from unbatch.report.claims import NOWHERE, UNTESTED_ROUND, Claim, Severity, Sheet, claim_of
from unbatch.report.pages import render
from unbatch.store.members import StoredMembers, StoredPresence
from unbatch.store.publishing import publish

__all__ = ["HTML", "JSON", "of_members", "write"]

HTML: Final = "members.html"
JSON: Final = "members.json"

SHOWN = 200
"""Records that are listed for a verdict."""

MEANING = {
    "PRESENT": "it was in the batch",
    "IN_SPAN": "it, or what it is a mixture of, was there",
    "ABSENT": "it was not in the batch",
    "UNDECIDED": "the update does not tell",
}


def write(stored: StoredMembers, folder: Path) -> Path:
    """Write ``members.json`` and ``members.html`` into a folder, which is made if it is missing; both or neither.

    Returns:
        the page's path.

    Raises:
        OutputFailed: the folder cannot be written; it is left as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write(StoredMembers(answers=(), input_shape=(4,)), Path(folder)).read_text(encoding="utf-8")
        >>> "Whether records were in the batch" in page
        True
    """
    page = render(
        "members.html",
        stored=stored,
        sheet=of_members(stored),
        badge=_badge(stored),
        severity=_shade(stored),
        verdict=_verdict(stored),
        groups=[(name, told, _first(stored, name), stored.count(name)) for name, told in MEANING.items() if stored.count(name)],
    )
    text = stored.model_dump_json(indent=2) + "\n"
    publish(folder, {HTML: page, JSON: text})
    return folder / HTML


def of_members(stored: StoredMembers) -> Sheet:
    """The sheet of records that were asked for; that none of them was in the batch is no finding.

    Example:
        >>> [(claim.level, claim.said) for claim in of_members(StoredMembers(answers=(), counts={"PRESENT": 2}, input_shape=(4,))).claims]
        [('proved', 'The update shows that 2 of 2 records were in its batch.')]
    """
    return Sheet(
        command="members",
        badge=_badge(stored),
        severity=_shade(stored),
        verdict=_verdict(stored),
        meaning="That a person's record was used at all can disclose what the data is about: a disease, a debt, a crime.",
        claims=_claims(stored),
        untested=("records that were not asked for: `unbatch audit`", *UNTESTED_ROUND),
        upper_bounds=stored.upper_bounds,
        knowledge=stored.knowledge,
        origin=stored.origin or NOWHERE,
        environment=stored.environment,
        detail=stored.model_dump(mode="json"),
    )


def _claims(stored: StoredMembers) -> tuple[Claim, ...]:
    """What is known of the records in numbers, where any may have been there."""
    total, origin = sum(stored.counts.values()), stored.origin or NOWHERE
    if present := stored.count("PRESENT"):
        said = f"The update shows that {present:,} of {total:,} records were in its batch."
        return (claim_of("members", "proved", said, origin, stored.layer),)
    if span := stored.count("IN_SPAN"):
        said = f"{span:,} of {total:,} records, or what they are mixtures of, were in the batch."
        return (claim_of("members", "likely", said, origin, stored.layer),)
    if undecided := stored.count("UNDECIDED"):
        said = f"The update does not tell of {undecided:,} of {total:,} records whether they were in its batch."
        return (claim_of("members", "unknown" if stored.layer else "not tested", said, origin, stored.layer),)
    return ()


def _badge(stored: StoredMembers) -> str:
    return "Members found" if stored.count("PRESENT") else "In the span" if stored.count("IN_SPAN") else "No member shown"


def _shade(stored: StoredMembers) -> Severity:
    return "disclosed" if stored.count("PRESENT") else "partly" if stored.count("IN_SPAN") else "not-shown"


def _first(stored: StoredMembers, verdict: str) -> list[StoredPresence]:
    """Those that are listed."""
    return [answer for answer in stored.answers if answer.verdict == verdict][:SHOWN]


def _verdict(stored: StoredMembers) -> str:
    total, present, absent = sum(stored.counts.values()), stored.count("PRESENT"), stored.count("ABSENT")
    if present:
        return f"This update shows that {present:,} of {total:,} records were in its batch."
    if span := stored.count("IN_SPAN"):
        return f"{span:,} of {total:,} records lie in the span of this update's batch: they, or what they are mixtures of, were there."
    if absent == total and total:
        return f"This update shows that none of the {total:,} records was in its batch."
    return f"This update does not tell of {total - absent:,} of {total:,} records whether they were in its batch."
