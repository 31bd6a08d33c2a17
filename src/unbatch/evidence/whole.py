"""The proof of a whole batch: its replay gives the observed update, and every sample of it counts by itself."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import nnls
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY, TELLING, across, counted_by, from_rows
from unbatch.evidence.certificate import EVIDENCE, FINEST, SPARE
from unbatch.evidence.masks import Kink, ReluMasks, turned
from unbatch.evidence.mirrors import mirrored
from unbatch.evidence.mixtures import apart_from_mixtures, columns_of, surplus, tuned
from unbatch.evidence.plain_means import nearly_plain, plain, plain_size
from unbatch.evidence.replay import Replay, Use, replay, smallest_sent
from unbatch.evidence.rotations import hidden_beside_others, hidden_from_replay
from unbatch.gradients import capture
from unbatch.linalg.completion import is_pruned
from unbatch.linalg.lowrank import multiply
from unbatch.trace import run
from unbatch.types import Observation

__all__ = ["Whole", "by_turning", "prove_whole", "weights_that_fit"]

NEAR = 0.1
"""A replay this near to the update may miss it by single neurons at their kink. Chosen: it decides what is tried, not what is proved."""

HELD = 1e-8
"""A column of a pruned gradient determines the samples when its smallest eigenvalue is above this, beside a trace of one a sample. Chosen:
half of float64's digits."""

UNSURE = 30.0
"""A pre-activation below this many roundings, beside the typical one of its layer, may have been on either side of zero. Chosen. Swept."""


@dataclass(frozen=True, eq=False)
class Whole:
    """What the replay of a batch proved.

    Attributes:
        residual: ‖replayed − observed‖ / ‖observed‖.
        missed: tensors that are off by more than their own rounding, and by how much of themselves; none where the replay holds.
        accuracy: (k,) upper estimate of the relative error of every sample; infinite where the replay does not fix it.
        weights: (k,) what every sample counts, where that is not 1/k each.
        pruned: whether the update was compared only where it is not zero.
        digits: surplus equations times the decimal digits to which they hold.
    """

    residual: float
    missed: dict[str, float]
    accuracy: Float[Tensor, " k"]
    weights: Float[Tensor, " k"] | None = None
    pruned: bool = False
    digits: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every tensor is within its own rounding."""
        return not self.missed


def prove_whole(
    observation: Observation,
    inputs: Float[Tensor, " k *shape"],
    labels: Int64[Tensor, " k"],
    copies: Int64[Tensor, " k"],
    limit: float,
    weights: Float[Tensor, " k"] | None = None,
) -> Whole:
    """Replay different samples that were in the batch so many times each.

    Args:
        observation: what the server saw: one gradient, up to a factor.
        inputs: (k, *shape), all different.
        labels: (k,).
        copies: (k,) how often each is proposed.
        limit: what of a tensor, beside what was added up for it, may be rounding.
        weights: (k,) what each may count, tried where even shares fail, before the weights that fit best.
    """
    coupled = observation.coupled
    even = None if bool((copies == 1).all()) or coupled else copies.double() / copies.sum()
    if coupled:
        inputs, labels = inputs.repeat_interleave(copies, dim=0), labels.repeat_interleave(copies)
    best = _attempt(observation, inputs, labels, even, limit, pruned=False)
    if best.missed and any(tensor.ndim > 1 and is_pruned(tensor.flatten(1)) for tensor in observation.update.values()):
        sparse = _attempt(observation, inputs, labels, even, limit, pruned=True)
        best = sparse if sparse.residual < best.residual else best
    for turn in range(2):
        if best.missed and not coupled:
            own = weights if turn == 0 else weights_that_fit(observation, inputs, labels)
            for tried in [] if own is None else [each for each in (plain(own), nearly_plain(own), own) if each is not None]:
                weighted = _attempt(observation, inputs, labels, tried, limit, pruned=best.pruned)
                if best.missed and not weighted.missed:
                    best = weighted
    if coupled:  # each of the copies was a row of its own: back to one for all of them
        best = replace(best, accuracy=torch.stack([part.amax() for part in torch.split(best.accuracy, copies.tolist())]))
    return best


def _attempt(observation: Observation, inputs: Tensor, labels: Tensor, weights: Tensor | None, limit: float, *, pruned: bool) -> Whole:
    result = replay(observation, inputs, labels, weights, pruned=pruned)
    missed = result.missed(limit)
    if missed and weights is None and not missed.keys() & {use.weight for use in result.uses}:
        missed = _beyond_rounding(observation, inputs, labels, result, missed)
    if missed and observation.rounding != torch.float64 and result.residual < NEAR:
        result = _with_masks(observation, inputs, labels, weights, result, pruned)
        missed = result.missed(limit)
    nothing = torch.full((len(inputs),), torch.inf, dtype=torch.float64, device=inputs.device)
    unproved = Whole(result.residual, missed, nothing, weights, pruned)
    if missed or result.columns is None or result.inputs is None or result.row_errors is None:
        return unproved
    if not _reads_raw(observation, result.entrance):
        return unproved
    accuracy = from_rows(result.columns, result.inputs, result.row_errors, result.shift)
    accuracy = _with_length(observation, inputs, labels, weights, result, accuracy)
    if pruned:
        accuracy = accuracy.maximum(_under_pruning(observation.update[result.entrance], result.columns, result.inputs))
    entered = next(use for use in result.uses if use.weight == result.entrance)
    each = max(-_log10(max(result.residual, FINEST)), 1.0)
    digits = 0.0
    for most in (min(SPARE, 2 + math.ceil(EVIDENCE / each)), SPARE):  # a few probes are enough, unless the network makes them alike
        digits = digits if digits >= EVIDENCE else surplus(observation, result.columns, inputs, most, entered) * each
    accuracy = accuracy if digits >= EVIDENCE else nothing
    if observation.coupled:
        if bool(accuracy.isfinite().any()):
            hidden = hidden_beside_others(observation, inputs, labels, result.columns, result.row_errors)
            accuracy = accuracy.maximum(hidden.amax())  # proved as a whole, or not at all
    else:
        accuracy = accuracy.where(apart_from_mixtures(observation, inputs, labels, result.columns, result.scale, weights, limit), torch.inf)
        if bool(accuracy.isfinite().any()):
            free = torch.zeros_like(labels, dtype=torch.bool) if weights is None else tuned(weights, result.scale, limit)
            accuracy = accuracy.maximum(
                hidden_from_replay(observation, inputs, labels, result.columns, result.row_errors, entered, free, sent=not pruned)
            )
    return Whole(result.residual, missed, accuracy, weights, pruned, digits)


def _reads_raw(observation: Observation, layer: str) -> bool:
    """Whether a layer sees inputs of every size as they are: of these samples a clamp may have left nothing to see."""
    return any(call.raw for call in observation.layers if call.weight == layer)


def _with_length(
    observation: Observation, inputs: Tensor, labels: Tensor, weights: Tensor | None, result: Replay, rows: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """Relative errors of the samples, their lengths included: by the bias gradient, and by the columns of samples made longer."""
    told = torch.full_like(rows, torch.inf) if result.scale is None else SAFETY * result.scale
    if bool((told <= TELLING).all()):
        return rows + told
    if result.columns is None or result.inputs is None:
        return torch.full_like(rows, torch.inf)
    number = len(inputs) if weights is None else plain_size(weights)
    counted = observation.factor_known and counted_by(told, number)
    # Weights that are tuned take up what a length is off by: it shows where each counts what it does in the plain mean (seed 280292).
    beside = plain(weights) / weights if counted and weights is not None else torch.ones_like(rows)
    off = columns_off(observation.update[result.entrance], beside * result.columns, result.inputs)
    known = rows if off is not None else rows + (beside - 1).abs() / len(result.columns) ** 0.5  # not spread over the neurons
    turned = by_turning(observation, inputs, labels, known, off, counted=counted)
    # Counted, all of w d xᵀ is known to the accuracy of the rows, its length included.
    return rows + told.minimum((turned - rows).clamp_min(0) if counted else turned)


def columns_off(gradient: Float[Tensor, "m n"], columns: Float[Tensor, "m k"], inputs: Float[Tensor, "k n"]) -> Float[Tensor, "k m"] | None:
    """How each column differs from the one that the gradient has for its sample, beside its own length: δd = (G − D X) X⁺.

    None where the samples depend on each other, or a pruned gradient does not tell.

    Args:
        gradient: (m, n) G.
        columns: (m, k) D, weights included.
        inputs: (k, n) X.
    """
    own, small = torch.linalg.qr(inputs.T)
    told = len(inputs) <= inputs.shape[1] and bool((small.diagonal().abs() > DEPENDENT * inputs.norm(dim=1)).all())
    if not told or is_pruned(gradient):
        return None
    implied = torch.linalg.solve_triangular(small, multiply(gradient, own.T).T, upper=True)
    return (implied - columns.T) / columns.norm(dim=0).clamp_min(torch.finfo(columns.dtype).tiny)[:, None]


DEPENDENT = 1e-6
"""A sample of which less than this share is no mixture of the others is one. Chosen, not swept."""


def by_turning(
    observation: Observation,
    inputs: Tensor,
    labels: Tensor,
    rows: Float[Tensor, " k"],
    off: Float[Tensor, "k m"] | None = None,
    *,
    counted: bool = False,
) -> Float[Tensor, " k"]:
    """Relative errors of the samples' lengths by the turning of their columns alone.

    Infinite where the columns leave open whether it is not the sample's negative (``mirrors``).

    A column t that turns as its sample grows by ε is off by ε t. So what it is off by, along t, is the error; and across t it is noise, of
    which a share of 1/√m lies along t. Where only the rows are known, which average over the m neurons, all of it may lie there.

    Args:
        observation: what the server saw.
        inputs: (k, *shape).
        labels: (k,).
        rows: (k,) relative errors of the samples if their columns are right.
        off: (k, m) see ``columns_off``.
        counted: whether what the samples count is known.
    """
    here = columns_of(observation, inputs, labels)
    if here is None:
        return torch.full_like(rows, torch.inf)
    turning = across(here, lambda factor: columns_of(observation, factor * inputs, labels), counted=counted)
    length, neurons = turning.norm(dim=1), here.shape[1]
    if off is None:
        found = neurons**0.5 * rows / length
    else:
        noise = (SAFETY * off.norm(dim=1) / neurons**0.5).maximum(rows)
        found = ((off * turning).sum(dim=1).abs() / length + noise) / length
    scores = run(observation.model, inputs).outputs.detach(), run(observation.model, -inputs).outputs.detach()
    mirror = mirrored(observation, labels, here, scores, lambda named: columns_of(observation, -inputs, named), rows)
    return found.where(~mirror & (length > 0), torch.inf)  # a column that does not turn tells nothing, and 0 / 0 is no number


def _beyond_rounding(
    observation: Observation, inputs: Tensor, labels: Tensor, result: Replay, missed: dict[str, float]
) -> dict[str, float]:
    """Those tensors that are off by more than some roundings of the inputs move them.

    A gradient that is zero but for rounding, as of a bias before batch statistics, says nothing.
    """
    model = copy.deepcopy(observation.model).double()
    generator = torch.Generator(inputs.device).manual_seed(0)
    size = torch.finfo(observation.rounding).eps
    noise = torch.randn(inputs.shape, generator=generator, dtype=torch.float64, device=inputs.device)
    here = capture(model, inputs.double(), labels, observation.loss)
    there = capture(model, inputs.double() * (1 + size * noise), labels, observation.loss)
    moved = {name: JITTER * float((here[name] - there[name]).norm()) for name in missed}
    return {name: off for name, off in missed.items() if not result.gaps[name].distance <= moved[name]}


JITTER = 30.0
"""Roundings, as many as a deep network makes of one in its input. Chosen, as ``UNSURE``."""


def _log10(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).log10())


def weights_that_fit(observation: Observation, inputs: Tensor, labels: Tensor) -> Float[Tensor, " k"] | None:
    """What every sample counts: the weights, none negative, that bring the first layer's gradient nearest to the observed one."""
    even = replay(replace(observation, factor_known=True), inputs, labels)
    if even.columns is None or even.inputs is None:
        return None
    gradient = observation.update[even.entrance]
    columns, fed = even.columns * len(inputs), even.inputs
    gram = (columns.T @ columns) * (fed @ fed.T)
    wanted = (columns.T @ multiply(gradient, fed)).diagonal()
    scale = gram.diagonal().sqrt()
    if not bool((scale > 0).all()):
        return None
    # The Gram matrix squares the condition: its Cholesky factor keeps what float64 has.
    factor, failed = torch.linalg.cholesky_ex(gram / scale[:, None] / scale)
    if int(failed):
        return None
    right = torch.linalg.solve_triangular(factor, (wanted / scale)[:, None], upper=False)[:, 0]
    found, _ = nnls(factor.T.cpu().numpy(), right.cpu().numpy())
    weights = torch.as_tensor(found, dtype=torch.float64, device=inputs.device) / scale
    return weights if bool((weights > 0).all()) else None


def _with_masks(observation: Observation, inputs: Tensor, labels: Tensor, weights: Tensor | None, result: Replay, pruned: bool) -> Replay:
    """The replay with those neurons turned that stood at their kink, from the last layer to the first: a turn shows below, not above."""
    masks = ReluMasks()
    replay(observation, inputs, labels, weights, pruned=pruned, masks=masks)
    for number in reversed(range(len(masks.noted))):
        kink = masks.noted[number]
        use = next((u for u in result.uses if u.output.shape == kink.z.shape and torch.equal(u.output, kink.z)), None)
        if use is None or kink.z.ndim != 2 or use.weight not in observation.update:
            continue
        held = masks.held.get(number, kink.z > 0)
        mask = _turned(observation, kink, use, held, pruned)
        if torch.equal(mask, held):
            continue
        tried = ReluMasks(held={**masks.held, number: mask})
        other = replay(observation, inputs, labels, weights, pruned=pruned, masks=tried)
        if other.residual < result.residual:
            masks, result = tried, other
    return result


def _turned(observation: Observation, kink: Kink, use: Use, held: Tensor, pruned: bool) -> Tensor:
    """The mask of one ReLU after those of its neurons were turned that the rows of the layer's gradient want turned."""
    unsure = kink.z.abs() < UNSURE * torch.finfo(observation.rounding).eps * kink.z.square().mean().sqrt()
    rows = unsure.any(dim=0).nonzero()[:, 0]
    if not len(rows) or kink.slope is None:
        return held
    observed = observation.update[use.weight][rows].double()
    replayed = use.slope[:, rows].T @ use.inputs
    rest = (observed - replayed) * (observed != 0) if pruned else observed - replayed
    mask = held.clone()
    mask[:, rows] = turned(held[:, rows], unsure[:, rows], kink.slope[:, rows], use.inputs, rest)
    return mask


def _under_pruning(observed: Float[Tensor, "m n"], columns: Float[Tensor, "m k"], inputs: Float[Tensor, "k n"]) -> Float[Tensor, " k"]:
    """Relative errors where only some entries of the gradient were sent: every column of it by those of its rows that were.

    What was not sent is known to be small, and counts as an error of the size of the smallest number sent.
    """
    smallest, scale = smallest_sent(observed), columns.norm(dim=0)
    unit = columns / scale.where(scale > 0, 1.0)  # a sample that leaves nothing is held by no entry
    every, one = unit.T @ unit, torch.eye(len(inputs), dtype=unit.dtype, device=unit.device)
    # A column that too few entries hold: all that is known is that none of the others is larger than the smallest sent.
    guessed = smallest**2 * torch.linalg.pinv(columns).square().sum(dim=1) * len(observed)
    total, order = torch.zeros_like(scale), (observed != 0).sum(dim=0).argsort()
    for part in torch.split(order, max(1, (1 << 22) // max(len(inputs) ** 2, len(observed)))):
        seen = observed[:, part].double()
        sent = seen != 0
        rest = (seen - columns @ inputs[:, part]) * sent
        spare = (sent.sum(dim=0) - len(inputs)).clamp_min(1)
        noise = rest.square().sum(dim=0) / spare
        many = 2 * int(sent.sum(dim=0).amax()) > len(sent)
        gram = every - _gram_of(unit, ~sent) if many else _gram_of(unit, sent)
        root, failed = torch.linalg.cholesky_ex(gram - HELD * one)
        held = (failed == 0)[:, None]
        spread = torch.linalg.solve_triangular(root.where(held[:, None], one), one, upper=False).square().sum(dim=1)
        total += torch.where(held, SAFETY**2 * noise[:, None] * spread / scale.square(), guessed).sum(dim=0)
    return total.sqrt() / inputs.norm(dim=1)


def _gram_of(unit: Float[Tensor, "m k"], chosen: Bool[Tensor, "m p"]) -> Float[Tensor, "p k k"]:
    """Gram matrices of the columns on the rows that are chosen for each p."""
    most = int(chosen.sum(dim=0).amax())
    there, rows = chosen.T.byte().topk(most, dim=1)
    some = unit[rows] * there[:, :, None]
    return some.mT @ some
