"""Replay: compute the update that a proposed batch would have caused, and hold it against the observed one, tensor by tensor.

A residual that is small beside the whole update proves nothing of a tensor, or of a sample, that is smaller still. Every tensor is
therefore held against its own rounding, that of the numbers which were added up to make it; and the rows of the layer that sees the
samples are kept, from which the accuracy of every single sample follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.evidence.masks import ReluMasks
from unbatch.evidence.slopes import pulled_back, slopes_of
from unbatch.linalg.blocks import converted
from unbatch.losses import slopes as batch_slopes
from unbatch.trace import LinearCall, Run, run
from unbatch.types import Observation

__all__ = [
    "Gap",
    "Replay",
    "Use",
    "carried",
    "entrance_of",
    "gap",
    "length_misfit",
    "replay",
    "rest_of",
    "slices",
    "smallest_sent",
    "with_carried",
]


@dataclass(frozen=True, eq=False)
class Gap:
    """How far one tensor of the replay is from the observed one.

    Attributes:
        distance: ‖replayed − observed‖.
        size: ‖observed‖.
        parts: sum of the lengths of what the samples add to it, which rounding is relative to; never below ``size``.
        carried: rounding of the weights that the update is a difference of, in its units.
    """

    distance: float
    size: float
    parts: float
    carried: float = 0.0


@dataclass(frozen=True, eq=False)
class Use:
    """One use of a Linear layer: name of its weight, what it was fed, its output, and ∂L/∂output."""

    weight: str
    inputs: Tensor
    output: Tensor
    slope: Tensor


@dataclass(frozen=True, eq=False)
class Replay:
    """What the replay of a batch gave.

    Attributes:
        gaps: of every tensor.
        columns: (m, k) w ∂ℓ/∂z of the layer that sees the samples, None where there is no such layer.
        inputs: (k, n) what it is fed.
        row_errors: (m,) lengths of the rows of (observed − replayed) of its weight.
        shift: (k,) lengths of (columns⁺ (observed − replayed))ᵢ.
        scale: (k,) relative misfit of what each sample counts in the gradient of that layer's bias; infinite where it has none.
        uses: of Linear layers, in order.
        entrance: name of the weight of the layer that sees the samples, or empty.
    """

    gaps: Mapping[str, Gap]
    columns: Float[Tensor, "m k"] | None = None
    inputs: Float[Tensor, "k n"] | None = None
    row_errors: Float[Tensor, " m"] | None = None
    shift: Float[Tensor, " k"] | None = None
    scale: Float[Tensor, " k"] | None = None
    uses: tuple[Use, ...] = ()
    entrance: str = ""

    @property
    def residual(self) -> float:
        """‖replayed − observed‖ / ‖observed‖ over all tensors together."""
        size = math.sqrt(sum(g.size**2 for g in self.gaps.values()))
        distance = math.sqrt(sum(g.distance**2 for g in self.gaps.values()))
        return distance / size if size > 0 else (0.0 if distance == 0 else math.inf)

    def missed(self, limit: float) -> dict[str, float]:
        """The tensors that are off by more than their own rounding, and by how much of themselves."""
        return {
            name: g.distance / g.size if g.size else math.inf
            for name, g in self.gaps.items()
            if not g.distance <= limit * g.parts + g.carried
        }


def gap(observed: Tensor, replayed: Tensor, parts: float = 0.0) -> Gap:
    """See ``Gap``.

    Example:
        >>> gap(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
        Gap(distance=1.0, size=5.0, parts=5.0, carried=0.0)
    """
    observed, replayed = observed.double(), replayed.double()
    size = float(observed.norm())
    return Gap(float((replayed - observed).norm()), size, max(parts, size))


CARRIED = 4.0
"""Roundings of a weight that its difference may be off by, for every square root of a step. Chosen: the two weights are rounded by half a
unit each; the rest is margin. Swept."""


def carried(observation: Observation, name: str) -> float:
    """Length of the rounding that a tensor of the update has because it is a difference of weights; 0 for a gradient."""
    local = observation.training
    if local is None:
        return 0.0
    parameter = dict(observation.model.named_parameters())[name].detach()
    factor = local.factor(observation.batch_size) or 1.0
    steps = (1 + local.steps(observation.batch_size or 1)) ** 0.5
    return CARRIED * steps * torch.finfo(parameter.dtype).eps * float(parameter.double().norm()) / factor


def with_carried(observation: Observation, gaps: Mapping[str, Gap]) -> dict[str, Gap]:
    """The gaps, with the rounding of the weights where the update is their difference."""
    return {name: replace(g, carried=carried(observation, name)) for name, g in gaps.items()}


def entrance_of(calls: Sequence[LinearCall], observation: Observation, count: int) -> LinearCall | None:
    """Of the calls of a pass of so many samples, the first that sees the raw input, one row a sample and once, and is in the update."""
    uses = [call.weight for call in calls]
    for call in calls:
        once = uses.count(call.weight) == 1 and call.input.ndim == 2 and len(call.input) == count
        if call.raw and once and call.weight in observation.update:
            return call
    return None


def replay(
    observation: Observation,
    inputs: Float[Tensor, " k *shape"],
    labels: Tensor,
    weights: Float[Tensor, " k"] | None = None,
    *,
    pruned: bool = False,
    masks: ReluMasks | None = None,
) -> Replay:
    """Replay a batch as one gradient; up to a factor where the server does not know it.

    The gradient of a very wide Linear layer is never formed: it is compared block by block.

    Args:
        observation: what the server saw.
        inputs: (k, *shape).
        labels: (k,).
        weights: (k,) what the gradient of every sample counts; 1/k each if None.
        pruned: compare where the update is not zero; elsewhere the replay only must not be larger than the smallest number sent.
        masks: notes ReLUs and holds them to masks.
    """
    masks = masks or ReluMasks()
    with masks:
        ran = run(observation.model, inputs)
    outputs = ran.outputs.detach()
    if weights is None:
        head = batch_slopes(observation.loss, outputs, labels) / len(outputs)
    else:
        head = weights[:, None] * slopes_of(observation, outputs, labels)
    head = head.nan_to_num(0.0)  # classes that count nothing have no loss by themselves, only 0 / 0
    leaves = {name: leaf for name, leaf in ran.parameters.items() if name in observation.update}
    targets = [*leaves.values(), *(call.output for call in ran.linears), *(kink.output for kink in masks.noted)]
    pulled = zip(targets, pulled_back(ran.outputs, targets, head), strict=True)
    slopes = [torch.zeros_like(target) if slope is None else slope for target, slope in pulled]
    replayed = dict(zip(leaves, slopes, strict=False))
    if not observation.factor_known:
        factor = _factor(observation.update, replayed, pruned)
        slopes = [factor * slope for slope in slopes]
        replayed = dict(zip(leaves, slopes, strict=False))
    for kink, slope in zip(masks.noted, slopes[len(leaves) + len(ran.linears) :], strict=True):
        kink.slope = slope
    return _compared(observation, ran, replayed, slopes[len(leaves) : len(leaves) + len(ran.linears)], pruned)


def _compared(observation: Observation, ran: Run, replayed: Mapping[str, Tensor], slopes: list[Tensor], pruned: bool) -> Replay:
    update, parts = observation.update, _parts(ran, slopes)
    entrance = entrance_of(ran.linears, observation, len(ran.outputs))
    gaps = {
        name: _gap(update[name], tensor, parts.get(name, 0.0), pruned)
        for name, tensor in replayed.items()
        if entrance is None or name != entrance.weight
    }
    for name in {call.weight for call in ran.linears} & (update.keys() - replayed.keys()) - {entrance and entrance.weight}:
        pairs = [(slope, call.input.detach()) for slope, call in zip(slopes, ran.linears, strict=True) if call.weight == name]
        gaps[name] = rest_of(update[name], pairs, pruned=pruned).gap(parts[name])
    uses = tuple(
        Use(call.weight, call.input.detach(), call.output.detach(), slope) for call, slope in zip(ran.linears, slopes, strict=True)
    )
    if entrance is None:
        return Replay(with_carried(observation, gaps), uses=uses)
    columns, inputs = slopes[ran.linears.index(entrance)].T, entrance.input.detach()
    inverse = torch.linalg.pinv(columns) if len(columns) >= len(inputs) else None
    rest = rest_of(update[entrance.weight], [(columns.T, inputs)], inverse, pruned)
    gaps[entrance.weight] = rest.gap(parts[entrance.weight])
    # Below the rounding of what was added up nothing can be seen, however well it happens to fit.
    rounding = torch.finfo(observation.rounding).eps * (columns.abs() @ inputs.norm(dim=1))
    rounding = rounding + carried(observation, entrance.weight) / CARRIED / len(columns) ** 0.5
    return Replay(
        with_carried(observation, gaps),
        columns,
        inputs,
        rest.rows.maximum(rounding),
        rest.shift,
        length_misfit(observation, entrance.bias, columns, inverse),
        uses,
        entrance.weight,
    )


def length_misfit(
    observation: Observation, bias: str | None, columns: Float[Tensor, "m k"], inverse: Float[Tensor, "k m"] | None
) -> Float[Tensor, " k"]:
    """By how much the bias gradient Σ wᵢ dᵢ wants each weight changed, relatively; the rounding of its numbers at least.

    The weight's gradient Σ wᵢ dᵢ xᵢᵀ leaves open which part of a product is the weight and which the length of the sample. ``inverse`` is
    columns⁺; without it, or with fewer rows than samples, nothing is told.
    """
    if bias is None or bias not in observation.update or inverse is None or columns.shape[0] < columns.shape[1]:
        return columns.new_full((columns.shape[1],), torch.inf)
    rounding = torch.finfo(observation.rounding).eps * columns.abs().sum(dim=1)
    carried_over = carried(observation, bias) / len(columns) ** 0.5
    misfit = (inverse @ (observation.update[bias].double() - columns.sum(dim=1))).abs()
    return misfit + (inverse.square() @ (rounding + carried_over).square()).sqrt()


def _factor(update: Mapping[str, Tensor], replayed: Mapping[str, Tensor], pruned: bool) -> float:
    """What brings the replay nearest to the update, never below zero.

    No client sends its gradient turned round: with a factor below zero, two classes told apart by nothing would pass for each other.
    """
    pairs = [(update[name].double(), tensor * (update[name] != 0) if pruned else tensor) for name, tensor in replayed.items()]
    size = sum(float(tensor.square().sum()) for _, tensor in pairs)
    return max(0.0, sum(float((observed * tensor).sum()) for observed, tensor in pairs) / size) if size else 1.0


def _parts(ran: Run, slopes: list[Tensor]) -> dict[str, float]:
    """Sum over the samples of the lengths of what they add to every tensor of a Linear layer."""
    parts: dict[str, float] = {}
    for call, slope in zip(ran.linears, slopes, strict=True):
        columns, inputs = slope.flatten(0, -2).norm(dim=1), call.input.detach().flatten(0, -2).norm(dim=1)
        parts[call.weight] = parts.get(call.weight, 0.0) + float(columns @ inputs)
        if call.bias is not None:
            parts[call.bias] = parts.get(call.bias, 0.0) + float(columns.sum())
    return parts


def _gap(observed: Tensor, replayed: Tensor, parts: float, pruned: bool) -> Gap:
    return gap(observed, _as_sent(observed.double(), replayed) if pruned else replayed, parts)


def _as_sent(observed: Tensor, replayed: Tensor, smallest: float | None = None) -> Tensor:
    """The replay of a pruned tensor: where nothing was sent, only what is larger than the smallest number sent is wrong."""
    least = smallest_sent(observed) if smallest is None else smallest
    return replayed.where(observed != 0, (replayed.abs() - least).clamp_min(0))


def smallest_sent(observed: Tensor) -> float:
    """The smallest number of a tensor that is not zero; infinite where all are."""
    sizes = observed.abs()
    return float(sizes.where(sizes > 0, torch.inf).min())


@dataclass(frozen=True, eq=False)
class Rest:
    """What samples leave of a gradient: the lengths of its rows, of the gradient itself, and of the samples' own part of it."""

    rows: Float[Tensor, " m"]
    size: float
    shift: Float[Tensor, " k"] | None

    def gap(self, parts: float) -> Gap:
        """The same as a ``Gap``."""
        return Gap(float(self.rows.norm()), self.size, max(parts, self.size))


def rest_of(
    observed: Float[Tensor, "m n"],
    pairs: list[tuple[Float[Tensor, "k m"], Float[Tensor, "k n"]]],
    inverse: Float[Tensor, "k m"] | None = None,
    pruned: bool = False,
) -> Rest:
    """observed − Σ columnsᵀ inputs, block by block.

    Args:
        observed: (m, n) gradient.
        pairs: columns (k, m) and inputs (k, n), of every use of the layer.
        inverse: (k, m) columns⁺.
        pruned: see ``replay``.
    """
    rows = torch.zeros(len(observed), dtype=torch.float64, device=observed.device)
    shift = None if inverse is None else torch.zeros(len(inverse), dtype=torch.float64, device=observed.device)
    flat = [(c.flatten(0, -2).T, i.flatten(0, -2)) for c, i in pairs]
    size, smallest = 0.0, smallest_sent(observed) if pruned else None
    for there, rest in converted(observed, own=True):
        size += float(torch.linalg.vector_norm(rest)) ** 2
        if pruned:
            replayed = sum((columns @ inputs[:, there] for columns, inputs in flat), torch.zeros_like(rest))
            rest = rest - _as_sent(rest, replayed, smallest)  # noqa: PLW2901
        else:
            for columns, inputs in flat:
                rest.addmm_(columns, inputs[:, there], alpha=-1)
        rows += torch.linalg.vector_norm(rest, dim=1).square()
        if inverse is not None and shift is not None:
            shift += torch.linalg.vector_norm(inverse @ rest, dim=1).square()
    return Rest(rows.sqrt(), math.sqrt(size), None if shift is None else shift.sqrt())


def slices(count: int, size: int) -> list[slice]:
    """Consecutive slices of at most ``size`` of ``count`` things, at least one each."""
    step = max(1, size)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
