"""Trials gathered by their settings: what a table of a run shows, and how sure its shares are."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from unbatch import specs
from unbatch.store.trials import Settings, TrialRecord

__all__ = ["AXES", "Cell", "gather", "named", "value", "varying", "wilson"]

AXES = {
    "dataset": "data",
    "model": "model",
    "protocol": "protocol",
    "defenses": "defense",
    "attack": "attack",
    "restorer": "restorer",
    "batch_size": "batch",
    "mix": "classes",
    "trained": "trained",
    "told": "told",
    "dtype": "type",
}
"""Setting -> how a table calls it; the seed is what a cell gathers over."""


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a share, for 95 % by default; 0 to 1 where nothing was tried.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    Example:
        >>> [round(bound, 3) for bound in wilson(10, 10)], [round(bound, 3) for bound in wilson(0, 10)]
        ([0.722, 1.0], [0.0, 0.278])
    """
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, z * z / trials
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    # At the ends the bound is the end itself: rounding must not put it a hair inside.
    return 0.0 if successes == 0 else max(0.0, middle - half), 1.0 if successes == trials else min(1.0, middle + half)


@dataclass(frozen=True)
class Cell:
    """Trials that differ by their seed alone.

    Attributes:
        settings: theirs, with the seed 0.
        records: one a seed.
    """

    settings: Settings
    records: tuple[TrialRecord, ...]

    @cached_property
    def tried(self) -> tuple[TrialRecord, ...]:
        """Those in which the method could be used and did not crash: what a share is of."""
        return tuple(record for record in self.records if record.outcome == "done" and record.status != "NOT_APPLICABLE")

    @property
    def whole(self) -> int:
        """In how many every sample was exact, or every count right."""
        return sum(bool(record.whole) for record in self.tried)

    @property
    def share(self) -> float | None:
        """Of samples that were recovered exactly; of a restorer, of labels that were restored rightly."""
        total = sum(record.batch_size for record in self.tried)
        if not total:
            return None
        right = sum(record.labels_right if record.restorer else record.exact for record in self.tried)
        return right / total

    @property
    def seconds(self) -> float | None:
        """Median time of the attack."""
        return statistics.median(record.seconds for record in self.tried) if self.tried else None

    @property
    def statuses(self) -> str:
        """What came out, the most frequent first."""
        counts = Counter(record.status if record.outcome == "done" else record.outcome for record in self.records)
        return ", ".join(f"{name} {count}" for name, count in counts.most_common())

    def score(self, name: str) -> float | None:
        """The median of a score over the trials that have it."""
        values = [score for record in self.tried if (score := record.scores.get(name)) is not None]
        return statistics.median(values) if values else None

    def columns(self) -> dict[str, object]:
        """Its columns, for CSV and JSON."""
        low, high = wilson(self.whole, len(self.tried))
        settings: dict[str, object] = {name: value(self.settings, name) for name in AXES}
        counted = {"trials": len(self.records), "tried": len(self.tried), "whole": self.whole, "whole_low": low, "whole_high": high}
        outcomes = {name: sum(record.outcome == name for record in self.records) for name in ("refused", "crashed")}
        measured = {"exact_share": self.share, "median_seconds": self.seconds, "statuses": self.statuses}
        return settings | counted | outcomes | measured | {f"median_{name}": self.score(name) for name in score_names([self])}


def gather(records: Iterable[TrialRecord]) -> list[Cell]:
    """Cells, in the order in which their first trials came, sorted by batch size within."""
    found: dict[str, list[TrialRecord]] = {}
    for record in records:
        found.setdefault(record.settings.model_copy(update={"seed": 0}).model_dump_json(), []).append(record)
    cells = [Cell(group[0].settings.model_copy(update={"seed": 0}), tuple(group)) for group in found.values()]
    order = {name: {text: i for i, text in enumerate(dict.fromkeys(value(cell.settings, name) for cell in cells))} for name in AXES}

    def place(cell: Cell) -> tuple[int, ...]:
        numbers = ("batch_size", "trained")
        return tuple(getattr(cell.settings, name) if name in numbers else order[name][value(cell.settings, name)] for name in AXES)

    return sorted(cells, key=place)


def value(settings: Settings, axis: str) -> str:
    """A setting as text."""
    if axis == "defenses":
        return " + ".join(settings.defenses) or "none"
    return str(getattr(settings, axis))


def named(text: str) -> str:
    """A specification for people: files by their names alone.

    Example:
        >>> named("npz:$UNBATCH_SHARED/data/cifar10_test.npz,size=8")
        'npz:cifar10_test.npz,size=8'
    """
    name, colon, _ = text.partition(":")
    if not colon or "/" not in text:
        return text
    return f"{name}:" + ",".join((f"{field}=" if field else "") + PurePath(part).name for field, part in specs.parse(text)[1])


def varying(cells: Sequence[Cell]) -> list[str]:
    """Settings that are not the same in all cells; the data where there is but one cell."""
    found = [name for name in AXES if len({value(cell.settings, name) for cell in cells}) > 1]
    return found or ["dataset"]


def score_names(cells: Iterable[Cell]) -> list[str]:
    """All scores that any of their trials has, in the order of the first."""
    return list(dict.fromkeys(name for cell in cells for record in cell.records for name in record.scores))
