"""One attack behind another: what the first makes of an update is the guess from which the second starts.

Attacks do not know each other; here, and nowhere else, two of them meet. Either way the evidence judges what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

from torch import Generator

from unbatch.contracts import Attack, Polisher
from unbatch.errors import Inapplicable, Misuse
from unbatch.types import Candidate, Observation, Progress

__all__ = ["Chain", "Polishing", "chained"]


@dataclass(frozen=True)
class Chain(Attack):
    """An attack, and another that polishes what it found: ``inverting_gradients:steps=300+span``.

    Where the second cannot be used, or leads to nothing, what the first found stands.

    Attributes:
        first: makes the guess.
        then: makes it exact.
    """

    first: Attack
    then: Polisher

    @property
    def spec(self) -> str:
        """Both specifications, joined by +."""
        return f"{self.first.spec}+{self.then.spec}"

    def unsupported(self, observation: Observation) -> str | None:
        """The first's obstacle."""
        return self.first.obstacle(observation)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """The first, then the second on what it found."""
        guess = self.first.reconstruct(observation, generator, progress)
        if guess.error or (guess.inputs is None and guess.features is None):
            return guess
        obstacle = self.then.obstacle(observation)
        try:
            made = self.then.polish(observation, guess, generator, progress) if obstacle is None else None
        except Inapplicable as error:
            made, obstacle = None, str(error)
        if made is None:
            told = f"{self.then.spec} could not polish it: {obstacle}"
            return replace(guess, reason=f"{guess.reason}; {told}" if guess.reason else told)
        return replace(made, stats={**guess.stats, **made.stats})


@dataclass(frozen=True, eq=False)
class Polishing(Attack):
    """The second half of a chain, on a guess that somebody hands in.

    Attributes:
        guess: approximate samples.
        by: makes them exact.
    """

    guess: Candidate
    by: Polisher

    @property
    def spec(self) -> str:
        """Says that the guess was given."""
        return f"guess+{self.by.spec}"

    def unsupported(self, observation: Observation) -> str | None:
        """The polisher's obstacle."""
        return self.by.obstacle(observation)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """See ``Polisher.polish``."""
        return self.by.polish(observation, self.guess, generator, progress)


def chained(attacks: Sequence[Attack]) -> Attack:
    """The attacks one behind another.

    Raises:
        Misuse: one that is not the first cannot start from a guess.
    """
    return reduce(_joined, attacks)


def _joined(first: Attack, then: Attack) -> Attack:
    if not isinstance(then, Polisher):
        raise Misuse("an attack after + that starts from a guess, such as span", repr(then.spec), "put it first, or leave it out")
    return Chain(first, then)
