"""What a protocol must be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from unbatch.contracts.defense import Defense
from unbatch.contracts.plugin import Plugin
from unbatch.types import Batch, Observation

__all__ = ["Protocol"]


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
