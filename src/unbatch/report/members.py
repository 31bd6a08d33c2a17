"""Whether records were in a batch: a page with the counts, the answers by verdict, and what they rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from unbatch.report.pages import render
from unbatch.store.members import StoredMembers
from unbatch.store.publishing import publish

__all__ = ["HTML", "JSON", "write"]

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
    groups = [(name, told, [a for a in stored.answers if a.verdict == name]) for name, told in MEANING.items()]
    present, span = stored.count("PRESENT"), stored.count("IN_SPAN")
    page = render(
        "members.html",
        stored=stored,
        badge="Members found" if present else "In the span" if span else "No member shown",
        severity="disclosed" if present else "partly" if span else "not-shown",
        verdict=_verdict(stored),
        groups=[(name, told, answers[:SHOWN], len(answers)) for name, told, answers in groups if answers],
    )
    text = stored.model_dump_json(indent=2) + "\n"
    publish(
        folder,
        {
            HTML: lambda path: path.write_text(page, encoding="utf-8"),
            JSON: lambda path: path.write_text(text, encoding="utf-8"),
        },
    )
    return folder / HTML


def _verdict(stored: StoredMembers) -> str:
    total, present, absent = len(stored.answers), stored.count("PRESENT"), stored.count("ABSENT")
    if present:
        return f"This update shows that {present:,} of {total:,} records were in its batch."
    if span := stored.count("IN_SPAN"):
        return f"{span:,} of {total:,} records lie in the span of this update's batch: they, or what they are mixtures of, were there."
    if absent == total and total:
        return f"This update shows that none of the {total:,} records was in its batch."
    return f"This update does not tell of {total - absent:,} of {total:,} records whether they were in its batch."
