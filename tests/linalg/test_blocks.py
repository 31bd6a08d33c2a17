"""Reading a matrix in blocks gives what reading it whole gives, and leaves it as it is."""

import pytest
import torch
from torch import Generator

from unbatch.linalg import blocks
from unbatch.linalg.blocks import converted, firing, length, nonzero, times_transposed


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 100)


def wide(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(5, 93, generator=Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [False, True])
def test_the_blocks_are_the_matrix(dtype: torch.dtype, *, own: bool) -> None:
    matrix, whole = wide(dtype), torch.zeros(5, 93, dtype=torch.float64)
    before = matrix.clone()
    for columns, block in converted(matrix, own=own):
        whole[:, columns] = block
        if own:
            block.zero_()
    assert torch.equal(whole, before.double())
    assert torch.equal(matrix, before)
    assert len(list(converted(matrix))) == 5


def test_lengths_and_what_is_not_zero() -> None:
    matrix = wide(torch.float32)
    matrix[1:4] = 0
    matrix[3, -1] = 1e-30
    assert length(matrix) == pytest.approx(float(matrix.double().norm()), rel=1e-14)
    assert length(matrix.T) == pytest.approx(float(matrix.double().norm()), rel=1e-14)
    for given in (matrix, matrix.T, torch.zeros(3, 200), torch.zeros(200, 3)):
        assert firing(given).tolist() == given.ne(0).any(dim=1).tolist()
        assert nonzero(given) is bool(given.any())


def test_the_product_is_differentiable() -> None:
    weight, generator = wide(torch.float32), Generator().manual_seed(1)
    x = torch.randn(2, 3, 93, generator=generator, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    expected = x @ weight.double().T
    found = times_transposed(x, weight)
    assert torch.allclose(found, expected, rtol=1e-13)
    back, wanted = (torch.autograd.grad(made, x, slope)[0] for made in (found, expected))
    assert torch.allclose(back, wanted, rtol=1e-13)
