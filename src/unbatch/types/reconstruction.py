"""What an attack proposes, and what the evidence makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from unbatch.errors import ReconstructionFailed

__all__ = ["Candidate", "Inverted", "Reconstruction", "Status"]


@dataclass(frozen=True)
class Inverted:
    """The layer that an attack inverted.

    Attributes:
        layer: name of its weight.
        width: how many neurons it has.
    """

    layer: str
    width: int


@dataclass(frozen=True, eq=False, repr=False)
class Candidate:
    """What an attack proposes: samples, and no verdict. What becomes of it is decided by ``evidence``.

    Attributes:
        inputs: (k, *input_shape), different samples, or None.
        labels: (k,) int64, or None.
        features: (k, n) what an inner layer sees of the samples, where that was asked for.
        layer: name of that layer's weight.
        order: (E, k) the order of the samples in every local epoch, where the attack found it.
        certainty: (k, f) from 0 to 1, how sure the attack is of every cell of a table; a hint for readers, no evidence.
        reason: one sentence on why it did not go further.
        exhausted: whether it stopped because its budget was spent.
        converged: whether it stopped because no step was left that helps, by its own objective.
        diverged: whether it stopped because its numbers left the finite ones.
        inverted: the layer whose gradient was taken apart, where one was: what would have prevented it depends on that.
        interrupted: whether the user stopped it.
        error: the traceback of a breakdown, or empty.
        stats: anything worth counting, for people: no code decides by it.
    """

    inputs: Tensor | None = None
    labels: Tensor | None = None
    features: Tensor | None = None
    layer: str | None = None
    order: Tensor | None = None
    certainty: Tensor | None = None
    reason: str = ""
    exhausted: bool = False
    converged: bool = False
    diverged: bool = False
    inverted: Inverted | None = None
    interrupted: bool = False
    error: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> Tensor | None:
        """The inputs, or the features where those were asked for."""
        return self.inputs if self.features is None else self.features

    def __repr__(self) -> str:
        """How much it is, never what is in it: a proposal may be the client's data.

        Example:
            >>> import torch
            >>> Candidate(torch.zeros(3, 4), exhausted=True)
            Candidate(3 samples, exhausted)
        """
        found = self.samples
        what = f"{0 if found is None else len(found)} {'samples' if self.features is None else 'rows of features'}"
        ended = [name for name in ("exhausted", "converged", "diverged", "error") if getattr(self, name)]
        return f"Candidate({', '.join([what, *ended])})"


class Status(Enum):
    """How an attack ended, as advice."""

    RECONSTRUCTED = "the whole batch was reconstructed, and its replay gives the observed update: treat these samples as disclosed"
    PARTIAL = "some samples were reconstructed, each proved by the update itself: treat at least those as disclosed"
    APPROXIMATE = "a batch was found that explains the update up to the residual, not exactly: look at it, for it may show more than enough"
    INCONSISTENT = "a batch was found but its replay does not give the observed update: look at it, and check what was told of the client"
    BUDGET_EXHAUSTED = "the search ended before it found the batch: raise the budget before you call the update safe"
    CONVERGED = "the search came to its own end, and what it found does not give the observed update: try other starts or another prior"
    DIVERGED = "the search left all finite numbers: try other starts or smaller steps, this says nothing of the update"
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
        stats: what the attack counted: tools used, subsets drawn, seconds. For people: no code decides by it.
        attack: the attack's name and settings.
        features: (k, n) what an inner layer sees, where the attack was pointed at one.
        layer: name of that layer's weight.
        proved: (k,) bool, which of the samples (or features) were proved; None where there are none.
        accuracy: (k,) upper estimate of the relative error of each, ‖error‖ / ‖sample‖; infinite where nothing bounds it.
        missing: how many more samples the batch held, where that is known; None where it is not.
        explained: whether the proved samples explain the whole update, so that nothing is left in it for other attacks to find.
        approximate: (j, *input_shape) what was proposed beside the proved samples and is not proved, where all of it together comes as near
            to the update as an ``APPROXIMATE`` batch: to be looked at, no more.
        certainty: (k, f) from 0 to 1, how sure the attack is of every cell of a table, where it says so; no evidence.
        interrupted: whether the user stopped the attack.
        error: the traceback of a breakdown, or empty.
        inverted: the layer whose gradient was taken apart, where one was.
        tried: names of all attacks that were run until this came out; empty where that is ``attack`` alone.
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
    explained: bool = False
    approximate: Tensor | None = None
    certainty: Tensor | None = None
    interrupted: bool = False
    error: str = ""
    inverted: Inverted | None = None
    tried: tuple[str, ...] = ()

    @property
    def shown(self) -> Tensor | None:
        """(k + j, *input_shape) all that there is to look at: ``inputs``, and after them what is ``approximate``."""
        if self.inputs is None or self.approximate is None:
            return self.inputs
        return torch.cat([self.inputs, self.approximate])

    def __repr__(self) -> str:
        """Short, and without anything private.

        Example:
            >>> import torch
            >>> Reconstruction(Status.PARTIAL, inputs=torch.zeros(3, 4), attack="spear")
            Reconstruction(PARTIAL, 3 samples, attack='spear')
        """
        count = 0 if self.inputs is None else len(self.inputs)
        return f"Reconstruction({self.status.name}, {count} samples, attack={self.attack!r})"

    def summary(self) -> str:
        """In one line: status, how much was found, how much of it is proved, and how near it is. No number of any sample.

        Example:
            >>> import torch
            >>> Reconstruction(Status.PARTIAL, torch.zeros(3, 4), proved=torch.ones(3).bool(), missing=2, attack="spear").summary()
            'PARTIAL by spear: 3 samples, 3 of them proved, 2 more were not found'
        """
        name = f"{self.status.name} by {self.attack}" if self.attack else self.status.name
        found = self.inputs if self.features is None else self.features
        parts = [] if found is None else [f"{len(found)} {'samples' if self.features is None else f'rows of what {self.layer} sees'}"]
        if found is not None and self.proved is not None:
            parts.append(f"{int(self.proved.sum())} of them proved")
        if self.approximate is not None:
            parts.append(f"{len(self.approximate)} beside them that are not")
        elif self.missing:
            parts.append(f"{self.missing} more were not found")
        if self.residual is not None:
            parts.append(f"residual {self.residual:.1e}")
        return f"{name}: {', '.join(parts or [self.reason or 'nothing was found'])}"

    def to_dict(self) -> dict[str, Any]:
        """All of it but samples, features and labels, in what JSON has; ``stats`` by their text where JSON has no such thing.

        Example:
            >>> Reconstruction(Status.NOT_APPLICABLE, reason="no ReLU").to_dict()["reason"]
            'no ReLU'
        """
        plain = (bool, int, float, str, type(None))
        accuracy = None if self.accuracy is None else [value if math.isfinite(value) else None for value in self.accuracy.tolist()]
        return {
            "status": self.status.name,
            "reason": self.reason,
            "residual": self.residual,
            "attack": self.attack,
            "reconstructed": 0 if self.inputs is None else len(self.inputs),
            "features": 0 if self.features is None else len(self.features),
            "layer": self.layer,
            "proved": None if self.proved is None else self.proved.tolist(),
            "accuracy": accuracy,
            "missing": self.missing,
            "explained": self.explained,
            "approximate": 0 if self.approximate is None else len(self.approximate),
            "inverted": None if self.inverted is None else asdict(self.inverted),
            "error": self.error,
            "stats": {str(name): value if isinstance(value, plain) else str(value) for name, value in self.stats.items()},
        }

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
