"""Rounding approximate directions to exact ones."""

import pytest
import torch

from planted import plant
from unbatch.spear.rounding import masked_gram, null_of_masks, round_directions


def test_close_directions_become_exact() -> None:
    case = plant(m=200, b=12)
    true = case.directions / case.directions.norm(dim=1, keepdim=True)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rough = true + 0.05 * noise / noise.norm(dim=1, keepdim=True)
    exact, off = round_directions(case.layer, rough.float())
    assert exact.dtype == torch.float64
    assert float((exact * true).sum(dim=1).abs().min()) > 1 - 1e-12
    assert torch.equal(off, case.off)


def test_null_of_the_true_masks_is_the_direction() -> None:
    case = plant()
    true = case.directions / case.directions.norm(dim=1, keepdim=True)
    assert float((null_of_masks(case.layer.left, case.off) * true).sum(dim=1).abs().min()) > 1 - 1e-12


@pytest.mark.parametrize("columns", [3, 80])
def test_masked_gram_against_a_loop(columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn((9, columns), generator=generator, dtype=torch.float64)
    mask = torch.rand((5, 9), generator=generator) < 0.5
    expected = torch.stack([matrix.T @ torch.diag(row.double()) @ matrix for row in mask])
    assert torch.allclose(masked_gram(matrix, mask), expected)
    assert masked_gram(matrix, mask[:0]).shape == (0, columns, columns)


def test_nothing_in_nothing_out() -> None:
    case = plant()
    exact, off = round_directions(case.layer, case.directions[:0])
    assert exact.shape == (0, 8)
    assert off.shape == (0, 120)
