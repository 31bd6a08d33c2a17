"""What a plug-in must be: an abstract class a kind, each with as little to implement as possible.

A plug-in is a frozen dataclass: its fields are its settings, and their defaults stand there and nowhere else. Final methods of the
base classes trust nothing that a plug-in returns.
"""

from __future__ import annotations

import math
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import wraps
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from unbatch import seeds, specs
from unbatch.errors import Inapplicable, Misuse, NotDeterministic, UnbatchError
from unbatch.evidence import judge
from unbatch.gradients import check_deterministic
from unbatch.linalg.simplex import whole
from unbatch.schema import Kind
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
    "Polisher",
    "Protocol",
    "Stage",
]


@dataclass(frozen=True)
class Plugin:
    """What all kinds share: a printable specification, ``name:field=value,...``, of the settings that are not defaults.

    A setting that is a number must be finite, unless its field says ``field(..., metadata={"infinite": True})``; it is never NaN. That is
    checked before the ``__post_init__`` of the plug-in's own.
    """

    def __init_subclass__(cls) -> None:
        """Let every plug-in refuse numbers that are not finite, whether or not it checks more."""
        own = vars(cls).get("__post_init__")
        if own is not None:

            @wraps(own)
            def checked(self: Plugin) -> None:
                specs.check_finite(self)
                own(self)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Refuse settings that no plug-in can have.

        Raises:
            Misuse: a number is not finite.
        """
        specs.check_finite(self)

    @property
    def spec(self) -> str:
        """The text that builds this plug-in again.

        Example:
            >>> from unbatch.plugins import build
            >>> build("models", "mlp:width=50").spec
            'mlp:width=50'
        """
        return specs.write(specs.name_of(type(self)), self._settings())

    @property
    def hidden(self) -> frozenset[str]:
        """Settings that the server is not told."""
        return frozenset()

    @property
    def told(self) -> str:
        """What the server is told of it: the specification without the settings that are hidden."""
        shown = {name: value for name, value in self._settings().items() if name not in self.hidden}
        return specs.write(specs.name_of(type(self)), shown)

    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


def _fingerprint(observation: Observation) -> tuple[int, ...]:
    """Sums over the bits of everything that the evidence will read: an attack that writes to it is seen."""
    state = (*observation.update.values(), *observation.model.parameters(), *observation.model.buffers())
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tuple(
        int(tensor.detach().contiguous().view(kinds[tensor.element_size()]).sum(dtype=torch.int64)) for tensor in state if tensor.numel()
    )


@dataclass(frozen=True)
class Attack(Plugin, ABC):
    """Turns an observation into a reconstruction. It sees nothing else.

    Implement ``unsupported`` and ``reconstruct``; the final ``__call__`` has the proposal judged: an attack decides no status.
    """

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
        """Run the attack and have what it proposes judged by the evidence.

        Args:
            observation: what the server saw.
            seed: of all randomness.
            progress: told what goes on.
        """
        start = time.perf_counter()
        if (reason := self._cannot(observation)) is not None:
            return Reconstruction(Status.NOT_APPLICABLE, reason=reason, attack=self.spec)
        before = _fingerprint(observation)
        candidate = self._proposed(observation, torch.Generator(observation.device).manual_seed(seed), progress)
        if _fingerprint(observation) != before:
            reason = "the attack changed the model or the update that it was given, so nothing that it says can be checked"
            return Reconstruction(Status.BROKE_DOWN, reason=reason, attack=self.spec, error=reason)
        if isinstance(candidate, str):
            return Reconstruction(Status.NOT_APPLICABLE, reason=candidate, attack=self.spec)
        progress("replay", math.nan)
        made = judge(observation, candidate)
        return replace(made, attack=self.spec, stats={**made.stats, "seconds": time.perf_counter() - start})

    def _cannot(self, observation: Observation) -> str | None:
        try:
            check_deterministic(observation.model, observation.probe, alone=not self.takes_batch_statistics)
        except NotDeterministic as error:
            return str(error)
        return self.unsupported(observation)

    def _proposed(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate | str:
        """What the attack proposes, or why it cannot be used. A stranger's code may fail in any way: that is its fault, not the data's."""
        try:
            candidate = self.reconstruct(observation, generator, progress)
        except Inapplicable as obstacle:
            return str(obstacle)
        except UnbatchError:
            raise
        except Exception as error:  # noqa: BLE001
            return Candidate(reason=f"the attack failed with {type(error).__name__}: {error}", error=traceback.format_exc())
        if not isinstance(candidate, Candidate):
            return Candidate(reason=f"the attack returned {type(candidate).__name__} instead of a candidate", error="no candidate")
        return candidate


@dataclass(frozen=True)
class Polisher(Attack, ABC):
    """An attack that can also start from somebody else's approximate samples: ``ATTACK+THIS``, and ``unbatch.polish``."""

    @abstractmethod
    def polish(self, observation: Observation, guess: Candidate, generator: torch.Generator, progress: Progress) -> Candidate:
        """Make a guess exact where it is near enough. All randomness comes from ``generator``.

        Args:
            observation: what the server saw.
            guess: approximate inputs, or features of a layer.
            generator: of all randomness.
            progress: told what goes on.

        Returns:
            what is to be judged: the guess itself, with a reason, where it led to nothing.

        Raises:
            Inapplicable: it cannot be used on this observation.
        """


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
            check_deterministic(observation.model, observation.probe)
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
            seed: of shuffling and of the defenses, which draw apart from each other, and from an attack that is given the same seed.

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
        return self.take(torch.randperm(len(self), generator=torch.Generator().manual_seed(seeds.checked(seed)))[:size])


@dataclass(frozen=True)
class Metric(Plugin, ABC):
    """Compares samples pair by pair, as people read them: see ``Schema.decode``."""

    higher_is_better: ClassVar[bool]
    kinds: ClassVar[frozenset[Kind]]
    """The kinds of samples that it is meant for. On others it is neither computed nor mentioned."""
    title: ClassVar[str] = ""
    """How a report calls it; its name if empty."""
    unit: ClassVar[str] = ""
    rank: ClassVar[int] = 100
    """A report shows metrics of lower rank first."""

    @abstractmethod
    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """Why the metric has no value for samples of this shape, or None if it has."""

    @abstractmethod
    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """Compare.

        Args:
            truth: (n, *shape) in raw units that span ``data_range``; (n, f) cells of a table; (n, length) tokens.
            guess: the same.
            data_range: what raw values span; for cells and tokens it means nothing.
            schema: how to read them; needed for cells.

        Returns:
            (n,) float64; NaN where undefined.

        Raises:
            Misuse: truth and guess cannot be compared.
        """
