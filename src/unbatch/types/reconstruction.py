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
    """What an attack proposes: samples, and no verdict. What becomes of it is decided by ``evidence``.

    Attributes:
        inputs: (k, *input_shape), different samples, or None.
        labels: (k,) int64, or None.
        features: (k, n) what an inner layer sees of the samples, where that was asked for.
        layer: name of that layer's weight.
        order: (E, k) the order of the samples in every local epoch, where the attack found it.
        reason: one sentence on why it did not go further.
        exhausted: whether it stopped because its budget was spent.
        error: the traceback of a breakdown, or empty.
        stats: anything worth counting.
    """

    inputs: Tensor | None = None
    labels: Tensor | None = None
    features: Tensor | None = None
    layer: str | None = None
    order: Tensor | None = None
    reason: str = ""
    exhausted: bool = False
    error: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> Tensor | None:
        """The inputs, or the features where those were asked for."""
        return self.inputs if self.features is None else self.features


class Status(Enum):
    """How an attack ended, as advice."""

    RECONSTRUCTED = "the whole batch was reconstructed, and its replay gives the observed update: treat these samples as disclosed"
    PARTIAL = "some samples were reconstructed, each proved by the update itself: treat at least those as disclosed"
    APPROXIMATE = "a batch was found that explains the update up to the residual, not exactly: judge by the pictures whether it is safe"
    INCONSISTENT = "a batch was found but its replay does not give the observed update: check that model, loss and mode are the client's"
    BUDGET_EXHAUSTED = "the search ended before it found the batch: raise the budget before you call the update safe"
    FEATURES = "what an inner layer sees of the samples was recovered and proved: treat what it encodes as disclosed"
    UNPROVEN = "a batch was found that the update neither proves nor refutes: do not call the update safe"
    NOT_APPLICABLE = "this attack cannot be used on this update: read the reason, and try another attack before you call the update safe"
    BROKE_DOWN = "the attack broke down: this says nothing of the update; report it, and try another attack"

    @property
    def disclosed(self) -> bool:
        """Whether samples were proved to be disclosed."""
        return self in (Status.RECONSTRUCTED, Status.PARTIAL)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an attack made of an observation.

    Attributes:
        status: decided by the evidence, never by the attack.
        inputs: (k, *input_shape), or None if nothing was found. Where the status says that something is disclosed, only what was proved.
        labels: (k,) int64, or None.
        residual: ‖replayed update − observed update‖ / ‖observed update‖, or None where it could not be replayed.
        reason: one sentence on why it did not go further, or empty.
        stats: what the attack counted: tools used, subsets drawn, seconds.
        attack: the attack's name and settings.
        features: (k, n) what an inner layer sees, where the attack was pointed at one.
        layer: name of that layer's weight.
        proved: (k,) bool, which of the samples (or features) were proved; None where there are none.
        accuracy: (k,) upper estimate of the relative error of each, ‖error‖ / ‖sample‖; infinite where nothing bounds it.
        missing: how many more samples the batch held, where that is known; None where it is not.
        error: the traceback of a breakdown, or empty.
    """

    status: Status
    inputs: Tensor | None = None
    labels: Tensor | None = None
    residual: float | None = None
    reason: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)
    attack: str = ""
    features: Tensor | None = None
    layer: str | None = None
    proved: Tensor | None = None
    accuracy: Tensor | None = None
    missing: int | None = None
    error: str = ""

    def __repr__(self) -> str:
        """Short, and without anything private.

        Example:
            >>> import torch
            >>> Reconstruction(Status.PARTIAL, inputs=torch.zeros(3, 4), attack="spear")
            Reconstruction(PARTIAL, 3 samples, attack='spear')
        """
        count = 0 if self.inputs is None else len(self.inputs)
        return f"Reconstruction({self.status.name}, {count} samples, attack={self.attack!r})"

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
