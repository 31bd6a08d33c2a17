"""CI-Net: the weights of an untrained network that draws the batch are searched, in the place of its pixels.

Zhang et al., "Generative Gradient Inversion via Over-Parameterized Networks in Federated Learning", ICCV 2023. Published for networks with
sigmoids and batch statistics. The release keeps the iterate that comes nearest to the truth; here it is the best one by the attack's own
objective.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unbatch.contracts import Attack, Needs, Yield
from unbatch.errors import Misuse
from unbatch.inversion import priors
from unbatch.inversion.descent import Descent, Schedule, Sign, Variables
from unbatch.inversion.distances import DistanceKind
from unbatch.inversion.generator import PictureGenerator, width_for
from unbatch.inversion.label_guess import Labels, assuming
from unbatch.inversion.matching import GradientMatching, Local, Weights, check_budget, matching_obstacle
from unbatch.types import Candidate, Observation, Progress

__all__ = ["PRESETS", "CINet"]


@dataclass(frozen=True)
class CINet(Attack):
    """One minus the cosine of gradients, lowered by Adam on the sign of its gradient in the weights of a network that draws the batch.

    Attributes:
        steps: of Adam.
        restarts: networks side by side in one graph; the one with the nearest gradient is taken.
        learning_rate: before its schedule.
        schedule: of the learning rate.
        sign: what Adam is given of the gradient.
        distance: between updates.
        width: channels of the network that draws; the release's rule, which grows with the batch and its pictures, if None.
        labels: where they were not told: ``restored`` from the last layer, or ``searched`` with the weights.
        total_variation: weight of this prior.
        local: local training is unrolled, or taken for one gradient.
        batch_size: assumed where the server was not told it.
        seconds: budget, wall time; None for all steps.

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Sigmoid(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4))
        >>> secret, label = torch.linspace(0, 1, 64).view(1, 1, 8, 8), torch.tensor([2])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, label), (1, 8, 8), batch_size=1)
        >>> found = CINet(steps=200, width=8, learning_rate=3e-3)(seen)
        >>> found.labels.tolist(), bool((found.inputs - secret).square().mean() < 0.05)
        ([2], True)
    """

    needs: ClassVar[Needs] = Needs(kinds=frozenset({"image"}), batch_size=True, second_order=True)
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PICTURE, Yield.COUNTS})
    cost: ClassVar[str] = "minutes to hours: gradient matching and one pass through the network that draws a step, 5000 steps"
    rank: ClassVar[int] = 90

    steps: int = 5000
    restarts: int = 1
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    sign: Sign = "hard"
    distance: DistanceKind = "cosine"
    width: int | None = None
    labels: Labels = "restored"
    total_variation: float = 0.0
    local: Local = "unroll"
    batch_size: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        check_budget(self.restarts, self.batch_size, self.seconds)
        if self.width is not None and self.width < 1:
            raise Misuse("a width of at least one channel", f"width={self.width}", "None takes the release's rule")
        if self.total_variation < 0:
            raise Misuse("a weight of at least zero", f"total_variation={self.total_variation}", "zero leaves the prior out")
        _ = self._descent

    @property
    def _descent(self) -> Descent:
        return Descent("adam", self.steps, self.learning_rate, self.schedule, sign=self.sign)

    @property
    def needed(self) -> Needs:
        """A batch size may be assumed; a squared distance compares sizes."""
        return replace(self.needs, batch_size=self.batch_size is None, scale=self.distance == "squared")

    def unsupported(self, observation: Observation) -> str | None:
        """Inputs are no pictures, local steps cannot be unrolled, or labels cannot be had."""
        if len(observation.input_shape) != 3:
            return f"it draws pictures of shape (channels, height, width), and samples are {observation.input_shape}"
        return matching_obstacle(assuming(observation, self.batch_size), self.labels, self.local)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """See the class."""
        deadline = math.inf if self.seconds is None else time.monotonic() + self.seconds
        known = assuming(observation, self.batch_size)
        matching = GradientMatching(known, self.distance, Weights(self.total_variation), self.labels, self.local)
        width = self.width or width_for(matching.count, *observation.input_shape[1:])
        drawing = _Drawing(matching, PictureGenerator(observation.input_shape, matching.count, width, generator, matching.dtype))
        start = drawing.generator.start(self.restarts, generator)
        if matching.labels is None:
            start["logits"] = matching.start("zeros", self.restarts, generator)["logits"]
        found = self._descent.run(drawing.objective, start, deadline=deadline, progress=progress)
        if drawing.best is None or found.failed:
            return Candidate(reason=f"the descent found no numbers to go by: {found.sentence}", diverged=True)
        made = matching.candidate(replace(found, variables={**found.variables, "inputs": drawing.best[1]}))
        return replace(made, stats={**made.stats, "width": width})


class _Drawing:
    """The objective of weights, with the best pictures so far: the same weights draw others once the power iteration has moved on."""

    def __init__(self, matching: GradientMatching, generator: PictureGenerator) -> None:
        self.matching, self.generator = matching, generator
        observation, like = matching.observation, torch.zeros((), dtype=matching.dtype, device=matching.observation.device)
        known = None if observation.schema is None else priors.box(observation.schema, observation.input_shape, like)
        self.box = (like - 1, like + 1) if known is None else known
        self.best: tuple[Tensor, Tensor] | None = None

    def objective(self, variables: Variables) -> Tensor:
        """(r,) of the pictures that these weights draw, spread over the range of pictures where it is known."""
        low, high = self.box
        inputs = low + (high - low) * (self.generator(variables) + 1) / 2
        given = {"inputs": inputs} | ({"logits": variables["logits"]} if "logits" in variables else {})
        values = self.matching.objective(given)
        drawn, now = inputs.detach(), values.detach()
        if self.best is None:
            self.best = now, drawn
        else:
            better = now < self.best[0]
            self.best = torch.where(better, now, self.best[0]), torch.where(better.view(-1, 1, 1, 1, 1), drawn, self.best[1])
        return values


PRESETS: Mapping[str, CINet] = {
    "small": CINet(steps=500, learning_rate=3e-3, width=16),
    "cifar10": CINet(steps=2000),
    "imagenet": CINet(steps=30000),
}
"""Settings by name: a scale for two cores; the release's demonstrations on CIFAR-10 with 16 pictures and on ImageNet with 4."""
