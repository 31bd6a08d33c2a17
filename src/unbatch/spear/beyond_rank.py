"""More samples than the first gradient has dimensions: large batches whose inputs depend on each other linearly.

No column of that gradient belongs to one sample then, and nothing can be read off its zeros. What the layer makes of the samples is
independent again, and walks between the spaces of the layers behind (``reflections``, ``descent``) ask nothing of the columns. As many
samples as there are dependences are found by them and taken out of the update. What is left is that of a batch of independent inputs.

| here    | meaning                                                                                              |
|---------|------------------------------------------------------------------------------------------------------|
| p       | (r,) a sample in the coordinates of the first layer's row space, r below the number of samples b     |
| D, C    | the next layer's gradient is D Cᵀ: its row space holds the activations h = C c of a sample            |
| q       | (b,) the sample's ∂ℓ/∂z in the next layer is D q; where the update holds it w times, c · q = 1/w      |
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from unbatch.clock import Clock, OutOfTime
from unbatch.errors import Inapplicable
from unbatch.gradients import capture, sensitivities
from unbatch.linalg.ica import views_of
from unbatch.linalg.lowrank import Factors, multiply
from unbatch.spear.behind import Behind, Link, Stage, readers_of, stages_behind
from unbatch.spear.descent import descend
from unbatch.spear.ica import guesses
from unbatch.spear.layer import Layer, layer_in_factors
from unbatch.spear.led import AT_ONCE
from unbatch.spear.next_layer import NextLayer, solve_samples
from unbatch.spear.problem import ZERO
from unbatch.spear.reflections import STEPS, reflected, steps_after
from unbatch.spear.search import CONTRASTS, ROUGHLY
from unbatch.trace import LinearCall
from unbatch.types import Candidate, Observation, Progress, Schema

__all__ = ["SAME", "Some", "snapped", "some_by_walks", "with_others", "without"]

EXACT = 1e-9
"""What the equations of a sample may leave, relatively. Chosen: those of a true one leave 1e-14."""

BESIDE = 1e-9
"""Share of the bias gradient outside the gradient's column space that is rounding. Chosen."""

SAME = 1e-4
"""Two samples that differ by less, as a share of their length, are one. Chosen."""

FIRST = 0.5
"""Share of the budget for the samples that are taken out before the others are sought. Chosen."""

WHOLE = 1e-6
"""A weight that is one over a whole number up to this share is so exactly, as in a mean of samples. Chosen."""


@dataclass(frozen=True, eq=False)
class Some:
    """Some samples of a batch: (k, n) inputs, (k,) labels, and what each counts in the update."""

    inputs: Float[Tensor, "k n"]
    labels: Int64[Tensor, " k"]
    weights: Float[Tensor, " k"]

    @classmethod
    def none(cls, like: Float[Tensor, "r n"]) -> Some:
        """Not one; of inputs like these."""
        return cls(like[:0], torch.zeros(0, dtype=torch.int64, device=like.device), like[:0, 0])

    @classmethod
    def counted(cls, inputs: Float[Tensor, "k n"], labels: Int64[Tensor, " k"], inverse: Float[Tensor, " k"]) -> Some:
        """Samples of which one over the weight is known, but for rounding: see ``WHOLE``."""
        whole = inverse.round()
        return cls(inputs, labels, 1 / torch.where((inverse - whole).abs() < WHOLE * whole, whole, inverse))

    def __len__(self) -> int:
        return len(self.labels)


def some_by_walks(
    observation: Observation, call: LinearCall, factors: Factors, samples: int, generator: Generator, clock: Clock, progress: Progress
) -> Some:
    """Some of the samples, by a turn of guesses: as many as depend on the others, if that many are found; perhaps none.

    Args:
        observation: what the server saw: one gradient, in which no sample changes what another one leaves.
        call: the layer that sees the raw input.
        factors: of its gradient.
        samples: how many there are, more than the rank.
        generator: of the guesses.
        clock: when to end.
        progress: told how many are found.
    """
    made = _layer(observation, call, factors, generator, clock)
    if made is None or len(made[0].bias) <= samples:  # too few neurons fire for what they feed the next layer to tell
        return Some.none(factors.right)
    (layer, inputs_of, alive), readers = made, readers_of(observation, call)
    stages = stages_behind(readers, dict(observation.model.named_parameters()), observation.update, alive, samples, clock)
    if not stages:
        return Some.none(factors.right)
    points = _points(layer, stages, samples - factors.rank, generator, clock.part(FIRST), progress)
    return _told_apart(observation, layer, stages[0], readers[0].weight, points, snapped(observation.schema, points @ inputs_of))


def with_others(observation: Observation, some: Some, samples: int, rank: int, others: Callable[[Observation], Candidate]) -> Candidate:
    """Some samples and what is found of the others, once these are taken out.

    Args:
        observation: what the server saw: one gradient.
        some: known samples.
        samples: how many there are in all.
        rank: of their inputs.
        others: finds the samples of what is left of the update, whether they depend on each other still or not.
    """
    told = f"{samples} samples whose inputs depend on each other, being of rank {rank}"
    if not len(some):
        return Candidate(reason=f"{told}, and the layers behind did not tell them apart", exhausted=True)
    rest = Candidate(exhausted=True)
    with suppress(Inapplicable, OutOfTime):  # then some is all that was found
        rest = others(without(observation, some))
    inputs, labels = some.inputs.reshape(-1, *observation.input_shape), some.labels
    if rest.inputs is not None and rest.labels is not None:
        inputs, labels = torch.cat([inputs, snapped(observation.schema, rest.inputs)]), torch.cat([labels, rest.labels])
    reason = f"{told}: {len(inputs)} of them found" if rest.exhausted else rest.reason
    return replace(rest, inputs=inputs, labels=labels, reason=reason, stats={**rest.stats, "rank": rank, "samples": samples})


def _layer(
    observation: Observation, call: LinearCall, factors: Factors, generator: Generator, clock: Clock
) -> tuple[Layer, Float[Tensor, "r n"], Bool[Tensor, " m"]] | None:
    """The layer in the coordinates of its factors, what takes p to its input, and which neurons are alive.

    That p · sums = 1 for every sample is said by the bias gradient, the sum of all columns. The gradient's own column space need not hold
    it where the inputs depend on each other: what it has beside becomes one more coordinate of p, which changes no input.
    """
    parameters, gradient = dict(observation.model.named_parameters()), observation.update[str(call.bias)].double()
    left, right = factors.left, factors.right
    beside = gradient - left @ (left.T @ gradient)
    if float(beside.norm()) > BESIDE * float(gradient.norm()):
        left = torch.cat([left, beside[:, None] / beside.norm()], dim=1)
        right = torch.cat([right, torch.zeros_like(right[:1])])
    seen, bias = multiply(parameters[call.weight].detach(), right, clock), parameters[str(call.bias)].detach().double()
    noise = right.new_zeros((len(right), len(right)))  # that of zeros, which nobody asks for here
    made = layer_in_factors(left, gradient, seen, bias, views_of(right, observation.input_shape, generator), noise, ZERO)
    return None if made is None else (made[0], made[1] @ right, made[2])


def _points(layer: Layer, stages: list[Stage], wanted: int, generator: Generator, clock: Clock, progress: Progress) -> Float[Tensor, "k r"]:
    """So many samples or more; fewer where the clock ends, or where all guesses of a turn lead to no more."""
    masks = torch.zeros((0, len(layer.bias)), dtype=torch.bool, device=layer.bias.device)
    links, steps = Behind(stages).links(torch.ones_like(layer.bias, dtype=torch.bool)), STEPS
    with suppress(OutOfTime):
        for turn in itertools.count():
            made = guesses(layer.views, generator, CONTRASTS[turn % len(CONTRASTS)], ROUGHLY, rough=True, clock=clock)
            for part in torch.split(made, AT_ONCE):
                masks = torch.unique(torch.cat([masks, _led(layer, links, part, steps, clock)]), dim=0)
                progress(f"{len(masks)} samples whose inputs depend on others", len(masks) / wanted)
                if len(masks) >= wanted:
                    break
            walked, steps = steps, steps_after(steps, 0.0)
            if len(masks) or steps == walked:
                break
    points, left = solve_samples(layer, NextLayer(links[0].fed), masks)
    return points[left < EXACT]


def _led(layer: Layer, links: list[Link], made: Float[Tensor, "k r"], steps: int, clock: Clock) -> Bool[Tensor, "j m"]:
    """Which neurons are off for the samples that guesses lead to."""
    walked = reflected(layer, links, made / (made @ layer.sums)[:, None], clock, steps)
    return layer.pre_activations(descend(layer, links[0].fed, walked / (walked @ layer.sums)[:, None], clock)) <= 0


def _told_apart(
    observation: Observation,
    layer: Layer,
    stage: Stage,
    reader: str,
    points: Float[Tensor, "k r"],
    inputs: Float[Tensor, "k n"],
) -> Some:
    """Inputs, labels, and what each counts. Of two classes ∂ℓ/∂z differ by a factor alone, which is negative for the wrong one."""
    if not len(points):
        return Some.none(inputs)
    fed = layer.pre_activations(points).relu() @ stage.fed
    shaped = inputs.reshape(-1, *observation.input_shape)
    columns = sensitivities(observation.model, shaped, reader, observation.loss, fed @ stage.made.T)
    flat = columns.flatten(0, 1).T
    solved = torch.linalg.lstsq(stage.columns, flat).solution
    rests = (flat - stage.columns @ solved).norm(dim=0).reshape(columns.shape[:2])
    inverse = (solved.T.reshape(*columns.shape[:2], -1) * fed).sum(dim=-1)
    best, kept = rests.where(inverse > 0, torch.inf).argmin(dim=0), (inverse > 0).any(dim=0)
    own = inverse[best, torch.arange(len(points), device=points.device)]
    return Some.counted(inputs[kept], best[kept], own[kept])


def snapped(schema: Schema | None, inputs: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
    """Rows of the table that these are to rounding, where they are; the numbers as they are of anything else."""
    if schema is None or schema.kind != "table":
        return inputs
    rows = schema.encode(schema.decode(inputs)).to(inputs)
    near = (rows - inputs).norm(dim=1) < SAME * inputs.norm(dim=1)
    return torch.where(near[:, None], rows, inputs)


def without(observation: Observation, found: Some) -> Observation:
    """The update of the others."""
    update = {name: tensor.double().clone() for name, tensor in observation.update.items()}
    model = copy.deepcopy(observation.model).double()
    inputs = found.inputs.reshape(-1, *observation.input_shape).double()
    for weight in torch.unique(found.weights):
        chosen = found.weights == weight
        mean = capture(model, inputs[chosen], found.labels[chosen], observation.loss)
        for name in update:
            update[name] -= weight * chosen.sum() * mean[name]
    return replace(observation, update=update, batch_size=None, labels=None)
