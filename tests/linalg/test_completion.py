"""Low-rank matrices of which the smallest entries are missing."""

import pytest
import torch
from torch import Tensor

from unbatch.linalg.completion import complete, is_pruned, rank_of_pruned


def planted(share: float, rank: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A matrix and the same without the share of its smallest entries."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn((60, rank), generator=generator, dtype=torch.float64)
    left = left * (torch.rand((60, rank), generator=generator) < 0.5)
    whole = left @ torch.randn((rank, 200), generator=generator, dtype=torch.float64)
    smallest = whole.abs().flatten().kthvalue(int(share * whole.numel()) + 1).values
    return whole, whole.where(whole.abs() >= smallest, torch.zeros_like(whole))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_what_is_held_is_exact(share: float) -> None:
    whole, pruned = planted(share)
    found = complete(pruned, 5)
    held = found.rows[:, None] & found.columns
    assert found.residual < 1e-12
    assert float(held.double().mean()) > 0.7
    assert float((found.left @ found.right - whole)[held].abs().max()) < 1e-8


def test_left_factor_is_orthonormal_and_silent_where_nothing_is_known() -> None:
    _, pruned = planted(0.4)
    pruned[3] = 0
    found = complete(pruned, 5)
    assert not bool(found.rows[3])
    assert float(found.left[3].abs().max()) == 0
    assert torch.allclose(found.left.T @ found.left, torch.eye(5, dtype=torch.float64), atol=1e-12)


def test_rank_is_the_smallest_that_explains() -> None:
    assert rank_of_pruned(planted(0.3)[1], 30) == 5
    assert rank_of_pruned(planted(0.3, rank=9, seed=1)[1], 30) == 9


def test_no_rank_explains_noise() -> None:
    noise = torch.randn((40, 60), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert rank_of_pruned(noise.where(noise.abs() > 0.5, torch.zeros_like(noise)), 8) is None


def test_dead_neurons_and_dark_pixels_are_not_pruning() -> None:
    whole, pruned = planted(0.3)
    dark = whole.clone()
    dark[:, :50] = 0
    dark[7] = 0
    alive = dark[(whole != 0).all(dim=1)]
    assert is_pruned(pruned)
    assert not is_pruned(alive)


def test_too_little_is_left() -> None:
    _, pruned = planted(0.3)
    alone = torch.zeros_like(pruned)
    alone[2, 3] = 1
    found = complete(alone, 5)
    assert found.residual == float("inf")
    assert not bool(found.rows.any())
    assert rank_of_pruned(alone, 30) is None
