"""Refining, choosing and scaling directions on a planted layer."""

import pytest
import torch
from torch import Tensor

from unbatch.linalg.lowrank import factor, multiply
from unbatch.linalg.selection import Layer, agreement, distinct, refine, scale, select, sparsest

M, N, B = 80, 60, 6


@pytest.fixture
def planted() -> tuple[Layer, Tensor, Tensor, Tensor]:
    """A layer, its true Q, its inputs (b, n) and the right factor."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((M, N), generator=generator, dtype=torch.float64)
    bias = torch.randn(M, generator=generator, dtype=torch.float64)
    inputs = torch.randn((B, N), generator=generator, dtype=torch.float64)
    columns = torch.randn((M, B), generator=generator, dtype=torch.float64) * (weight @ inputs.T + bias[:, None] > 0)
    factors = factor(columns @ inputs)
    layer = Layer(factors.left, columns.sum(dim=1), multiply(weight, factors.right), bias, 1e-7)
    return layer, factors.left.T @ columns, inputs, factors.right


def combinations(true: Tensor) -> Tensor:
    mixed = torch.cat([true[:3] + 0.7 * true[3:], true[:3] - true[1:4]])
    return mixed / mixed.norm(dim=1, keepdim=True)


def test_scale_follows_from_the_bias_gradient(planted: tuple[Layer, Tensor, Tensor, Tensor]) -> None:
    layer, mixing, inputs, right = planted
    found = scale(layer, -3.0 * mixing.T)
    assert torch.allclose(found, mixing, atol=1e-10)
    assert torch.allclose(torch.linalg.solve(found, right), inputs, atol=1e-9)
    assert bool((agreement(layer, found) == 1).all())


def test_true_columns_win_over_combinations(planted: tuple[Layer, Tensor, Tensor, Tensor]) -> None:
    layer, mixing, _, _ = planted
    true = mixing.T / mixing.T.norm(dim=1, keepdim=True)
    pool = sparsest(layer.left, torch.cat([combinations(true), true]), layer.tolerance, most=B + 3)
    assert len(pool) == B + 3
    chosen = select(layer, pool, swaps=0)
    assert chosen is not None
    assert chosen.consistent
    assert float(torch.cdist(mixing.T, chosen.mixing.T).amin(dim=1).max()) < 1e-9


def test_swaps_repair_a_wrong_start(planted: tuple[Layer, Tensor, Tensor, Tensor]) -> None:
    layer, mixing, inputs, right = planted
    true = mixing.T / mixing.T.norm(dim=1, keepdim=True)
    wrong_first = torch.cat([combinations(true)[:1], true])
    assert not select(layer, wrong_first, swaps=0).consistent  # type: ignore[union-attr]
    repaired = select(layer, wrong_first)
    assert repaired is not None
    assert repaired.consistent
    recovered = torch.linalg.solve(repaired.mixing, right)
    assert float(torch.cdist(inputs, recovered).amin(dim=1).max()) < 1e-8


def test_too_few_directions_give_nothing(planted: tuple[Layer, Tensor, Tensor, Tensor]) -> None:
    layer, mixing, _, _ = planted
    assert select(layer, mixing.T[:-1]) is None


def test_refine_makes_approximate_directions_exact(planted: tuple[Layer, Tensor, Tensor, Tensor]) -> None:
    layer, mixing, _, _ = planted
    true = mixing.T / mixing.T.norm(dim=1, keepdim=True)
    rough = true + 1e-4 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    exact = refine(layer.left, rough, least=20, tolerance=1e-7)
    assert torch.allclose((exact * true).sum(dim=1).abs(), torch.ones(B, dtype=torch.float64), atol=1e-13)


def test_distinct_drops_repetitions_up_to_sign() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    assert distinct(torch.cat([axes[:2], -axes[:2]]), axes[2:]).tolist() == [True, True, False, False]
    assert distinct(axes, axes[:0]).tolist() == [True, True, True]
