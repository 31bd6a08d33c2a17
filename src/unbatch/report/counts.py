"""How many samples of each class: stored counts as bars, their scores beside the floors, and a page for counts that stand alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unbatch.report.pages import DASH, render
from unbatch.report.summary import number
from unbatch.store.counts import StoredCounts, StoredLabels
from unbatch.store.publishing import publish

__all__ = ["HTML", "JSON", "Bar", "Chart", "chart", "write"]

HTML: Final = "labels.html"
JSON: Final = "labels.json"

OPEN = 24
"""Classes that are shown at once; the rest is folded away."""

COLUMNS = ("restored", "guess", "zeros")
"""Scores that are shown: of the answer, and of two that need no gradient."""


@dataclass(frozen=True)
class Bar:
    """One class.

    Attributes:
        name: of the class, with its index.
        count: samples restored, "yes" where only their presence is, or a dash.
        true: samples that there were, or None where that is not known.
        share: width of the restored bar, from 0 to 100.
        true_share: width of the true one.
        wrong: whether the two differ.
    """

    name: str
    count: str
    true: int | None
    share: float
    true_share: float
    wrong: bool


@dataclass(frozen=True)
class Chart:
    """All that the section shows.

    Attributes:
        lead: where the counts come from, and how far they are to be believed.
        groups: (title, bars): the first is shown, the others are folded away under their titles.
        absent: how many classes are left out because no sample was restored, nor was there one.
        known: whether the truth is.
        scores: (what, of the answer, of the guess, of zeros), as texts.
    """

    lead: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]
    absent: int
    known: bool
    scores: tuple[tuple[str, ...], ...]


def chart(stored: StoredCounts, classes: tuple[str, ...] = ()) -> Chart:
    """The section of a report.

    Args:
        stored: the counts.
        classes: names, or empty.

    Example:
        >>> shown = chart(StoredCounts(source="anchored", counts=(2, 0, 1), presence=(True, False, True)), ("cat", "dog", "bird"))
        >>> [(bar.name, bar.count) for bar in shown.groups[0][1]], shown.absent
        ([('cat (0)', '2'), ('bird (2)', '1')], 1)
    """
    there, counts, true = stored.presence or (), stored.counts, stored.true
    shown = [index for index in range(len(there)) if there[index] or (true and true[index])]
    if len(shown) > OPEN and (sizes := counts or true):
        shown.sort(key=lambda index: -sizes[index])
    largest = max(1, *(counts or (0,)), *(true or (0,)))
    bars = tuple(_bar(stored, classes, index, largest) for index in shown)
    groups = [("", bars[:OPEN])] + ([(f"{len(bars) - OPEN} more classes", bars[OPEN:])] if len(bars) > OPEN else [])
    return Chart(_lead(stored), tuple(groups) if bars else (), len(there) - len(shown), true is not None, _scores(stored))


def _bar(stored: StoredCounts, classes: tuple[str, ...], index: int, largest: int) -> Bar:
    name = f"{classes[index]} ({index})" if index < len(classes) else str(index)
    true = None if stored.true is None else stored.true[index]
    there = bool(stored.presence and stored.presence[index])
    count = None if stored.counts is None else stored.counts[index]
    told = f"{count:,}" if count is not None else "yes" if there else DASH
    wrong = true is not None and (count != true if count is not None else there != (true > 0))
    return Bar(name, told, true, 100 * (count or 0) / largest, 100 * (true or 0) / largest, wrong)


def _lead(stored: StoredCounts) -> str:
    attack, plus, rest = stored.source.partition(" + ")
    if stored.presence is None:
        return f"Not restored by {stored.source}: {stored.reason}."
    if stored.source == "told":
        return "The adversary was given the labels."
    if stored.proved and not plus:
        told = f"Exact: the labels of the samples that {attack} reconstructed and replay proved."
    elif plus:
        told = f"{stored.proved} labels are those of samples that {attack} proved; the rest was restored by {rest}."
    else:
        told = f"Read off the gradient of the last layer alone, by {stored.source}; no sample had to be reconstructed."
    if stored.reason:
        told += f" {stored.reason[0].upper()}{stored.reason[1:]}."
    if stored.trust is not None and stored.trust < 1:
        return told + " Little can be read off this update, as of trained networks: the counts are an even guess bent by it."
    if stored.expected_error is not None and stored.counts is not None:
        return told + f" A count is expected to be off by {number(round(stored.expected_error, 2))} samples before rounding."
    return told


def _scores(stored: StoredCounts) -> tuple[tuple[str, ...], ...]:
    """Rows of the scores of the answer, and of answers that need no gradient."""
    columns = [stored.scores.get(name) for name in COLUMNS]
    if columns[0] is None:
        return ()

    def row(what: str, values: list[float | None]) -> tuple[str, ...]:
        return (what, *(DASH if value is None else f"{value:.3f}" for value in values))

    return (
        row("LnAcc, classes with the right count", [None if s is None else s.counts for s in columns]),
        row("LeAcc, classes rightly there or not", [None if s is None else s.presence for s in columns]),
        row("IRec, samples with a restored label", [None if s is None else s.recall for s in columns]),
        ("Every count right", *(DASH if s is None or s.exact is None else "yes" if s.exact else "no" for s in columns)),
    )


def write(stored: StoredLabels, folder: Path) -> Path:
    """Write ``labels.json`` and ``labels.html`` into a folder, which is made if it is missing; both or neither.

    Returns:
        the page's path.

    Raises:
        OutputFailed: the folder cannot be written; it is left as it was.

    Example:
        >>> import tempfile
        >>> counts = StoredCounts(source="anchored", counts=(2, 0), presence=(True, False))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write(StoredLabels(counts=counts, input_shape=(4,)), Path(folder)).read_text(encoding="utf-8")
        >>> "How many of each class" in page
        True
    """
    shown = stored.counts.presence is not None
    page = render(
        "labels.html",
        stored=stored,
        badge="Labels" if shown else "Labels not shown",
        severity="partly" if shown else "not-shown",
        verdict=_verdict(stored),
        chart=chart(stored.counts, stored.classes),
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


def _verdict(stored: StoredLabels) -> str:
    counts = stored.counts
    if counts.counts is not None:
        held = f"{sum(counts.counts):,} samples of {sum(map(bool, counts.counts)):,} among {len(counts.counts):,} classes"
        if counts.trust is not None and counts.trust < 1:
            return f"This update says little of its labels; the best guess is {held}."
        return f"This update tells how many samples of each class its batch held: {held}."
    if counts.presence is not None:
        return f"This update tells which {sum(counts.presence):,} of {len(counts.presence):,} classes its batch held."
    return "The labels were not restored; this does not show that the update is safe."
