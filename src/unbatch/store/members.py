"""Whether records were in a batch, as it is stored: numbers and reasons, never a record itself."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from unbatch.origin import Origin
from unbatch.realism import upper_bounds
from unbatch.records import Record
from unbatch.types import Membership, Observation, Verdict

__all__ = ["FORMAT", "StoredMembers", "StoredPresence", "stored_members"]

FORMAT: Final = 1
"""Version of the format."""


class StoredPresence(Record):
    """A ``types.Presence``; ``index`` is the record's place among those that were asked for."""

    index: int
    verdict: Literal["PRESENT", "IN_SPAN", "ABSENT", "UNDECIDED"]
    residual: float
    noise: float
    unrelated: float
    p_value: float
    inner: float | None = None
    label: int | None = None
    reason: str = ""


class StoredMembers(Record):
    """A ``types.Membership``, as ``members.json`` holds it.

    Attributes:
        format: version of the format.
        answers: one a record, in their order.
        counts: verdict -> how many records have it.
        left_out: whether the answers are left out on purpose.
        knowledge: what the adversary was told, one fact a line.
        input_shape: of one sample.
        environment: versions and machine.
        upper_bounds: what makes the setting easier than a real client's; None where nobody looked.
        origin: date, files, command, client and next steps; None where nobody told.
    """

    format: Literal[1] = FORMAT
    answers: tuple[StoredPresence, ...]
    counts: dict[str, int] = Field(default_factory=dict)
    left_out: bool = False
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
    knowledge: tuple[str, ...] = ()
    input_shape: tuple[int, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    upper_bounds: tuple[str, ...] | None = None
    origin: Origin | None = None

    def count(self, verdict: str) -> int:
        """How many records have this verdict."""
        return self.counts.get(verdict, 0)

    def redacted(self) -> StoredMembers:
        """The same without what is known of each record."""
        return self.model_copy(update={"answers": (), "left_out": True})


def stored_members(found: Membership, observation: Observation, environment: dict[str, str], origin: Origin | None = None) -> StoredMembers:
    """Answers to store.

    Args:
        found: what was found.
        observation: from what.
        environment: versions and machine.
        origin: where they come from.
    """
    names = ("residual", "noise", "unrelated", "p_value", "inner", "label", "reason")
    answers = tuple(
        StoredPresence(index=index, verdict=answer.verdict.name, **{name: getattr(answer, name) for name in names})  # type: ignore[arg-type]
        for index, answer in enumerate(found.answers)
    )
    same = ("layer", "inner", "rank", "size", "equations", "batch_size", "complete", "made_up", "reason", "remarks")
    return StoredMembers(
        answers=answers,
        counts={verdict.name: found.count(verdict) for verdict in Verdict},
        **{name: getattr(found, name) for name in same},
        knowledge=tuple(observation.knowledge.sentences()),
        input_shape=observation.input_shape,
        environment=environment,
        upper_bounds=upper_bounds(observation),
        origin=origin,
    )
