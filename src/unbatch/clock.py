"""One clock for all work on one observation: made once, handed down, and asked inside every long loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from unbatch.errors import Misuse

__all__ = ["ENDING", "UNLIMITED", "Clock", "OutOfTime"]

ENDING = 0.05
"""Share of a search's time that is kept for its end: to certify, and to make exact, what was found when time ran out. Chosen."""


class OutOfTime(Exception):
    """The budget is spent: raised inside long work, caught where what has been found so far is known."""


@dataclass(frozen=True)
class Clock:
    """When work must end.

    Attributes:
        end: reading of ``time.monotonic`` at which the budget is spent.
        start: the reading at which it began.

    Example:
        >>> Clock.of(60.0).over, Clock.of(60.0).part(0.5).left < 30.1
        (False, True)
    """

    end: float = math.inf
    start: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, seconds: float) -> Clock:
        """A clock that starts now.

        Raises:
            Misuse: the budget is no positive, finite number.
        """
        if not 0 < seconds < math.inf:
            raise Misuse("a budget of a positive, finite number of seconds", f"seconds={seconds}", "60 is the usual choice")
        now = time.monotonic()
        return cls(now + seconds, now)

    @property
    def taken(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        """Seconds until the end; negative afterwards."""
        return self.end - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.left <= 0

    def check(self) -> None:
        """Go on, or not.

        Raises:
            OutOfTime: the budget is spent.
        """
        if self.over:
            raise OutOfTime

    def part(self, share: float) -> Clock:
        """A clock with the same start that ends when this share of what is left is spent."""
        return self if self.end == math.inf else Clock(time.monotonic() + share * max(0.0, self.left), self.start)


UNLIMITED = Clock()
"""Never over."""
