"""Whether samples are missing: a claim of its own, and one that what was told may contradict.

In a plain mean of n samples each counts 1/n, and the update itself says what every proved sample counts. So the weights of all
proved samples must sum to one; what they lack is the part of the batch that is not proved. That is known only where the scale of the
update is known; otherwise only a batch size that was told can say that nobody is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from unbatch.errors import Misuse
from unbatch.evidence.plain_means import BETWEEN, WHOLE, plain_size
from unbatch.evidence.slopes import slopes_of
from unbatch.losses import slopes
from unbatch.trace import run
from unbatch.types import Observation

__all__ = [
    "Completeness",
    "as_counted",
    "completeness",
    "counts",
    "counts_evenly",
    "hides",
    "leaves_out",
    "odd_beside",
    "repeated",
    "without_copies",
]

SHORT = 0.25
"""Of one sample's weight, what all weights together may lack: a missing one lacks 1, half of what tells them apart is kept as a margin.
Chosen."""


@dataclass(frozen=True, eq=False)
class Completeness:
    """What the weights of the proved samples say of the batch.

    Attributes:
        whole: whether no sample is missing, and nothing that was told contradicts it.
        copies: (k,) how often each sample was in the batch, where that is known; else 1 each.
        missing: how many samples are missing; None where that is not known.
        remarks: what a reader must know: contradictions, and explanations offered as such.
    """

    whole: bool
    copies: Int64[Tensor, " k"]
    missing: int | None
    remarks: tuple[str, ...] = ()


def without_copies(inputs: Float[Tensor, " k *shape"], labels: Int64[Tensor, " k"]) -> tuple[Int64[Tensor, " d"], Int64[Tensor, " d"]]:
    """The first of each set of equal samples with equal labels, and how many there are of it."""
    kept: list[int] = []
    copies: list[int] = []
    told = list(zip(inputs.flatten(1).sum(dim=1, dtype=torch.float64).tolist(), labels.tolist(), strict=True))
    for index in range(len(inputs)):
        for place, other in enumerate(kept):
            if told[index] == told[other] and torch.equal(inputs[index], inputs[other]):
                copies[place] += 1
                break
        else:
            kept.append(index)
            copies.append(1)
    return torch.tensor(kept, device=inputs.device), torch.tensor(copies, device=inputs.device)


def completeness(
    observation: Observation,
    weights: Float[Tensor, " k"],
    labels: Int64[Tensor, " k"],
    *,
    explained: bool,
    hiding: bool = False,
    seen: int = 0,
) -> Completeness:
    """Hold the proved samples against what the server knows of the batch.

    Args:
        observation: what the server saw and was told.
        weights: (k,) what each proved sample counts in the update; only their ratios mean something where the factor is not known.
        labels: (k,) theirs.
        explained: whether the proved samples explain the whole update, to its rounding.
        hiding: see ``hides``.
        seen: how many samples left something in rows that are far shorter than others; 0 where no row is, or not that much is known.
    """
    if observation.batch_size != len(labels) and (faint := faint_classes(observation, len(labels))):
        named = ", ".join(map(str, faint[:4])) + (", ..." if len(faint) > len(faint[:4]) else "")
        said = f"samples of class {named} count nothing in this loss, or too little to be missed: how many there were is not known"
        return Completeness(False, torch.ones_like(labels), None, (said,))
    if observation.batch_size != len(labels) and hiding:
        return Completeness(False, torch.ones_like(labels), None, (HIDDEN,))
    if not explained and not counts_evenly(observation, labels):
        return Completeness(False, torch.ones_like(labels), None, (UNEVEN,))
    if not observation.factor_known:
        return _without_scale(observation, weights, labels, explained=explained)
    return _with_scale(observation, weights, labels, explained=explained, seen=seen)


def _with_scale(observation: Observation, weights: Tensor, labels: Tensor, *, explained: bool, seen: int) -> Completeness:
    one_each = torch.ones_like(labels)
    size, told = observation.batch_size, len(labels)
    total = float(weights.sum())
    if explained and abs(total - 1) < min(WHOLE, SHORT / told):
        copies = _copies(weights, size or told)
        if copies is None and size is None and (smallest := repeated(observation, weights, labels)) is not None:
            said = f"they explain the whole update, counted as {_listed(smallest)}: some were repeated, or weighted by the loss"
            return Completeness(False, one_each, None, (f"{said}; without the batch size nobody can tell",))
        if copies is None and size is not None and (size != told or _ratios(weights) is not None):  # repeated, then
            contradiction = f"the batch size was told as {size}, but the samples count like {_spoken(weights)}: one of the two is wrong"
            return Completeness(False, one_each, None, (contradiction,))
        if copies is None:
            spread = f"from {float(weights.min() * told):.3g} to {float(weights.max() * told):.3g} of an even share"
            return _checked(observation, labels, one_each, True, 0, (f"the samples count differently, {spread}: clipped or weighted",))
        if (times := math.gcd(*copies.tolist())) > 1:
            said = f"they explain the whole update; the batch size was told as {size}: each was there {times} times, or that is wrong"
            return Completeness(False, one_each, None, (said,))
        return _checked(observation, labels, copies, True, 0, () if size is None or size == told else (_counting_as(copies, size),))
    number = plain_size(weights)
    if number is None:
        shares = f"what they count, {float(weights.min()):.3g} to {float(weights.max()):.3g} of the update, is not that of a plain mean"
        return Completeness(False, one_each, None, (f"{shares}: it was scaled, clipped or weighted in a way that was not told",))
    missing = number - round(float((weights * number).sum()))
    if missing < 0:
        said = f"what they count adds up to {total:.3g} of the update: the loss weighs samples, or the update was scaled"
        return Completeness(False, one_each, None, (said,))
    remarks = (_of_missing(told, number, missing, seen, explained=explained),)
    if size not in (None, number):
        return Completeness(False, one_each, None, (*remarks, f"the batch size was told as {size}, which contradicts it"))
    return Completeness(False, one_each, missing, remarks)


UNEVEN = "what a sample counts in this loss depends on its class, or on the others': how many are missing is not known"


def counts_evenly(observation: Observation, labels: Int64[Tensor, " k"]) -> bool:
    """Whether every sample of a batch of n counts 1/n, whatever the others are: tried with a few that are made up.

    Args:
        observation: for the loss.
        labels: (k,) of proved samples.
    """
    if isinstance(observation.loss, str) and ":" not in observation.loss:
        return True
    if _class_shares(observation) is not None:
        return False
    first, classes = int(labels[0]), observation.classes
    named = torch.tensor([first, first, first, first + 1, first + 1, first + 2], device=labels.device) % classes
    made = torch.randn((len(named), classes), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(labels.device)
    try:
        together, alone = slopes(observation.loss, made, named), slopes_of(observation, made, named)
    except Misuse:
        return False
    return bool(((together - alone).norm(dim=1) <= WHOLE * alone.norm(dim=1)).all())


def odd_beside(observation: Observation, labels: Int64[Tensor, " k"], free: Bool[Tensor, " k"]) -> Bool[Tensor, " k"]:
    """Which samples count what none of a plain mean does, beside others that do: such a one stands for several.

    Two that are alike, but for their labels, leave nearly nothing together, and so does a blend of theirs that counts as little.

    Args:
        observation: for the loss. Where it counts unevenly, or the factor is not known, no sample is odd.
        labels: (k,) of the samples.
        free: (k,) which of them do not count what samples of a plain mean do.
    """
    odd = bool(free.any()) and not bool(free.all()) and observation.factor_known and counts_evenly(observation, labels)
    return free & odd


def faint_classes(observation: Observation, told: int) -> list[int]:
    """The classes of which one sample more would change what so many proved samples count by less than is asked of their sum."""
    shares = _class_shares(observation)
    if shares is None:
        return []
    least = 2 * told * min(WHOLE, 0.25 / told)
    return (shares < least).nonzero()[:, 0].tolist()


ALIKE = 1e-9
"""Classes whose samples count so nearly the same, relatively, count alike. Chosen, far above the rounding of one slope."""


def _class_shares(observation: Observation) -> Float[Tensor, " C"] | None:
    """What a sample of each class counts, beside one of the class that counts most; None where all count alike."""
    if isinstance(observation.loss, str) and ":" not in observation.loss:
        return None  # the losses with a name count all classes alike
    even = torch.zeros((observation.classes, observation.classes), dtype=torch.float64, device=observation.device)
    try:
        sizes = slopes(observation.loss, even, torch.arange(observation.classes, device=observation.device)).norm(dim=1)
    except Misuse:  # a loss that takes no labels like these does not weigh them either
        return None
    shares = sizes / sizes.max()
    return None if bool((shares > 1 - ALIKE).all()) else shares


HIDDEN = "this loss is no mean over all samples: one that it leaves out changes nothing of the others, so how many there were is not known"


def hides(observation: Observation, inputs: Num[Tensor, " k *shape"], labels: Int64[Tensor, " k"]) -> bool:
    """Whether the loss would leave one sample more out of its mean: one that the network is sure of, or quite wrong about, or a copy.

    That all weights sum to one says that nobody is missing only where a member that leaves no trace of its own makes the others count
    less. A sum over the batch, a mean over those samples that are hard enough, or a mean of the classes' means does not.

    Args:
        observation: for the loss.
        inputs: (k, *shape) the proved samples.
        labels: (k,) theirs.
    """
    if isinstance(observation.loss, str):
        return False  # means, by class weights at most: see ``faint_classes``
    outputs = run(observation.model, inputs).outputs
    alone, least = slopes(observation.loss, outputs, labels) / len(labels), 2 * min(WHOLE, 0.25 / len(labels))
    every = torch.arange(len(labels), device=labels.device)
    of_class = torch.eye(observation.classes).to(outputs)
    made_up = [(sure * of_class[label], label, every) for label in range(observation.classes) for sure in SURE]
    copies = [(outputs[i].detach(), int(labels[i]), every[every != i]) for i in range(len(labels))] if len(labels) > 1 else []
    for scores, label, others in [*made_up, *copies]:
        named = torch.cat([labels, labels.new_tensor([label])])
        try:
            beside = slopes(observation.loss, torch.cat([outputs, scores[None]]), named)[:-1] / len(named)
        except Misuse:
            continue
        less = float(((alone - beside) * alone)[others].sum().abs())  # not finite: one that would spoil the update leaves a trace
        if math.isfinite(less) and less <= least * float(alone[others].square().sum()):
            return True
    return False


def leaves_out(observation: Observation, number: int) -> bool:
    """Whether the loss makes some of so many samples count nothing, as one that trims: then so many that count are not all that there were.

    Args:
        observation: for the loss.
        number: of samples, which are made up.
    """
    if isinstance(observation.loss, str):
        return False
    generator = torch.Generator().manual_seed(0)
    made = torch.randn((number, observation.classes), generator=generator, dtype=torch.float64).to(observation.device)
    labels = torch.randint(observation.classes, (number,), generator=generator).to(observation.device)
    try:
        return not bool(slopes(observation.loss, made, labels).any(dim=1).all())
    except Misuse:
        return False


SURE = (1.0, 100.0, -100.0)
"""Scores of its class that a sample without a trace may have: where a square is zero, where a softmax is sure, where it is quite wrong.
Chosen."""


def counts(observation: Observation, weights: Float[Tensor, " k"], labels: Int64[Tensor, " k"], *, explained: bool) -> Float[Tensor, " k"]:
    """(k,) how many times each sample was in the batch, by what it counts; without a told batch size the least of them once.

    Args:
        observation: for the loss, which may weigh classes, and the batch size.
        weights: (k,) what each counts in the update.
        labels: (k,).
        explained: whether these samples explain the whole update.
    """
    shares = _class_shares(observation)
    own = weights if shares is None else weights / shares[labels].clamp_min(torch.finfo(torch.float64).tiny)
    size = observation.batch_size
    if size is not None and explained:
        return own / own.sum() * size
    if size is not None and observation.factor_known and shares is None:
        return own * size
    return own / own.min()


def as_counted(observation: Observation, weights: Float[Tensor, " k"], accuracy: Float[Tensor, " k"]) -> bool:
    """Whether proved samples that explain the whole update count what all samples of a plain mean under the loss that was told do."""
    number = plain_size(weights)
    if number is None or not observation.factor_known or abs(float(weights.sum()) - 1) > min(WHOLE, 0.25 / len(weights)):
        return False
    near = (10 * accuracy).clamp_min(1e-6)
    off = (weights * number / (weights * number).round() - 1).abs()
    return bool((off <= near).all()) and number * float(near.max()) < BETWEEN


def _of_missing(told: int, number: int, missing: int, seen: int, *, explained: bool) -> str:
    here = f"each of them counts 1/{number} of the update" if told > 1 else f"it counts 1/{number} of the update"
    if missing <= 0:
        return f"{here}, and that they are all that is in it is not proved"
    gone = "were not found or not proved"
    if explained:
        gone = "left no trace above the update's rounding, as samples of which the network is sure do, or the update was scaled"
    if explained and seen > told:
        gone = "left no trace beside the others, or too little to be proved"
        gone += f"; what {seen - told} of them left stands in rows that the others leave alone, and may be read there"
    return f"{here}, so {missing} more of {number} {gone}"


def _without_scale(observation: Observation, weights: Tensor, labels: Tensor, *, explained: bool) -> Completeness:
    size, told = observation.batch_size, len(labels)
    one_each = torch.ones_like(labels)
    if not explained:
        more = "the rest of the batch was" if size is None or size <= told else f"at most {size - told} more of {size} were"
        return Completeness(False, one_each, None, (f"{more} not found or not proved",))  # these may have been there more than once
    if size is None:
        said = "they explain the whole update; but without its factor or the batch size, samples that left no trace cannot be excluded"
        return Completeness(False, one_each, None, (said,))
    copies = _copies(weights / weights.sum(), size)
    if copies is None and (smallest := repeated(observation, weights, labels, most=1)) is not None:
        said = f"the batch size was told as {size}, but the samples count as {_listed(smallest)}: one of the two is wrong"
        return Completeness(False, one_each, None, (said,))
    if copies is not None and math.gcd(*copies.tolist()) > 1:  # or each less often, and others left no trace (seed 362552)
        missing = f"{_counting_as(copies, size)}, unless samples are missing that left no trace"
        return _checked(observation, labels, copies, False, None, (missing,))
    if copies is not None:
        return _checked(observation, labels, copies, size == told, 0, () if size == told else (_counting_as(copies, size),))
    if size == told:
        spread = f"from {float(weights.min() / weights.mean()):.3g} to {float(weights.max() / weights.mean()):.3g} of an even share"
        return _checked(observation, labels, one_each, True, 0, (f"the samples count differently, {spread}: clipped or weighted",))
    said = f"the batch size was told as {size}; they explain the whole update"
    if size < told:
        return Completeness(False, one_each, None, (f"the batch size was told as {size}, but {told} different samples are proved",))
    return Completeness(False, one_each, None, (f"{said}, so the other {size - told} left no trace in it, or repeat these",))


def _checked(
    observation: Observation, labels: Tensor, copies: Tensor, whole: bool, missing: int | None, remarks: tuple[str, ...]
) -> Completeness:
    """The same, not whole where the labels that were told are others."""
    if observation.labels is None:
        return Completeness(whole, copies, missing, remarks)
    classes = observation.classes
    found = torch.bincount(labels.repeat_interleave(copies), minlength=classes).cpu()
    told = torch.bincount(observation.labels, minlength=classes).cpu()
    # Without a batch size, how often the whole set was there is open.
    same = torch.equal(found * int(told.sum()), told * int(found.sum())) if observation.batch_size is None else torch.equal(found, told)
    if same:
        return Completeness(whole, copies, missing, remarks)
    said = "the labels that were told are not those of the samples that the update proves: one of the two is wrong"
    return Completeness(False, copies, None, (*remarks, said))


def _copies(weights: Tensor, size: int) -> Int64[Tensor, " k"] | None:
    """How often each sample was in a batch of this size, if that is a whole number for all."""
    copies = (weights * size).round()
    near: Bool[Tensor, " k"] = (weights * size - copies).abs() < WHOLE
    good = bool(near.all()) and bool((copies >= 1).all()) and int(copies.sum()) == size
    return copies.to(torch.int64) if good else None


def repeated(
    observation: Observation, weights: Float[Tensor, " k"], labels: Int64[Tensor, " k"], most: int = 64
) -> Int64[Tensor, " k"] | None:
    """How often each was there, in proportion, where that is not once for all: by what one of its class counts.

    Args:
        observation: for the loss, which may weigh classes.
        weights: (k,) what each counts in the update.
        labels: (k,).
        most: how often the one that counts least was there at most.
    """
    shares = _class_shares(observation)
    found = _ratios(weights if shares is None else weights / shares[labels].clamp_min(torch.finfo(torch.float64).tiny), most)
    return None if found is None or bool((found == 1).all()) else found


def _ratios(weights: Tensor, most: int = 64) -> Int64[Tensor, " k"] | None:
    """The smallest whole numbers in proportion to the weights."""
    for smallest in range(1, most + 1):
        scaled = weights / weights.min() * smallest
        if bool(((scaled - scaled.round()).abs() < WHOLE).all()):
            return scaled.round().to(torch.int64)
    return None


def _counting_as(copies: Tensor, size: int) -> str:
    return f"{len(copies)} different samples, which count as {_listed(copies)} of {size}"


def _listed(copies: Tensor) -> str:
    shown = ", ".join(str(int(count)) for count in copies[:6])
    return shown + (", ..." if len(copies) > len(copies[:6]) else "")


def _spoken(weights: Tensor) -> str:
    number = plain_size(weights)
    return f"a mean of {number}" if number is not None else "no plain mean"
