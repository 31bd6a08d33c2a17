"""How many samples of each class: a restorer reads the last layer, and an attack helps where its counts are not determined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from unbatch import plugins
from unbatch.contracts import Attack, LabelRestorer
from unbatch.gradients import capture
from unbatch.linalg.simplex import whole
from unbatch.types import Counts, Observation, Reconstruction, Status

__all__ = ["counts_of", "restore_labels"]

RESTORER, QUICK, BRIEF = "anchored", "spear:seconds=20.0", "spear:seconds=3.0"
"""What restores labels if nothing else is named; what is tried where its counts are in doubt; and where only their certainty is open, which
is worth less of the user's time."""

NEGLIGIBLE = 1e3
"""Units of rounding below which nothing is left of an update. Chosen."""

DOUBT = 0.4
"""Deviation to expect of a count, in samples, above which some of ten are wrong more likely than not. Derived. Swept."""


def restore_labels(
    observation: Observation, restorer: str | LabelRestorer = RESTORER, seed: int = 0, attack: str | Attack | None = "auto"
) -> Counts:
    """Tell how many samples of each class the batch held.

    Args:
        observation: what the server saw.
        restorer: ``"name"``, ``"name:field=value,field=value"``, or a restorer.
        seed: of all randomness.
        attack: an attack to try first: the labels of samples that it proves are exact, at any stage of training, and the restorer answers
            for the rest of the batch. ``"auto"`` tries one only where the counts of the default restorer are not determined, for at most
            20 seconds, or 3 where counts are likely right; None tries none.

    Returns:
        ``.counts`` (C,), or None in their place and the reason; ``.restorer`` says what they come from.

    Raises:
        Misuse: there is no such restorer, attack or setting.

    Example:
        >>> net = torch.nn.Linear(3, 2).double()
        >>> update = {"weight": torch.tensor([[-0.2, 0.1, 0.3], [0.2, -0.1, -0.3]]).double(), "bias": torch.tensor([-0.5, 0.5]).double()}
        >>> restore_labels(Observation(net, update, (3,), batch_size=4), "ilrg:uniform=true").counts.tolist()
        [4, 0]
    """
    built: LabelRestorer = plugins.build("labels", restorer) if isinstance(restorer, str) else restorer
    if attack is None:
        found = built(observation, seed=seed)
    elif attack == "auto":
        found = built(observation, seed=seed)
        if built.spec.partition(":")[0] == RESTORER and observation.classified and not found.determined:
            # Without the batch size the attack refuses at once where the gradient does not show the batch: no time is lost on noise.
            shown = replace(observation, batch_size=None, labels=None) if observation.one_gradient else replace(observation, labels=None)
            quick: Attack = plugins.build("attacks", QUICK if _doubtful(found) else BRIEF)
            proved = _from_proved(observation, quick(shown, seed=seed), built, seed)
            better = proved is not None and (proved.determined or _doubtful(found) or _refuted(found, proved))
            found = proved if proved is not None and better else found
    else:
        tried: Attack = plugins.build("attacks", attack) if isinstance(attack, str) else attack
        found = _from_proved(observation, tried(observation, seed=seed), built, seed) or built(observation, seed=seed)
    return found if observation.labels is None else replace(found, reason=_joined(_contradiction(observation.labels, found), found.reason))


def counts_of(observation: Observation, made: Reconstruction, seed: int) -> Counts:
    """How many samples of each class, for the report: as proved by the attack, as read off the last layer, or as told where these agree."""
    built: LabelRestorer = plugins.build("labels", RESTORER)
    found = _from_proved(observation, made, built, seed) or built(observation, seed=seed)
    if observation.labels is None:
        return found
    if contradiction := _contradiction(observation.labels, found):
        return replace(found, reason=_joined(contradiction, found.reason))
    told = torch.bincount(observation.labels, minlength=observation.classes)
    same = found.determined and found.counts is not None
    checked = f"the update agrees with them, by {found.restorer}" if same else "nothing in the update confirms or refutes them"
    answer = Counts(told, told > 0, checked, told.double(), found.stats, "told", len(observation.labels), same, found.expected_error)
    return replace(answer, ranges=found.ranges, proved=found.proved)


def _contradiction(labels: Tensor, found: Counts) -> str:
    """Why the labels that were told cannot be those of the update, or nothing."""
    told = torch.bincount(labels, minlength=0 if found.ranges is None else len(found.ranges))
    if found.determined and found.counts is not None:
        told = torch.bincount(labels, minlength=len(found.counts))
        if len(labels) != int(found.counts.sum()):
            return (
                f"{len(labels)} labels were told, and the update shows {int(found.counts.sum())} samples: the told labels are not its own"
            )
        off = int((told - found.counts.to(told)).clamp_min(0).sum())
        return f"{off} of the {len(labels)} labels that were told are not those of the update" if off else ""
    if found.ranges is None or not len(labels):
        return ""
    # Ranges hold for nineteen of twenty classes: only what lies as far outside again is refuted.
    low, high = found.ranges.to(labels.device).double().unbind(dim=1)
    share, slack = told / len(labels), high - low
    off = int(((share < low - slack) | (share > high + slack)).sum())
    return f"the labels that were told do not fit the update: {off} classes have another share of the batch than it shows" if off else ""


def _joined(*sentences: str) -> str:
    return "; ".join(filter(None, sentences))


def _doubtful(found: Counts) -> bool:
    """Whether counts are missing, or some of them are probably wrong, so that a part that is proved is better."""
    unsure = found.deviation is None or found.deviation > DOUBT
    return found.counts is None or (not found.determined and unsure)


def _refuted(found: Counts, proved: Counts) -> bool:
    """Whether more samples of some class are proved than were counted."""
    return found.counts is not None and proved.least is not None and bool((proved.least > found.counts).any())


def _from_proved(observation: Observation, made: Reconstruction, restorer: LabelRestorer, seed: int) -> Counts | None:
    """Counts of the samples that the evidence proved, with their labels, and of the rest by a restorer; None where nothing was proved."""
    if not made.status.disclosed or made.labels is None or made.inputs is None or not len(made.labels):
        return None
    known, proved = torch.bincount(made.labels, minlength=observation.classes), len(made.labels)
    whole_batch, total = made.status is Status.RECONSTRUCTED, observation.batch_size
    exact = Counts(known, known > 0, made.reason, known.double(), made.stats, made.attack, proved, determined=True, expected_error=0.0)
    exact = replace(exact, deviation=0.0, proved=proved, least=known)
    all_of_it = made.explained and not made.missing  # as many as were told may still not be all that the update holds
    if (whole_batch and total is None) or (total == proved and all_of_it):
        return exact
    if total is None or total <= proved:
        return _at_least(exact, restorer(observation, seed=seed), total)
    if not observation.one_gradient or not observation.factor_known:
        return _with_rest(exact, Counts(), restorer(observation, seed=seed), total)
    shown = _mean_gradient(observation, made.inputs, made.labels)
    if whole_batch and _less(observation, shown, 1.0, 0.0) is None:
        return _repeated(exact, total)
    rest = _less(observation, shown, proved / total, (total - proved) / total)
    left = Counts() if rest is None else restorer(rest, seed=seed)
    return _with_rest(exact, left, restorer(observation, seed=seed) if left.counts is None else Counts(), total)


def _at_least(exact: Counts, alone: Counts, total: int | None) -> Counts:
    """The proved samples of a batch whose size is not known, or was told smaller; what a restorer made of it alone, if it knows better."""
    if total is None and alone.determined:
        return alone
    if total == exact.proved:
        told = "but they do not explain the whole update: the batch size is wrong, the update was clipped or scaled, or noise is in it"
        reason = f"as many samples are proved as were told; {told}"
        return replace(exact, reason=reason, batch_size=total, determined=False, expected_error=None)
    told = "how many more the batch held is not known" if total is None else f"more than the {total} that were told"
    reason = f"{exact.proved} samples are proved, with their labels; {told}"
    return replace(
        exact, counts=None, estimate=None, reason=reason, batch_size=None, determined=False, expected_error=None, ranges=alone.ranges
    )


def _repeated(exact: Counts, total: int) -> Counts:
    """The replay proves samples of equal shares, fewer than were told."""
    if exact.counts is None or total % exact.proved:
        return replace(exact, reason=f"the replay proves a batch of {exact.proved} samples, not of {total} as was told")
    times = total // exact.proved
    reason = (
        f"the replay proves {exact.proved} samples of equal shares: each was there {times} times, or the batch size of {total} is wrong"
    )
    counts = known = exact.counts * times
    return replace(exact, counts=counts, estimate=known.double(), reason=reason, batch_size=total, determined=False, expected_error=None)


def _with_rest(exact: Counts, left: Counts, alone: Counts, total: int) -> Counts:
    """The proved samples, and the rest of the batch.

    Args:
        exact: the proved samples.
        left: what a restorer made of what they leave of the update, if anything.
        alone: what it made of all of it, to guess by where there is no more.
        total: the batch size.
    """
    known, missing = torch.zeros(0) if exact.counts is None else exact.counts, total - exact.proved
    rest, how = (
        (left.counts, "read off what they leave") if left.counts is not None else (_guess(alone.estimate, known, missing), "a guess")
    )
    counts = known + rest
    ranges = None if left.ranges is None else (known[:, None] + missing * left.ranges) / total
    reason = _joined(f"{exact.proved} of {total} samples are proved, the rest is {how}", left.reason)
    name = f"{exact.restorer} + {left.restorer or alone.restorer}"
    # What is left of half as many samples as were told is their own gradient once more: all are then there twice, or the size is wrong.
    sure = left.determined and math.gcd(*(int(count) for count in counts)) == 1
    answer = replace(left, counts=counts, presence=counts > 0, estimate=counts.double(), reason=reason, restorer=name, batch_size=total)
    answer = answer if sure else replace(answer, determined=False, expected_error=None)
    return replace(answer, ranges=ranges, proved=exact.proved, least=exact.least, trust=left.trust if left.counts is not None else 0.0)


def _guess(estimate: Tensor | None, known: Tensor, missing: int) -> Tensor:
    """Counts of the missing samples: what a restorer sees beyond the known ones, or of all classes alike."""
    beyond = torch.ones_like(known, dtype=torch.float64) if estimate is None else (estimate.double() - known).clamp_min(0)
    even = torch.full_like(beyond, missing / len(known))
    return whole(missing * beyond / beyond.sum() if float(beyond.sum()) > 0 else even, missing)


def _mean_gradient(observation: Observation, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    dtype = next(observation.model.parameters()).dtype
    return capture(observation.model, inputs.to(dtype), labels, observation.loss)


def _less(observation: Observation, shown: Mapping[str, Tensor], share: float, left: float) -> Observation | None:
    """What the server would have seen of the rest of the batch, without samples of this mean gradient; None if nothing is left of it.

    Args:
        observation: of the whole batch.
        shown: mean gradient of the known samples.
        share: of the known samples in the batch.
        left: share of the rest; 0 only asks whether there is a rest.
    """
    rest = {name: tensor.double() - share * shown[name].double() for name, tensor in observation.update.items()}
    size, whole_size = (sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5 for tensors in (rest, observation.update))
    if size <= NEGLIGIBLE * torch.finfo(observation.rounding).eps * whole_size:
        return None
    count = max(1, round(left * (observation.batch_size or 1)))
    return replace(observation, update={name: tensor / (left or 1.0) for name, tensor in rest.items()}, batch_size=count, labels=None)
