"""Whether records were in a batch, as it is stored: numbers and reasons, never a record itself."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from unbatch.records import Record
from unbatch.types import Membership, Observation

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
        knowledge: what the adversary was told, one fact a line.
        input_shape: of one sample.
        environment: versions and machine.
    """

    format: Literal[1] = FORMAT
    answers: tuple[StoredPresence, ...]
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

    def count(self, verdict: str) -> int:
        """How many records have this verdict."""
        return sum(answer.verdict == verdict for answer in self.answers)


def stored_members(found: Membership, observation: Observation, environment: dict[str, str]) -> StoredMembers:
    """Answers to store.

    Args:
        found: what was found.
        observation: from what.
        environment: versions and machine.
    """
    names = ("residual", "noise", "unrelated", "p_value", "inner", "label", "reason")
    answers = tuple(
        StoredPresence(index=index, verdict=answer.verdict.name, **{name: getattr(answer, name) for name in names})  # type: ignore[arg-type]
        for index, answer in enumerate(found.answers)
    )
    same = ("layer", "inner", "rank", "size", "equations", "batch_size", "complete", "made_up", "reason", "remarks")
    return StoredMembers(
        answers=answers,
        **{name: getattr(found, name) for name in same},
        knowledge=tuple(observation.knowledge.sentences()),
        input_shape=observation.input_shape,
        environment=environment,
    )
