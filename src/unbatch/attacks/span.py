"""Exact inversion of whole batches through any activation, from the gradient of a Linear layer.

New here; no published method does it. That a sample's own ∂ℓ/∂z lies in the column space of the gradient is what SPEAR (Dimitrov et al.,
NeurIPS 2024) uses through the zeros of ReLU; here it is solved for directly, which needs no zeros. Guesses come from independent component
analysis of the row space, as in the Cocktail Party Attack (Kariyappa et al., ICML 2023). The engine is ``unbatch.span``; its pages in the
documentation have the derivation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator

from unbatch.contracts import Needs, Polisher, Yield
from unbatch.errors import Misuse
from unbatch.span.inversion import invert, polish
from unbatch.span.local_steps import obstacle
from unbatch.span.problem import find_layer
from unbatch.types import Candidate, Observation, Progress

__all__ = ["Span"]


@dataclass(frozen=True)
class Span(Polisher):
    """Exact inversion of a batch from one Linear layer, whatever activation follows it.

    Attributes:
        layer: name of the layer's weight; the first one that sees the raw input if None. Of a deeper layer the features that it was fed
            are recovered.
        seconds: budget, wall time.
        search: whether what a given guess does not lead to is searched for without it; without a guess there is always a search.

    Example:
        >>> import torch, unbatch
        >>> net = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.GELU(), torch.nn.Linear(40, 5)).double()
        >>> secret, labels = torch.rand(6, 30, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, labels), (30,))
        >>> found = Span()(seen).or_raise()
        >>> bool((torch.cdist(secret, found.inputs).amin(dim=1) < 1e-9).all()), sorted(found.labels.tolist())
        (True, [0, 0, 1, 2, 3, 4])
    """

    needs: ClassVar[Needs] = Needs(entrance="Linear", uncoupled=True)
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PROOF, Yield.FEATURES, Yield.COUNTS})
    cost: ClassVar[str] = "seconds up to its budget of 60; most of it where the update gives few equations for each sample"
    rank: ClassVar[int] = 30

    layer: str | None = None
    seconds: float = 60.0
    search: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if self.seconds <= 0:
            raise Misuse("a positive budget", f"seconds={self.seconds}", "raise it")

    @property
    def needed(self) -> Needs:
        """A layer that is named need not be fed the raw input."""
        return self.needs if self.layer is None else replace(self.needs, entrance="")

    def unsupported(self, observation: Observation) -> str | None:
        """No Linear layer sees the raw input once a sample."""
        found = find_layer(observation, self.layer)
        return found if isinstance(found, str) else obstacle(observation)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """See ``span.inversion.invert``."""
        return invert(observation, generator, self.layer, self.seconds, progress)

    def polish(self, observation: Observation, guess: Candidate, generator: Generator, progress: Progress) -> Candidate:
        """See ``span.inversion.polish``."""
        return polish(observation, guess, generator, self.layer, self.seconds, progress, search=self.search)
