"""Restored counts of classes as they are stored, with their scores and the floors of two answers that need no gradient."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unbatch.label_scores import LabelScores, floors, score_counts, score_presence
from unbatch.records import Record
from unbatch.types import Counts, Observation

__all__ = ["FORMAT", "StoredCounts", "StoredLabels", "StoredScores", "stored_counts", "stored_labels"]

FORMAT: Final = 1
"""Version of the format of labels that are stored alone."""


class StoredScores(Record):
    """See ``label_scores.LabelScores``; None where the answer tells only which classes are there."""

    presence: float
    counts: float | None = None
    recall: float | None = None
    exact: bool | None = None


class StoredCounts(Record):
    """A ``types.Counts`` without its tensors.

    Attributes:
        source: what the counts come from: a restorer, an attack whose samples are proved, both joined by " + ", or "told".
        counts: (C,) samples of each class, or None.
        presence: (C,) whether a class has samples, or None where the method did not apply.
        reason: why there are no counts, or what a reader must know of them.
        expected_error: of a count before rounding, in samples; None where the method does not say.
        trust: how far the method believes what it read off, 0 to 1; below 1 the counts are a guess bent by it.
        proved: samples whose labels an attack proved.
        true: (C,) the truth, where it is known.
        scores: ``restored``, and the floors ``guess`` (K/C of each class) and ``zeros``, where the truth is known.
    """

    source: str
    counts: tuple[int, ...] | None = None
    presence: tuple[bool, ...] | None = None
    reason: str = ""
    expected_error: float | None = None
    trust: float | None = None
    proved: int = 0
    true: tuple[int, ...] | None = None
    scores: dict[str, StoredScores] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> StoredCounts:
        lists = [values for values in (self.counts, self.presence, self.true) if values is not None]
        if len({len(values) for values in lists}) > 1:
            raise ValueError("counts, presence and truth are of different numbers of classes")
        if min((0, *(self.counts or ()), *(self.true or ()), self.proved)) < 0:
            raise ValueError("counts must not be negative")
        return self


class StoredLabels(Record):
    """Counts that were restored without an audit, as ``labels.json`` holds them.

    Attributes:
        format: version of the format.
        counts: the counts.
        classes: their names, or empty.
        knowledge: what the adversary was told, one fact a line.
        input_shape: of one sample.
        seed: of all randomness.
        environment: versions and machine.
    """

    format: Literal[1] = FORMAT
    counts: StoredCounts
    classes: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    input_shape: tuple[int, ...]
    seed: int = 0
    environment: dict[str, str] = Field(default_factory=dict)


def stored_counts(found: Counts, true_labels: Tensor | None = None) -> StoredCounts:
    """Counts to store, scored where the truth is known.

    Args:
        found: what was restored.
        true_labels: (b,) the client's labels, or None.

    Example:
        >>> told = stored_counts(Counts(torch.tensor([2, 1]), torch.tensor([True, True])), torch.tensor([0, 0, 1]))
        >>> told.true, told.scores["restored"].exact
        ((2, 1), True)
    """
    true, scores = None, {}
    answer = found.presence if found.counts is None else found.counts
    if true_labels is not None and len(true_labels) and answer is not None and int(true_labels.max()) < len(answer):
        true = torch.bincount(true_labels.cpu(), minlength=len(answer))
        scores = {name: _scores(floor) for name, floor in floors(true).items()}
        if found.counts is not None:
            scores["restored"] = _scores(score_counts(true, found.counts.cpu()))
        elif found.presence is not None:
            scores["restored"] = StoredScores(presence=score_presence(true, found.presence.cpu()))
    return StoredCounts(
        source=found.restorer,
        counts=_plain(found.counts),
        presence=_plain(found.presence),
        reason=found.reason,
        expected_error=_number(found.stats.get("expected_error")),
        trust=_number(found.stats.get("trust")),
        proved=int(found.stats.get("proved", 0)),
        true=_plain(true),
        scores=scores,
    )


def stored_labels(found: Counts, observation: Observation, seed: int, environment: dict[str, str]) -> StoredLabels:
    """Counts to store alone.

    Args:
        found: what was restored.
        observation: from what.
        seed: of all randomness.
        environment: versions and machine.
    """
    return StoredLabels(
        counts=stored_counts(found),
        classes=() if observation.schema is None else observation.schema.classes,
        knowledge=tuple(observation.knowledge.sentences()),
        input_shape=observation.input_shape,
        seed=seed,
        environment=environment,
    )


def _scores(scores: LabelScores) -> StoredScores:
    return StoredScores(presence=scores.presence, counts=scores.counts, recall=scores.recall, exact=scores.exact)


def _plain(tensor: Tensor | None) -> Any:
    return None if tensor is None else tuple(tensor.tolist())


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
