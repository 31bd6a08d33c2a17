"""Guesses led to samples by the layers behind: walks between their spaces, then steps of least squares, then the signs' exact direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.clock import Clock
from unbatch.spear.behind import Behind, Link, Stage, no_stages
from unbatch.spear.descent import descend
from unbatch.spear.layer import Layer
from unbatch.spear.next_layer import NextLayer
from unbatch.spear.outputs import Known, Outputs, nothing_known
from unbatch.spear.reflections import STEPS, reflected, steps_after
from unbatch.spear.rounding import null_of_masks

__all__ = ["NOTHING", "Led", "Sources"]

BEYOND = 2
"""Zeros that a direction must have beyond as many as there are samples."""

LITTLE = 0.05
"""Share of the walks that must lead to a sample, or the outputs are asked. Chosen: of 180 pictures at m=400 the first walks found .09, and
ones twice as long .57; of 300 Gaussian vectors at m=1000 none."""


AT_ONCE, ENOUGH = 128, 64
"""Guesses that are led at a time, and how many must wait for a round without new ones. Chosen: of 600 pictures at m=2000 600 walks came to
92 samples, 100 of them to 36, as two samples draw a sixth of all walks each until they are taken out."""

REMAINS = 0.5
"""Share of its length that a guess must have beside the samples found since. Chosen."""


@dataclass(frozen=True)
class Sources:
    """What leads guesses, to be asked for: the layers behind, and what the outputs tell."""

    stages: Callable[[Clock], list[Stage]] = no_stages
    known: Callable[[Clock], Known | None] = nothing_known


NOTHING = Sources()
"""Neither."""


class Led:
    """What leads guesses: the layers behind, without what is certified, and how long walks have become.

    Attributes:
        steps: of the next walks.
        share: of the last walks, those that led to a sample of their own.
        waiting: (j, b) guesses of the whole layer's samples, for later rounds.

    Args:
        whole: the layer with all its samples.
        sources: asked once, as late as they are needed.
    """

    def __init__(self, whole: Layer, sources: Sources) -> None:
        self.whole, self.stages, self.outputs = whole, sources.stages, Outputs(whole, sources.known)
        self.steps, self.share = STEPS, 1.0
        self.behind: Behind | None = None
        self.waiting = whole.left.new_zeros((0, whole.batch))

    def some(self, rest: Layer, basis: Float[Tensor, "b r"], make: Callable[[], Float[Tensor, "k r"]]) -> Float[Tensor, "j r"]:
        """Guesses for one round: those that wait, as far as the samples found since leave them, or new ones; the others wait.

        Args:
            rest: the layer, without what is certified.
            basis: what takes a sample of the whole layer to one of the rest.
            make: makes new ones.
        """
        left = self.waiting @ basis
        remain = (left @ rest.made.T).norm(dim=1) > REMAINS
        waiting, left = self.waiting[remain], left[remain]
        if len(left) < ENOUGH:
            left = make()
            left = left / (left @ rest.made.T).norm(dim=1, keepdim=True)
            waiting = torch.linalg.lstsq(basis.T, left.T).solution.T  # any that comes to the same beside what is known
        count = AT_ONCE if len(left) >= AT_ONCE + ENOUGH else len(left)
        self.waiting = waiting[count:]
        return left[:count]

    def by_outputs(self, clock: Clock) -> bool:
        """Whether it is the outputs' turn: where walks found next to nothing."""
        return self.share < LITTLE and self.outputs.lead(clock)

    def take_out(self, samples: Float[Tensor, "k b"], directions: Float[Tensor, "k b"], clock: Clock) -> Behind:
        """The layers behind without all samples that are certified: those that were taken out before come first, as they did then."""
        if self.behind is None:
            self.behind = Behind(self.stages(clock))
        self.behind.take_out_certified(self.whole, samples, directions, clock)
        return self.behind

    def directions(
        self,
        rest: Layer,
        rows: Bool[Tensor, " m"],
        following: NextLayer,
        behind: Behind,
        guesses: Float[Tensor, "k b"],
        clock: Clock,
    ) -> tuple[Float[Tensor, "j b"], Bool[Tensor, "j left"]]:
        """Exact directions of what is left, and which of the neurons that are left are off.

        Args:
            rest: the layer, without what is certified.
            rows: its neurons among those of the whole.
            following: the next layer, which leads alone where no more is known of the layers behind.
            behind: see ``take_out``.
            guesses: with p · sums = 1.
            clock: when to give up.
        """
        links = behind.links(rows) or [Link(following.activations[rows])]
        samples = reflected(rest, links, guesses, clock, self.steps)
        samples = descend(rest, links[0].fed, samples / (samples @ rest.sums)[:, None], clock)
        masks = torch.unique(rest.pre_activations(samples) <= 0, dim=0)  # several guesses may have led to one sample
        found = null_of_masks(rest.left, masks, clock=clock)
        off = rest.off(found)
        kept = off.sum(dim=1) >= rest.batch + BEYOND
        self.share = int(kept.sum()) / len(guesses)
        self.steps = steps_after(self.steps, self.share)
        return found[kept], off[kept]
