"""How many samples of each class: stored counts as bars, their scores beside the floors, and a page for counts that stand alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unbatch.report.audits import labels_answer
from unbatch.report.claims import NOWHERE, UNTESTED_ROUND, Severity, Sheet, claim_of
from unbatch.report.pages import DASH, render
from unbatch.report.summary import number
from unbatch.store.counts import StoredCounts, StoredLabels
from unbatch.store.publishing import publish

__all__ = ["HTML", "JSON", "Bar", "Chart", "certainty", "chart", "of_labels", "span", "write"]

HTML: Final = "labels.html"
JSON: Final = "labels.json"

OPEN = 24
"""Classes that are shown at once; the rest is folded away."""

COLUMNS = ("restored", "guess", "zeros")
"""Scores that are shown: of the answer, and of two that need no gradient."""

LITTLE = 0.005
"""Share of the batch up to which a class is not listed where only shares are known."""


@dataclass(frozen=True)
class Bar:
    """One class.

    Attributes:
        name: of the class, with its index.
        count: samples restored or told, "yes" where only their presence is, or a dash.
        span: the samples, or the share of the batch, that there may be, or nothing.
        true: samples that there were, or None where that is not known.
        share: width of the restored bar, from 0 to 100.
        true_share: width of the true one.
        wrong: whether the two differ.
    """

    name: str
    count: str
    span: str
    true: int | None
    share: float
    true_share: float
    wrong: bool


@dataclass(frozen=True)
class Chart:
    """All that the section shows.

    Attributes:
        lead: where the counts come from, and how far they are to be believed.
        source: "Restored" or "Told", above the counts.
        spans: what is above the spans, or nothing where there are none.
        groups: (title, bars): the first is shown, the others are folded away under their titles.
        absent: how many classes are left out because no sample was restored, nor was there one.
        absence: how surely these have none.
        known: whether the truth is.
        scores: (what, of the answer, of the guess, of zeros), as texts.
    """

    lead: str
    source: str
    spans: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]
    absent: int
    absence: str
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
    there, counts, true, ranges = stored.presence or (), stored.counts, stored.true, _ranges(stored)
    alone = counts is None and ranges is not None
    shown = [i for i in range(len(there)) if there[i] or (true and true[i]) or (alone and ranges is not None and ranges[i][1] > LITTLE)]
    if len(shown) > OPEN and (sizes := counts or true or ([low + high for low, high in ranges] if ranges else None)):
        shown.sort(key=lambda index: -sizes[index])
    largest = max(1, *(counts or (0,)), *(true or (0,)))
    bars = tuple(_bar(stored, classes, index, largest) for index in shown)
    groups = [("", bars[:OPEN])] + ([(f"{len(bars) - OPEN} more classes", bars[OPEN:])] if len(bars) > OPEN else [])
    head = "Told" if stored.source == "told" else "Restored"
    spans = "" if ranges is None or not bars else "Share" if alone else "Possible"
    absent, known = len(there) - len(shown), true is not None
    return Chart(_lead(stored), head, spans, tuple(groups) if bars else (), absent, _absence(stored), known, _scores(stored))


def _ranges(stored: StoredCounts) -> tuple[tuple[float, float], ...] | None:
    """Those that are worth showing: of counts that are not determined."""
    return None if stored.determined or stored.source == "told" else stored.ranges


def span(low: float, high: float, total: int | None) -> str:
    """A range of shares, in samples where their number is known.

    Example:
        >>> span(0.2, 0.35, 10), span(0.2, 0.35, None), span(0.199, 0.2, 10)
        ('2–3', '20–35 %', '2')
    """
    if total is None:
        least, most = math.floor(100 * low + 1e-9), math.ceil(100 * high - 1e-9)
    else:  # a hair beside a whole number is that number
        least, most = math.ceil(total * low - 0.01), max(math.ceil(total * low - 0.01), math.floor(total * high + 0.01))
    return (f"{least:,}–{most:,}" if most > least else f"{least:,}") + ("" if total is not None else " %")


def _bar(stored: StoredCounts, classes: tuple[str, ...], index: int, largest: int) -> Bar:
    name = f"{classes[index]} ({index})" if index < len(classes) else str(index)
    true = None if stored.true is None else stored.true[index]
    there = bool(stored.presence and stored.presence[index])
    count = None if stored.counts is None else stored.counts[index]
    told = f"{count:,}" if count is not None else "yes" if there else DASH
    wrong = true is not None and (count != true if count is not None else there != (true > 0))
    ranges = _ranges(stored)
    width = (count or 0) / largest if ranges is None or count is not None else sum(ranges[index]) / 2
    total = None if stored.counts is None else sum(stored.counts)
    return Bar(name, told, "" if ranges is None else span(*ranges[index], total), true, 100 * width, 100 * (true or 0) / largest, wrong)


def _absence(stored: StoredCounts) -> str:
    if stored.counts is None:
        return "no sample that the update shows for sure"
    return "no sample" if stored.determined or stored.source == "told" else "no sample by this guess"


def _lead(stored: StoredCounts) -> str:
    attack, plus, rest = stored.source.partition(" + ")
    if stored.left_out:
        return f"Left out here on purpose. They were restored by {stored.source}."
    if stored.presence is None:
        return f"Not restored by {stored.source}: {stored.reason}."
    if stored.source == "told":
        where = "The adversary was given the labels. They were not restored."
    elif stored.proved and not plus:
        where = f"Counted from the labels of the samples that {attack} reconstructed, which were proved."
    elif plus:
        where = f"{stored.proved} labels are those of proved samples, found by {attack}; the rest was restored by {rest}."
    else:
        where = f"Read off the gradient of the last layer alone, by {stored.source}; no sample had to be reconstructed."
    told = f" {stored.reason[0].upper()}{stored.reason[1:]}." if stored.reason else ""
    sure = certainty(stored)
    return where + told + (f" {sure}" if sure else "")


def certainty(stored: StoredCounts) -> str:
    """How far the counts are to be believed, in plain words; nothing where the answer has no counts and no ranges.

    Example:
        >>> certainty(StoredCounts(source="anchored", counts=(2, 1), presence=(True, True), determined=True, expected_error=0.02))[:11]
        'Determined:'
        >>> certainty(StoredCounts(source="ilrg", counts=(2, 1), presence=(True, True)))[:15]
        'Not determined:'
    """
    if stored.source == "told" or stored.presence is None:
        return ""
    if stored.counts is None:
        if stored.batch_size is not None or stored.ranges is None:
            return ""
        return (
            "Not determined: how many samples there were, and so the counts. What the update tells is the share of every class, within its"
            " range, if the labels are hard and the loss and the scale are as told."
        )
    if stored.determined and not stored.expected_error:
        return "Determined: every sample was proved with its label."
    if stored.determined:
        within = number(round(stored.expected_error or 0.0, 2))
        return f"Determined: the update shows these counts, each to {within} of a sample; another loss or scale would not give them."
    if stored.trust is not None and stored.trust < 1:
        return "Not determined: little can be read off this update, as of trained networks; the counts are an even guess bent by it."
    told = "Not determined: the counts are the likeliest if the labels are hard and the batch size, the loss and the scale are as told."
    if stored.deviation is None:
        return told
    return f"{told} A count is then expected to be off by {number(round(stored.deviation, 2))} samples before rounding."


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
    sheet = of_labels(stored)
    page = render(
        "labels.html",
        stored=stored,
        sheet=sheet,
        badge=sheet.badge,
        severity=sheet.severity,
        verdict=sheet.verdict,
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
    if counts.left_out:
        sure = "and that they are right is determined" if counts.determined else "and that they are right is not determined"
        return f"This update tells of the samples of each class: the counts are left out here, {sure}."
    if counts.counts is not None:
        held = f"{sum(counts.counts):,} samples of {sum(map(bool, counts.counts)):,} among {len(counts.counts):,} classes"
        if counts.determined:
            return f"This update tells how many samples of each class its batch held: {held}."
        if counts.trust is not None and counts.trust < 1:
            return f"This update says little of its labels; the best guess is {held}."
        return f"The likeliest counts of this update are {held}; that they are right is not determined."
    if counts.presence is not None and counts.ranges is not None and counts.batch_size is None:
        surely = sum(there and low > 0 for there, (low, _) in zip(counts.presence, counts.ranges, strict=True))
        there = f"of which {surely:,} surely have samples"
        return f"This update tells the shares of its classes, {there}, and not how many samples it was made of."
    if counts.presence is not None:
        held = f"{sum(counts.presence):,} of {len(counts.presence):,} classes"
        return f"The likeliest classes of this update are {held}; that they are right is not determined."
    return "The labels were not restored; this does not show that the update is safe."


def _told(stored: StoredLabels) -> bool:
    return stored.counts.presence is not None or stored.counts.left_out


def _badge(stored: StoredLabels) -> str:
    return "Labels" if _told(stored) else "Labels not shown"


def _shade(stored: StoredLabels) -> Severity:
    return "partly" if _told(stored) else "not-shown"


def of_labels(stored: StoredLabels) -> Sheet:
    """The sheet of restored labels."""
    origin = stored.origin or NOWHERE
    told = labels_answer(stored.counts)
    return Sheet(
        command="labels",
        badge=_badge(stored),
        severity=_shade(stored),
        verdict=_verdict(stored),
        meaning="Labels alone can disclose what a client does: which diagnoses a clinic makes, which words a person types.",
        claims=() if told is None else (claim_of("labels", *told, origin),),
        untested=("the samples themselves: `unbatch audit`", *UNTESTED_ROUND),
        upper_bounds=stored.upper_bounds,
        knowledge=stored.knowledge,
        origin=origin,
        environment=stored.environment,
        detail=stored.model_dump(mode="json"),
    )
