"""The assignment of reconstructions to true samples, against trying all of them."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unbatch.errors import Misuse
from unbatch.linalg.matching import match, match_rows, match_tokens, wrong_cells


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


def mixed_cost(truth: torch.Tensor, guess: torch.Tensor, order: tuple[int, ...]) -> tuple[int, float]:
    """(wrong cells, errors of the numbers in scales, at most 1 each), by hand: column 0 is levels, columns 1 and 2 are numbers."""
    wrong, errors = 0, 0.0
    for i, j in enumerate(order):
        if j >= 0:
            off = [abs(float(truth[i, c] - guess[j, c])) / SCALES[c] for c in (1, 2)]
            wrong += int(truth[i, 0] != guess[j, 0]) + sum(one > 0.319 for one in off)
            errors += sum(min(one, 1.0) for one in off)
    return wrong, errors


DISCRETE, SCALES = (True, False, False), (1.0, 2.0, 10.0)


@given(a=st.integers(1, 4), k=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_no_assignment_of_rows_has_fewer_wrong_cells_nor_then_smaller_errors(a: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def rows(count: int) -> torch.Tensor:
        levels = torch.randint(2, (count, 1), generator=generator)
        return torch.cat([levels, torch.randn((count, 2), generator=generator) * torch.tensor(SCALES[1:])], dim=1).double()

    truth, guess = rows(a), rows(k)
    order = match_rows(truth, guess, DISCRETE, SCALES)
    used = [j for j in order if j >= 0]
    assert len(order) == a
    assert len(used) == len(set(used)) == min(a, k)
    pads = [-1] * max(0, a - k)
    best = min(mixed_cost(truth, guess, chosen) for chosen in permutations([*range(k), *pads], a) if chosen.count(-1) == len(pads))
    found = mixed_cost(truth, guess, order)
    assert found[0] == best[0]
    assert found[1] == pytest.approx(best[1], abs=1e-9)


def test_of_twins_within_the_tolerance_the_exact_one_is_the_partner() -> None:
    truth = torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.1, 5.0]])
    assert match_rows(truth, truth[[1, 0]], DISCRETE, SCALES) == (1, 0)


def test_a_level_that_is_one_off_is_as_wrong_as_one_that_is_nine_off() -> None:
    truth = torch.tensor([[3.0, 0.0, 0.0], [9.0, 0.0, 9.0]])
    wrong = wrong_cells(truth[0], torch.tensor([[4.0, 0.5, 0.0], [12.0, 0.7, 3.1]]), DISCRETE, SCALES)
    assert wrong.tolist() == [[True, False, False], [True, True, False]]


def test_missing_and_surplus_rows_and_texts() -> None:
    rows = torch.tensor([[0.0, 1.0, 5.0], [1.0, 9.0, 50.0], [0.0, 20.0, 5.0]])
    assert match_rows(rows, rows[[2]], DISCRETE, SCALES) == (-1, -1, 0)
    assert match_rows(rows[:1], rows, DISCRETE, SCALES) == (0,)
    assert match_rows(rows, rows[:0], DISCRETE, SCALES) == (-1, -1, -1)
    assert match_rows(rows[:0], rows, DISCRETE, SCALES) == ()
    texts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert match_tokens(texts, texts[[1]]) == (-1, 0)
    assert match_tokens(texts, texts[:0]) == (-1, -1)
    assert match_tokens(texts[:0], texts) == ()


def test_rows_that_are_not_finite_or_of_another_length_are_refused() -> None:
    with pytest.raises(Misuse, match="expected finite samples"):
        match_rows(torch.zeros(2, 3), torch.full((2, 3), float("nan")), DISCRETE, SCALES)
    with pytest.raises(Misuse, match="expected reconstructions of shape"):
        match_rows(torch.zeros(2, 3), torch.zeros(2, 2), DISCRETE, SCALES)
