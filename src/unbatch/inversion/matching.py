"""Gradient matching: look for inputs, and labels where they are not known, whose update is the observed one.

What every attack of this kind shares: the start, the objective, the choice among restarts, and the words for how it ended.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from unbatch.errors import Misuse
from unbatch.inversion import priors
from unbatch.inversion.descent import Descended, Descent, Variables
from unbatch.inversion.distances import Distance, DistanceKind
from unbatch.inversion.label_guess import Labels, batch_size, fixed_labels, label_obstacle
from unbatch.inversion.replay import DifferentiableReplay
from unbatch.types import Candidate, Observation, Progress, silent

__all__ = ["GradientMatching", "Local", "Start", "Weights", "check_budget", "matching_obstacle"]

Start = Literal["normal", "uniform", "zeros", "tiles"]
"""Where inputs start: noise of variance 1, from −1 to 1, all zero, or one 4 by 4 tile of noise a channel, repeated over the picture."""

Local = Literal["unroll", "one_gradient"]
"""What local training is taken for: unrolled step by step, or one gradient at the broadcast weights."""

CLOSE = 1.6
"""Power of the rounding at which a squared distance is nothing but rounding. Derived: 2, less a margin of a few hundred roundings, as the
gradient of a deep network has: 1e-16 to the power of 1.6 is 160,000 times its square, 400 roundings."""

TILE = 4


@dataclass(frozen=True)
class Weights:
    """What each prior counts in the objective; the distance counts 1. See ``priors`` for their forms.

    Attributes:
        total_variation: of pictures.
        norm: of the whole batch.
        batch_norm: of what batch-norm layers see against their running statistics.
        group: of a restart against the mean of all.
        label_entropy: of labels that are searched.
    """

    total_variation: float = 0.0
    norm: float = 0.0
    batch_norm: float = 0.0
    group: float = 0.0
    label_entropy: float = 0.0


def check_budget(restarts: int, batch_size: int | None, seconds: float | None) -> None:
    """Refuse settings that no attack of this kind can have.

    Raises:
        Misuse: nothing could be tried.
    """
    if restarts < 1 or (batch_size is not None and batch_size < 1) or (seconds is not None and seconds <= 0):
        came = f"restarts={restarts}, batch_size={batch_size}, seconds={seconds}"
        raise Misuse("at least one restart and one sample, and a positive budget", came, "raise them")


def matching_obstacle(observation: Observation, labels: Labels, local: Local) -> str | None:
    """Why gradients cannot be matched here, where all that ``Needs`` can say is met, or None if they can."""
    training = observation.training
    if local == "unroll" and not observation.one_gradient and training is not None and training.learning_rate is None:
        return "the learning rate of local training is not known, so its steps cannot be unrolled: tell it, or set local=one_gradient"
    return label_obstacle(observation, labels)


class GradientMatching:
    """One observation, made ready for a descent.

    Args:
        observation: what the server saw.
        kind: of the distance.
        weights: of the priors.
        labels: how to get them where they were not told.
        local: what local training is taken for.
        masked: see ``Distance``.
        box: (low, high) between which every input lies, in the network's units, broadcast to (1, 1, *shape); clamped after every step.

    Raises:
        Inapplicable: the labels cannot be restored.

    Example:
        >>> from torch import nn
        >>> from unbatch.gradients import capture
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)).double()
        >>> secret, label = torch.rand(1, 6).double(), torch.tensor([2])
        >>> seen = Observation(net, capture(net, secret, label), (6,), batch_size=1)
        >>> found = GradientMatching(seen, "squared").run(Descent("lbfgs", 300, 1.0), 4, "normal", torch.Generator())
        >>> bool((found.inputs - secret).abs().max() < 1e-3), found.labels.tolist()
        (True, [2])
    """

    def __init__(
        self,
        observation: Observation,
        kind: DistanceKind,
        weights: Weights = Weights(),
        labels: Labels = "restored",
        local: Local = "unroll",
        *,
        masked: bool = False,
        box: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.observation, self.weights, self.box = observation, weights, box
        self.dtype = torch.promote_types(observation.dtype, torch.float32)
        self.replay = DifferentiableReplay(observation, self.dtype, unroll=local == "unroll")
        self.distance = Distance(observation, kind, self.dtype, masked=masked)
        self.labels = fixed_labels(observation, labels)
        self.count = batch_size(observation) or 1

    @property
    def close(self) -> float:
        """The squared distance at which only rounding is left."""
        return self.distance.size * torch.finfo(self.observation.rounding).eps ** CLOSE

    def start(self, how: Start, restarts: int, generator: Generator) -> Variables:
        """Fresh variables: ``inputs`` (r, b, *shape), and ``logits`` (r, b, C) where labels are searched."""
        shape = (restarts, self.count, *self.observation.input_shape)

        def noise(size: tuple[int, ...]) -> Tensor:
            return torch.randn(size, generator=generator, device=generator.device, dtype=self.dtype).to(self.observation.device)

        if how == "uniform":
            drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=self.dtype).to(self.observation.device)
            inputs = 2 * drawn - 1
        elif how == "tiles" and len(shape) > 3:
            height, width = shape[-2:]
            tile = noise((*shape[:-2], TILE, TILE))
            inputs = tile.repeat(*[1] * (len(shape) - 2), -(-height // TILE), -(-width // TILE))[..., :height, :width]
        else:
            inputs = noise(shape) * (how != "zeros")
        if self.labels is not None:
            return {"inputs": inputs}
        return {"inputs": inputs, "logits": noise((restarts, self.count, self.observation.classes))}

    def targets(self, variables: Variables) -> Tensor:
        """(r, b) labels, or (r, b, C) probabilities where they are searched."""
        if self.labels is None:
            return torch.softmax(variables["logits"], dim=-1)
        return self.labels.expand(len(variables["inputs"]), self.count)

    def objective(self, variables: Variables) -> Tensor:
        """(r,) distance and priors."""
        inputs, targets, weights = variables["inputs"], self.targets(variables), self.weights
        replayed = self.replay(inputs, targets)
        total = self.distance(replayed.update)
        if weights.total_variation and self._pictures:
            total = total + weights.total_variation * priors.total_variation(inputs)
        if weights.norm:
            total = total + weights.norm * priors.norm(inputs)
        if weights.batch_norm and self.replay.running:
            total = total + weights.batch_norm * priors.batch_norm_statistics(replayed.statistics, self.replay.running)
        if weights.group and len(inputs) > 1:
            total = total + weights.group * priors.group_consistency(inputs)
        if weights.label_entropy and self.labels is None:
            total = total + weights.label_entropy * priors.entropy(targets)
        return total

    @property
    def _pictures(self) -> bool:
        schema = self.observation.schema
        return schema is not None and schema.kind == "image" and len(self.observation.input_shape) == 3

    def project(self, variables: Variables) -> Variables:
        """Into the box."""
        return variables if self.box is None else {**variables, "inputs": variables["inputs"].clamp(*self.box)}

    def run(
        self,
        descent: Descent,
        restarts: int,
        start: Start,
        generator: Generator,
        seconds: float | None = None,
        progress: Progress = silent,
    ) -> Candidate:
        """Descend from fresh starts, and propose the restart whose update is nearest.

        Args:
            descent: how.
            restarts: r.
            start: see ``Start``.
            generator: of the starts.
            seconds: budget, wall time from now on.
            progress: told the best objective now and then.
        """
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        variables = self.project(self.start(start, restarts, generator))
        return self.candidate(descent.run(self.objective, variables, self.project, deadline, progress))

    def candidate(self, found: Descended) -> Candidate:
        """What to propose, in the words of an attack that stopped."""
        stats: dict[str, Any] = {
            "steps": found.steps,
            "restarts": len(found.values),
            "diverged": int(found.diverged.sum()),
            "ended": found.ending,
        }
        stopped = found.ending == "interrupted"
        if found.failed:
            reason = f"the descent found no numbers to go by: {found.sentence}"
            return Candidate(reason=reason, diverged=True, interrupted=stopped, stats=stats)
        with torch.no_grad():
            targets = self.targets(found.variables)
            distances = self.distance(self.replay(found.variables["inputs"], targets).update).detach()
        best = int(distances.where(found.values.isfinite(), torch.inf).argmin())
        objective = float(found.values[best])
        stats |= {"objective": objective, "distance": float(distances[best])}
        labels = targets[best] if self.labels is not None else targets[best].argmax(dim=-1)
        training, order = self.observation.training, None
        if self.replay.training is not None and training is not None:
            order = torch.arange(self.count, device=labels.device).expand(training.epochs, self.count)
        stats["labels"] = "told" if self.observation.labels is not None else "restored" if self.labels is not None else "searched"
        reason = f"the descent ended because {found.sentence}, at an objective of {objective:.1e}"
        inputs, enough, diverged = found.variables["inputs"][best], found.ending == "enough", found.ending == "diverged"
        return Candidate(
            inputs,
            labels,
            order=order,
            reason="" if enough else reason,
            exhausted=not enough and not diverged,
            converged=enough,
            diverged=diverged,
            interrupted=stopped,
            stats=stats,
        )
