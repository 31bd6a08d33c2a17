"""Inverting Gradients: match the direction of the gradient by signed steps, under a prior for pictures.

Geiping, Bauermeister, Dröge, Moeller, "Inverting Gradients - How easy is it to break privacy in federated learning?", NeurIPS 2020. The
paper returns the last iterate; here it is the best one by the attack's own objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unbatch.contracts import Attack, Needs, Yield
from unbatch.errors import Misuse
from unbatch.inversion import priors
from unbatch.inversion.descent import Descent, Schedule, Sign
from unbatch.inversion.distances import DistanceKind
from unbatch.inversion.label_guess import Labels, assuming
from unbatch.inversion.matching import GradientMatching, Local, Start, Weights, check_budget, matching_obstacle
from unbatch.types import Candidate, Observation, Progress

__all__ = ["PRESETS", "InvertingGradients"]


@dataclass(frozen=True)
class InvertingGradients(Attack):
    """One minus the cosine of gradients plus total variation, lowered by Adam on the gradient's sign inside the box of pictures.

    Attributes:
        steps: of Adam.
        restarts: random starts, side by side in one graph; the one with the nearest gradient is taken, without its priors.
        labels: where they were not told: ``restored`` from the last layer, or ``searched`` with the inputs.
        learning_rate: before its schedule.
        schedule: of the learning rate.
        sign: what Adam is given of the gradient.
        distance: between updates.
        masked: compare only where the update is not zero, for one that was pruned.
        total_variation: weight of this prior; of pictures only.
        norm: weight of the batch's length (iLRG's experiments: 1e-6).
        batch_norm: weight of the batch-norm statistics (GradInversion: 0.1).
        group: weight of the agreement of restarts (GradInversion: 0.01).
        label_entropy: weight of the entropy of searched labels.
        box: whether inputs are kept in the range of pictures, where the normalization is known.
        low: smallest input in the network's units; by itself or with ``high`` it replaces the range of pictures.
        high: largest input.
        start: where inputs start.
        local: local training is unrolled, which suits small numbers of steps, or taken for one gradient.
        batch_size: assumed where the server was not told it.
        seconds: budget, wall time; None for all steps.

    Example:
        >>> import torch, unbatch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4))
        >>> secret, label = torch.rand(1, 1, 8, 8), torch.tensor([2])
        >>> seen = unbatch.Observation(net, unbatch.capture(net, secret, label), (1, 8, 8), batch_size=1)
        >>> found = InvertingGradients(steps=300, low=0.0, high=1.0, total_variation=0.0)(seen)
        >>> found.labels.tolist(), bool((found.inputs - secret).square().mean() < 0.02)
        ([2], True)
    """

    needs: ClassVar[Needs] = Needs(batch_size=True, second_order=True)
    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PICTURE, Yield.COUNTS})
    cost: ClassVar[str] = "minutes to hours: two backward passes a step and restart, 4800 steps"
    rank: ClassVar[int] = 80

    steps: int = 4800
    restarts: int = 1
    labels: Labels = "restored"
    learning_rate: float = 0.1
    schedule: Schedule = "thirds"
    sign: Sign = "hard"
    distance: DistanceKind = "cosine"
    masked: bool = False
    total_variation: float = 1e-2
    norm: float = 0.0
    batch_norm: float = 0.0
    group: float = 0.0
    label_entropy: float = 0.0
    box: bool = True
    low: float | None = None
    high: float | None = None
    start: Start = "normal"
    local: Local = "unroll"
    batch_size: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        check_budget(self.restarts, self.batch_size, self.seconds)
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise Misuse("low below high", f"low={self.low}, high={self.high}", "give the range of inputs in the network's units")
        if min(self.total_variation, self.norm, self.batch_norm, self.group, self.label_entropy) < 0:
            raise Misuse("weights of at least zero", "a negative one", "zero leaves a prior out")
        _ = self._descent

    @property
    def _descent(self) -> Descent:
        return Descent("adam", self.steps, self.learning_rate, self.schedule, sign=self.sign)

    @property
    def needed(self) -> Needs:
        """A batch size may be assumed; a squared distance compares sizes."""
        return replace(self.needs, batch_size=self.batch_size is None, scale=self.distance == "squared")

    def unsupported(self, observation: Observation) -> str | None:
        """Local steps cannot be unrolled, or labels cannot be had. ReLU is no obstacle."""
        return matching_obstacle(assuming(observation, self.batch_size), self.labels, self.local)

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        """See the class."""
        weights = Weights(self.total_variation, self.norm, self.batch_norm, self.group, self.label_entropy)
        box = self._box(observation)
        matching = GradientMatching(
            assuming(observation, self.batch_size), self.distance, weights, self.labels, self.local, masked=self.masked, box=box
        )
        return matching.run(self._descent, self.restarts, self.start, generator, self.seconds, progress)

    def _box(self, observation: Observation) -> tuple[Tensor, Tensor] | None:
        """Where inputs may lie, or None for anywhere."""
        like = torch.zeros((), dtype=torch.promote_types(observation.dtype, torch.float32), device=observation.device)
        if self.low is not None or self.high is not None:
            return like - torch.inf if self.low is None else like + self.low, like + torch.inf if self.high is None else like + self.high
        return priors.box(observation.schema, observation.input_shape, like) if self.box and observation.schema else None


PRESETS: Mapping[str, InvertingGradients] = {
    "small": InvertingGradients(steps=600, restarts=2),
    "convnet": InvertingGradients(steps=4000, total_variation=1e-6),
    "many": InvertingGradients(steps=24000, restarts=4),
    "imagenet": InvertingGradients(steps=24000, restarts=8, total_variation=1e-1),
    "ilrg_mnist": InvertingGradients(steps=8000, restarts=3, total_variation=1e-4, norm=1e-6),
    "ilrg_cifar100": InvertingGradients(steps=24000, total_variation=8e-3, norm=1e-6),
}
"""Settings by name: a scale for two cores; one picture through ConvNet, 100 pictures, ImageNet as in the paper; iLRG's experiments."""
