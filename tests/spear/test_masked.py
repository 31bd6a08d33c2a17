"""Least squares on rows of masks, against those of the rows alone."""

import pytest
import torch
from torch import Generator, Tensor

from planted import plant
from unbatch.clock import Clock, OutOfTime
from unbatch.spear.masked import LARGE, fitted_on, null_on
from unbatch.spear.rounding import fitted, null_of_masks


def scene(height: int = 400, columns: int = 140, count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn((height, columns), generator=generator, dtype=torch.float64))[0]
    mask = torch.rand((count, height), generator=generator) < 0.5
    return basis, mask, torch.randn((count, height), generator=generator, dtype=torch.float64)


def test_fits_are_those_of_the_rows() -> None:
    basis, mask, wanted = scene()
    found, solved = fitted_on(basis, mask, wanted)
    expected = torch.stack([torch.linalg.lstsq(basis[on], row[on, None]).solution[:, 0] for on, row in zip(mask, wanted, strict=True)])
    assert bool(solved.all())
    assert float((found - expected).norm(dim=1).max()) < 1e-12 * float(expected.norm(dim=1).min())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_fits_do_not_depend_on_units(scale: float) -> None:
    basis, mask, wanted = scene()
    found, solved = fitted_on(basis, mask, scale * wanted)
    assert bool(solved.all())
    assert torch.allclose(found / scale, fitted_on(basis, mask, wanted)[0], rtol=1e-9, atol=0)


def test_null_vectors_are_the_directions() -> None:
    case = plant(m=500, n=200, b=LARGE + 12)
    true = case.directions / case.directions.norm(dim=1, keepdim=True)
    for found in (null_on(case.layer.left, case.off)[0], null_of_masks(case.layer.left, case.off)):
        assert float((found * true).sum(dim=1).abs().min()) > 1 - 1e-12


def test_what_is_not_solved_is_said_and_solved_otherwise() -> None:
    basis, mask, wanted = scene()
    mask[0] = False
    mask[0, : basis.shape[1] + 1] = True  # one row more than columns: as good as singular
    found, solved = fitted_on(basis, mask, wanted)
    assert solved.tolist() == [False] + [True] * (len(mask) - 1)
    exact = torch.linalg.lstsq(basis[mask[0]], wanted[0, mask[0], None]).solution[:, 0]
    assert float((found[0] - exact).norm()) > 1e-3 * float(exact.norm())
    assert float((fitted(basis, mask, wanted)[0] - exact).norm()) < 1e-6 * float(exact.norm())


def test_nothing_in_nothing_out() -> None:
    basis, mask, wanted = scene()
    assert fitted(basis, mask[:0], wanted[:0]).shape == (0, basis.shape[1])
    assert null_of_masks(basis, mask[:0]).shape == (0, basis.shape[1])


def test_the_clock_ends_it() -> None:
    basis, mask, wanted = scene()
    with pytest.raises(OutOfTime):
        fitted_on(basis, mask, wanted, Clock(0.0, 0.0))
