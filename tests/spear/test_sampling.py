"""Sampling rows: the threshold against simulation, null vectors against their definition, hits against the truth."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planted import plant
from unbatch.spear.sampling import draw_rows, least_zeros, null_directions, sampled_directions


def test_threshold_keeps_its_promise() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = (torch.rand((20_000, 200), generator=generator) < 0.5).sum(dim=1)
    assert float((counts < least_zeros(200, 20, 1e-3)).double().mean()) < 3e-3
    assert float((counts < least_zeros(200, 20, 1e-3) + 4).double().mean()) > 1e-3


def test_threshold_is_above_what_a_wrong_direction_leaves() -> None:
    assert least_zeros(30, 20, 1e-5) > 19


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_null_directions_vanish_on_their_rows(batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn((40, batch), generator=generator, dtype=torch.float64)
    rows = draw_rows(40, 16, batch - 1, generator)
    directions = null_directions(left, rows)
    assert all(len(set(subset)) == batch - 1 for subset in rows.tolist())
    assert torch.allclose(directions.norm(dim=1), torch.ones(16, dtype=torch.float64))
    assert float(torch.einsum("krb,kb->kr", left[rows], directions).abs().max()) < 1e-10


def test_hits_are_exact_in_either_precision() -> None:
    case = plant(b=5)
    true = case.directions / case.directions.norm(dim=1, keepdim=True)
    for precision in (torch.float32, torch.float64):
        found, off = sampled_directions(case.layer, 500, 40, torch.Generator().manual_seed(3), precision)
        alike = (found @ true.T).abs()
        assert bool((alike.amax(dim=0) > 1 - 1e-12).all())
        assert torch.equal(case.layer.off(found), off)
