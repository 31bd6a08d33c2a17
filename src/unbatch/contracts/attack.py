"""What an attack must be."""

from __future__ import annotations

import math
import time
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar, final

import torch

from unbatch.contracts.needs import Needs, Yield
from unbatch.contracts.plugin import Plugin
from unbatch.contracts.seal import Seal
from unbatch.contracts.settings import kept
from unbatch.errors import Inapplicable, NotDeterministic, UnbatchError
from unbatch.evidence import judge
from unbatch.gradients import check_deterministic
from unbatch.threads import enough, threads
from unbatch.types import Candidate, Observation, Progress, Reconstruction, Status, silent

__all__ = ["Attack", "Polisher"]


@dataclass(frozen=True)
class Attack(Plugin, ABC):
    """Turns an observation into a reconstruction. It sees nothing else.

    Declare what it needs, yields and costs, and implement ``reconstruct``; the final ``__call__`` has the proposal judged: an attack
    decides no status.
    """

    needs: ClassVar[Needs] = Needs()
    """What it cannot do without; checked before ``unsupported`` is asked."""
    yields: ClassVar[frozenset[Yield]] = frozenset()
    """What it can end with, if all goes well."""
    cost: ClassVar[str] = ""
    """What a run takes, in words: time, and what it grows with."""
    rank: ClassVar[int] = 100
    """Attacks of lower rank are tried first: proofs before pictures, and of these the cheap before the dear."""

    @property
    def needed(self) -> Needs:
        """What it needs with the settings that it has: ``needs``, without what a setting provides."""
        return self.needs

    def unsupported(self, observation: Observation) -> str | None:  # noqa: ARG002
        """Why this attack cannot be used on this observation, beyond its declared needs, or None if it can."""
        return None

    @abstractmethod
    def reconstruct(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate:
        """Think. All randomness comes from ``generator``.

        Raises:
            Inapplicable: the attack cannot be used on this observation, which ``unsupported`` could not see without the work.
        """

    @final
    def obstacle(self, observation: Observation) -> str | None:
        """Why this attack cannot be used on this observation, or None if it can: the model, the declared needs, then ``unsupported``.

        Args:
            observation: what the server saw.
        """
        try:
            if observation.unreadable:
                return observation.unreadable
            check_deterministic(observation.model, observation.probe, alone=self.needed.uncoupled, known=observation.behavior)
        except NotDeterministic as error:
            return str(error)
        return self.needed.unmet(observation, {field.name for field in fields(self)}) or self.unsupported(observation)

    @final
    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress = silent) -> Reconstruction:
        """Run the attack and have what it proposes judged by the evidence.

        Args:
            observation: what the server saw.
            seed: of all randomness.
            progress: told what goes on.
        """
        with threads(enough(sum(tensor.numel() for tensor in observation.update.values()))):
            return self._judged(observation, seed, progress)

    def _judged(self, observation: Observation, seed: int, progress: Progress) -> Reconstruction:
        start = time.perf_counter()
        if (reason := self.obstacle(observation)) is not None:
            return Reconstruction(Status.NOT_APPLICABLE, reason=reason, attack=self.spec)
        seal = Seal(observation)
        candidate = self._proposed(observation, torch.Generator(observation.device).manual_seed(seed), progress)
        if seal.broken:
            reason = "the attack changed what it was given, the model, the update or what was told, so nothing that it says can be checked"
            return Reconstruction(Status.BROKE_DOWN, reason=reason, attack=self.spec, error=reason)
        if isinstance(candidate, str):
            return Reconstruction(Status.NOT_APPLICABLE, reason=candidate, attack=self.spec)
        progress("replay", math.nan)
        made = judge(observation, candidate)
        return replace(made, attack=self.spec, stats={**made.stats, "seconds": time.perf_counter() - start})

    def _proposed(self, observation: Observation, generator: torch.Generator, progress: Progress) -> Candidate | str:
        """What the attack proposes, or why it cannot be used. A stranger's code may fail in any way: that is its fault, not the data's."""
        try:
            with kept():
                candidate = self.reconstruct(observation, generator, progress)
        except Inapplicable as obstacle:
            return str(obstacle)
        except UnbatchError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - nor may it end the process, with a code of its own
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
