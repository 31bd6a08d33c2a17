"""One sample at a time: true zero patterns are solved exactly, wrong ones leave a residual."""

import torch

from planted import plant
from unbatch.spear.next_layer import next_layer, solve_samples


def test_true_patterns_give_their_samples_exactly() -> None:
    case = plant(m=160, b=12)
    assert case.following is not None
    samples, residual = solve_samples(case.layer, case.following, case.off)
    assert float(residual.max()) < 1e-9
    assert torch.allclose(samples, case.samples, atol=1e-8)


def test_wrong_patterns_leave_a_residual() -> None:
    case = plant(m=160, b=12)
    assert case.following is not None
    flipped = case.off.clone()
    rows = torch.arange(12)
    flipped[rows, rows] = ~flipped[rows, rows]
    _, residual = solve_samples(case.layer, case.following, flipped)
    assert float(residual.min()) > 1e-6
    both = case.off[:6] & case.off[6:]
    _, residual = solve_samples(case.layer, case.following, both)
    assert float(residual.min()) > 1e-6


def test_a_next_layer_of_low_rank_certifies_nothing() -> None:
    alive = torch.ones(20, dtype=torch.bool)
    low = torch.ones(15, 2, dtype=torch.float64) @ torch.rand(2, 20, dtype=torch.float64)
    assert next_layer(low, alive, batch=5) is None
    assert next_layer(None, alive, batch=5) is None
