"""Scores of counts against loops over samples and classes, and the floors against their formula."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unbatch.errors import Misuse
from unbatch.label_scores import floors, score_counts, score_presence

labels = st.lists(st.integers(0, 4), min_size=1, max_size=30)


@given(labels, labels)
def test_scores_are_those_of_a_loop(truth: list[int], restored: list[int]) -> None:
    left, found = list(restored), 0
    for label in truth:
        if label in left:
            left.remove(label)
            found += 1
    scores = score_counts(torch.bincount(torch.tensor(truth), minlength=5), torch.bincount(torch.tensor(restored), minlength=5))
    assert scores.recall == pytest.approx(found / len(truth))
    assert scores.counts == pytest.approx(sum(truth.count(c) == restored.count(c) for c in range(5)) / 5)
    assert scores.presence == pytest.approx(sum((c in truth) == (c in restored) for c in range(5)) / 5)
    assert scores.exact == (sorted(truth) == sorted(restored))


def test_zeros_score_what_the_formula_says() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.bincount(torch.randint(100, (64,), generator=generator), minlength=100) for _ in range(300)]
    mean = sum(floors(truth)["zeros"].presence for truth in batches) / len(batches)
    assert mean == pytest.approx((1 - 1 / 100) ** 64, abs=0.01)


@pytest.mark.parametrize("size", [1, 7, 10, 64])
def test_the_guess_has_the_sum(size: int) -> None:
    truth = torch.bincount(torch.zeros(size, dtype=torch.int64), minlength=10)
    assert floors(truth)["guess"].recall == -(-size // 10) / size


def test_presence_alone() -> None:
    assert score_presence(torch.tensor([2, 0, 1, 0]), torch.tensor([True, True, True, False])) == 0.75


@pytest.mark.parametrize(("truth", "restored"), [([1, 2], [1, 2, 3]), ([0, 0], [1, 0])])
def test_refuses_what_cannot_be_scored(truth: list[int], restored: list[int]) -> None:
    with pytest.raises(Misuse, match="one shape"):
        score_counts(torch.tensor(truth), torch.tensor(restored))
