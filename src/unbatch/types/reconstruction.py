"""What an attack proposes, and what the evidence makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

from unbatch.errors import ReconstructionFailed

__all__ = ["Candidate", "Reconstruction", "Status"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """What an attack proposes before anyone has checked it.

    Attributes:
        inputs: (k, *input_shape), or None.
        labels: (k,) int64, or None.
        features: (k, n) inputs of an inner layer, all of them and consistent with its weights, where those were asked for.
        reason: one sentence on why it did not go further.
        exhausted: whether it stopped because its budget was spent.
        certified: whether every one of its samples carries its own certificate: for batches that cannot be replayed as a whole, because
            samples are missing or the order of local steps is unknown.
        weights: (k,) what the gradient of every sample counts in the update, where the attack knows; 1/k each if None.
        order: (E, k) the order of the samples in every local epoch, where the attack found it.
        stats: anything worth counting.
    """

    inputs: Tensor | None = None
    labels: Tensor | None = None
    features: Tensor | None = None
    reason: str = ""
    exhausted: bool = False
    certified: bool = False
    weights: Tensor | None = None
    order: Tensor | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)


class Status(Enum):
    """How an attack ended, as advice."""

    RECONSTRUCTED = "the whole batch was reconstructed and its replay gives the observed update: treat these samples as disclosed"
    PARTIAL = "some samples were reconstructed, each certified by itself: treat at least those as disclosed"
    APPROXIMATE = "a batch was found that explains the update up to the residual, not exactly: judge by the pictures whether it is safe"
    INCONSISTENT = "a batch was found but its replay does not give the observed update: check that model, loss and mode are the client's"
    BUDGET_EXHAUSTED = "the search ended before it found the batch: raise the budget before you call the update safe"
    FEATURES = "the inputs of an inner layer were recovered and fit its weights and zeros: treat what they encode as disclosed"
    UNPROVEN = "a batch was found that cannot be replayed for lack of labels: do not call the update safe"
    NOT_APPLICABLE = "this attack cannot be used on this update: read the reason, and try another attack before you call the update safe"

    @property
    def disclosed(self) -> bool:
        """Whether samples were proved to be disclosed."""
        return self in (Status.RECONSTRUCTED, Status.PARTIAL)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an attack made of an observation.

    Attributes:
        status: decided by replay, never by the attack.
        inputs: (b, *input_shape), or None if nothing was found.
        labels: (b,) int64, or None.
        residual: ‖replayed update − observed update‖ / ‖observed update‖, or None where it could not be replayed.
        reason: one sentence on why it did not go further, or empty.
        stats: what the attack counted: tools used, subsets drawn, seconds.
        attack: the attack's name and settings.
        features: (b, n) inputs of an inner layer, where the attack was pointed at one.
    """

    status: Status
    inputs: Tensor | None = None
    labels: Tensor | None = None
    residual: float | None = None
    reason: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)
    attack: str = ""
    features: Tensor | None = None

    def or_raise(self) -> Reconstruction:
        """Itself if it is ``RECONSTRUCTED``.

        Raises:
            ReconstructionFailed: with the status and the reason, for any other status.

        Example:
            >>> Reconstruction(Status.BUDGET_EXHAUSTED, reason="3 of 8 directions").or_raise()
            Traceback (most recent call last):
            unbatch.errors.ReconstructionFailed: BUDGET_EXHAUSTED: ...
        """
        if self.status is Status.RECONSTRUCTED:
            return self
        raise ReconstructionFailed(f"{self.status.name}: {self.status.value}" + (f" ({self.reason})" if self.reason else ""))
