"""A descent of many restarts side by side that keeps the best iterate of each, by its own objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.errors import Misuse
from unbatch.inversion.optimizers import LBFGS, Adam, Optimizer
from unbatch.types import Progress, silent

__all__ = ["Descended", "Descent", "Ending", "Schedule", "Sign"]

Ending = Literal["steps", "enough", "time", "interrupted", "diverged"]
Schedule = Literal["constant", "thirds", "cosine"]
Sign = Literal["none", "hard", "soft"]
Variables = dict[str, Tensor]
"""What is optimized, (r, ...) each."""
Objective = Callable[[Variables], Tensor]
"""Variables -> (r,) one number a restart, to be lowered. Rows must not depend on each other's variables in its graph."""

EVERY = 10
"""Steps between two looks at whether it is enough or all have diverged: by count, so that the clock never decides the result."""

FORGETTING = 0.9
"""What a step's length counts at the next: the first is slow, and what else runs on the machine comes and goes. Chosen."""

TOLD = 0.25
"""Seconds between two reports of progress; each waits for the device. Chosen."""


@dataclass(frozen=True, eq=False)
class Descended:
    """Where a descent ended.

    Attributes:
        variables: the best iterate of every restart, (r, ...) each.
        values: (r,) its objective; infinite where there was never one.
        diverged: (r,) bool, restarts that ended in numbers that are none; what they had before is kept.
        steps: how many were taken.
        planned: how many would have been.
        seconds: wall time.
        ending: why it stopped.
    """

    variables: Variables
    values: Float[Tensor, " r"]
    diverged: Bool[Tensor, " r"]
    steps: int
    planned: int
    seconds: float
    ending: Ending

    @property
    def failed(self) -> bool:
        """Whether there is no iterate with an objective at all."""
        return not bool(self.values.isfinite().any())

    @property
    def sentence(self) -> str:
        """For people: why it stopped."""
        reasons = {
            "steps": f"its {self.planned:,} steps were taken",
            "enough": f"the objective was reached after {self.steps:,} steps",
            "time": f"its time was up after {self.steps:,} of {self.planned:,} steps",
            "interrupted": f"it was interrupted after {self.steps:,} of {self.planned:,} steps",
            "diverged": f"every restart diverged, the last after {self.steps:,} steps",
        }
        lost = int(self.diverged.sum())
        some = f"; {lost} of {len(self.diverged)} restarts diverged" if lost and self.ending != "diverged" else ""
        return reasons[self.ending] + some


@dataclass(frozen=True)
class Descent:
    """How to go down.

    Attributes:
        optimizer: ``adam``, or ``lbfgs`` for objectives that are twice smooth.
        steps: how many, at most.
        learning_rate: of the optimizer, before the schedule.
        schedule: ``thirds`` divides the rate by ten after 3/8, 5/8 and 7/8 of the steps; ``cosine`` lowers it to zero.
        warm_up: steps in which the rate grows from zero.
        sign: ``hard`` gives the optimizer the gradient's sign; ``soft`` tanh(s g) / s, where s falls from 1 to 0.
        enough: stops where an objective is at most this.

    Example:
        >>> start = {"x": torch.tensor([[4.0], [-3.0]])}
        >>> found = Descent(steps=500).run(lambda v: (v["x"] - 1).square().sum(dim=1), start)
        >>> bool((found.variables["x"] - 1).abs().max() < 1e-3), found.ending
        (True, 'steps')
    """

    optimizer: Literal["adam", "lbfgs"] = "adam"
    steps: int = 1000
    learning_rate: float = 0.1
    schedule: Schedule = "constant"
    warm_up: int = 0
    sign: Sign = "none"
    enough: float = -math.inf

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if self.steps < 1 or self.warm_up < 0 or not self.learning_rate > 0:
            came = f"steps={self.steps}, learning_rate={self.learning_rate}"
            raise Misuse("at least one step and a learning rate above zero", came, "raise them")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from zero.

        Example:
            >>> [Descent(steps=8, learning_rate=1.0, schedule="thirds").rate(step) for step in (0, 3, 5, 7)]
            [1.0, 0.1, 0.01, 0.001]
        """
        grown = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        if self.schedule == "thirds":
            # Geiping et al. write 8/3, 8/5 and 8/7 with three digits.
            passed = sum(step >= int(self.steps / part) for part in (2.667, 1.6, 1.142))
            return self.learning_rate * grown / 10**passed
        if self.schedule == "cosine":
            left = max(0, step - self.warm_up) / max(1, self.steps - self.warm_up)
            return self.learning_rate * grown * (1 + math.cos(math.pi * left)) / 2
        return self.learning_rate * grown

    def run(
        self,
        objective: Objective,
        start: Mapping[str, Tensor],
        project: Callable[[Variables], Variables] | None = None,
        deadline: float = math.inf,
        progress: Progress = silent,
    ) -> Descended:
        """Descend from all starting points at once. An interrupt (Ctrl-C) ends it with the best so far.

        Args:
            objective: see ``Objective``. It may raise nothing; numbers that are none end a restart.
            start: (r, ...) each, all of one floating type.
            project: brings variables back to where they may be, after every step.
            deadline: on ``time.monotonic``'s clock; no step is begun that would end after it, judged by the longest of late.
            progress: told the best objective now and then.
        """
        state = _State(start)
        optimizer: Optimizer = LBFGS() if self.optimizer == "lbfgs" else Adam()
        began = told = before = time.monotonic()
        longest, ending, step = 0.0, "steps", 0
        try:
            for step in range(self.steps + 1):
                gradient = state.look(objective, last=step == self.steps)
                if step == self.steps:
                    break
                if step % EVERY == 0 and (stop := state.over(self.enough)):
                    ending = stop
                    break
                now = time.monotonic()
                if now - told >= TOLD:
                    progress(f"step {step:,} of {self.steps:,}, objective {state.least():.3e}", step / self.steps)
                    told = now = time.monotonic()
                longest, before = max(FORGETTING * longest, now - before), now
                if now + longest > deadline and step > 0:
                    ending = "time"
                    break
                state.go(optimizer, self._shaped(gradient, step), self.rate(step), project)
        except KeyboardInterrupt:
            ending = "interrupted"
        if ending == "steps" and not bool(state.alive.any()):
            ending = "diverged"
        return Descended(*state.kept(), step, self.steps, time.monotonic() - began, ending)  # type: ignore[arg-type]

    def _shaped(self, gradient: Tensor, step: int) -> Tensor:
        if self.sign == "hard":
            return gradient.sign()
        if self.sign == "soft":
            sharpness = 1 - step / self.steps
            return (sharpness * gradient).tanh() / sharpness
        return gradient


class _State:
    """The iterates of all restarts as one matrix (r, n), and the best so far of each."""

    def __init__(self, start: Mapping[str, Tensor]) -> None:
        self.shapes = {name: tensor.shape for name, tensor in start.items()}
        self.point = torch.cat([tensor.detach().flatten(1) for tensor in start.values()], dim=1)
        restarts = len(self.point)
        self.alive = torch.ones(restarts, dtype=torch.bool, device=self.point.device)
        # Kept in one tuple: an interrupt between two assignments would leave an objective beside another iterate.
        self.best = self.point.new_full((restarts,), torch.inf), self.point

    def variables(self, point: Tensor) -> Variables:
        parts = torch.split(point, [shape[1:].numel() for shape in self.shapes.values()], dim=1)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def look(self, objective: Objective, *, last: bool) -> Tensor:
        """Note the objective of the iterate, and give its gradient (r, n)."""
        point = self.point.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            values = objective(self.variables(point))
        gradient = point if last else torch.autograd.grad(values.sum(), point)[0]
        values, self.point = values.detach(), point.detach()
        least, best = self.best
        better = (values < least) & self.alive
        self.best = torch.where(better, values, least), torch.where(better[:, None], self.point, best)
        self.alive = self.alive & values.isfinite() & gradient.isfinite().all(dim=1)
        return gradient.detach()

    def over(self, enough: float) -> Ending | None:
        if not bool(self.alive.any()):
            return "diverged"
        return "enough" if self.least() <= enough else None

    def go(self, optimizer: Optimizer, gradient: Tensor, rate: float, project: Callable[[Variables], Variables] | None) -> None:
        """Take a step; a restart that has diverged stays at its best iterate."""
        point = self.point + optimizer.step(self.point, gradient, rate)
        if project is not None:
            point = torch.cat([tensor.flatten(1) for tensor in project(self.variables(point)).values()], dim=1)
        self.point = torch.where(self.alive[:, None], point, self.best[1])

    def least(self) -> float:
        return float(self.best[0].min())

    def kept(self) -> tuple[Variables, Tensor, Tensor]:
        values, point = self.best
        return self.variables(point), values, ~self.alive
