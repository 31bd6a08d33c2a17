"""How many samples of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["Counts"]


@dataclass(frozen=True, eq=False)
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
