"""The assignment of reconstructions to true samples, against trying all of them."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unbatch.errors import Misuse
from unbatch.linalg.matching import match


def cost(truth: torch.Tensor, guess: torch.Tensor, order: tuple[int, ...]) -> float:
    return sum(float((truth[i] - guess[j]).double().square().sum()) for i, j in enumerate(order) if j >= 0)


def least(truth: torch.Tensor, guess: torch.Tensor) -> float:
    few, many = sorted((truth, guess), key=len)
    costs = (cost(few, many, chosen) for chosen in permutations(range(len(many)), len(few)))
    return min(costs)


@given(a=st.integers(1, 5), k=st.integers(1, 5), shape=st.sampled_from([(1,), (3,), (1, 2, 2)]), seed=st.integers(0, 10**6))
def test_no_assignment_is_cheaper(a: int, k: int, shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth, guess = torch.randn((a, *shape), generator=generator), torch.randn((k, *shape), generator=generator)
    order = match(truth, guess)
    used = [j for j in order if j >= 0]
    assert len(order) == a
    assert len(used) == len(set(used)) == min(a, k)
    assert set(order) <= {-1, *range(k)}
    assert cost(truth, guess, order) == pytest.approx(least(truth, guess))


@given(order=st.permutations(range(6)), dtype=st.sampled_from([torch.float32, torch.float64]), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_a_shuffled_batch_is_put_in_order(order: list[int], dtype: torch.dtype, scale: float) -> None:
    truth = torch.randn((6, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(dtype) * scale
    assert [order[j] for j in match(truth, truth[order])] == list(range(6))


def test_an_exact_reconstruction_wins_over_a_near_twin_far_from_the_origin() -> None:
    # Inner products of these are about 1e10: their rounding is above the squared distance of the twins, 1e-12.
    truth = torch.full((3, 10), 1e4, dtype=torch.float64)
    truth[1, 0] += 1e-6
    truth[2, 0] += 2e-6
    assert match(truth, truth[[2, 0, 1]]) == (1, 2, 0)


def test_missing_and_surplus_reconstructions() -> None:
    truth = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    assert match(truth, torch.tensor([[29.0], [11.0]])) == (-1, 1, -1, 0)
    assert match(truth[:2], torch.tensor([[99.0], [11.0], [1.0], [-50.0]])) == (2, 1)
    assert match(truth, truth[:0]) == (-1, -1, -1, -1)
    assert match(truth[:0], truth) == ()


def test_a_total_beats_a_greedy_choice() -> None:
    # Greedy would give truth 1 the guess at 1.0, and leave truth 0 with the one at 10.
    assert match(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.5], [10.0]])) == (0, 1)


def test_a_runaway_reconstruction_is_a_bad_partner_only() -> None:
    truth = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert match(truth, torch.tensor([[1e200], [1.0], [0.0]], dtype=torch.float64)) == (2, 1)
    assert sorted(match(truth, torch.tensor([[1e200], [1.0]], dtype=torch.float64))) == [0, 1]


def test_the_samples_are_left_alone() -> None:
    truth = torch.randn((3, 2), generator=torch.Generator().manual_seed(0), requires_grad=True)
    guess = truth.detach().clone()
    match(truth, guess)
    assert torch.equal(truth, guess)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(Misuse, match="expected finite samples"):
        match(torch.zeros(2, 3), torch.full((2, 3), value))


def test_samples_of_other_shapes_are_refused() -> None:
    with pytest.raises(Misuse, match="expected reconstructions of shape"):
        match(torch.zeros(2, 3), torch.zeros(2, 4))
