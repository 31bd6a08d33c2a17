"""Restored counts of classes as they are stored, with their scores and the floors of two answers that need no gradient."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unbatch.label_scores import LabelScores, floors, score_counts, score_presence
from unbatch.origin import Origin
from unbatch.realism import upper_bounds
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
        batch_size: the number of samples, told or found; None where neither.
        determined: whether the update itself shows that the counts are right; if not, they are a guess within the ranges.
        expected_error: of a count before rounding, in samples, where they are determined: at most this share of them is off.
        deviation: of a count before rounding, in samples, to be expected if all that was told is right; None where the method does not say.
        ranges: (C, 2) the smallest and the largest share of the batch that each class may have if all that was told is right.
        trust: how far the method believes what it read off, 0 to 1; below 1 the counts are a guess bent by it.
        proved: samples that were proved, with their labels.
        least: (C,) how many of each class these are; None where none were, or where the counts say it.
        true: (C,) the truth, where it is known.
        left_out: whether all counts are left out on purpose.
        scores: ``restored``, and the floors ``guess`` (K/C of each class) and ``zeros``, where the truth is known.
    """

    source: str
    counts: tuple[int, ...] | None = None
    presence: tuple[bool, ...] | None = None
    reason: str = ""
    batch_size: int | None = None
    determined: bool = False
    expected_error: float | None = None
    deviation: float | None = None
    ranges: tuple[tuple[float, float], ...] | None = None
    trust: float | None = None
    proved: int = 0
    least: tuple[int, ...] | None = None
    true: tuple[int, ...] | None = None
    scores: dict[str, StoredScores] = Field(default_factory=dict)
    left_out: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> StoredCounts:
        lists = [values for values in (self.counts, self.presence, self.true, self.ranges, self.least) if values is not None]
        if len({len(values) for values in lists}) > 1:
            raise ValueError("counts, presence, ranges and truth are of different numbers of classes")
        if any(not 0 <= low <= high <= 1 for low, high in self.ranges or ()):
            raise ValueError("ranges must be shares of the batch")
        if self.determined and self.counts is None and not self.left_out:
            raise ValueError("determined counts must be there")
        if min((0, *(self.counts or ()), *(self.true or ()), *(self.least or ()), self.proved)) < 0:
            raise ValueError("counts must not be negative")
        return self

    def redacted(self) -> StoredCounts:
        """The same without the counts, and without all that tells them."""
        gone: dict[str, Any] = {
            "counts": None,
            "presence": None,
            "ranges": None,
            "least": None,
            "true": None,
            "scores": {},
            "reason": "",
            "left_out": True,
        }
        return self.model_copy(update=gone) if self.presence is not None else self


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
        upper_bounds: what makes the setting easier than a real client's; None where nobody looked.
        origin: date, files, command, client and next steps; None where nobody told.
    """

    format: Literal[1] = FORMAT
    counts: StoredCounts
    classes: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    input_shape: tuple[int, ...]
    seed: int = 0
    environment: dict[str, str] = Field(default_factory=dict)
    upper_bounds: tuple[str, ...] | None = None
    origin: Origin | None = None


def stored_counts(found: Counts, true_labels: Tensor | None = None) -> StoredCounts:
    """Counts to store, scored where the truth is known.

    Args:
        found: what was restored.
        true_labels: (b,) the client's labels, or None; counts that were told and not restored are not scored.

    Example:
        >>> told = stored_counts(Counts(torch.tensor([2, 1]), torch.tensor([True, True])), torch.tensor([0, 0, 1]))
        >>> told.true, told.scores["restored"].exact
        ((2, 1), True)
    """
    true, scores = None, {}
    answer = found.presence if found.counts is None else found.counts
    if true_labels is not None and len(true_labels) and not found.told and answer is not None and int(true_labels.max()) < len(answer):
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
        batch_size=found.batch_size,
        determined=found.determined,
        expected_error=found.expected_error,
        deviation=found.deviation,
        ranges=None if found.ranges is None else tuple((low, high) for low, high in found.ranges.tolist()),
        trust=found.trust,
        proved=found.proved,
        least=_plain(found.least) if found.counts is None else None,
        true=_plain(true),
        scores=scores,
    )


def stored_labels(
    found: Counts, observation: Observation, seed: int, environment: dict[str, str], origin: Origin | None = None
) -> StoredLabels:
    """Counts to store alone.

    Args:
        found: what was restored.
        observation: from what.
        seed: of all randomness.
        environment: versions and machine.
        origin: where they come from.
    """
    return StoredLabels(
        counts=stored_counts(found),
        classes=() if observation.schema is None else observation.schema.classes,
        knowledge=tuple(observation.knowledge.sentences()),
        input_shape=observation.input_shape,
        seed=seed,
        environment=environment,
        upper_bounds=upper_bounds(observation),
        origin=origin,
    )


def _scores(scores: LabelScores) -> StoredScores:
    return StoredScores(presence=scores.presence, counts=scores.counts, recall=scores.recall, exact=scores.exact)


def _plain(tensor: Tensor | None) -> Any:
    return None if tensor is None else tuple(tensor.tolist())
