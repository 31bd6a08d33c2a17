"""What a label restorer must be."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from unbatch import seeds
from unbatch.contracts.plugin import Plugin
from unbatch.errors import Inapplicable, Misuse
from unbatch.gradients import check_deterministic
from unbatch.linalg.simplex import whole
from unbatch.types import Counts, Observation

__all__ = ["NEEDS_BATCH_SIZE", "Estimate", "LabelRestorer"]


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """What a label restorer proposes before anyone has checked it.

    Attributes:
        counts: (C,) real numbers, samples of each class, or None for a method that does not give them.
        presence: (C,) bool, which classes are there; read off the counts if None.
        batch_size: the number of samples, where the method found it by itself.
        reason: one sentence on why there are no counts, or on what a reader must know of them.
        stats: anything worth measuring.
        expected_error: of a count before rounding, in samples, only where the update itself shows that the counts are right.
        deviation: of a count before rounding, in samples, to be expected if all that was told is right, where the method knows it.
        ranges: (C, 2) the smallest and the largest share of the batch that each class may have, or None.
        trust: how far the method believes what it read off, 0 to 1; None where it is silent.
    """

    counts: Tensor | None = None
    presence: Tensor | None = None
    batch_size: int | None = None
    reason: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)
    expected_error: float | None = None
    deviation: float | None = None
    ranges: Tensor | None = None
    trust: float | None = None

    def __repr__(self) -> str:
        """What it has, not the numbers: they are what a client wanted to keep."""
        return f"Estimate({', '.join(name for name in ('counts', 'presence', 'ranges') if getattr(self, name) is not None) or 'nothing'})"


NEEDS_BATCH_SIZE = "the update does not tell how many samples it was made of, only the shares of the classes: give the batch size"
"""Why a restorer without a batch size has no counts."""

OFF = 0.5
"""How far from the estimate, in samples, a count may be that is called determined. Derived: where rounding ends."""

ONE_OUTPUT = "the model has one output, as for a regression or a yes and no: it has no classes to count"


@dataclass(frozen=True)
class LabelRestorer(Plugin, ABC):
    """Tells from an observation how many samples of each class the batch held. It sees nothing else.

    Implement ``unsupported`` and ``estimate``; the final ``__call__`` makes whole counts of it, none negative, that sum to K.
    """

    @abstractmethod
    def unsupported(self, observation: Observation) -> str | None:
        """Why this method cannot be used on this observation, or None if it can."""

    @abstractmethod
    def estimate(self, observation: Observation, generator: torch.Generator) -> Estimate:
        """Think. All randomness comes from ``generator``.

        Raises:
            Inapplicable: the method cannot be used on this observation, which ``unsupported`` could not see without the work.
        """

    @final
    def __call__(self, observation: Observation, *, seed: int = 0) -> Counts:
        """Restore the labels, or say why not.

        Args:
            observation: what the server saw.
            seed: of all randomness.
        """
        start = time.perf_counter()
        if observation.unreadable:
            return Counts(reason=observation.unreadable, restorer=self.spec)
        if not observation.classified:
            return Counts(reason=ONE_OUTPUT, restorer=self.spec)
        try:
            check_deterministic(observation.model, observation.probe, known=observation.behavior)
            if (reason := self.unsupported(observation)) is not None:
                return Counts(reason=reason, restorer=self.spec)
            made = self.estimate(observation, seeds.generator(seed, "attack", observation.device))
        except (Inapplicable, Misuse, torch.linalg.LinAlgError) as obstacle:  # type: ignore[attr-defined]
            return Counts(reason=str(obstacle), restorer=self.spec)
        stats = {**made.stats, "seconds": time.perf_counter() - start}
        answer = Counts(None, made.presence, made.reason, None, stats, self.spec, observation.batch_size, trust=made.trust)
        answer = replace(answer, ranges=None if made.ranges is None else made.ranges.double())
        size = observation.batch_size or made.batch_size
        if made.counts is None or size is None:
            return replace(answer, reason=made.reason or NEEDS_BATCH_SIZE)
        if made.counts.ndim != 1 or not bool(made.counts.isfinite().all()):
            raise AssertionError(f"{self.spec} returned counts of shape {tuple(made.counts.shape)} or not finite")
        counts, estimate = whole(made.counts, size), made.counts.double()
        # Counts that had to be moved further than to the nearest whole numbers were not shown by anything.
        error = made.expected_error if bool(((counts - estimate).abs() < OFF).all()) else None
        if observation.batch_size is None and error is None:
            return replace(answer, reason=made.reason or NEEDS_BATCH_SIZE)
        if error is not None and answer.ranges is not None:  # what is determined lies in its range
            share = (counts / counts.sum()).to(answer.ranges)[:, None]
            answer = replace(answer, ranges=torch.cat([share.minimum(answer.ranges[:, :1]), share.maximum(answer.ranges[:, 1:])], dim=1))
        return replace(
            answer,
            counts=counts,
            presence=counts > 0,
            estimate=estimate,
            batch_size=size,
            determined=error is not None,
            expected_error=error,
            deviation=made.deviation,
        )
