"""Rank and factors on planted products."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unbatch.linalg import lowrank
from unbatch.linalg.lowrank import factor, multiply


def planted(height: int, width: int, rank: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn((height, rank), generator=generator, dtype=torch.float64)
    return left @ torch.randn((rank, width), generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 40), st.integers(8, 60), st.integers(1, 7), st.integers(0, 10**6))
def test_factors_multiply_back(height: int, width: int, rank: int, seed: int) -> None:
    gradient = planted(height, width, rank, seed)
    found = factor(gradient)
    assert found.rank == rank
    assert found.clear
    assert torch.allclose(found.left @ found.right, gradient, atol=1e-9 * float(gradient.abs().max()))
    assert torch.allclose(found.left.T @ found.left, torch.eye(rank, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_reading_in_blocks_finds_the_same(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    gradient = planted(30, 500, 6).to(dtype)
    whole = factor(gradient)
    monkeypatch.setattr(lowrank, "BLOCK", 1000)
    blocked = factor(gradient)
    assert blocked.rank == whole.rank == 6
    assert torch.allclose(blocked.left @ blocked.right, whole.left @ whole.right, atol=1e-5 if dtype == torch.float32 else 1e-10)


def test_noise_hides_the_rank_and_that_is_said() -> None:
    gradient = planted(30, 200, 5)
    noisy = gradient + 0.5 * torch.randn(30, 200, generator=torch.Generator().manual_seed(1))
    assert not factor(noisy).clear or factor(noisy).rank == 30


def test_full_rank_is_full_rank() -> None:
    assert factor(planted(20, 50, 20)).rank == 20


def test_a_given_rank_is_taken() -> None:
    assert factor(planted(20, 50, 6), rank=4).rank == 4


def test_multiply_is_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, right = planted(7, 90, 3).float(), planted(4, 90, 3)
    expected = wide.double() @ right.T
    monkeypatch.setattr(lowrank, "BLOCK", 70)
    assert torch.allclose(multiply(wide, right), expected, atol=1e-9)
