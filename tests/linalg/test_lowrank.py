"""Rank and factors on planted products."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from unbatch.linalg import blocks
from unbatch.linalg.lowrank import factor, multiply


def planted(height: int, width: int, rank: int, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    left = torch.randn((height, rank), generator=generator, dtype=torch.float64)
    return left @ torch.randn((rank, width), generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 40), st.integers(8, 60), st.integers(1, 7), st.integers(0, 10**6))
def test_factors_multiply_back(height: int, width: int, rank: int, seed: int) -> None:
    gradient = planted(height, width, rank, seed)
    found = factor(gradient, Generator().manual_seed(seed))
    assert found.rank == rank
    assert found.clear
    assert torch.allclose(found.left @ found.right, gradient, atol=1e-9 * float(gradient.abs().max()))
    assert torch.allclose(found.left.T @ found.left, torch.eye(rank, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("rank", [1, 20, 110, 150])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_wide_gradients_are_factored_from_sums_of_columns(monkeypatch: pytest.MonkeyPatch, rank: int, dtype: torch.dtype) -> None:
    gradient = planted(300, 20_000, rank).to(dtype)
    monkeypatch.setattr(blocks, "BLOCK", 100_000)
    found = factor(gradient, Generator().manual_seed(1))
    assert found.rank == rank
    error = (found.left @ found.right - gradient).norm() / gradient.norm()
    assert float(error) < (1e-12 if dtype == torch.float64 else 1e-6)


def test_columns_that_are_zero_nearly_everywhere_do_not_hide_the_rank() -> None:
    gradient = planted(300, 20_000, 30)
    gradient[:, torch.randperm(20_000, generator=Generator().manual_seed(2))[:19_000]] = 0
    assert factor(gradient, Generator().manual_seed(1)).rank == 30


def test_noise_hides_the_rank_and_that_is_said() -> None:
    noise = torch.randn(30, 200, generator=Generator().manual_seed(1))
    found = factor(planted(30, 200, 5) + 0.5 * noise, Generator().manual_seed(0))
    assert not found.clear or found.rank == 30


def test_full_rank_is_full_rank() -> None:
    assert factor(planted(20, 50, 20), Generator()).rank == 20


def test_a_given_rank_is_taken() -> None:
    assert factor(planted(20, 50, 6), Generator(), rank=4).rank == 4


def test_multiply_is_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, right = planted(7, 90, 3).float(), planted(4, 90, 3)
    expected = wide.double() @ right.T
    monkeypatch.setattr(blocks, "BLOCK", 70)
    assert torch.allclose(multiply(wide, right), expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_gap_after_which_samples_follow_in_a_few_sums_is_not_the_last(seed: int) -> None:
    """Inputs with a large mean, and 180 directions that fall a hundredfold: 128 sums show one gap, and no end of what follows."""
    generator = Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn((400, 181), generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn((1200, 181), generator=generator, dtype=torch.float64))[0]
    values = torch.cat([torch.tensor([200.0]).double(), torch.logspace(0, -2, 180, dtype=torch.float64)])
    found = factor(left * values @ right.T, generator)
    assert found.rank == 181
    assert found.clear
