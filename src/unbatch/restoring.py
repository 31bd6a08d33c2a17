"""How many samples of each class: a restorer reads the last layer, and an attack helps where the restorer doubts itself."""

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

RESTORER, QUICK = "anchored", "spear:seconds=20.0"
"""What restores labels if nothing else is named, and what is tried where that doubts its own counts."""

NEGLIGIBLE = 1e3
"""Units of rounding below which nothing is left of an update."""

NOISELESS = 1e-9
"""Noise of an update, as an attack measures it, below which a sample that is certified by itself is exact."""

DOUBT = 0.4
"""Error to expect of a count, in samples, above which some of ten are wrong more likely than not."""


def restore_labels(
    observation: Observation, restorer: str | LabelRestorer = RESTORER, seed: int = 0, attack: str | Attack | None = "auto"
) -> Counts:
    """Tell how many samples of each class the batch held.

    Args:
        observation: what the server saw.
        restorer: ``"name"``, ``"name:field=value,field=value"``, or a restorer.
        seed: of all randomness.
        attack: an attack to try first: the labels of samples that it proves are exact, at any stage of training, and the restorer answers
            for the rest of the batch. ``"auto"`` tries one only where the default restorer doubts its own counts, and for seconds;
            None tries none.

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
    if attack == "auto":
        found = built(observation, seed=seed)
        if built.spec.partition(":")[0] != RESTORER or not _doubtful(found):
            return found
        # Without the batch size the attack refuses at once where the gradient does not show the batch: no time is lost on noise.
        shown = replace(observation, batch_size=None, labels=None) if observation.one_gradient else observation
        made = plugins.build("attacks", QUICK)(shown, seed=seed)
        # In noise, single certificates of what explains only part of the update say too little in the place of an answer.
        explained = made.residual is not None and made.residual <= NEGLIGIBLE * torch.finfo(observation.rounding).eps
        sure = explained or made.stats.get("noise", math.inf) < NOISELESS
        return (_from_proved(observation, made, built, seed) if sure else None) or found
    if attack is None:
        return built(observation, seed=seed)
    tried: Attack = plugins.build("attacks", attack) if isinstance(attack, str) else attack
    proved = _from_proved(observation, tried(observation, seed=seed), built, seed)
    return proved or built(observation, seed=seed)


def _doubtful(found: Counts) -> bool:
    """Whether counts are missing, or some of them are probably wrong."""
    return found.counts is None or found.stats.get("trust", 1.0) < 1 or found.stats.get("expected_error", 0.0) > DOUBT


def _from_proved(observation: Observation, made: Reconstruction, restorer: LabelRestorer, seed: int) -> Counts | None:
    """Counts of the samples that an attack proved, and of the rest by a restorer; None where nothing was proved or it does not fit."""
    if not made.status.disclosed or made.labels is None or made.inputs is None or not len(made.labels):
        return None
    known, proved = torch.bincount(made.labels, minlength=observation.classes), len(made.labels)
    whole_batch, total = made.status is Status.RECONSTRUCTED, observation.batch_size
    exact = {**made.stats, "proved": proved}
    if whole_batch and total in (None, proved):
        return Counts(known, known > 0, made.reason, known.double(), exact, made.attack)
    if total is None or total <= proved or not observation.one_gradient or not observation.factor_known:
        return None
    shown = _mean_gradient(observation, made.inputs, made.labels)
    if (
        whole_batch and _less(observation, shown, 1.0, 0.0) is None
    ):  # the replay proves equal shares; the batch size, how often each was there
        reason = f"the replay proves a batch of {proved} samples, not of {total} as was told" if total % proved else made.reason
        known = known * (1 if total % proved else total // proved)
        return Counts(known, known > 0, reason, known.double(), exact, made.attack)
    rest = _less(observation, shown, proved / total, (total - proved) / total)
    left = Counts() if rest is None else restorer(rest, seed=seed)
    if left.counts is not None:
        counts, how = known + left.counts, "read off what they leave"
    else:
        counts, how = known + _guess(restorer(observation, seed=seed).estimate, known, total - proved), "a guess"
    reason = f"{proved} of {total} samples are proved, the rest is {how}"
    stats = {**left.stats, "proved": proved, "batch_size": total}
    return Counts(counts, counts > 0, reason, counts.double(), stats, f"{made.attack} + {restorer.spec}")


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


def counts_of(observation: Observation, made: Reconstruction, seed: int) -> Counts:
    """How many samples of each class, for the report: as told, as proved by the attack, or read off the last layer."""
    if observation.labels is not None:
        told = torch.bincount(observation.labels, minlength=observation.classes)
        return Counts(told, told > 0, estimate=told.double(), restorer="told")
    built: LabelRestorer = plugins.build("labels", RESTORER)
    return _from_proved(observation, made, built, seed) or built(observation, seed=seed)
