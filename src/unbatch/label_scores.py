"""Scores of restored label counts, and the floors that tell what a score is worth.

Class-wise scores count absent classes too, so that an answer of zeros can score well; even batches flatter the guess of K/C of each.
Neither floor needs a gradient: print both beside every score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from unbatch.errors import Misuse

__all__ = ["LabelScores", "floors", "score_counts", "score_presence"]


@dataclass(frozen=True)
class LabelScores:
    """Scores from 0 to 1, higher is better.

    Attributes:
        presence: LeAcc, the share of all classes told rightly to be there or not.
        counts: LnAcc, the share of all classes with the right count.
        recall: IRec, Σ min(restored, true) / K: the share of samples whose label was restored.
        exact: whether every count is right.
    """

    presence: float
    counts: float
    recall: float
    exact: bool


def score_counts(truth: Int64[Tensor, " c"], restored: Tensor) -> LabelScores:
    """Score restored counts.

    Args:
        truth: (C,) samples of each class.
        restored: (C,) what was made of them.

    Raises:
        Misuse: the shapes differ, or the truth is empty.

    Example:
        >>> score_counts(torch.tensor([3, 0, 1, 0]), torch.tensor([2, 0, 2, 0]))
        LabelScores(presence=1.0, counts=0.5, recall=0.75, exact=False)
    """
    if truth.shape != restored.shape or truth.ndim != 1 or int(truth.sum()) < 1:
        raise Misuse("true and restored counts of one shape (C,), not all zero", f"{truth.shape} and {restored.shape}", "give counts")
    same = restored == truth
    return LabelScores(
        score_presence(truth, restored > 0),
        float(same.double().mean()),
        int(torch.minimum(restored, truth).sum()) / int(truth.sum()),
        bool(same.all()),
    )


def score_presence(truth: Int64[Tensor, " c"], presence: Tensor) -> float:
    """LeAcc alone, for methods that give no counts."""
    return float(((truth > 0) == presence).double().mean())


def floors(truth: Int64[Tensor, " c"]) -> dict[str, LabelScores]:
    """What two answers without any gradient score: ``zeros``, and ``guess``, K/C of each class (the first classes get the rest).

    Example:
        >>> {name: floor.recall for name, floor in floors(torch.tensor([1, 1, 1, 1])).items()}
        {'zeros': 0.0, 'guess': 1.0}
    """
    total, classes = int(truth.sum()), len(truth)
    guess = torch.full_like(truth, total // classes)
    guess[: total % classes] += 1
    return {"zeros": score_counts(truth, torch.zeros_like(truth)), "guess": score_counts(truth, guess)}
