"""What a plug-in must be: an abstract class a kind, each with as little to implement as possible.

A plug-in is a frozen dataclass: its fields are its settings, and their defaults stand there and nowhere else. Final methods of the
base classes trust nothing that a plug-in returns.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from unbatch import specs
from unbatch.errors import Inapplicable, Misuse, NotDeterministic
from unbatch.gradients import check_deterministic
from unbatch.linalg.simplex import whole
from unbatch.proofs import prove
from unbatch.types import Batch, Candidate, Counts, Observation, Progress, Reconstruction, Schema, Status, silent

__all__ = [
    "Attack",
    "Dataset",
    "Defense",
    "Estimate",
    "LabelRestorer",
    "Metric",
    "Model",
    "Plugin",
    "Protocol",
    "Stage",
]

EXPLAINED = 0.3
"""A batch whose replay is at most this far from the update explains nine tenths of its energy: approximate, not wrong."""

CONTRADICTED = 3.0
"""A certificate of the samples' own is believed without an exact replay: in another order the right samples give an update that points
elsewhere, but none that is many times as large."""


@dataclass(frozen=True)
class Plugin:
    """What all kinds share: a printable specification, ``name:field=value,...``, of the settings that are not defaults."""

    @property
    def spec(self) -> str:
        """The text that builds this plug-in again.

        Example:
            >>> from unbatch.plugins import build
            >>> build("models", "mlp:width=50").spec
            'mlp:width=50'
        """
        name = type(self).__module__.rpartition(".")[2]
        return specs.write(name, {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default})


@dataclass(frozen=True)
class Attack(Plugin, ABC):
    """Turns an observation into a reconstruction. It sees nothing else.

    Implement ``unsupported`` and ``reconstruct``; the final ``__call__`` checks everything and decides the status.
    """

    tolerance: ClassVar[Mapping[torch.dtype, float]] = {
        torch.float64: 1e-9,
        torch.float32: 2e-5,
        torch.float16: 2e-3,
        torch.bfloat16: 2e-2,
    }
    """Largest residual of a replay that is rounding, by the update's dtype. A single tensor may have 100 times that: a bias gradient is a
    small difference of large numbers."""

    takes_batch_statistics: ClassVar[bool] = False
    """Whether it can be used on a model that normalizes with the statistics of the batch, where no sample has a gradient of its own."""

    @abstractmethod
    def unsupported(self, observation: Observation) -> str | None:
        """Why this attack cannot be used on this observation, or None if it can."""

    @abstractmethod
    def reconstruct(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate:
        """Think. All randomness comes from ``generator``.

        Raises:
            Inapplicable: the attack cannot be used on this observation, which ``unsupported`` could not see without the work.
        """

    @final
    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress = silent) -> Reconstruction:
        """Run the attack and judge what it found by replaying it.

        Args:
            observation: what the server saw.
            seed: of all randomness.
            progress: told what goes on.
        """
        start = time.perf_counter()
        if (reason := self._cannot(observation)) is not None:
            return Reconstruction(Status.NOT_APPLICABLE, reason=reason, attack=self.spec)
        generator = torch.Generator(observation.device).manual_seed(seed)
        try:
            candidate = self.reconstruct(observation, generator, progress)
        except Inapplicable as obstacle:
            return Reconstruction(Status.NOT_APPLICABLE, reason=str(obstacle), attack=self.spec)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            candidate = Candidate(
                reason=f"the numbers are none that the attack can solve for ({error}): the update or the weights are damaged"
            )
        if candidate.inputs is not None:
            precision = torch.promote_types(observation.dtype, torch.float32)
            candidate = replace(candidate, inputs=candidate.inputs.to(precision))
        progress("replay", math.nan)
        status, residual, reason = self._judge(observation, candidate)
        stats = {**candidate.stats, "seconds": time.perf_counter() - start}
        return Reconstruction(status, candidate.inputs, candidate.labels, residual, reason, stats, self.spec, candidate.features)

    def _cannot(self, observation: Observation) -> str | None:
        try:
            check_deterministic(observation.model, alone=not self.takes_batch_statistics)
        except NotDeterministic as error:
            return str(error)
        return self.unsupported(observation)

    def _judge(self, observation: Observation, candidate: Candidate) -> tuple[Status, float | None, str]:
        inputs, labels = candidate.inputs, candidate.labels
        unfinished = Status.BUDGET_EXHAUSTED if candidate.exhausted else Status.INCONSISTENT
        if candidate.features is not None and not candidate.reason:
            return Status.FEATURES, None, ""
        if inputs is None:
            return unfinished, None, candidate.reason
        if tuple(inputs.shape[1:]) != observation.input_shape or not bool(inputs.isfinite().all()):
            raise AssertionError(f"{self.spec} returned inputs of shape {tuple(inputs.shape)} or not finite")
        if candidate.certified and (candidate.exhausted or labels is None):
            return Status.PARTIAL, None, candidate.reason
        if labels is None:
            return (unfinished if candidate.exhausted else Status.UNPROVEN), None, candidate.reason
        limit = max(self.tolerance[observation.rounding], min(observation.resolution, self.tolerance[torch.bfloat16]))
        proof = prove(observation, inputs, labels, limit, candidate.weights, candidate.order)
        if proof.holds:
            status = Status.PARTIAL if proof.untraced else Status.RECONSTRUCTED
            return status, proof.residual, proof.remark if proof.untraced else candidate.reason or proof.remark
        distance = f"replaying the candidate leaves a relative distance of {proof.residual:.1e}, above {limit:.0e}"
        reason = candidate.reason or distance + (f": {proof.remark}" if proof.remark else "")
        if candidate.certified and proof.residual <= CONTRADICTED:
            return Status.PARTIAL, proof.residual, reason
        return (Status.APPROXIMATE if proof.residual <= EXPLAINED else unfinished), proof.residual, reason


@dataclass(frozen=True, eq=False)
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


NEEDS_BATCH_SIZE = "the update does not tell how many samples it was made of, only the shares of the classes: give the batch size"
"""Why a restorer without a batch size has no counts."""

OFF = 0.5
"""How far from the estimate, in samples, a count may be that is called determined."""


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
        try:
            check_deterministic(observation.model)
            if (reason := self.unsupported(observation)) is not None:
                return Counts(reason=reason, restorer=self.spec)
            made = self.estimate(observation, torch.Generator(observation.device).manual_seed(seed))
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


class Stage(Enum):
    """What a defense is given."""

    EXAMPLE = "the gradient of every sample, in every step"
    CLIENT = "a client's update, before it is sent"
    SERVER = "the aggregate of the round"


@dataclass(frozen=True)
class Defense(Plugin, ABC):
    """A pure transform of gradients. With its neutral setting it is the identity."""

    stage: ClassVar[Stage]
    rescales: ClassVar[bool] = False
    """Whether what is left is the gradient times a factor that the server does not know."""

    @abstractmethod
    def __call__(self, gradients: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """New tensors, the given ones untouched.

        Args:
            gradients: parameter name -> (*shape), or (b, *shape) at the stage ``EXAMPLE``.
            generator: of all randomness.
        """


@dataclass(frozen=True)
class Protocol(Plugin, ABC):
    """Turns a client's secret batch into what the server observes."""

    @abstractmethod
    def observe(
        self, model: nn.Module, batch: Batch, loss: str = "cross_entropy", defenses: Sequence[Defense] = (), seed: int = 0
    ) -> Observation:
        """The server's view of one round.

        Args:
            model: as broadcast, in the mode in which clients run it; not changed.
            batch: the secret; it is cast to the model's dtype.
            loss: of the clients.
            defenses: in this order within each stage.
            seed: of shuffling and of the defenses.

        Raises:
            NotDeterministic: the model draws at random, or couples samples.
        """


@dataclass(frozen=True)
class Model(Plugin, ABC):
    """Builds a victim network."""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """A fresh network, float32, initialized from ``seed`` without touching the global random state."""


@dataclass(frozen=True)
class Dataset(Plugin, ABC):
    """A pool of labelled samples from which clients draw their batches."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """How to read an input."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def take(self, indices: Tensor) -> Batch:
        """The samples of these indices, (b,) int64, as the network sees them, float64."""

    @final
    def batch(self, size: int, seed: int = 0) -> Batch:
        """``size`` samples drawn without replacement.

        Raises:
            Misuse: the size is not between 1 and the number of samples.
        """
        if not 1 <= size <= len(self):
            raise Misuse(f"a batch size from 1 to {len(self)}", str(size), f"{self.spec} has {len(self)} samples")
        return self.take(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:size])


@dataclass(frozen=True)
class Metric(Plugin, ABC):
    """Compares samples pair by pair."""

    higher_is_better: ClassVar[bool]
    unit: ClassVar[str] = ""

    @abstractmethod
    def undefined(self, shape: tuple[int, ...]) -> str | None:
        """Why the metric has no value for samples of this shape, or None if it has."""

    @abstractmethod
    def __call__(self, truth: Tensor, guess: Tensor, data_range: float) -> Tensor:
        """(n, *shape) twice, raw units that span ``data_range`` -> (n,) float64; NaN where undefined."""
