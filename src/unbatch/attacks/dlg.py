"""Deep Leakage from Gradients: search inputs and labels whose gradient is the observed one.

Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019; with the label fixed first, Zhao, Mopuri, Bilen, "iDLG: Improved Deep Leakage
from Gradients", 2020. Restarts, the best iterate and the end where only rounding is left go beyond the papers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Generator

from unbatch.contracts import Attack, Needs, Yield
from unbatch.inversion.descent import Descent
from unbatch.inversion.kinks import kinks
from unbatch.inversion.label_guess import Labels, assuming
from unbatch.inversion.matching import GradientMatching, Local, Start, check_budget, matching_obstacle
from unbatch.types import Candidate, Observation, Progress

__all__ = ["PRESETS", "Dlg"]


@dataclass(frozen=True)
class Dlg(Attack):
    """The squared distance of gradients, lowered by L-BFGS over inputs and soft labels at once.

    Attributes:
        steps: of L-BFGS; the released demonstration takes 300 times 20.
        restarts: random starts, side by side in one graph.
        labels: where they were not told: ``searched`` with the inputs, or ``restored`` first, which is iDLG.
        optimizer: ``adam`` where the model has kinks.
        learning_rate: of the optimizer.
        start: where inputs start.
        masked: compare only where the update is not zero, for one that was pruned.
        local: local training is unrolled, or taken for one gradient.
        batch_size: assumed where the server was not told it.
        seconds: budget, wall time; None for all steps.

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(12, 10), torch.nn.Sigmoid(), torch.nn.Linear(10, 4)).double()
        >>> secret, label = torch.rand(1, 12, dtype=torch.float64), torch.tensor([3])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, label), (12,), batch_size=1)
        >>> found = Dlg(steps=500, restarts=4)(seen).or_raise()
        >>> bool((found.inputs - secret).abs().max() < 1e-6), found.labels.tolist()
        (True, [3])
    """

    needs: ClassVar[Needs] = Needs(batch_size=True, scale=True, second_order=True)
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PROOF, Yield.PICTURE, Yield.COUNTS})
    cost: ClassVar[str] = "minutes: two backward passes a step and restart, 6000 steps"
    rank: ClassVar[int] = 70

    steps: int = 6000
    restarts: int = 1
    labels: Labels = "searched"
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    learning_rate: float = 1.0
    start: Start = "normal"
    masked: bool = False
    local: Local = "unroll"
    batch_size: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        check_budget(self.restarts, self.batch_size, self.seconds)
        _ = self._descent(0.0)

    def _descent(self, enough: float) -> Descent:
        return Descent(self.optimizer, self.steps, self.learning_rate, enough=enough)

    @property
    def needed(self) -> Needs:
        """A batch size may be assumed."""
        return replace(self.needs, batch_size=self.batch_size is None)

    def unsupported(self, observation: Observation) -> str | None:
        """The model has kinks, local steps cannot be unrolled, or labels cannot be had."""
        if self.optimizer == "lbfgs" and (found := kinks(observation)):
            return (
                f"the model has kinks ({', '.join(found)}), and L-BFGS needs a smooth second derivative: use inverting_gradients, or "
                "dlg:optimizer=adam,learning_rate=0.1"
            )
        return matching_obstacle(assuming(observation, self.batch_size), self.labels, self.local)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """See the class."""
        matching = GradientMatching(
            assuming(observation, self.batch_size), "squared", labels=self.labels, local=self.local, masked=self.masked
        )
        enough = -math.inf if self.masked else matching.close
        return matching.run(self._descent(enough), self.restarts, self.start, generator, self.seconds, progress)


PRESETS: Mapping[str, Dlg] = {
    "idlg": Dlg(labels="restored"),
    "small": Dlg(steps=1000, restarts=8, labels="restored"),
}
"""Settings by name: iDLG as published; and a scale for two cores, with restarts because single runs often stall or diverge."""
