"""Counts: the nearest point of the simplex against a general solver, whole numbers against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from unbatch.errors import Misuse
from unbatch.linalg.simplex import onto_simplex, whole

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize("seed", range(5))
def test_nearest_point_is_that_of_a_general_solver(seed: int) -> None:
    values = 3 * torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    solved = minimize(
        lambda x: ((x - values.numpy()) ** 2).sum(),
        np.full(6, 4 / 6),
        bounds=[(0, None)] * 6,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 4},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert torch.allclose(onto_simplex(values, 4.0), torch.from_numpy(solved.x), atol=1e-5)


@given(st.lists(numbers, min_size=1, max_size=8), st.integers(0, 5000))
def test_whole_numbers_have_the_sum_and_are_never_negative(values: list[float], total: int) -> None:
    counts = whole(torch.tensor(values, dtype=torch.float64), total)
    assert int(counts.sum()) == total
    assert int(counts.min()) >= 0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.floats(-0.4, 0.4))
def test_whole_numbers_stay(values: list[int], shift: float) -> None:
    truth = torch.tensor(values)
    assert torch.equal(whole(truth.double(), int(truth.sum())), truth)
    noise = shift * (torch.arange(len(values)) % 2 - 0.5).double()
    if len(values) % 2 == 0:
        assert torch.equal(whole(truth.double() + noise.where(truth > 0, 0.0), int(truth.sum())), truth)


@pytest.mark.parametrize("seed", range(20))
def test_largest_remainder_is_the_nearest_whole_point(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    point = onto_simplex(2 * torch.randn(4, generator=generator, dtype=torch.float64), 5.0)
    nearest = min(
        (torch.tensor(tried) for tried in itertools.product(range(6), repeat=4) if sum(tried) == 5),
        key=lambda tried: float((tried - point).square().sum()),
    )
    assert torch.equal(whole(point, 5), nearest)


@pytest.mark.parametrize("values", [[float("nan"), 1.0], [float("inf"), 1.0]])
def test_refuses_what_is_not_finite(values: list[float]) -> None:
    with pytest.raises(Misuse, match="finite"):
        whole(torch.tensor(values), 3)
