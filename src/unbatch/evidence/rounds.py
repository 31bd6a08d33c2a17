"""The replay of local training: the same steps on the proposed samples, in the proposed order, must end where the client ended."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.evidence.accuracy import SAFETY, TELLING, counted_by, from_rows
from unbatch.evidence.certificate import EVIDENCE, FINEST, SPARE
from unbatch.evidence.mixtures import apart_from_mixtures, columns_of, surplus
from unbatch.evidence.replay import CARRIED, Replay, Use, carried, entrance_of, gap, length_misfit, replay, rest_of, with_carried
from unbatch.evidence.rotations import hidden_from_replay
from unbatch.evidence.whole import by_turning, weights_that_fit
from unbatch.linalg.lowrank import multiply
from unbatch.trace import TRIAL, run
from unbatch.training import LocalTraining, train
from unbatch.types import Observation

__all__ = ["Round", "prove_round"]

UNKNOWN_ORDER = "the order of the samples in the local steps is not known, so their replay cannot be exact"


@dataclass(frozen=True, eq=False)
class Round:
    """What the replay of local training gave.

    Attributes:
        residual: see ``Replay``.
        missed: tensors that are off by more than their own rounding; all of them where the order of the steps is not known.
        accuracy: (k,) upper estimate of the relative error of every sample.
        remark: what a reader must know, or empty.
    """

    residual: float
    missed: dict[str, float]
    accuracy: Float[Tensor, " k"]
    remark: str = ""


def prove_round(
    observation: Observation,
    local: LocalTraining,
    inputs: Float[Tensor, " k *shape"],
    labels: Int64[Tensor, " k"],
    order: Int64[Tensor, "e k"] | None,
    limit: float,
) -> Round:
    """Train as the client did and compare.

    Args:
        observation: what the server saw.
        local: how the client trained.
        inputs: (k, *shape).
        labels: (k,).
        order: (E, k) order of the samples in every epoch; None where it is not known, which does not matter if every step takes all.
        limit: what of a tensor may be rounding.
    """
    count = len(inputs)
    known = order is not None or local.whole(count)
    order = torch.arange(count, device=inputs.device).expand(local.epochs, count) if order is None else order
    model = copy.deepcopy(observation.model).double()
    inputs = inputs.double()

    def moved(rate: float) -> dict[str, Tensor]:
        """The update of training at this rate, in the observation's scale."""
        at_rate = replace(local, learning_rate=rate)
        trained = train(model, inputs, labels, at_rate, order, observation.loss)
        without = at_rate.average(trained, dict(model.named_parameters()), count)
        scale = (at_rate.factor(count) or 1.0) / (local.factor(count) or 1.0)
        return {name: scale * tensor for name, tensor in without.items()}

    remark = "" if known else UNKNOWN_ORDER
    if local.learning_rate is None:
        rate = _rate(observation, moved, 1.0 / local.total(count))
        replayed, remark = moved(rate), remark or f"the learning rate was found to be {rate:.6g}"
    else:
        replayed = moved(local.learning_rate)
        if not observation.factor_known:
            factor = _alignment(observation, replayed)
            replayed = {name: factor * tensor for name, tensor in replayed.items()}
    gaps = {name: gap(observation.update[name], replayed[name]) for name in observation.update if name in replayed}
    result = Replay(with_carried(observation, gaps))
    residual = result.residual if known else min(result.residual, _in_some_order(observation, inputs, labels))
    missed = result.missed(limit) if known else {name: g.distance / g.size if g.size else 0.0 for name, g in gaps.items()}
    nothing = torch.full((count,), torch.inf, dtype=torch.float64, device=inputs.device)
    if missed:
        return Round(residual, missed, nothing, remark)
    return Round(residual, missed, _accuracy(observation, inputs, labels, replayed, result), remark)


def _in_some_order(observation: Observation, inputs: Tensor, labels: Tensor) -> float:
    """What one gradient leaves in which every sample counts what fits best: in small steps the order changes little but that."""
    at_start = replace(observation, training=None)
    weights = weights_that_fit(at_start, inputs, labels)
    return float("inf") if weights is None else replay(at_start, inputs, labels, weights).residual


def _accuracy(observation: Observation, inputs: Tensor, labels: Tensor, replayed: dict[str, Tensor], result: Replay) -> Float[Tensor, " k"]:
    """As for one gradient, with the columns that the samples and the update imply: their sums over the steps."""
    nothing = torch.full((len(inputs),), torch.inf, dtype=torch.float64, device=inputs.device)
    first = entrance_of(observation.layers, observation, TRIAL)
    if first is None:
        return nothing
    flat, gradient = inputs.flatten(1), observation.update[first.weight]
    if torch.linalg.matrix_rank(flat) < len(flat):
        return nothing
    columns = multiply(gradient, torch.linalg.pinv(flat).T)
    # Neurons that are not silent are no equations yet: behind few classes their columns depend on each other. Counted as for one gradient.
    digits = surplus(observation, columns, inputs, SPARE) * -float(torch.tensor(max(result.residual, FINEST)).log10())
    if digits < EVIDENCE:
        return nothing
    inverse = torch.linalg.pinv(columns)
    rest = rest_of(gradient.double() - replayed[first.weight], [], inverse)
    rounding = torch.finfo(observation.rounding).eps * (columns.abs() @ flat.norm(dim=1))
    rounding = rounding + carried(observation, first.weight) / CARRIED / len(columns) ** 0.5
    rows = from_rows(columns, flat, rest.rows.maximum(rounding), rest.shift)
    told = length_misfit(observation, first.bias, columns, inverse)
    # A rate, or a factor, that is not known is one number for all: it makes what they count no freer.
    rows = rows.where(apart_from_mixtures(observation, inputs, labels, columns, told, None, result.residual), torch.inf)
    if bool(rows.isfinite().any()):
        rows = rows.maximum(_turned_together(observation, inputs, labels, columns, rest.rows.maximum(rounding)))
    told = SAFETY * told
    if bool((told <= TELLING).all()):
        return rows + told
    # The column of the first step, at least, must turn where no bias gradient tells the length: in all neurons at once (``columns_off``).
    rate = observation.training and observation.training.learning_rate
    counted = observation.factor_known and rate is not None and counted_by(told, len(inputs))
    turned = by_turning(observation, inputs, labels, rows, counted=counted)
    return rows + told.minimum((turned - rows).clamp_min(0) if counted else turned)


def _turned_together(
    observation: Observation, inputs: Tensor, labels: Tensor, columns: Float[Tensor, "m k"], errors: Float[Tensor, " m"]
) -> Float[Tensor, " k"]:
    """See ``rotations``, by the columns of the first step: what leaves these as they are leaves those of all steps."""
    ran, here = run(observation.model, inputs), columns_of(observation, inputs, labels)
    call = entrance_of(ran.linears, observation, len(inputs))
    if call is None or here is None:
        return torch.zeros_like(columns[0])
    at_first = here.T * (columns.norm(dim=0) / here.norm(dim=1))
    entered = Use(call.weight, inputs.flatten(1), call.output.detach(), at_first.T)
    free = torch.zeros_like(labels, dtype=torch.bool)
    return hidden_from_replay(observation, inputs, labels, at_first, errors, entered, free, sent=False)


def _rate(observation: Observation, moved: Callable[[float], dict[str, Tensor]], start: float, rounds: int = 12) -> float:
    """The learning rate that explains the size of the difference, by fixed-point iteration: the difference is nearly linear in it."""
    rate = start
    for _ in range(rounds):
        step = _alignment(observation, moved(rate))
        if not 0 < step < float("inf"):
            break
        rate *= step
    return rate


def _alignment(observation: Observation, replayed: dict[str, Tensor]) -> float:
    """The factor that brings the replayed update nearest to the observed one, never below zero: see ``replay``."""
    aligned = sum(float((observation.update[name].double() * tensor).sum()) for name, tensor in replayed.items())
    size = sum(float(tensor.square().sum()) for tensor in replayed.values())
    return max(0.0, aligned / size) if size else 0.0
