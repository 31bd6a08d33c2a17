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

    Counts are **determined** where the update itself shows that they are right: samples with these labels were proved, or the counts come
    out whole so closely that another batch, another loss or another scale would not give it. All others are the best guess under what was
    told (hard labels, the loss, the scale, the batch size), and ``ranges`` says how far that is known.

    Attributes:
        counts: (C,) int64, samples of each class: none negative, their sum the batch size. None where the update does not give them.
        presence: (C,) bool, which classes probably have samples: surely those whose range starts above zero. None where the method did not
            apply.
        reason: one sentence on why there are no counts, or on what a reader must know of them; or empty.
        estimate: (C,) float64, the counts before rounding, or None.
        stats: what the method measured, for people: no code decides by it.
        restorer: the method's name and settings; "told" where the labels were given and not restored.
        batch_size: the number of samples, told or found; None where neither.
        determined: whether the update itself shows that the counts are right.
        expected_error: of a count before rounding, in samples, where they are determined: at most this share of them is off. Else None.
        deviation: of a count before rounding, in samples, to be expected if all that was told is right, where the method knows it.
        ranges: (C, 2) float64, the smallest and the largest share of the batch that each class may have if all that was told is right.
        trust: how far the method believes what it read off, 0 to 1; below 1 the counts are an even guess bent by it.
        proved: how many samples, with their labels, were proved.
        least: (C,) int64, how many of each class these are; None where none were.
    """

    counts: Tensor | None = None
    presence: Tensor | None = None
    reason: str = ""
    estimate: Tensor | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)
    restorer: str = ""
    batch_size: int | None = None
    determined: bool = False
    expected_error: float | None = None
    deviation: float | None = None
    ranges: Tensor | None = None
    trust: float | None = None
    proved: int = 0
    least: Tensor | None = None

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

    @property
    def told(self) -> bool:
        """Whether the labels were given to the adversary, not restored."""
        return self.restorer == "told"
