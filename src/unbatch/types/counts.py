"""How many samples of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["Counts"]


@dataclass(frozen=True, eq=False, repr=False)
class Counts:
    """What a label restorer made of an observation.

    Attributes:
        counts: (C,) int64, samples of each class: none negative, their sum the batch size. None where the method does not give them.
        presence: (C,) bool, whether a class has samples at all. None where the method did not apply.
        reason: one sentence on why there are no counts, or on what a reader must know of them; or empty.
        estimate: (C,) float64, the counts before rounding, or None.
        stats: what the method measured; ``expected_error`` is the error that it expects of one count, in samples.
        restorer: the method's name and settings.
    """

    counts: Tensor | None = None
    presence: Tensor | None = None
    reason: str = ""
    estimate: Tensor | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)
    restorer: str = ""

    @property
    def applicable(self) -> bool:
        """Whether the method gave an answer.

        Example:
            >>> Counts(reason="the last layer has no bias").applicable
            False
        """
        return self.presence is not None

    def __repr__(self) -> str:
        """What it is, not the counts: they are what a client wanted to keep."""
        return f"Counts({self.summary()})"

    def summary(self) -> str:
        """In one line how far the method came, without the counts.

        Example:
            >>> import torch
            >>> Counts(torch.tensor([3, 0, 2]), torch.tensor([True, False, True]), restorer="ilrg").summary()
            'ilrg: the counts of 5 samples, 2 of 3 classes present'
        """
        name = f"{self.restorer}: " if self.restorer else ""
        if self.presence is None:
            return f"{name}no answer, {self.reason}" if self.reason else f"{name}no answer"
        there = f"{int(self.presence.sum())} of {len(self.presence)} classes present"
        return name + (there if self.counts is None else f"the counts of {int(self.counts.sum())} samples, {there}")

    def to_dict(self) -> dict[str, Any]:
        """All of it in what JSON has; ``stats`` by their text where JSON has no such thing."""
        listed = {name: None if (value := getattr(self, name)) is None else value.tolist() for name in ("counts", "presence", "estimate")}
        plain = (bool, int, float, str, type(None))
        stats = {str(name): value if isinstance(value, plain) else str(value) for name, value in self.stats.items()}
        return {**listed, "reason": self.reason, "stats": stats, "restorer": self.restorer}
