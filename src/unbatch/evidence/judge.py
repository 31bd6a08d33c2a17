"""From an observation and a proposal to a status: the only place where anything is called disclosed.

    one gradient        replay of the whole; where that fails, the certificate of every single sample
    local steps         replay of the steps; without it nothing is proved
    an inner layer      the same, with that layer as the first

``RECONSTRUCTED`` is two claims: every sample is proved, and no sample is missing. What was told (batch size, labels) is held against both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unbatch.errors import Misuse
from unbatch.evidence.alone import one_of, prove_alone
from unbatch.evidence.beside import approximate, certainty, comes_near
from unbatch.evidence.certificate import labels_that_fit
from unbatch.evidence.completeness import Completeness, as_counted, completeness, hides, without_copies
from unbatch.evidence.each import directions_by_rows, directions_of, entrance_to, prove_each
from unbatch.evidence.handed_in import copied, fault_of
from unbatch.evidence.inner import from_layer
from unbatch.evidence.known_to import known_to
from unbatch.evidence.labels import labels_told, likely
from unbatch.evidence.plain_means import near_plain, nearly_plain, plain, plain_size
from unbatch.evidence.rounds import prove_round
from unbatch.evidence.scales import off_scale
from unbatch.evidence.several import ROUNDED, hidden_by_counting
from unbatch.evidence.spaces import Space
from unbatch.evidence.whole import Whole, by_turning, prove_whole
from unbatch.linalg.completion import is_pruned
from unbatch.scores import mse
from unbatch.trace import run
from unbatch.types import Candidate, Observation, Reconstruction, Status

__all__ = ["TOLERANCE", "acceptable", "judge"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""What of a tensor may be rounding, beside what was added up for it, by the update's type: hundreds of roundings, as a deep network makes;
for the half types, whose updates are computed finer and rounded once, two or three. Chosen by these numbers of roundings. Swept."""

ACCEPTABLE, ACCEPTABLE_HALF = 1e-3, 2e-2
"""Largest relative error of a sample that is called proved, and of one whose update has a half type, which holds two to three digits.
Chosen: nobody sees a thousandth in a picture. Swept."""


def acceptable(observation: Observation) -> float:
    """Largest relative error of a sample that is called proved, by what the update's rounding allows."""
    return ACCEPTABLE_HALF if observation.rounding in (torch.float16, torch.bfloat16) else ACCEPTABLE


def judge(observation: Observation, candidate: Candidate) -> Reconstruction:
    """Decide what a proposal is worth.

    Args:
        observation: what the server saw.
        candidate: what an attack made of it; nothing of it is trusted.

    Returns:
        the status with its evidence. Where it says that something is disclosed, all that is given was proved.
    """
    if fault := fault_of(observation, candidate):
        return Reconstruction(Status.BROKE_DOWN, reason=fault, error=str(candidate.error))
    candidate = copied(candidate)
    made = _judged(observation, candidate)
    return replace(
        made,
        stats=candidate.stats,
        inverted=candidate.inverted,
        approximate=approximate(observation, candidate, made),
        certainty=certainty(candidate, made),
        interrupted=candidate.interrupted,
    )


def _by_itself(observation: Observation, samples: _Samples) -> Tensor:
    """(k,) relative errors, without what a replay says that others of its samples, which are refused, may have made fit.

    What several members leave together is not quite what their mean leaves, and the others may have made up for it (seed 140222).
    """
    entrance = entrance_to(observation)
    if entrance is None:
        return torch.full((len(samples.labels),), torch.inf, dtype=torch.float64, device=samples.labels.device)
    each = prove_each(observation, entrance, samples.inputs, samples.labels, acceptable(observation))
    return each.accuracy.where(each.proved, torch.inf)


def _judged(observation: Observation, candidate: Candidate) -> Reconstruction:
    if candidate.error:
        return Reconstruction(Status.BROKE_DOWN, reason=candidate.reason, error=candidate.error)
    if candidate.features is not None:
        return _of_layer(observation, candidate)
    if candidate.inputs is None or not len(candidate.inputs):
        return Reconstruction(_unfinished(candidate), reason=candidate.reason)
    made = _of_samples(observation, candidate)
    return replace(made, inputs=None if made.inputs is None else made.inputs.to(torch.promote_types(observation.dtype, torch.float32)))


def _unfinished(candidate: Candidate, otherwise: Status = Status.INCONSISTENT) -> Status:
    """What to call a proposal that shows nothing: by how its search ended; where that is said in several ways, by the worst."""
    ends = ((candidate.diverged, Status.DIVERGED), (candidate.exhausted, Status.BUDGET_EXHAUSTED), (candidate.converged, Status.CONVERGED))
    return next((status for ended, status in ends if ended), otherwise)


def _of_layer(observation: Observation, candidate: Candidate) -> Reconstruction:
    """What an inner layer sees, judged as the input of the network from there on."""
    features, layer = candidate.features, candidate.layer or ""
    unproved = Reconstruction(Status.UNPROVEN, reason=candidate.reason, features=features, layer=layer)
    inner = from_layer(observation, layer) if observation.one_gradient and features is not None else None
    if inner is None or features is None:
        told = f"what follows {layer or 'the layer'} depends on more than what it sees, or moved while the client trained"
        return replace(unproved, reason=candidate.reason or told)
    if not len(features):
        return Reconstruction(_unfinished(candidate), reason=candidate.reason)
    if features.shape[1] != inner.input_shape[0]:
        return Reconstruction(Status.BROKE_DOWN, reason=f"the attack returned features of {features.shape[1]} numbers for {layer}")
    made = _of_samples(inner, replace(candidate, inputs=features, features=None))
    if made.status.disclosed:
        number = len(made.inputs)  # type: ignore[arg-type]
        told = f"{'all ' if made.status is Status.RECONSTRUCTED and number > 1 else ''}{number} row{'s' * (number > 1)}"
        reason = f"{told} of what {layer} sees are proved" + (f": {made.reason}" if made.reason else "")
        return replace(made, status=Status.FEATURES, inputs=None, features=made.inputs, layer=layer, reason=reason)
    return replace(made, inputs=None, features=features, layer=layer)


def _of_samples(observation: Observation, candidate: Candidate) -> Reconstruction:
    inputs = candidate.inputs
    if inputs is None:
        return Reconstruction(Status.INCONSISTENT, reason=candidate.reason)
    labels = candidate.labels if candidate.labels is not None else _labels(observation, inputs)
    if labels is None:
        return Reconstruction(
            _unfinished(candidate, Status.UNPROVEN), inputs, reason=candidate.reason or "without labels the batch cannot be replayed"
        )
    kept, copies = without_copies(inputs, labels)
    if refused := _refused(observation, inputs, kept):
        return Reconstruction(_unfinished(candidate), inputs, labels, reason=candidate.reason or refused)
    if observation.training is not None and not observation.one_gradient:
        return _of_round(observation, replace(candidate, labels=labels))
    distinct = _Samples(inputs, labels)[kept]
    limit = TOLERANCE[observation.rounding]
    whole = prove_whole(observation, distinct.inputs, distinct.labels, copies, limit)
    if whole.holds and bool((whole.accuracy <= acceptable(observation)).all()):
        weights = whole.weights if whole.weights is not None else copies.double() / copies.sum()
        members = 0 if whole.pruned else _members_at_least(observation, whole.residual)
        return _disclosed(
            observation, candidate, distinct, weights, whole.accuracy, whole.residual, _pruned(whole), explained=True, members=members
        )
    return _of_some(observation, candidate, distinct, whole, limit)


def _refused(observation: Observation, inputs: Tensor, kept: Tensor) -> str:
    """Why no client can have had this batch, or nothing: a model that normalizes by the batch may refuse a single sample."""
    if not observation.coupled:
        return ""
    local = observation.training
    steps = [inputs[part] for part in ([] if local is None else local.parts(len(inputs)))]
    try:
        for batch in (inputs, inputs[kept], *steps[-1:]):
            run(observation.model, batch)
    except Misuse as refusal:
        return f"the model does not run on so few samples: {refusal}"
    return ""


def _members_at_least(observation: Observation, residual: float) -> int:
    """How many members there are at least, by the directions of the update; 0 where the samples leave no more than rounding of it."""
    return 0 if residual <= ROUNDED * torch.finfo(observation.rounding).eps else directions_of(observation)


@dataclass(frozen=True, eq=False)
class _Samples:
    inputs: Tensor
    labels: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.inputs, self.labels))

    def __getitem__(self, chosen: Tensor) -> _Samples:
        """Some of them, by number, in order, or by a mask; without a copy where that is all."""
        whole = bool(chosen.all()) if chosen.dtype == torch.bool else len(chosen) == len(self.labels)
        return self if whole else _Samples(self.inputs[chosen], self.labels[chosen])


def _of_some(observation: Observation, candidate: Candidate, distinct: _Samples, whole: Whole, limit: float) -> Reconstruction:
    """Where the whole is not proved: the samples that are."""
    accuracy, few = whole.accuracy, acceptable(observation)
    proved = accuracy <= few if whole.holds else torch.zeros_like(accuracy, dtype=torch.bool)
    weights = torch.full_like(accuracy, 1 / len(accuracy)) if whole.weights is None else whole.weights
    entrance = entrance_to(observation)
    members = 0 if entrance is None or is_pruned(observation.update[entrance.tail.start]) else entrance.first.rank
    if entrance is not None:
        each = prove_each(observation, entrance, distinct.inputs, distinct.labels, few, proved)
        weights = torch.where(each.proved & ~proved, 1 / each.inverse_weight, weights)
        accuracy = accuracy.minimum(each.accuracy)
        proved = proved | each.proved
    if not bool(proved.any()):
        if (alone := prove_alone(observation, distinct.inputs, limit, few)) is not None:
            return one_of(observation, distinct.inputs, alone)
        return _unproved(candidate, distinct, whole.residual, _why_not(whole, limit))
    chosen = distinct[proved]
    again = prove_whole(observation, chosen.inputs, chosen.labels, torch.ones_like(chosen.labels), limit, plain(weights[proved]))
    explained = again.holds and bool((again.accuracy <= few).all())
    beyond = 0 if again.pruned or again.residual <= ROUNDED * torch.finfo(observation.rounding).eps else members
    # Where all together give the update and some are too weak to be proved, what these leave is no sign that a proved one stands for two.
    if explained and not (whole.holds and len(chosen.labels) < beyond <= len(distinct.labels)):
        weights = again.weights if again.weights is not None else torch.full_like(again.accuracy, 1 / len(chosen.labels))
        return _disclosed(
            observation, candidate, chosen, weights, again.accuracy, again.residual, _pruned(again), explained=True, members=beyond
        )
    if told := off_scale(observation, chosen.inputs, chosen.labels, weights[proved], limit):
        return Reconstruction(Status.INCONSISTENT, chosen.inputs, chosen.labels, whole.residual, f"{OFF_SCALE}, but {told}")
    space = None if entrance is None else entrance.first
    return _disclosed(
        observation, candidate, chosen, weights[proved], accuracy[proved], whole.residual, "", explained=False, members=members, space=space
    )


OFF_SCALE = "by what the samples found count they are all that is in the update"


def _disclosed(
    observation: Observation,
    candidate: Candidate,
    samples: _Samples,
    weights: Tensor,
    accuracy: Tensor,
    residual: float,
    remark: str,
    *,
    explained: bool,
    members: int = 0,
    space: Space | None = None,
) -> Reconstruction:
    """Proved samples, and whether they are the whole batch, of which there are so many members at least."""
    if observation.loss is mse and not (explained and _all_of_a_regression(observation, samples)):
        return Reconstruction(Status.UNPROVEN, samples.inputs, samples.labels, residual, FREE_COUNTS)
    hidden = hidden_by_counting(
        observation, samples.inputs, samples.labels, weights, residual, accuracy, explained=explained, members=members, space=space
    )
    accuracy = accuracy.maximum(hidden)
    within = accuracy <= acceptable(observation)
    kept = _lengths_agree(observation, samples, weights, accuracy) & within
    if not bool(kept.any()):
        exact = explained or residual <= ROUNDED * torch.finfo(observation.rounding).eps
        return _unproved(candidate, samples, residual, LENGTHS_DISAGREE if bool(within.any()) else ALIKE if exact else SEVERAL)
    if not bool(kept.all()):
        samples, weights, accuracy = samples[kept], weights[kept], accuracy[kept]
        if explained:
            accuracy = accuracy.maximum(_by_itself(observation, samples))
            kept = accuracy <= acceptable(observation)
            if not bool(kept.any()):
                return _unproved(candidate, samples, residual, ALIKE)
            samples, weights, accuracy, explained = samples[kept], weights[kept], accuracy[kept], False
    hiding, faint = hides(observation, *samples), directions_by_rows(observation)
    rest = completeness(observation, weights, samples.labels, explained=explained, hiding=hiding, seen=faint)
    members = max(members, faint)
    if rest.whole and observation.batch_size in (None, len(samples.labels)) and members > len(samples.labels):
        rest = Completeness(False, torch.ones_like(rest.copies), None, (f"the update has {members} directions, {MUCH_ALIKE}",))
    told = labels_told(observation, *samples, explained=explained)
    if not told:
        rest = Completeness(False, torch.ones_like(rest.copies), None, (OPEN_LABELS,))
    elif observation.loss is mse:
        told, rest = False, Completeness(False, torch.ones_like(rest.copies), None, (NO_TARGETS,))
    elif observation.classes == 2 and not ((explained and as_counted(observation, weights, accuracy)) or likely(observation, *samples)):
        told, rest = False, Completeness(False, torch.ones_like(rest.copies), None, (TWO_WAYS,))
    copies = rest.copies if rest.whole else torch.ones_like(rest.copies)
    count = len(samples.labels)
    found = "" if rest.whole else f"{count} samples are proved" if count > 1 else "1 sample is proved"
    said = (found, *rest.remarks, _held_back(observation, within), remark, known_to(samples.inputs, accuracy))
    return Reconstruction(
        Status.RECONSTRUCTED if rest.whole else Status.PARTIAL,
        samples.inputs if bool((copies == 1).all()) else samples.inputs.repeat_interleave(copies, dim=0),
        samples.labels.repeat_interleave(copies) if told else None,
        residual,
        "; ".join(text for text in (*said, "" if rest.whole else candidate.reason) if text),
        proved=torch.ones(int(copies.sum()), dtype=torch.bool, device=copies.device),
        accuracy=accuracy.repeat_interleave(copies),
        missing=rest.missing,
        explained=explained,
    )


def _held_back(observation: Observation, within: Tensor) -> str:
    """How many more meet every condition, where a batch size might say that they stand for none but themselves."""
    count = int((~within).sum()) if observation.batch_size is None else 0
    return f"{count} more {'meet' if count > 1 else 'meets'} every condition, but {MAY_BE_ALIKE}" if count else ""


OPEN_LABELS = "other labels would leave the same gradient: neither their labels nor what they count is known"

NO_TARGETS = "the targets of a regression are not known, nor so what a sample counts: whether others are missing is not known"

FREE_COUNTS = (
    "samples were found that meet every condition; but in a regression each counts as much as its unknown target is off, so that they are"
    " proved only where they explain the whole update, and the batch size was told and is their number and the rank of the gradient"
)


def _all_of_a_regression(observation: Observation, samples: _Samples) -> bool:
    """Whether there are as many samples as were told, and as the gradient has directions: then none of them stands for several.

    What samples count is free in a regression. Of some samples, or of a batch of unknown size, a search and pairs that are much alike made
    false proofs in trials of small networks, which counts that are known exclude elsewhere.
    """
    told = observation.one_gradient and observation.batch_size == len(samples.labels)
    return told and (entrance := entrance_to(observation)) is not None and entrance.first.rank == observation.batch_size


TWO_WAYS = (
    "of two classes the label is the sign of what a sample does, which another loss (smoothed labels) turns where the network is sure;"
    " nothing confirms the loss that was told, so neither their labels nor what they count is known"
)

MUCH_ALIKE = (
    "so that there are more members than these: some of them stand for several that are much alike, or others leave too little to be proved"
)

MAY_BE_ALIKE = "may stand for several that are much alike, as far as the update shows: tell the batch size, which may exclude that"

NOT_FIXED = "the replay gives the observed update, but"

SEVERAL = (
    "each sample may stand for several: for some that are much alike if it counts as much, and for any whose mean it is if what it leaves"
    " does not turn as it moves, which the batch size would exclude"
)

ALIKE = f"{NOT_FIXED} {SEVERAL}"

LENGTHS_DISAGREE = (
    "the samples would have one length by the bias gradient and another by what samples of a plain mean, of the batch size that was told, "
    "count: one of the two is wrong, and nothing else tells their length"
)


def _lengths_agree(observation: Observation, samples: _Samples, weights: Tensor, accuracy: Tensor) -> Tensor:
    """(k,) whether what is known of the batch leaves a sample's length alone.

    The gradient holds w d xᵀ. Where w by the bias gradient is not that of a plain mean, of the size that was told if one was, only a column
    that turns tells. What a weak sample counts may be off by more, which leaves the others alone.
    """
    number, size = plain_size(weights), observation.batch_size
    if not observation.factor_known or not observation.one_gradient or (number is not None and size in (None, number)):
        return torch.ones_like(samples.labels, dtype=torch.bool)
    turned = by_turning(observation, samples.inputs, samples.labels, accuracy) <= acceptable(observation)
    even = nearly_plain(weights)
    number = None if even is None else plain_size(even)
    if even is None or number is None or size not in (None, number):
        return turned
    return turned | ((weights / even - 1).abs() < near_plain(number))


def _unproved(candidate: Candidate, samples: _Samples, residual: float, why: str) -> Reconstruction:
    exact = why.startswith(NOT_FIXED)
    status = Status.UNPROVEN if exact else Status.APPROXIMATE if comes_near(residual) else _unfinished(candidate)
    return Reconstruction(status, samples.inputs, samples.labels, residual, candidate.reason or why)


def _why_not(whole: Whole, limit: float) -> str:
    if whole.holds:
        return f"{NOT_FIXED} other samples could give it as well: too few equations, or gradients too small to tell"
    name, off = max(whole.missed.items(), key=lambda item: item[1])
    return (
        f"replaying the candidate leaves a relative distance of {whole.residual:.1e}, and of {off:.1e} in {name!r}; {limit:.0e} is rounding"
    )


def _pruned(whole: Whole) -> str:
    told = "the update looks pruned, and is compared where it is not zero; elsewhere the replay has nothing that would have been sent"
    return told if whole.pruned else ""


def _labels(observation: Observation, inputs: Tensor) -> Tensor | None:
    """The labels that fit the samples best, one by one; None where samples cannot be tried one by one."""
    entrance = entrance_to(observation) if observation.one_gradient else None
    return None if entrance is None else labels_that_fit(entrance, inputs.double().flatten(1) @ entrance.first.right)


def _of_round(observation: Observation, candidate: Candidate) -> Reconstruction:
    local, inputs, labels = observation.training, candidate.inputs, candidate.labels
    if local is None or inputs is None or labels is None:
        return Reconstruction(Status.INCONSISTENT, reason=candidate.reason)
    made = prove_round(observation, local, inputs, labels, candidate.order, TOLERANCE[observation.rounding])
    samples = _Samples(inputs, labels)
    if not made.missed and bool((made.accuracy <= acceptable(observation)).all()):
        even = torch.full_like(made.accuracy, 1 / len(labels))
        known = observation if local.learning_rate is not None else replace(observation, factor_known=False)
        # The first layer's inputs do not move: no step adds a direction. Without the factor the rounding of the weights is not known.
        members = 0 if local.factor(observation.batch_size) is None else _members_at_least(observation, made.residual)
        return _disclosed(known, candidate, samples, even, made.accuracy, made.residual, made.remark, explained=True, members=members)
    why = made.remark or f"replaying the local steps leaves a relative distance of {made.residual:.1e}"
    if not made.missed:
        why = f"{NOT_FIXED} other samples could give it as well"
    return _unproved(candidate, samples, made.residual, why)
