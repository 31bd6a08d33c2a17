"""Defenses held against each other: what was recovered under each, and what it costs, as a table and a curve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unbatch.defending import Row, Trade
from unbatch.report.claims import Severity
from unbatch.report.pages import render
from unbatch.store.publishing import publish

__all__ = ["HTML", "JSON", "Point", "closing", "guarantee", "points", "verdict", "write"]

HTML: Final = "defend.html"
JSON: Final = "defend.json"

HOPELESS: Final = 1e4
"""ε from which on it is said in words that it promises nothing."""

MEANINGFUL: Final = 10.0
"""ε up to which differential privacy is usually taken to promise something."""


@dataclass(frozen=True)
class Point:
    """One row in the chart: across what was recovered, up the accuracy.

    Attributes:
        number: of the row.
        x: from 0 to the chart's width.
        y: from 0 at its top.
    """

    number: int
    x: float
    y: float


def closing(trade: Trade) -> Row | None:
    """The most accurate defense under which nothing came out, not even an approximation; None where something did under every one.

    Where nothing comes out without a defense the attack was too weak, and no defense of batches of that size has closed anything.
    """
    weak = _weak(trade)
    closed = [row for row in trade.rows if row.defense != "none" and row.batch_size not in weak and not _leaks(row)]
    return max(closed, key=lambda row: row.accuracy, default=None)


NEAR: Final = frozenset(("APPROXIMATE", "UNPROVEN", "FEATURES"))
"""How an attack ends that has something of the batch to show, though no sample came out exact."""


def _leaks(row: Row) -> bool:
    return bool(row.recovered or row.proved or NEAR & set(row.statuses))


def _weak(trade: Trade) -> list[int]:
    """Sizes of batches of which nothing came out without a defense."""
    return sorted({row.batch_size for row in trade.rows if row.defense == "none" and not _leaks(row)})


def verdict(trade: Trade) -> str:
    """The one sentence that a reader takes away."""
    best, bare = closing(trade), max((row.accuracy for row in trade.rows if row.defense == "none"), default=None)
    sizes = " and ".join(map(str, _weak(trade)))
    weak = f" Of batches of {sizes} nothing came out without a defense either: there it was too weak, give it more time." if sizes else ""
    if best is None:
        said = "Under every defense that was tried samples were recovered, exactly or nearly."
        return (said if any(map(_leaks, trade.rows)) else "Our attack recovered nothing.") + weak
    cost = "" if bare is None else f", {_beside(best.accuracy, bare)} the best undefended training"
    held = f"ε = {best.epsilon:.3g}" if best.epsilon is not None else "no guarantee"
    return (
        f"{best.defense} with batches of {best.batch_size} was the most accurate of which our attack recovered nothing"
        f" ({100 * best.accuracy:.1f} %{cost}; {held})." + _guaranteed(trade) + weak
    )


def _beside(accuracy: float, bare: float) -> str:
    """How an accuracy lies beside another, to a tenth of a point; a defense may help."""
    points = round(100 * (accuracy - bare), 1)
    return "as accurate as" if not points else f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def _guaranteed(trade: Trade) -> str:
    """The most accurate row with a guarantee that means something."""
    private = [row for row in trade.rows if row.epsilon is not None and row.epsilon <= MEANINGFUL and not row.recovered]
    if not private:
        return f" No row has a guarantee of ε up to {MEANINGFUL:g}."
    best = max(private, key=lambda row: row.accuracy)
    return (
        f" With a guarantee of ε up to {MEANINGFUL:g} it was {best.defense} with batches of {best.batch_size}"
        f" ({100 * best.accuracy:.1f} %, ε = {best.epsilon:.3g})."
    )


def guarantee(row: Row) -> str:
    """ε, or that there is none."""
    if row.epsilon is None:
        return "none"
    return f"ε = {row.epsilon:.3g}" if row.epsilon < HOPELESS else "ε above 10,000: no protection"


def points(trade: Trade, width: int = 560, height: int = 240) -> list[Point]:
    """All rows, by their place in the table."""
    return [Point(i + 1, width * row.recovered / max(1, row.attacked), height * (1 - row.accuracy)) for i, row in enumerate(trade.rows)]


def write(trade: Trade, folder: Path) -> Path:
    """Write ``defend.html`` and ``defend.json`` into a folder; both or neither.

    Args:
        trade: what was measured.
        folder: where to.

    Raises:
        OutputFailed: the folder cannot be written; it is left as it was.
    """
    open_ = closing(trade) is None
    severity: Severity = "disclosed" if open_ else "partly"
    page = render(
        "defend.html",
        trade=trade,
        badge="Nothing tried closes it" if open_ else "What closes it, and at which cost",
        severity=severity,
        verdict=verdict(trade),
        guarantee=guarantee,
        points=points(trade),
    )
    text = trade.model_dump_json(indent=2) + "\n"
    publish(folder, {HTML: page, JSON: text})
    return folder / HTML
