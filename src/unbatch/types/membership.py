"""Whether given records were in a batch: an answer for each, with what it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Membership", "Presence", "Verdict"]


class Verdict(Enum):
    """What the update says of one record. The value is the sentence that a reader needs."""

    PRESENT = "it was in the batch"
    IN_SPAN = "it lies in the span of the batch: it, or what it is a mixture of, was there"
    ABSENT = "it was not in the batch"
    UNDECIDED = "the update does not tell whether it was in the batch"


@dataclass(frozen=True)
class Presence:
    """The answer for one record.

    Attributes:
        verdict: see ``Verdict``.
        residual: share of what the layer is fed by the record that lies outside of the row space of the layer's gradient, 0 to 1.
        noise: what a record that was there may leave at most, by rounding and noise of the update.
        unrelated: what unrelated records of the same kind leave, their geometric mean.
        p_value: how likely it is that an unrelated record leaves as little, corrected for the number of records that were asked for
            (Holm), if logarithms of residuals are spread as those of the reference; 1 where nothing is known.
        inner: the largest residual at the layers behind a change that is not linear, or None where there is none that shows the batch.
        label: the class with which the record fits the update, where that was tested and no other does.
        reason: why this verdict, in one sentence.
    """

    verdict: Verdict
    residual: float = 1.0
    noise: float = 0.0
    unrelated: float = 0.0
    p_value: float = 1.0
    inner: float | None = None
    label: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Membership:
    """The answers for all records, in their order.

    Attributes:
        answers: one a record.
        layer: weight of the layer whose row space was asked, or empty where none shows the batch.
        inner: weights of further layers that were asked.
        rank: how many directions that row space has: as many samples are visible in it, unless they depend on each other.
        size: how many numbers a record is held against: the layer's inputs and one for its bias.
        equations: in how many independent ways records of the same kind leave the row space.
        batch_size: the number of samples, told or read off a record that was there; None where neither.
        complete: whether the rank accounts for every sample, so that what lies outside was not there.
        made_up: whether even a record that was made up from the update is excluded: more conditions than numbers to tune.
        reason: why nothing could be asked, or empty.
        remarks: what a reader must know: limits, and how the bound was measured.
        stats: anything worth measuring; for people.
    """

    answers: tuple[Presence, ...]
    layer: str = ""
    inner: tuple[str, ...] = ()
    rank: int = 0
    size: int = 0
    equations: int = 0
    batch_size: int | None = None
    complete: bool = False
    made_up: bool = False
    reason: str = ""
    remarks: tuple[str, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)

    def count(self, verdict: Verdict) -> int:
        """How many records have this verdict.

        Example:
            >>> Membership((Presence(Verdict.PRESENT), Presence(Verdict.ABSENT))).count(Verdict.PRESENT)
            1
        """
        return self.counts[verdict]

    @property
    def counts(self) -> Counter[Verdict]:
        """How many records have each verdict."""
        return Counter(answer.verdict for answer in self.answers)

    def summary(self) -> str:
        """In one line what was found."""
        told = ", ".join(f"{self.count(verdict):,} {verdict.name}" for verdict in Verdict if self.count(verdict))
        return f"{len(self.answers):,} records asked for: {told}" if self.answers else "no records asked for"
